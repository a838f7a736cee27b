// Two responses side by side, with the words marked that stand in one of them only.

import { gettext, number } from "./words.js";

const FEW = 3; // so few common words between others are chance
const LONGEST = 3000; // ms to look for the differences

const dialog = document.getElementById("beside");
const sides = [...dialog.querySelectorAll(".side")];
const choices = [...dialog.querySelectorAll("select")];
const result = document.getElementById("differ");

// The words of a text on the page: { word, node, at }; a formula is one word.
function wordsOf(root) {
  const found = [];
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (node.parentElement.closest("[data-math]")) continue;
    for (const match of node.data.matchAll(/[\p{L}\p{N}\p{M}_]+|[^\s]/gu)) found.push({ word: match[0], node, at: match.index });
  }
  return found;
}

// For each of two lists of words which of them differ; null where looking takes too long.
function differing(one, other) {
  const parts = globalThis.Diff.diffArrays(one, other, { timeout: LONGEST });
  if (!parts) return null;
  const marks = [[], []];
  parts.forEach((part, i) => {
    const few = i > 0 && i < parts.length - 1 && part.count <= FEW;
    if (!part.added) marks[0].push(...Array(part.count).fill(part.removed || few));
    if (!part.removed) marks[1].push(...Array(part.count).fill(part.added || few));
  });
  return marks;
}

function mark(words, marked) {
  const byNode = new Map();
  words.forEach((word, i) => byNode.set(word.node, [...(byNode.get(word.node) || []), { ...word, marked: marked[i] }]));
  for (const [node, own] of byNode) {
    // From the end, so that what stands before keeps its place. Marked words that follow each other are one mark.
    for (let last = own.length - 1; last >= 0; last--) {
      if (!own[last].marked) continue;
      let first = last;
      while (first > 0 && own[first - 1].marked) first -= 1;
      const range = document.createRange();
      range.setStart(node, own[first].at);
      range.setEnd(node, own[last].at + own[last].word.length);
      range.surroundContents(document.createElement("mark"));
      last = first;
    }
  }
}

async function show(cards) {
  const texts = choices.map((choice) => cards[Number(choice.value)].querySelector(".text"));
  sides.forEach((side, i) => {
    const copy = texts[i].cloneNode(true);
    copy.hidden = false;
    side.replaceChildren(copy);
    side.scrollTop = 0;
  });
  try {
    await import("./diff/diff.min.js");
  } catch {
    result.textContent = gettext("The differences can't be marked: the app isn't responding.");
    return;
  }
  const words = sides.map(wordsOf);
  const marks = differing(...words.map((side) => side.map(({ word }) => word)));
  if (!marks) return (result.textContent = gettext("Too long and too different to mark what differs."));
  words.forEach((side, i) => mark(side, marks[i]));
  const total = marks.flat().length;
  const share = total ? (100 * marks.flat().filter(Boolean).length) / total : 0;
  result.textContent = gettext("%(number)s%% of the words differ", { number: number(share) });
}

export function useBeside(cards) {
  for (const choice of choices) choice.addEventListener("change", () => show(cards));
  return (left, right) => {
    choices[0].value = left;
    choices[1].value = right;
    show(cards);
    dialog.showModal();
    sides[0].focus();
  };
}
