// Dragging a card by its handle, with mouse, pen or finger. Dropped between cards it stands there alone,
// dropped on the middle of a ranked card it is tied with it, dropped below the line it has no rank.

import { groups, moveTo, tieWith } from "./order.js";

const MIDDLE = 0.3; // from here to 1 - here of a card's height means a tie
const EDGE = 60; // px from the window's edge where the page scrolls

export function dragging(list, cards, divider, ranksNow, set) {
  let place = -1;
  let target = null;

  function aim(y) {
    const ranks = ranksNow();
    const all = groups(ranks);
    clear();
    const line = divider.hidden ? Infinity : divider.getBoundingClientRect().top;
    for (const [i, group] of all.entries()) {
      for (const other of group) {
        const box = cards[other].getBoundingClientRect();
        if (y > box.bottom && !(other === group.at(-1) && i === all.length - 1 && y < line)) continue;
        const part = (y - box.top) / box.height;
        if (other !== place && part >= MIDDLE && part <= 1 - MIDDLE) {
          cards[other].classList.add("tie-here");
          return { ranks: tieWith(ranks, place, other) };
        }
        cards[other].classList.add(part < 0.5 ? "before-here" : "after-here");
        return { ranks: moveTo(ranks, place, part < 0.5 ? i : i + 1) };
      }
    }
    const first = cards.filter((_, i) => ranks[i] === null)[0];
    if (!all.length && first) {
      list.classList.add("first-here");
      return { ranks: moveTo(ranks, place, 0) };
    }
    divider.classList.add("drop-here");
    return { ranks: ranks.map((rank, i) => (i === place ? null : rank)) };
  }

  function clear() {
    list.classList.remove("first-here");
    divider.classList.remove("drop-here");
    for (const card of cards) card.classList.remove("tie-here", "before-here", "after-here");
  }

  function end(drop) {
    if (place < 0) return;
    cards[place].classList.remove("dragged");
    clear();
    if (drop && target) set(target.ranks);
    place = -1;
    target = null;
  }

  list.addEventListener("pointerdown", (event) => {
    const handle = event.target.closest("[data-handle]");
    if (!handle || event.button !== 0) return;
    event.preventDefault();
    place = cards.indexOf(handle.closest(".card"));
    cards[place].classList.add("dragged");
    handle.setPointerCapture(event.pointerId);
  });
  list.addEventListener("pointermove", (event) => {
    if (place < 0) return;
    if (event.clientY < EDGE) scrollBy(0, -12);
    if (event.clientY > innerHeight - EDGE) scrollBy(0, 12);
    target = aim(event.clientY);
  });
  list.addEventListener("pointerup", () => end(true));
  list.addEventListener("pointercancel", () => end(false));
  document.addEventListener("keydown", (event) => event.key === "Escape" && end(false));
}
