// Texts as they were written, in place of what Markdown and LaTeX make of them.

const boxes = [...document.querySelectorAll(".shown")];
const all = document.getElementById("raw");

const isRaw = (box) => box.querySelector(".prose").hidden;

function set(box, raw) {
  if (raw === isRaw(box)) return;
  box.querySelector(".prose").hidden = raw;
  if (raw) box.append(Object.assign(document.createElement("pre"), { className: "raw", dir: "auto", textContent: box.dataset.source }));
  else box.querySelector(".raw").remove();
  const button = box.parentElement.querySelector("[data-raw]");
  if (button) button.setAttribute("aria-pressed", raw);
  all.setAttribute("aria-pressed", boxes.every(isRaw));
}

export function toggleRaw(card) {
  for (const box of card.querySelectorAll(".shown")) set(box, !isRaw(box));
}

export function toggleAllRaw() {
  const raw = !boxes.every(isRaw);
  for (const box of boxes) set(box, raw);
}

for (const button of document.querySelectorAll("[data-raw]")) {
  button.addEventListener("click", () => toggleRaw(button.closest(".card")));
}
all.addEventListener("click", toggleAllRaw);
