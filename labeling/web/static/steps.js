// Undo and redo. A step is the whole content; all that is typed into a field until it is left is one step.

import { clone, same } from "./drafts.js";

export function steps(first) {
  const past = first ? [first] : [];
  const future = [];
  let typing = null;

  function push(content) {
    past.push(clone(content));
    future.length = 0;
  }

  function go(from, to, content) {
    typing = null;
    while (from.length) {
      const found = from.pop();
      if (same(found, content)) continue;
      to.push(clone(content));
      return found;
    }
    return null;
  }

  return {
    changes: (content) => {
      typing = null;
      push(content);
    },
    types: (field, content) => {
      if (typing !== field) push(content);
      typing = field;
    },
    left: () => (typing = null),
    back: (content) => go(past, future, content),
    forth: (content) => go(future, past, content),
  };
}
