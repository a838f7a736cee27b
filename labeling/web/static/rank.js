import { start } from "./shell.js";
import { nextRank, onScreen, step, tieAbove } from "./order.js";
import { equals, letter } from "./letters.js";
import { dragging } from "./drag.js";
import { hold, inSight } from "./hold.js";
import { markInStrip, showStrip, useStrip } from "./strip.js";
import { columns, inLines, setColumns, useColumns } from "./columns.js";
import { readCards } from "./read.js";
import { useBeside } from "./beside.js";
import { toggleRaw } from "./raw.js";
import { full, ofWhole, showParts, useParts } from "./compose.js";
import { useChecks } from "./checks.js";
import { appended, without } from "./parts.js";
import { gettext, ngettext } from "./words.js";

const list = document.getElementById("cards");
const divider = document.getElementById("divider");
const own = document.getElementById("own");
const allBad = document.getElementById("all-bad");
const cards = [...list.querySelectorAll(".card")]; // by the order shown, which is that of the content's lists
const letters = cards.map((card) => card.querySelector("h2").textContent);
let focused = 0;
let checks = null; // once the page stands
let holding = false; // whether the card at hand stays where it is on the screen

const { change, typed, say, undo, content, task } = start({
  empty: ({ count }) => ({
    ranks: Array(count).fill(null),
    quality: Array(count).fill(null),
    flags: Array.from({ length: count }, () => []),
    all_bad: false,
    edit: null,
    order: null, // the letters that are being typed: see letters.js
    versions: {}, // what was written and put away, by place or OWN: it comes back when it is edited again
  }),
  show: (now) => (holding ? hold(list, cards[focused], () => show(now)) : show(now)),
  fixed,
  actions: () => BY_KEY,
  missing,
  answer: ({ versions, order, ...given }) => given,
});

function called(letter, rank, tied) {
  if (rank === null) return gettext("Response %(letter)s, not ranked", { letter });
  if (tied) return gettext("Response %(letter)s, rank %(rank)s, tied", { letter, rank });
  return gettext("Response %(letter)s, rank %(rank)s", { letter, rank });
}

function show(now) {
  const { ranks, quality, flags, all_bad, edit } = now;
  const active = document.activeElement;
  const shown = onScreen(ranks);
  const ranked = ranks.filter((rank) => rank !== null).length;
  const wanted = [...shown.slice(0, ranked).map((p) => cards[p]), divider, ...shown.slice(ranked).map((p) => cards[p])];
  wanted.forEach((node, i) => list.children[i] !== node && list.insertBefore(node, list.children[i] || null));
  divider.hidden = ranked === 0 || ranked === cards.length;
  cards.forEach((card, place) => {
    const rank = ranks[place];
    const tied = rank !== null && ranks.filter((other) => other === rank).length > 1;
    const button = card.querySelector(".rank");
    button.textContent = rank === null ? "–" : rank;
    button.setAttribute(
      "aria-label",
      rank === null
        ? gettext("Response %(letter)s is not ranked: give it rank %(rank)s", { letter: letters[place], rank: nextRank(ranks) })
        : gettext("Response %(letter)s has rank %(rank)s: remove it", { letter: letters[place], rank }),
    );
    card.classList.toggle("ranked", rank !== null);
    card.querySelector(".tied").hidden = !tied;
    card.tabIndex = place === focused ? 0 : -1;
    card.setAttribute("aria-label", called(letters[place], rank, tied));
    for (const radio of card.querySelectorAll(".quality input")) radio.checked = Number(radio.value) === quality[place];
    for (const box of card.querySelectorAll(".flags input")) box.checked = flags[place].includes(box.value);
    card.querySelector(".flag-count").textContent = flags[place].length || "";
    const given = [quality[place] && gettext("quality %(quality)s", { quality: quality[place] })];
    given.push(flags[place].length && ngettext("%(num)s flag", "%(num)s flags", flags[place].length));
    card.querySelector(".given").textContent = given.filter(Boolean).join(", ");
    showWritten(card.querySelector(".rewrite"), edit && edit.response === place ? edit : null);
  });
  showWritten(own, edit && edit.response === null ? edit : null);
  checks?.show();
  allBad.checked = all_bad;
  showStrip(now, letters);
  if (active && active !== document.activeElement && list.contains(active)) active.focus({ preventScroll: true });
}

function showWritten(box, edit) {
  box.hidden = !edit;
  if (!edit) return;
  const area = box.querySelector("textarea");
  if (area.value !== edit.text) area.value = edit.text;
  showList(box, edit);
}

function showList(box, edit) {
  showParts(box.querySelector(".parts"), edit, letters, (number) => change((now) => (now.edit = without(now.edit, number))));
}

