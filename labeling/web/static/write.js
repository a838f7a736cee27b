import { start } from "./shell.js";

const text = document.getElementById("text");

const { typed } = start({
  empty: () => ({ text: text.dataset.source || "" }),
  show: (content) => (text.value = content.text),
  keys: (event) => {
    if (event.key !== "e" || event.altKey) return false;
    text.focus();
    return true;
  },
});

text.addEventListener("input", () => typed((content) => (content.text = text.value)));
