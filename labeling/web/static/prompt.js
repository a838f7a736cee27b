// The prompt stays in sight. Of a long one the end does, with the last question; the beginning is folded away.

import { gettext } from "./words.js";

const over = document.querySelector(".overhead");
const text = over.querySelector(".prompt");
const button = document.getElementById("whole-prompt");

const isLong = () => text.classList.contains("whole") || text.scrollHeight > text.clientHeight + 4;

// After all that makes texts longer, such as formulas.
export function foldPrompt() {
  const long = isLong();
  button.hidden = !long;
  text.classList.toggle("cut-off", long);
  if (!long) return;
  text.tabIndex = 0; // keys must reach it to scroll
  text.scrollTop = text.scrollHeight;
}

export function togglePrompt() {
  if (button.hidden) return;
  const open = text.classList.toggle("whole");
  button.setAttribute("aria-expanded", String(open));
  button.firstChild.textContent = (open ? gettext("Only the end of the prompt") : gettext("Whole prompt")) + " ";
  text.scrollTop = open ? 0 : text.scrollHeight;
}

button.addEventListener("click", (event) => {
  togglePrompt();
  if (event.detail) button.blur(); // after a press of the mouse Enter submits
});
// What is scrolled to must not lie below it, nor below the buttons.
const page = document.documentElement;
new ResizeObserver(() => {
  if (isLong() === button.hidden) foldPrompt();
  const stays = getComputedStyle(over).position === "sticky";
  page.style.scrollPaddingTop = `${stays ? over.offsetHeight + 8 : 8}px`;
  page.style.scrollPaddingBottom = `${document.querySelector(".foot").offsetHeight + 8}px`;
}).observe(over);
