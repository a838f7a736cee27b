// Taking parts of responses into an answer: what is marked, by which key or button, and the list of what was taken.

import { sourceOf } from "./mark.js";
import { appended, located } from "./parts.js";
import { gettext } from "./words.js";

const button = document.getElementById("add-part");
const BESIDE = 8; // px from what is marked
const LONG = 60; // characters of a part that the list shows

const characters = (text, end) => [...text.slice(0, end)].length; // as Python counts them

// `boxes`: the responses as shown, by place; `atHand`: the place in which marking by keys begins; `add(part, more)`:
// takes a part. Returns what the keys need.
export function useParts({ boxes, names, say, add, atHand }) {
  let cursor = null; // while marking by keys: { place, from, to } numbers of paragraphs
  const next = new Map(); // by place, where marking by keys goes on

  function marked() {
    const selection = getSelection();
    if (!selection.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    const found = [];
    boxes.forEach((box, place) => {
      const at = range.intersectsNode(box) && sourceOf(range, box);
      if (at && at.end > at.start) found.push({ place, ...at });
    });
    if (found.length !== 1) return found.length ? { several: true } : null;
    return found[0];
  }

  function take() {
    const found = marked();
    if (!found) return markByKeys();
    if (found.several) return say(gettext("Mark text in one response at a time"));
    const source = boxes[found.place].dataset.source;
    const { place: response, more } = found;
    const [start, end] = [found.start, found.end].map((at) => characters(source, at));
    if (cursor) next.set(response, cursor.to + 1);
    cursor = null;
    getSelection().removeAllRanges();
    button.hidden = true;
    add({ response, start, end, text: source.slice(found.start, found.end) }, more);
  }

  const blocks = (place) => [...(boxes[place].querySelector(".raw") ? boxes[place].querySelectorAll(".raw") : boxes[place].querySelector(".prose").children)];

  function markByKeys() {
    const place = atHand();
    if (!boxes[place].checkVisibility()) return say(gettext("This response is folded up: open it first"));
    if (boxes[place].classList.contains("folded")) boxes[place].parentElement.querySelector(".more")?.click();
    const from = Math.min(next.get(place) || 0, blocks(place).length - 1);
    cursor = { place, from, to: from };
    showCursor();
    say(gettext("Marked in %(name)s: + takes it, ↑ ↓ mark others, Shift with arrows more or less, Esc none", { name: names[place] }));
  }

  function showCursor() {
    const all = blocks(cursor.place);
    const range = document.createRange();
    range.setStartBefore(all[cursor.from]);
    range.setEndAfter(all[cursor.to]);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    all[cursor.to].scrollIntoView({ block: "nearest" });
  }

  // While marking by keys, arrows and Esc are for that; and where something is marked, the sign that the key shows goes
  // before its place on the keyboard, where that is a digit's.
  function fixed({ key, shiftKey, altKey }, keys) {
    if (altKey) return false;
    const selected = !getSelection().isCollapsed;
    if (key === keys.add && selected && marked()) {
      take();
      return true;
    }
    if (!cursor || !selected) {
      cursor = null;
      return false;
    }
    if (key === "Escape") {
      cursor = null;
      getSelection().removeAllRanges();
      return true;
    }
    if (shiftKey && (key === "ArrowRight" || key === "ArrowLeft")) {
      getSelection().modify("extend", key === "ArrowRight" ? "forward" : "backward", "word");
      return true;
    }
    const by = { ArrowDown: 1, ArrowUp: -1 }[key];
    if (!by) return false;
    const last = blocks(cursor.place).length - 1;
    const to = Math.min(last, Math.max(shiftKey ? cursor.from : 0, cursor.to + by));
    cursor = { ...cursor, from: shiftKey ? cursor.from : to, to };
    showCursor();
    return true;
  }

  // Below the end of what is marked: phones have their own menu above it.
  function place() {
    const found = marked();
    button.hidden = !found || Boolean(found.several);
    if (button.hidden) return;
    const rects = [...getSelection().getRangeAt(0).getClientRects()].filter(({ width }) => width);
    const { left, bottom, top } = rects.at(-1) || { left: 0, bottom: 0, top: 0 };
    const { offsetWidth: wide, offsetHeight: high } = button;
    const under = bottom + BESIDE;
    const y = under + high < innerHeight - BESIDE ? under : Math.max(BESIDE, Math.min(top, innerHeight) - high - BESIDE);
    button.style.left = `${Math.max(BESIDE, Math.min(left, innerWidth - wide - BESIDE))}px`;
    button.style.top = `${Math.max(BESIDE, Math.min(y, innerHeight - high - BESIDE))}px`;
  }

  let waiting = 0;
  const soon = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(place);
  };
  for (const event of ["selectionchange", "scroll"]) document.addEventListener(event, soon, { passive: true });
  addEventListener("resize", soon);
  button.addEventListener("pointerdown", (event) => event.preventDefault()); // the mark stays
  button.addEventListener("click", take);
  return { take, fixed };
}

// The list of parts below an answer; `remove(number)` takes one out.
export function showParts(list, answer, names, remove) {
  const parts = (answer && answer.parts) || [];
  list.hidden = !parts.length;
  const places = parts.length ? located(answer.text, parts) : [];
  list.replaceChildren(
    ...parts.map((part, number) => {
      const row = document.createElement("li");
      const from = Object.assign(document.createElement("b"), { textContent: names[part.response] });
      const words = part.text.trim().replace(/\s+/g, " ");
      const shown = Object.assign(document.createElement("q"), { dir: "auto", textContent: words.length > LONG ? `${words.slice(0, LONG)}…` : words });
      const out = Object.assign(document.createElement("button"), { className: "icon quiet", textContent: "×", type: "button" });
      out.setAttribute("aria-label", gettext("Take part %(number)s, from %(name)s, out again", { number: number + 1, name: names[part.response] }));
      out.addEventListener("click", () => remove(number));
      row.append(from, shown);
      if (places[number] === null) row.append(Object.assign(document.createElement("span"), { className: "hint", textContent: gettext("changed since") }));
      row.append(out);
      return row;
    }),
  );
}

export const ofWhole = (more) => (more ? gettext(": whole paragraphs, since formatting stands in what you marked") : "");

const MOST_PARTS = 100; // as in labeling/parts.py
const MOST = 100_000; // characters of what a person writes, as in labeling/answers.py

// Why an answer has no room for one more part; empty: it has.
export function full(answer, part) {
  if ((answer.parts || []).length >= MOST_PARTS) return gettext("An answer has %(most)s parts at most: take some out.", { most: MOST_PARTS });
  return appended(answer, part).text.length > MOST ? gettext("Your answer would be too long with this part.") : "";
}
