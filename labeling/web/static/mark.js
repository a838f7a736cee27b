// What is marked on the page, as a range of the text that was written.
//
// Where the words that are marked are not the words of the source (because of formatting or a formula), the range is
// that of the whole paragraphs, list items and so on: blocks say in `data-lines` which lines of the source they are.

const isBlank = (text) => !text.trim();

// { start, end, more }: a range of the box's source in UTF-16, and whether it holds more than what is marked; null:
// nothing is marked here.
export function sourceOf(range, box) {
  const source = box.dataset.source;
  const raw = box.querySelector(".raw");
  const pieces = piecesIn(range, raw || box.querySelector(".prose"));
  if (!pieces.length) return null;
  const [first, last] = [pieces[0], pieces.at(-1)];
  if (raw) return trimmed(source, first.from, last.to, false);
  const [from, to] = [blockOf(first.node), blockOf(last.node)];
  if (!from || !to) return null;
  const lines = linesOf(source);
  const formulas = pieces.some(({ node }) => node.parentElement.closest("[data-math]"));
  const one = from.contains(to) ? from : to.contains(from) ? to : null;
  return one ? inOne(source, lines, one, first, last, formulas) : inSeveral(source, lines, from, to, first, last, formulas);
}

function inOne(source, lines, block, first, last, formulas) {
  const [start, end] = span(lines, block);
  const shown = block.textContent;
  const begin = before(block, first);
  const words = shown.slice(begin, before(block, { node: last.node, from: last.to }));
  const outside = shown.slice(0, begin) + shown.slice(begin + words.length);
  if (isBlank(outside)) return trimmed(source, start, end, false);
  const here = source.slice(start, end);
  const places = occurrences(here, words.trim());
  const among = occurrences(shown, words.trim());
  const at = places[among.indexOf(begin + words.length - words.trimStart().length)];
  // As often in the source as on the page: then it is the same one.
  if (formulas || places.length !== among.length || at === undefined) return trimmed(source, start, end, true);
  return trimmed(source, start + at, start + at + words.trim().length, false);
}

// From the middle of one block to the middle of another: where its end, or its beginning, stands so in the source.
function inSeveral(source, lines, from, to, first, last, formulas) {
  let [start, startEnds] = span(lines, from);
  let [endStarts, end] = span(lines, to);
  let more = false;
  const head = from.textContent.slice(before(from, first)).trim();
  if (head !== from.textContent.trim()) {
    const here = source.slice(start, startEnds).trimEnd();
    if (!formulas && here.endsWith(head)) start += here.length - head.length;
    else more = true;
  }
  const tail = to.textContent.slice(0, before(to, { node: last.node, from: last.to })).trim();
  if (tail !== to.textContent.trim()) {
    if (!formulas && source.startsWith(tail, endStarts)) end = endStarts + tail.length;
    else more = true;
  }
  return trimmed(source, start, end, more);
}

// The texts of a part of the page that a range holds: { node, from, to }; none that are blank.
function piecesIn(range, root) {
  const found = [];
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (!range.intersectsNode(node)) continue;
    const from = node === range.startContainer ? range.startOffset : 0;
    const to = node === range.endContainer ? range.endOffset : node.length;
    if (!isBlank(node.data.slice(from, to))) found.push({ node, from, to });
  }
  return found;
}

const blockOf = (node) => node.parentElement.closest("[data-lines]");

// How many characters of a block stand before a place in it.
function before(block, { node, from }) {
  let count = from;
  const walk = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
  for (let other = walk.nextNode(); other && other !== node; other = walk.nextNode()) count += other.length;
  return count;
}

function linesOf(source) {
  const lines = [];
  let start = 0;
  for (const { index, 0: end } of source.matchAll(/\r\n?|\n/g)) {
    lines.push([start, index]);
    start = index + end.length;
  }
  return [...lines, [start, source.length]];
}

function span(lines, block) {
  const [first, behind] = block.dataset.lines.split(" ").map(Number);
  return [lines[first][0], lines[Math.min(behind, lines.length) - 1][1]];
}

function occurrences(text, words) {
  const found = [];
  for (let at = text.indexOf(words); at >= 0; at = text.indexOf(words, at + 1)) found.push(at);
  return found;
}

// Without blanks at its ends; the first line stays set in where more lines follow.
function trimmed(source, start, end, more) {
  const words = source.slice(start, end).trimEnd();
  const blank = words.length - words.trimStart().length;
  const lines = words.slice(0, blank).search(/[^\r\n]*$/);
  const several = /[\r\n]/.test(words.slice(blank));
  return { start: start + (several ? lines : blank), end: start + words.length, more };
}
