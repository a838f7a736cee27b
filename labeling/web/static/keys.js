// Which key does what. A key is written as "u", "Shift+u", "Alt+ArrowUp", "?" or, for a digit with what is held
// beside it, "#" and "Shift+#"; "@" is a letter from A to I. Digits are told by their place on the keyboard, since on many layouts they take Shift;
// letters by what stands on the key, or by its place where that is no Latin letter.

import { gettext } from "./words.js";

const place = (person) => `align keys ${person}`;

export function chord(event) {
  const digit = /^(Digit|Numpad)([0-9])$/.exec(event.code);
  const letter = /^Key([A-Z])$/.exec(event.code);
  let key = event.key;
  if (event.code === "Equal" && !/^[ -~]$/.test(key)) key = "=";
  if (key === "=" && (!digit || digit[2] === "0")) return "="; // on many layouts Shift and 0
  if (digit && (digit[1] === "Digit" || /^[0-9]$/.test(key))) key = digit[2];
  else if (letter && (event.altKey || !/^[ -~]$/.test(key))) key = letter[1];
  if (key.length === 1) key = key.toLowerCase();
  const shift = event.shiftKey && (key.length > 1 || /[a-z0-9]/.test(key));
  return (event.altKey ? "Alt+" : "") + (shift ? "Shift+" : "") + key;
}

export const general = (key) => key.replace(/[0-9]$/, "#").replace(/(^|\+)[a-i]$/, "$1@");

// As people read it; labeling/web/keys.py has the same.
const WRITTEN = { Enter: gettext("Enter"), Shift: gettext("Shift"), Alt: gettext("Alt"), Backspace: gettext("Backspace") };
const SIGNS = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", "#": "1–9", "@": "A–I" };
export const named = (key) => key.split("+").map((part) => WRITTEN[part] || SIGNS[part] || part).join("+");

// Keys of the browser or between responses, and what is no key of its own: all dead keys are called the same.
const RESERVED = /^(Alt\+)?(Shift\+)?(Tab|Escape| |F\d+|Arrow(Left|Right)|Page(Up|Down)|Home|End|Dead|Process|Compose|Unidentified)$|^(Shift\+)?Arrow/;
const WRITTEN_SO = /^(Alt\+)?(Shift\+)?([^\s\p{C}]|[A-Z][A-Za-z]{1,19})$/u;
export const reserved = (key) => RESERVED.test(key);
const possible = (key, usual) => typeof key === "string" && WRITTEN_SO.test(key) && !reserved(key) && ["#", "@"].every((any) => key.endsWith(any) === usual.endsWith(any));

// A page's keys with this person's changes. `usual`: { action: key }. What is kept may come from another version, or
// from elsewhere: what is no key, or another action's by then, is not taken, and actions that are gone are passed over.
export function keysOf(person, usual) {
  let own = {};
  try {
    own = JSON.parse(localStorage.getItem(place(person))) || {};
  } catch {
    // not readable: the usual keys
  }
  return Object.fromEntries(Object.entries(usual).map(([action, key]) => [action, possible(own[action], key) ? own[action] : key]));
}

// For one page: a key that a person has chosen is taken from the action that usually has it.
export function distinct(keys, usual) {
  const first = (action) => Object.keys(keys).find((other) => keys[other] === keys[action] && keys[other] !== usual[other]) === action;
  keys = Object.fromEntries(Object.entries(keys).map(([action, key]) => [action, key === usual[action] || first(action) ? key : usual[action]]));
  const chosen = Object.keys(keys).filter((action) => keys[action] !== usual[action]).map((action) => keys[action]);
  return Object.fromEntries(Object.entries(keys).map(([action, key]) => [action, key === usual[action] && chosen.includes(key) ? "" : key]));
}

// Whether the browser keeps them.
export function keep(person, keys, usual) {
  const own = Object.fromEntries(Object.entries(keys).filter(([action, key]) => key !== usual[action]));
  try {
    if (Object.keys(own).length) localStorage.setItem(place(person), JSON.stringify(own));
    else localStorage.removeItem(place(person));
    return true;
  } catch {
    return false; // its storage is full, or closed
  }
}

// The action that a key press asks for, and the digit or letter (from 0) that was pressed. A key that was named
// for itself goes before those that take any digit or letter.
export function asked(event, keys) {
  const pressed = chord(event);
  const by = (key) => Object.keys(keys).find((action) => keys[action] === key);
  const action = by(pressed) || by(general(pressed));
  if (!action) return null;
  const last = pressed.at(-1);
  return { action, digit: /[0-9]/.test(last) ? Number(last) : "abcdefghi".indexOf(last) };
}

export function write(keys) {
  for (const place of document.querySelectorAll("[data-key]")) {
    const key = keys[place.dataset.key];
    if (key === undefined) continue;
    place.textContent = named(key);
    place.hidden = !key;
  }
}
