// One, two or three columns of cards.

import { like, liked } from "./view.js";

const list = document.getElementById("cards");
const buttons = [...document.querySelectorAll("[data-columns]")];

export const columns = () => Number(list.dataset.columns);

// Whether cards stand beside each other: a narrow screen has room for one column only.
export const inLines = () => getComputedStyle(list).gridTemplateColumns.split(" ").length > 1;

export function setColumns(count) {
  list.dataset.columns = count;
  for (const button of buttons) button.setAttribute("aria-pressed", String(Number(button.value) === count));
  like({ columns: count });
}

export function useColumns(set) {
  for (const button of buttons) {
    button.addEventListener("click", (event) => {
      set(Number(button.value));
      if (event.detail) button.blur(); // after a press of the mouse Enter submits
    });
  }
  setColumns([1, 2, 3].includes(liked().columns) ? liked().columns : 1);
}
