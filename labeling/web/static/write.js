import { start } from "./shell.js";

const text = document.getElementById("text");

const { typed } = start({
  empty: () => ({ text: text.dataset.source || "" }),
  show: (content) => {
    if (text.value !== content.text) text.value = content.text;
  },
  actions: () => ({ write: () => text.focus() }),
  missing: (content) => (content.text.trim() ? null : text),
});

text.addEventListener("input", () => typed(text, (content) => (content.text = text.value)));
