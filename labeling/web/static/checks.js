// A person's own text, checked before it is sent, by what the recipe names. Nothing waits for it.

import { post, Refused } from "./server.js";
import { gettext, locale, ngettext } from "./words.js";

const byId = (id) => document.getElementById(id);
const ofPage = () => ({ box: byId("checks"), button: byId("check"), list: byId("checked") });

const number = (value) => new Intl.NumberFormat(locale, { maximumSignificantDigits: 3 }).format(value);

function words({ score, above, of, passed, says, error }) {
  if (error) return error;
  if (score === undefined) return passed ? gettext("passed") : says || gettext("not passed");
  if (!of) return number(score);
  return ngettext("%(score)s, above %(above)s of the %(num)s response here", "%(score)s, above %(above)s of the %(num)s responses here", of, { score: number(score), above });
}

// `text()`: what is being written now, null: nothing. `send`: asks the app for one check; `place`: where it is
// shown. Returns what shows and what checks it.
export function useChecks({ task, text, send = (asked) => post(`/work/${task.number}/check`, asked, task.person), place = ofPage() }) {
  const { box, button, list } = place;
  if (!box) return { show: () => {}, check: () => {} };
  const found = new Map(); // by check: { said, text }; the text is null where it is not the one on the page
  const kept = task.draft.edit ? task.draft.edit.text : task.draft.text; // this browser may have a later one
  for (const { check, said, current } of task.checked) found.set(check, { said, text: current ? kept : null });
  let running = false;

  function show() {
    const now = text();
    box.hidden = now === null;
    const rows = [...found].map(([name, { said, text: of, waiting }]) => {
        const row = document.createElement("li");
        const what = waiting ? gettext("is being checked …") : words(said);
        row.className = waiting || said.error ? "" : said.passed === undefined ? "" : said.passed ? "good-mark" : "bad";
        row.append(Object.assign(document.createElement("b"), { textContent: name }), ` ${what}`);
        const old = gettext("of an earlier version");
        if (!waiting && of !== now) row.append(" ", Object.assign(document.createElement("span"), { className: "hint", textContent: old }));
        return row;
      });
    // A screen reader reads the list again whenever it is put there: only where it says something else.
    if (rows.map((row) => row.outerHTML).join("") !== list.innerHTML) list.replaceChildren(...rows);
  }

  async function check() {
    const now = text();
    if (running || now === null || !now.trim()) return;
    running = button.disabled = true;
    for (const name of task.checks) {
      found.set(name, { waiting: true, text: now });
      show();
      try {
        found.set(name, { said: await send({ check: name, text: now }), text: now });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        found.set(name, { said: { error: error.message }, text: now });
      }
    }
    running = button.disabled = false;
    show();
  }

  button.addEventListener("click", check);
  show();
  return { show, check };
}
