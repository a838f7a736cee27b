import { start } from "./shell.js";

const text = document.getElementById("text");

const { typed } = start({
  empty: () => ({ text: text.dataset.source || "" }),
  show: (content) => {
    if (text.value !== content.text) text.value = content.text;
  },
  keys: (event) => {
    if (event.key !== "e" || event.altKey) return false;
    text.focus();
    return true;
  },
});

text.addEventListener("input", () => typed(text, (content) => (content.text = text.value)));
