import { reopen } from "./server.js";

for (const button of document.querySelectorAll("[data-reopen]")) {
  button.addEventListener("click", () => reopen(button));
}
