// All responses in one line, as they stand on the screen, with their ranks: always in sight. A press goes to one.

import { onScreen } from "./order.js";
import { asTyped } from "./letters.js";
import { dragging } from "./drag.js";
import { gettext } from "./words.js";

const bar = document.getElementById("strip");
const divider = document.getElementById("strip-divider");
const typing = document.getElementById("typed");
const chips = [...bar.querySelectorAll(".chip")];

export function showStrip({ ranks, order }, letters) {
  const active = document.activeElement;
  const shown = onScreen(ranks);
  const ranked = ranks.filter((rank) => rank !== null).length;
  const wanted = [...shown.slice(0, ranked).map((p) => chips[p]), divider, ...shown.slice(ranked).map((p) => chips[p])];
  wanted.forEach((node, i) => bar.children[i] !== node && bar.insertBefore(node, bar.children[i] || null));
  divider.hidden = ranked === 0 || ranked === chips.length;
  chips.forEach((chip, place) => {
    const rank = ranks[place];
    chip.classList.toggle("ranked", rank !== null);
    chip.querySelector(".chip-rank").textContent = rank === null ? "–" : rank;
    chip.querySelector("button").setAttribute("aria-label", rank === null ? gettext("Go to %(letter)s, not ranked", { letter: letters[place] }) : gettext("Go to %(letter)s, rank %(rank)s", { letter: letters[place], rank }));
  });
  typing.textContent = asTyped(order, letters);
  if (active && active !== document.activeElement && bar.contains(active)) active.focus({ preventScroll: true });
}

export function markInStrip(place) {
  chips.forEach((chip, i) => chip.classList.toggle("at-hand", i === place));
}

export function useStrip({ letters, go, ranks, set }) {
  bar.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (chip) go(chips.indexOf(chip));
  });
  dragging({ area: bar, items: chips, divider, handle: ".chip button", letters, across: () => true, scrolls: false, ranks, set });
}
