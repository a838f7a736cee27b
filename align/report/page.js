"use strict";
// Only the cases that hold the words stay; the page is whole without this script.
for (const find of document.querySelectorAll(".find")) {
  const field = find.querySelector("input");
  const told = find.querySelector("output");
  const cases = [...find.parentElement.querySelectorAll(".case")];
  find.hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const one of cases) {
      const text = one.textContent.toLowerCase();
      one.hidden = !words.every((word) => text.includes(word));
      shown += !one.hidden;
    }
    told.textContent = words.length ? `${shown} of ${cases.length}` : "";
  });
}
