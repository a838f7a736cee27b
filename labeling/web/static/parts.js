// Answers of parts as plain data: { text, parts: [{ response, start, end, text }] }. No page here.

export const asTyped = (text) => text.replace(/\r\n?/g, "\n");

// With one more part, as a paragraph of its own.
export function appended(answer, part) {
  const before = answer.text.trimEnd();
  return { ...answer, text: (before ? `${before}\n\n` : "") + asTyped(part.text), parts: [...(answer.parts || []), part] };
}

// Without a part, and without its words where they still stand as they were taken.
export function without(answer, number) {
  const at = located(answer.text, answer.parts)[number];
  const parts = answer.parts.filter((_, i) => i !== number);
  if (at === null) return { ...answer, parts };
  const before = answer.text.slice(0, at).trimEnd();
  const after = answer.text.slice(at + asTyped(answer.parts[number].text).length).trimStart();
  return { ...answer, text: before + (before && after ? "\n\n" : "") + after, parts };
}

// Where each part stands in the text word for word, null: nowhere any more; labeling/parts.py has the same.
export function located(text, parts) {
  const taken = [];
  let behind = 0;
  return parts.map((part) => {
    const words = asTyped(part.text);
    const found = free(text, words, behind, taken);
    const at = found === null ? free(text, words, 0, taken) : found;
    if (at === null) return null;
    behind = at + words.length;
    taken.push([at, behind]);
    return at;
  });
}

function free(text, words, start, taken) {
  let at = text.indexOf(words, start);
  while (at >= 0) {
    const hit = taken.find(([begin, end]) => begin < at + words.length && at < end);
    if (!hit) return at;
    at = text.indexOf(words, hit[1]);
  }
  return null;
}
