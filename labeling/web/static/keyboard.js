// The page on which people change their keys.

import { chord, general, keep, keysOf, named, reserved, write } from "./keys.js";
import { gettext } from "./words.js";

const table = document.getElementById("keys");
const person = Number(table.dataset.person);
const all = JSON.parse(table.dataset.keys); // [{ name, key, does, kinds }]
const usual = Object.fromEntries(all.map((one) => [one.name, one.key]));
let keys = keysOf(person, usual);
let waiting = null; // the button whose key is to be pressed

const said = document.getElementById("said");

function say(text, wrong = false) {
  said.textContent = text;
  said.className = wrong ? "error" : "hint";
}

function others(name, key) {
  const mine = all.find((one) => one.name === name).kinds;
  const alike = (other) => other === key || general(other) === key || other === general(key);
  return all.filter((one) => one.name !== name && alike(keys[one.name]) && one.kinds.some((kind) => mine.includes(kind)));
}

// What a pressed key would be for an action, or why it can't be.
function proposed(name, pressed) {
  if (reserved(pressed)) return { wrong: gettext("%(key)s has its use in the browser or between responses: choose another key.", { key: named(pressed) }) };
  const digits = usual[name].endsWith("#");
  const letters = usual[name].endsWith("@");
  const key = letters || /[0-9]$/.test(pressed) ? general(pressed) : pressed;
  if (letters && !key.endsWith("@")) return { wrong: gettext("This one needs letters: press one from A to I, with Shift or Alt if you like.") };
  if (digits !== key.endsWith("#")) return { wrong: digits ? gettext("This one needs digits: press one, with Shift or Alt if you like.") : gettext("Digits give ranks and qualities: choose another key.") };
  const [taken] = others(name, key);
  if (taken) return { wrong: gettext("%(key)s is the key to %(does)s. Change that one first.", { key: named(key), does: taken.does }) };
  return { key };
}

function listen(button) {
  stop();
  waiting = button;
  button.setAttribute("aria-pressed", "true");
  say(gettext("Press the key to %(does)s. Esc leaves it as it is.", { does: button.dataset.does }));
}

function stop() {
  if (waiting) waiting.setAttribute("aria-pressed", "false");
  waiting = null;
}

table.addEventListener("click", (event) => {
  const button = event.target.closest("[data-change]");
  if (button) listen(button);
});

document.addEventListener("keydown", (event) => {
  if (!waiting || ["Shift", "Alt", "Control", "Meta", "AltGraph", "CapsLock"].includes(event.key)) return;
  if (event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const name = waiting.dataset.change;
  if (event.key === "Escape") {
    stop();
    return say("");
  }
  const { key, wrong } = proposed(name, chord(event));
  if (wrong) return say(wrong, true);
  keys[name] = key;
  write(keys);
  if (keep(person, keys, usual)) say(`${named(key)}: ${waiting.dataset.does}`);
  else say(gettext("This browser keeps nothing: the key holds until you leave this page."), true);
  stop();
});
// Enter and Space press a focused button when they are let go.
document.addEventListener("keyup", (event) => waiting && event.preventDefault());

document.getElementById("usual").addEventListener("click", () => {
  stop();
  keys = { ...usual };
  keep(person, keys, usual);
  write(keys);
  say(gettext("All keys are the usual ones."));
});

write(keys);
