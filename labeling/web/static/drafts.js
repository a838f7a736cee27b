// Which version of the work on a task is the later one. Revisions say so, which the app counts: clocks are wrong.
//
// A draft is { content, known, sending, unheard, revision, attempt, over, aside, seconds }. `known`: the content
// that the app has as `revision`; `sending`: one on its way; `unheard`: those that may have arrived, as text;
// `attempt`: the submission on its way and what it says; `over`: submissions that the next one replaces;
// `aside`: what was here when a later version came from elsewhere.

const MOST_UNHEARD = 5;
const MOST_OVER = 100; // the app takes no more

export const clone = (value) => JSON.parse(JSON.stringify(value));
export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

// The draft to go on with: this browser's where it was made from the app's, else the app's.
export function opened(task, place, blank) {
  const content = { ...blank, ...task.draft };
  const fresh = {
    content,
    known: clone(content),
    sending: null,
    unheard: [],
    revision: task.revision,
    attempt: null,
    over: [],
    aside: null,
    seconds: 0,
  };
  const here = read(place);
  if (!here) return fresh;
  if (here.revision === task.revision || isOurs(here, task.draft)) {
    return { ...fresh, ...here, known: fresh.known, sending: null, unheard: [], revision: task.revision };
  }
  const unsaved = !same(here.content, here.known) && !same(here.content, content);
  return { ...fresh, aside: unsaved ? { ...blank, ...here.content } : here.aside || null };
}

// Whether the app has what this browser sent, and could not say so.
export function isOurs(draft, content) {
  return same(draft.sending, content) || (draft.unheard || []).includes(JSON.stringify(content));
}

export function unheard(draft) {
  draft.unheard = [...draft.unheard, JSON.stringify(draft.sending)].slice(-MOST_UNHEARD);
}

export function replaces(draft, ...submissions) {
  const known = submissions.filter((submission) => submission && !draft.over.includes(submission));
  draft.over = [...draft.over, ...known].slice(-MOST_OVER);
}

function read(place) {
  try {
    const here = JSON.parse(localStorage.getItem(place));
    return here && here.content ? here : null;
  } catch {
    localStorage.removeItem(place);
    return null;
  }
}
