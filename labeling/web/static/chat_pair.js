// Which of two answers is better; nobody sees whose they are.

import { made, problem, say } from "./chat_show.js";
import { post, random, Refused } from "./server.js";

const CHOICES = [["first", "A is better"], ["second", "B is better"], ["tie", "Equally good"]];

// `end`: the two answers, sealed; `active`: the seconds at the page; `goOn` is told the side that the talk goes on with.
export function choices(box, { end, asked, person, active, goOn }) {
  const [a, b] = end.texts.map((text) => text.trim());
  if (!a || !b || a === b) {
    say(a === b ? "Both said the same: there is nothing to choose" : "One said nothing: the talk goes on with the other");
    return goOn(a ? 0 : 1);
  }
  const at = active();
  const sent = { choice: null, submission: null };
  const buttons = CHOICES.map(([choice, name]) => {
    const button = made("button", { type: "button", textContent: name });
    button.addEventListener("click", () => choose(choice));
    return button;
  });
  box.append(made("p", { className: "actions choose", role: "group", ariaLabel: "Which is better?" }, ...buttons));
  say("Which is better? The talk goes on with it");

  async function choose(choice) {
    buttons.forEach((button) => (button.disabled = true));
    problem("");
    if (sent.choice !== choice) Object.assign(sent, { choice, submission: random() });
    const seconds = active() - at;
    const given = { messages: asked, texts: end.texts, seal: end.seal, choice, submission: sent.submission, seconds };
    try {
      await post("/chat/choose", given, person);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      buttons.forEach((button) => (button.disabled = false));
      return problem(error.message);
    }
    say("Kept as a ranking");
    goOn(choice === "second" ? 1 : 0);
  }
}
