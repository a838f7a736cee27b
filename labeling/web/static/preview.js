// What is being written, as it will be read; the field has letters of one width where code stands in it.

import { showMath } from "./math.js";
import { post } from "./server.js";
import { like, liked } from "./view.js";

const AFTER = 350; // ms without a key
const FENCE = /^ {0,3}(```|~~~)/m;

const box = document.getElementById("preview");
const shown = document.getElementById("previewed");
let timer = 0;
let last = null; // the text that is shown, or on its way

export function preview(field) {
  field.classList.toggle("mono", FENCE.test(field.value));
  clearTimeout(timer);
  timer = setTimeout(() => render(field), AFTER);
}

async function render(field) {
  const text = field.value;
  // What nobody has changed yet stands above.
  box.hidden = text.trim() === (field.dataset.source || "").trim();
  if (box.hidden || !box.open || text === last) return;
  last = text;
  try {
    const { html } = await post("/work/preview", { text });
    if (text !== last) return; // a later one is on its way
    shown.innerHTML = html; // cleaned by the app, as all texts are
    showMath(shown);
  } catch {
    last = null; // the preview stays as it was
  }
}

const field = document.getElementById("text");
box.addEventListener("toggle", () => {
  like({ preview: box.open });
  preview(field);
});
box.open = liked().preview !== false;
