// Texts of a talk on the page: at once as they were written, then as Markdown and LaTeX show them.

import { showMath } from "./math.js";
import { post, Refused } from "./server.js";

const AT_ONCE = 20; // texts of one request

export const byId = (id) => document.getElementById(id);

export function made(tag, props, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
}

export function say(text) {
  byId("state").textContent = text;
}

export function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

export function show(element, text, person) {
  element.textContent = text;
  return showAll([{ element, text }], person);
}

// The app renders and cleans them, as it does everywhere else; where it does not answer, they stay as written.
export async function showAll(texts, person) {
  for (let from = 0; from < texts.length; from += AT_ONCE) {
    const some = texts.slice(from, from + AT_ONCE);
    try {
      const { html } = await post("/chat/shown", { texts: some.map(({ text }) => text) }, person);
      some.forEach(({ element, text }, i) => element.textContent === text && prose(element, html[i]));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
  }
}

function prose(element, html) {
  element.innerHTML = html;
  element.classList.add("prose");
  showMath(element);
}