function atHand(place) {
  focused = place;
  cards.forEach((card, i) => {
    card.tabIndex = i === place ? 0 : -1;
    card.classList.toggle("at-hand", i === place);
    if (i !== place) card.querySelector(".flags").open = false;
  });
  markInStrip(place);
}

function mark(place, scroll = true) {
  atHand(place);
  cards[place].focus({ preventScroll: true });
  if (scroll) cards[place].scrollIntoView({ block: "nearest" });
}

// To the beginning of a card, below what stays at the top.
function goTo(place) {
  mark(place, false);
  cards[place].scrollIntoView({ block: "start" });
}

const setRanks = (make) => change((now) => Object.assign(now, { ranks: make(now.ranks), order: null }));

// What was dragged lies where it was dropped: nothing else is held.
function dropped(ranks, place) {
  holding = false;
  setRanks(() => ranks);
  holding = true;
  mark(place);
}

function type(place) {
  if (place >= cards.length) return say(gettext("There is no %(letter)s", { letter: "ABCDEFGHI"[place] }));
  const next = letter(content().ranks, content().order, place);
  if (!next) return say(gettext("%(letter)s is typed already", { letter: letters[place] }));
  change((now) => Object.assign(now, next));
}

function typeEquals() {
  const order = equals(content().ranks, content().order);
  if (!order) return say(gettext("= stands between two letters"));
  change((now) => (now.order = order));
}

function putBeside(place) {
  const shown = onScreen(content().ranks);
  const at = shown.indexOf(place);
  beside(at > 0 ? shown[at - 1] : place, at > 0 ? place : shown[1]);
}

const setCount = (count) => hold(list, cards[focused], () => setColumns(count));

function give(place, rank) {
  setRanks((ranks) => ranks.map((old, i) => (i === place ? rank : old)));
}

const OWN = "own"; // among versions, beside the places of responses
const boxOf = (place) => (place === null ? own : cards[place].querySelector(".rewrite"));
const areaOf = (place) => boxOf(place).querySelector("textarea");

function putAwayNow(place) {
  if (place === null) return gettext("Your own answer is put away: an answer has one. Go back to it to get it again");
  return gettext("Your version of %(letter)s is put away: an answer has one. Go back to it to get it again", { letter: letters[place] });
}

function hasParts({ response, parts }, last) {
  const values = { letter: letters[response], last };
  if (response === null) return ngettext("Your own answer has %(num)s part, the last from %(last)s", "Your own answer has %(num)s parts, the last from %(last)s", parts.length, values);
  return ngettext("Your version of %(letter)s has %(num)s part, the last from %(last)s", "Your version of %(letter)s has %(num)s parts, the last from %(last)s", parts.length, values);
}

// What is written in place of a response, or beside them all (null). An answer has one such text.
function edit(place) {
  const before = content().edit;
  change((now) => {
    if (now.edit && now.edit.response === place) return;
    putAway(now);
    now.edit = { response: place, ...kept(now, place) };
  });
  if (before && before.response !== place) say(putAwayNow(before.response));
  areaOf(place).focus();
}

function kept(now, place) {
  const found = now.versions[place ?? OWN] ?? (place === null ? "" : areaOf(place).dataset.source);
  return typeof found === "string" ? { text: found, parts: [] } : found;
}

function putAway(now) {
  if (!now.edit) return;
  const { text, parts = [] } = now.edit;
  now.versions = { ...now.versions, [now.edit.response ?? OWN]: { text, parts } };
}

function drop(place) {
  change((now) => {
    putAway(now);
    now.edit = null;
  });
  mark(place);
}

// Into what is being written; else into an answer of one's own.
function add(part, more) {
  const before = content().edit || { response: null, ...kept(content(), null) };
  const problem = full(before, part);
  if (problem) return say(problem);
  change((now) => (now.edit = appended(before, part)));
  say(hasParts(content().edit, letters[part.response]) + ofWhole(more));
}

function flags(place) {
  const details = cards[place].querySelector(".flags");
  details.open = !details.open;
  (details.open ? details.querySelector("input") : cards[place]).focus();
}

const ACTIONS = {
  next: (place) => give(place, content().ranks[place] === null ? nextRank(content().ranks) : null),
  up: (place) => setRanks((ranks) => step(ranks, place, -1)),
  down: (place) => setRanks((ranks) => step(ranks, place, 1)),
  tie: (place) => setRanks((ranks) => tieAbove(ranks, place)),
  edit,
  beside: putBeside,
  fold: (place) => hold(list, cards[place], () => fold(place)),
  "drop-edit": drop,
};

