import { start } from "./shell.js";

const radios = [...document.querySelectorAll('input[name="choice"]')];
const KEYS = { 1: "first", 2: "second", t: "tie", b: "both_bad" };

const { change } = start({
  empty: () => ({ choice: null }),
  show: (content) => radios.forEach((radio) => (radio.checked = radio.value === content.choice)),
  keys: (event, { change }) => {
    if (!KEYS[event.key] || event.altKey) return false;
    change((content) => (content.choice = KEYS[event.key]));
    return true;
  },
});

for (const radio of radios) {
  radio.addEventListener("change", () => change((content) => (content.choice = radio.value)));
}
