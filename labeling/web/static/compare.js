import { start } from "./shell.js";

const radios = [...document.querySelectorAll('input[name="choice"]')];
const { change } = start({
  empty: () => ({ choice: null }),
  show: (content) => radios.forEach((radio) => (radio.checked = radio.value === content.choice)),
  actions: () => ({
    choose: (digit) => (digit === 1 || digit === 2) && choose(digit === 1 ? "first" : "second"),
    equal: () => choose("tie"),
    both_bad: () => choose("both_bad"),
  }),
  missing: (content) => (content.choice ? null : radios[0]),
});

function choose(choice) {
  change((content) => (content.choice = choice));
}

for (const radio of radios) {
  radio.addEventListener("change", () => change((content) => (content.choice = radio.value)));
}
