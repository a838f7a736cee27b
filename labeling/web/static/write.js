import { start } from "./shell.js";
import { preview } from "./preview.js";
import { ofWhole, showParts, useParts } from "./compose.js";
import { appended, without } from "./parts.js";

const text = document.getElementById("text");
const boxes = [...document.querySelectorAll(".card .shown")]; // the answer to correct, where there is one
const names = ["the answer"];

const { change, typed, say } = start({
  empty: () => ({ text: text.dataset.source || "", parts: [] }),
  show: (content) => {
    if (text.value !== content.text) text.value = content.text;
    list(content);
    preview(text);
  },
  fixed: (event, keys) => Boolean(parts && parts.fixed(event, keys)),
  actions: () => ({ write: () => text.focus(), add: () => parts.take() }),
  missing: (content) => (content.text.trim() ? null : text),
});

function list(content) {
  if (boxes.length) showParts(document.querySelector(".parts"), content, names, (number) => change((now) => Object.assign(now, without(now, number))));
}

function add(part, more) {
  change((now) => Object.assign(now, appended(now, part)));
  say(`Taken into your version${ofWhole(more)}`);
}

const parts = boxes.length ? useParts({ boxes, names, say, add, atHand: () => 0 }) : null;

text.addEventListener("input", () => {
  typed(text, (content) => {
    content.text = text.value;
    list(content);
  });
  preview(text);
});
