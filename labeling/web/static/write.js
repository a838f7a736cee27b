import { start } from "./shell.js";
import { preview } from "./preview.js";
import { full, ofWhole, showParts, useParts } from "./compose.js";
import { useChecks } from "./checks.js";
import { appended, without } from "./parts.js";
import { gettext } from "./words.js";

const text = document.getElementById("text");
const boxes = [...document.querySelectorAll(".card .shown")]; // the answer to correct, where there is one
const names = [gettext("the answer")];

let checks = null; // once the page stands
const { change, typed, say, content, task } = start({
  empty: () => ({ text: text.dataset.source || "", parts: [] }),
  show: (content) => {
    if (text.value !== content.text) text.value = content.text;
    list(content);
    preview(text);
    checks?.show();
  },
  fixed: (event, keys) => Boolean(parts && parts.fixed(event, keys)),
  actions: () => ({ write: () => text.focus(), add: () => parts.take(), check: () => checks.check() }),
  missing: (content) => (content.text.trim() ? null : text),
});

function list(content) {
  if (boxes.length) showParts(document.querySelector(".parts"), content, names, (number) => change((now) => Object.assign(now, without(now, number))));
}

function add(part, more) {
  const problem = full(content(), part);
  if (problem) return say(problem);
  change((now) => Object.assign(now, appended(now, part)));
  say(gettext("Taken into your version") + ofWhole(more));
}

checks = useChecks({ task, text: () => content().text });
const parts = boxes.length ? useParts({ boxes, names, say, add, atHand: () => 0 }) : null;

text.addEventListener("input", () => {
  typed(text, (content) => {
    content.text = text.value;
    list(content);
  });
  checks.show();
  preview(text);
});
