// Writing what an answer of a talk should have been.

import { useChecks } from "./checks.js";
import { made, problem, say } from "./chat_show.js";
import { post, random, Refused } from "./server.js";
import { gettext } from "./words.js";

const MOST = 100_000; // characters; the app takes no more
const CHECKS = JSON.parse(document.getElementById("chat").dataset.checks); // their names

// A button, and what the recipe's checks say of the text; nothing where it has none.
function checking(field, given, person) {
  if (!CHECKS.length) return [];
  const button = made("button", { type: "button", textContent: gettext("Check my text") });
  const hint = made("span", { className: "hint", textContent: gettext("You can keep it whatever it says. That it was checked is kept with your answer.") });
  const list = made("ul", { role: "list", ariaLive: "polite" });
  const box = made("section", { className: "checks", ariaLabel: gettext("Checks of your own text") }, made("p", { className: "row" }, button, " ", hint), list);
  const send = (asked) => post("/chat/check", { ...given, ...asked }, person);
  const task = { checks: CHECKS, checked: [], draft: {} };
  const { show } = useChecks({ task, text: () => field.value, send, place: { box, button, list } });
  field.addEventListener("input", show);
  return [box];
}

// `given`: what the policy said to what, sealed; `kept` is told the new text, `closed` that the field is gone.
export function correcting({ box, person, given, value, seconds, kept, closed }) {
  let submission = random();
  let said = null; // what this submission was sent with: another text is another one
  const field = made("textarea", { id: "right", rows: 6, dir: "auto", maxLength: MOST, value });
  const label = made("label", { htmlFor: "right", textContent: gettext("What it should have said") });
  const keep = made("button", { className: "primary", type: "button", textContent: gettext("Keep") });
  const leave = made("button", { type: "button", textContent: gettext("Cancel") });
  const form = made("div", { className: "written" }, label, field, ...checking(field, given, person), made("p", { className: "actions" }, keep, leave));
  const close = () => {
    form.remove();
    problem("");
    closed();
  };
  box.append(form);
  field.focus();
  leave.addEventListener("click", close);
  keep.addEventListener("click", async () => {
    const text = field.value;
    if (!text.trim()) return problem(gettext("Write the response first."));
    if (text.trim() === given.answer.trim()) {
      return problem(gettext("You changed nothing: write what it should have said, or cancel."));
    }
    keep.disabled = true;
    problem("");
    if (said !== null && said !== text) submission = random();
    said = text;
    try {
      await post("/chat/correct", { ...given, text, submission, seconds: seconds() }, person);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      keep.disabled = false;
      return problem(error.message);
    }
    kept(text);
    close();
    say(gettext("Kept as a demonstration"));
    document.getElementById("text").focus();
  });
}
