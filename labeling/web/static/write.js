import { start } from "./shell.js";
import { preview } from "./preview.js";

const text = document.getElementById("text");

const { typed } = start({
  empty: () => ({ text: text.dataset.source || "" }),
  show: (content) => {
    if (text.value !== content.text) text.value = content.text;
    preview(text);
  },
  actions: () => ({ write: () => text.focus() }),
  missing: (content) => (content.text.trim() ? null : text),
});

text.addEventListener("input", () => {
  typed(text, (content) => (content.text = text.value));
  preview(text);
});
