// The guideline as a drawer: closed it gives its room to the task. On a narrow screen it lies over the task, and is
// closed to begin with.

import { like, liked } from "./view.js";

const drawer = document.getElementById("guide");
const buttons = [...document.querySelectorAll("[data-guide]")];
const narrow = matchMedia("(max-width: 60rem)");

function set(open) {
  drawer.hidden = !open;
  for (const button of buttons) button.setAttribute("aria-expanded", String(open));
}

export function toggleGuide() {
  set(drawer.hidden);
  if (!narrow.matches) like({ guide: !drawer.hidden });
}

for (const button of buttons) {
  button.addEventListener("click", (event) => {
    toggleGuide();
    if (event.detail) button.blur(); // after a press of the mouse Enter submits
    else if (drawer.hidden) buttons[0].focus();
  });
}
set(!narrow.matches && liked().guide !== false);