function go(by) {
  const shown = onScreen(content().ranks);
  mark(shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(focused) + by))]);
}

function rate(value) {
  if (value < 1 || value > 7 || !cards[focused].querySelector(".quality")) return false;
  change((now) => (now.quality[focused] = value));
  return true;
}

// A response keeps the mark when its key moves it.
function onMarked(action) {
  ACTIONS[action](focused);
  mark(focused, !inSight(cards[focused]));
}

const BY_KEY = {
  order: type,
  equals: typeEquals,
  back: undo,
  go: (place) => place < cards.length && goTo(place),
  fold: () => ACTIONS.fold(focused),
  unfold: () => cards[focused].querySelector(".more")?.click(),
  beside: () => putBeside(focused),
  columns: () => setCount((columns() % 3) + 1),
  rank: (digit) => {
    give(focused, digit || null);
    mark(focused, !inSight(cards[focused]));
  },
  quality: rate,
  next: () => go(1),
  previous: () => go(-1),
  up: () => onMarked("up"),
  down: () => onMarked("down"),
  tie: () => ACTIONS.tie(focused),
  edit: () => edit(focused),
  own: () => edit(null),
  add: () => parts.take(),
  check: () => checks.check(),
  flags: () => flags(focused),
  bad: () => change((now) => (now.all_bad = !now.all_bad)),
  qualities: () => (cards[focused].querySelector(".quality input:checked, .quality input") || cards[focused]).focus(),
  raw: () => toggleRaw(cards[focused]),
};

// The keys that nobody changes.
function fixed(event, keys) {
  const { key, altKey, target } = event;
  if (parts.fixed(event, keys)) return true;
  if (altKey) return false;
  if (key === "Escape" && target !== cards[focused]) {
    mark(focused);
    return true;
  }
  const by = { ArrowDown: 1, ArrowUp: -1 }[key];
  if (!by || target.matches("input[type=radio], .prompt, .guide")) return false;
  go(by);
  return true;
}

// Where something is missing in an answer that was refused.
function missing({ ranks, quality, edit }) {
  if (edit && !edit.text.trim()) return areaOf(edit.response);
  const unrated = quality.indexOf(null);
  const ranked = ranks.filter((rank) => rank !== null).length;
  return cards[ranked > 1 && unrated >= 0 ? unrated : focused];
}

list.addEventListener("click", (event) => {
  // After a press of the mouse Enter submits: on the box it would take the tick away again.
  if (event.detail && event.target.matches(".flags input")) mark(cards.indexOf(event.target.closest(".card")), false);
  const button = event.target.closest("[data-do]");
  if (!button) return;
  const place = cards.indexOf(button.closest(".card"));
  atHand(place);
  ACTIONS[button.dataset.do](place);
  // The same for the circle and the rank.
  if (event.detail && !["edit", "beside"].includes(button.dataset.do)) mark(place, false);
});
list.addEventListener("focusin", (event) => {
  const card = event.target.closest(".card");
  if (card) atHand(cards.indexOf(card));
});
list.addEventListener("change", (event) => {
  const card = event.target.closest(".card");
  const place = cards.indexOf(card);
  if (event.target.matches(".quality input")) change((now) => (now.quality[place] = Number(event.target.value)));
  if (event.target.matches(".flags input")) {
    const chosen = [...card.querySelectorAll(".flags input:checked")].map((box) => box.value);
    change((now) => (now.flags[place] = chosen));
  }
});
list.addEventListener("input", (event) => {
  if (event.target.matches(".rewrite textarea")) written(event.target);
});
own.addEventListener("input", (event) => written(event.target));
document.getElementById("drop-own").addEventListener("click", () => drop(focused));
document.getElementById("write-own").addEventListener("click", () => edit(null));

function written(area) {
  typed(area, (now) => {
    now.edit.text = area.value;
    showList(boxOf(now.edit.response), now.edit);
  });
  checks.show();
}

allBad.addEventListener("click", (event) => event.detail && mark(focused, false));
allBad.addEventListener("change", () => change((now) => (now.all_bad = allBad.checked)));

const ranks = () => content().ranks;
dragging({ area: list, items: cards, divider, handle: "[data-handle]", letters, across: inLines, scrolls: true, ranks, set: dropped });
useStrip({ letters, go: goTo, ranks, set: dropped });
useColumns(setCount);
const parts = useParts({ boxes: cards.map((card) => card.querySelector(".shown")), names: letters, say, add, atHand: () => focused });
checks = useChecks({ task, text: () => (content().edit ? content().edit.text : null) });
const fold = readCards(cards, task);
const beside = useBeside(cards);
mark(focused, false);
holding = true;
