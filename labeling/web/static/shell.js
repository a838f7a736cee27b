// What all tasks share: drafts, undo, keys, skipping, submitting, the lease.

import { watch } from "./active.js";
import { clone, isOurs, opened, replaces, same, unheard } from "./drafts.js";
import { post, random, reopenByButtons, Refused } from "./server.js";
import { foldPrompt, togglePrompt } from "./prompt.js";
import { toggleGuide } from "./guide.js";
import { asked, distinct, keysOf, named, write } from "./keys.js";
import { showMath } from "./math.js";
import { toggleAllRaw } from "./raw.js";
import { steps } from "./steps.js";

const SAVE_AFTER = 600; // ms without a change
const RETRY_AFTER = 4000; // ms, when the app does not answer
const CHANGED = "You changed your answer before the app said that it arrived: submit it again.";
const LONG = 420; // px; a longer text is folded

const byId = (id) => document.getElementById(id);

// `answer`: what of the content is sent as the answer; `actions`: what this page's keys do, by the names of
// labeling/web/keys.py; `fixed`: takes a key press before those; `missing`: the element where an answer that was
// refused wants something.
export function start({ empty, show, fixed, actions, missing, answer = (content) => content }) {
  const task = JSON.parse(byId("task").dataset.task);
  const place = `align draft ${task.person} ${task.number}${task.adjudicates ? " decide" : ""}`;
  const note = byId("note");
  const keys = distinct(keysOf(task.person, task.keys), task.keys);
  const draft = opened(task, place, { ...empty(task), ...task.start, note: "" });
  const history = steps(draft.aside);
  const active = watch(draft.seconds);
  let timer = 0;
  let retry = 0;
  let saving = false;
  let unsure = false; // an answer was sent, and nobody knows whether it arrived
  let sent = false;
  let over = false; // the answer is there: nothing is left to be kept

  const say = (text) => (byId("state").textContent = text);
  const problem = (text) => {
    byId("problem").textContent = text;
    byId("problem").hidden = !text;
  };

  function keepHere() {
    if (over) return;
    draft.seconds = active();
    try {
      localStorage.setItem(place, JSON.stringify(draft));
    } catch {
      // a full or closed storage: the server has the draft
    }
  }

  async function saveDraft() {
    if (sent || task.adjudicates) return;
    if (saving) return saveSoon();
    saving = true;
    draft.sending = clone(draft.content);
    keepHere();
    const from = draft.revision === null ? "" : `?revision=${draft.revision}`;
    try {
      const { held, revision } = await post(`/work/${task.number}/draft${from}`, draft.sending, task.person);
      Object.assign(draft, { known: draft.sending, revision, unheard: [] });
      say(held ? "Draft saved" : "Somebody else has this task now; your answer still counts");
    } catch (error) {
      if (error.status === 0) unheard(draft);
      if (error.status === 409 && error.more.revision !== undefined) metElsewhere(error.more);
      else say(error.status === 401 ? "Signed out: the draft is kept in this browser" : "The draft is kept in this browser");
    }
    saving = false;
    draft.sending = null;
    keepHere();
  }

  // The app has another version than the one that this page began with: what is done here goes on from it.
  function metElsewhere(there) {
    const theirs = { ...empty(task), note: "", ...there.content };
    const answered = Object.keys(there.content).length === 0;
    if (answered) say("Answered elsewhere; what you see here is kept in this browser");
    else if (!isOurs(draft, there.content) && !same(theirs, draft.content)) {
      history.changes(theirs);
      draft.aside = theirs;
      say("Worked on in another tab too: Undo brings that version back");
    }
    Object.assign(draft, { revision: there.revision, unheard: [] });
    if (!answered) saveSoon();
  }

  function saveSoon() {
    clearTimeout(timer);
    timer = setTimeout(saveDraft, SAVE_AFTER);
  }

  function changed() {
    keepHere();
    problem(unsure ? CHANGED : "");
    clearTimeout(retry);
    saveSoon();
  }

  function shown() {
    if (note.value !== draft.content.note) note.value = draft.content.note;
    show(draft.content, task);
  }

  // Every change goes through here, so that it can be undone, is shown and is kept.
  function change(make) {
    const before = clone(draft.content);
    make(draft.content);
    if (same(before, draft.content)) return;
    history.changes(before);
    shown();
    changed();
  }

  // For text that is being typed into a field: all of it until the field is left is one step to undo.
  function typed(field, make) {
    history.types(field, draft.content);
    make(draft.content);
    changed();
  }

  function step(direction, none, done) {
    const content = history[direction](draft.content);
    if (!content) return say(none);
    draft.content = content;
    shown();
    changed();
    say(done);
  }
  const undo = () => step("back", "Nothing to undo", "Undone");
  const redo = () => step("forth", "Nothing to redo", "Redone");

  // A submission's id belongs to its content: what was changed is another one, instead of those before it.
  function asSubmission(skip, affirmed) {
    const content = skip ? { reason: skip, note: draft.content.note } : answer(draft.content);
    const said = JSON.stringify([content, Boolean(skip), affirmed, task.guideline]);
    if (draft.attempt && draft.attempt.said !== said) {
      replaces(draft, draft.attempt.submission);
      draft.attempt = null;
    }
    draft.attempt ||= { said, submission: random() };
    keepHere();
    return {
      content,
      submission: draft.attempt.submission,
      instead_of: draft.over,
      guideline: task.guideline,
      seconds: draft.seconds,
      skip: Boolean(skip),
      adjudicates: task.adjudicates,
      affirmed,
    };
  }

  // Whether all still is as it was before anybody touched it.
  function untouched() {
    const alike = (one, other) => (typeof one === "string" ? one.trim() === other.trim() : same(one, other));
    return task.unchanged !== null && Object.entries(task.unchanged).every(([key, was]) => alike(draft.content[key], was));
  }

  function affirm() {
    if (untouched()) submit(undefined, true);
    else problem("You changed it: Submit sends your version.");
  }

  async function submit(skip, affirmed = false) {
    if (sent) return;
    if (!skip && !affirmed && untouched()) {
      return problem(`You changed nothing. Is it right as it stands? Then say so: ${named(keys.affirm)}, or the button beside Submit.`);
    }
    sent = true;
    clearTimeout(timer);
    clearTimeout(retry);
    unsure = false;
    const given = asSubmission(skip, affirmed);
    const before = clone(draft.content);
    byId("submit").disabled = true;
    say("Saving …");
    try {
      const { next } = await post(`/work/${task.number}/answer`, given, task.person);
      if (same(before, draft.content)) return leave(next || task.next);
      draft.revision = null; // the app's draft went with the answer
      again("");
      problem("Your answer is saved as it was when you sent it. To put what you changed since in its place, submit again.");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      again("");
      refused(error, skip, affirmed, before);
    }
  }

  function leave(to) {
    over = true;
    localStorage.removeItem(place);
    location.assign(to);
  }

  function again(text) {
    sent = false;
    byId("submit").disabled = false;
    say(text);
  }

  function refused(error, skip, affirmed, before) {
    unsure = error.status === 0;
    if (unsure && !same(before, draft.content)) {
      problem(CHANGED);
    } else if (unsure) {
      problem("The app isn't responding. Your work is kept here; trying again …");
      retry = setTimeout(() => submit(skip, affirmed), RETRY_AFTER);
    } else if (error.status === 401) {
      problem("You are signed out. Sign in in another tab, come back and submit again: your work is kept here.");
    } else {
      if (error.status === 409 && "standing" in error.more) {
        replaces(draft, draft.attempt.submission, error.more.standing);
        draft.attempt = null; // the next press of Submit is a decision of its own
        keepHere();
      } else if (!skip && missing) {
        missing(draft.content)?.focus();
      }
      problem(error.message);
    }
  }

  async function keepOld() {
    clearTimeout(timer);
    sent = true; // no draft is saved any more
    try {
      await post(`/work/${task.number}/keep`, {}, task.person);
      leave(task.next);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      again("");
      problem(error.message);
    }
  }

  function skip() {
    const dialog = byId("skip-dialog");
    dialog.returnValue = "";
    dialog.showModal();
    dialog.onclose = () => dialog.returnValue && submit(dialog.returnValue);
  }

  function onKey(event) {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    const target = event.target;
    const typing = target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      return submit();
    }
    if (typing) {
      if (event.key === "Escape") target.blur();
      return;
    }
    if (event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" && target.matches("button, a, summary")) return;
    if (event.key === "Enter" && target.matches("[type=checkbox]")) {
      event.preventDefault();
      return target.click();
    }
    if (fixed && fixed(event, keys)) return event.preventDefault();
    const found = asked(event, keys);
    const act = found && { ...common, ...actions() }[found.action];
    if (act && act(found.digit) !== false) event.preventDefault();
  }

  const common = {
    submit: () => submit(),
    affirm,
    undo,
    redo,
    skip: () => !task.adjudicates && skip(),
    prompt: togglePrompt,
    guide: toggleGuide,
    raw: toggleAllRaw,
    raw_all: toggleAllRaw,
    help: () => byId("help-dialog").showModal(),
  };
  document.addEventListener("keydown", onKey);
  byId("submit").addEventListener("click", () => submit());
  if (byId("affirm")) byId("affirm").addEventListener("click", affirm);
  byId("undo").addEventListener("click", undo);
  byId("redo").addEventListener("click", redo);
  if (byId("keep")) byId("keep").addEventListener("click", keepOld);
  byId("help").addEventListener("click", () => byId("help-dialog").showModal());
  if (byId("skip")) byId("skip").addEventListener("click", skip);
  reopenByButtons();
  if (draft.content.note) note.closest("details").open = true;
  note.addEventListener("input", () => typed(note, (content) => (content.note = note.value)));
  document.addEventListener("focusout", history.left);
  if (!task.adjudicates) {
    setInterval(() => post(`/work/${task.number}/heartbeat`, {}, task.person).catch(() => {}), task.beat);
  }
  showMath().then(() => {
    foldPrompt();
    foldLong();
  });
  write(keys);
  shown();
  if (draft.aside) say("A later version came from elsewhere: Undo brings back what was here");
  return { change, typed, say, undo, content: () => draft.content, task };
}

function foldLong() {
  for (const text of document.querySelectorAll("[data-long]")) {
    if (text.scrollHeight <= LONG * 1.25) continue;
    text.classList.add("folded");
    const button = document.createElement("button");
    button.className = "more quiet";
    button.textContent = "Show all";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const folded = text.classList.toggle("folded");
      button.textContent = folded ? "Show all" : "Show less";
      button.setAttribute("aria-expanded", String(!folded));
    });
    text.after(button);
  }
}
