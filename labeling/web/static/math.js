// LaTeX as KaTeX shows it. The server left its source in elements with `data-math`; what can't be shown stays so.

import { gettext, number } from "./words.js";

const MARKS = [["\\(", "\\)"], ["\\[", "\\]"], ["$$", "$$"], ["$", "$"]];
const LONGEST = 5000; // characters of one formula
const AT_ONCE = 50; // ms; then keys and clicks have their turn
const ALL = 1500; // ms for a page, its layout included
const DEEPEST = 400; // elements within each other: a browser's layout ends the page at some thousands
// A definition can be as long as the formula each time it is used: hours for a short source.
const DEFINES = /\\([gex]?def|let|futurelet|(re)?newcommand|providecommand)(?![a-z])/i;
const OPTIONS = { throwOnError: true, strict: "ignore", trust: false, maxSize: 20, maxExpand: 300 };

// Once for a part of the page: what is shown has no source any more.
export async function showMath(part = document) {
  const formulas = part.querySelectorAll("[data-math]");
  if (!formulas.length) return;
  try {
    await load();
  } catch {
    return; // the source stays
  }
  let spent = 0;
  let since = performance.now();
  for (const formula of formulas) {
    if (spent < ALL) show(formula);
    if (spent >= ALL || performance.now() - since < AT_ONCE) continue;
    void formula.offsetHeight; // laid out now: it counts
    spent += performance.now() - since;
    await new Promise((go) => setTimeout(go));
    since = performance.now();
  }
}

async function load() {
  if (globalThis.katex) return;
  const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/static/katex/katex.min.css" });
  const styled = new Promise((done, failed) => Object.assign(sheet, { onload: done, onerror: failed }));
  document.head.append(sheet);
  await Promise.all([styled, import("./katex/katex.min.js")]);
}

function show(formula) {
  const source = formula.textContent;
  const made = document.createElement("span");
  try {
    if (source.length > LONGEST) throw new Error(gettext("it has over %(most)s characters", { most: number(LONGEST) }));
    if (DEFINES.test(source)) throw new Error(gettext("it defines commands"));
    katex.render(inside(source), made, { ...OPTIONS, displayMode: formula.dataset.math === "display" });
    if (depth(made) > DEEPEST) throw new Error(gettext("it is nested too deeply"));
  } catch (error) {
    formula.classList.add("broken");
    formula.classList.toggle("long", source.length > LONGEST); // no line below it: a browser draws that for seconds
    formula.title = gettext("Shown as it was written: %(why)s", { why: error.message });
    return;
  }
  formula.replaceChildren(...made.childNodes);
}

// How many elements stand within each other; no recursion, which is what ends where they are too many.
function depth(element) {
  let deepest = 0;
  for (let level = [element]; level.length; level = level.flatMap((one) => [...one.children])) deepest += 1;
  return deepest;
}

// Without its marks; a full stop behind them stays, as a part of the line.
function inside(source) {
  const [opens, closes] = MARKS.find(([begin]) => source.startsWith(begin)) || ["", ""];
  const end = source.lastIndexOf(closes);
  return source.slice(opens.length, end) + source.slice(end + closes.length);
}
