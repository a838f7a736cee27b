// Dragging a response, with mouse, pen or finger: a card by its handle, or its letter in the strip. Dropped between
// others it stands there alone, dropped on the middle of a ranked one it is tied with it, dropped among those without
// a rank it has none. Near the window's edges the page scrolls by itself.

import { groups, moveTo, tieWith } from "./order.js";
import { gettext } from "./words.js";

const MIDDLE = 0.3; // from here to 1 - here of an item means a tie
const EDGE = 70; // px from where the page begins to scroll
const FASTEST = 22; // px a frame
const STILL = 5; // px: less is a press

// What is held, and what becomes of it where it is now.
const label = Object.assign(document.createElement("div"), { className: "held", hidden: true });
label.setAttribute("aria-hidden", "true");
document.body.append(label);

function away(box, x, y) {
  return Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom));
}

function nearest(nodes, x, y) {
  const far = nodes.map((node) => away(node.getBoundingClientRect(), x, y));
  return nodes[far.indexOf(Math.min(...far))];
}

// px to scroll in a frame: between what lies over the page above and below there is room for cards.
function speed(y) {
  const top = Math.max(0, document.querySelector(".overhead").getBoundingClientRect().bottom);
  const bottom = document.querySelector(".foot").getBoundingClientRect().top;
  const into = y < top + EDGE ? y - top - EDGE : Math.max(0, y - bottom + EDGE);
  return Math.max(-1, Math.min(1, into / EDGE)) * FASTEST;
}

// `items`: an element for each place; `across`: whether they stand in lines rather than below each other; `scrolls`:
// whether the page does; `set(ranks, place)`.
export function dragging({ area, items, divider, handle, letters, across, scrolls, ranks, set }) {
  let held = null; // { place, x, y, from, moved, target }

  function aim({ place, x, y }) {
    const now = ranks();
    const all = groups(now);
    clear();
    const node = nearest([...items, ...(divider.hidden ? [] : [divider])], x, y);
    const other = items.indexOf(node);
    const group = all.findIndex((found) => found.includes(other));
    if (!all.length) {
      area.classList.add("first-here");
      return moveTo(now, place, 0);
    }
    if (group < 0) {
      divider.classList.add("drop-here");
      return now.map((rank, i) => (i === place ? null : rank));
    }
    const box = node.getBoundingClientRect();
    const part = across() ? (x - box.left) / box.width : (y - box.top) / box.height;
    if (other !== place && part >= MIDDLE && part <= 1 - MIDDLE) {
      node.classList.add("tie-here");
      return tieWith(now, place, other);
    }
    node.classList.add(across() ? "in-line" : "in-column", part < 0.5 ? "before-here" : "after-here");
    return moveTo(now, place, part < 0.5 ? group : group + 1);
  }

  function clear() {
    area.classList.remove("first-here");
    divider.classList.remove("drop-here");
    for (const item of items) item.classList.remove("tie-here", "before-here", "after-here", "in-line", "in-column");
  }

  function show() {
    held.target = aim(held);
    const rank = held.target[held.place];
    const tied = held.target.flatMap((other, i) => (rank !== null && other === rank && i !== held.place ? [letters[i]] : []));
    const given = rank === null ? gettext("no rank") : gettext("rank %(rank)s", { rank });
    label.textContent = `${letters[held.place]}: ${given}${tied.length ? ` = ${tied.join(" = ")}` : ""}`;
    label.hidden = false;
    label.style.transform = `translate(${Math.min(held.x + 14, innerWidth - label.offsetWidth - 4)}px, ${held.y - 44}px)`;
  }

  function roll() {
    if (!held) return;
    const by = held.moved ? speed(held.y) : 0;
    if (by) {
      scrollBy(0, by);
      show();
    }
    requestAnimationFrame(roll);
  }

  function end(drop) {
    if (!held) return;
    const { place, target, moved } = held;
    held = null;
    items[place].classList.remove("dragged");
    label.hidden = true;
    clear();
    if (!moved) return;
    // What was dragged is not pressed as well.
    addEventListener("click", stop, true);
    setTimeout(() => removeEventListener("click", stop, true));
    if (drop && target) set(target, place);
  }

  function stop(event) {
    event.stopPropagation();
    event.preventDefault();
  }

  area.addEventListener("pointerdown", (event) => {
    const grip = event.target.closest(handle);
    if (!grip || event.button !== 0 || held) return;
    event.preventDefault();
    const place = items.findIndex((item) => item.contains(grip));
    held = { place, x: event.clientX, y: event.clientY, from: [event.clientX, event.clientY], moved: false, target: null };
    grip.setPointerCapture(event.pointerId);
    if (scrolls) requestAnimationFrame(roll);
  });
  area.addEventListener("pointermove", (event) => {
    if (!held) return;
    Object.assign(held, { x: event.clientX, y: event.clientY });
    held.moved ||= Math.hypot(held.x - held.from[0], held.y - held.from[1]) > STILL;
    if (!held.moved) return;
    items[held.place].classList.add("dragged");
    show();
  });
  area.addEventListener("pointerup", () => end(true));
  area.addEventListener("pointercancel", () => end(false));
  document.addEventListener("keydown", (event) => event.key === "Escape" && end(false));
}
