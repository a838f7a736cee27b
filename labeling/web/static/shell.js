// What all tasks share: drafts, undo, keys, skipping, submitting, the lease.

import { post, random, reopenByButtons, Refused } from "./server.js";

const SAVE_AFTER = 600; // ms without a change
const RETRY_AFTER = 4000; // ms, when the app does not answer
const LONG = 420; // px; a longer text is folded

const byId = (id) => document.getElementById(id);

export function start({ empty, show, keys }) {
  const task = JSON.parse(byId("task").dataset.task);
  const place = `align draft ${task.person} ${task.item}${task.adjudicates ? " decide" : ""}`;
  const note = byId("note");
  const past = [];
  let draft = newest(task, place) || { content: { ...empty(task), ...task.start, note: "" }, submission: random() };
  let activeSince = document.hidden ? 0 : Date.now();
  let seconds = draft.seconds || 0;
  let timer = 0;
  let sent = false;

  const clone = (value) => JSON.parse(JSON.stringify(value));
  const say = (text) => (byId("state").textContent = text);
  const problem = (text) => {
    byId("problem").textContent = text;
    byId("problem").hidden = !text;
  };

  function measure() {
    if (activeSince) seconds += (Date.now() - activeSince) / 1000;
    activeSince = document.hidden ? 0 : Date.now();
  }

  function keepHere() {
    measure();
    try {
      localStorage.setItem(place, JSON.stringify({ ...draft, seconds, saved: Date.now() }));
    } catch {
      // a full or closed storage: the server has the draft
    }
  }

  async function saveDraft() {
    if (sent || task.adjudicates) return;
    try {
      const { held } = await post(`/work/${task.item}/draft`, draft.content, task.person);
      say(held ? "Draft saved" : "Somebody else has this task now; your answer still counts");
    } catch (error) {
      say(error.status === 401 ? "Signed out: the draft is kept in this browser" : "The draft is kept in this browser");
    }
  }

  function changed() {
    keepHere();
    problem("");
    clearTimeout(timer);
    timer = setTimeout(saveDraft, SAVE_AFTER);
  }

  // Every change goes through here, so that it can be undone, is shown and is kept.
  function change(make) {
    const before = clone(draft.content);
    make(draft.content);
    if (JSON.stringify(before) === JSON.stringify(draft.content)) return;
    past.push(before);
    show(draft.content, task);
    changed();
  }

  // For text that is being typed: kept as it is, undone by the field itself.
  function typed(make) {
    make(draft.content);
    changed();
  }

  function undo() {
    if (!past.length) return say("Nothing to undo");
    draft.content = past.pop();
    note.value = draft.content.note;
    show(draft.content, task);
    changed();
    say("Undone");
  }

  async function submit(skip) {
    if (sent) return;
    sent = true;
    clearTimeout(timer);
    keepHere();
    byId("submit").disabled = true;
    say("Saving …");
    const answer = {
      content: skip ? { reason: skip, note: draft.content.note } : draft.content,
      submission: draft.submission,
      guideline: task.guideline,
      seconds,
      skip: Boolean(skip),
      adjudicates: task.adjudicates,
    };
    try {
      const { next } = await post(`/work/${task.item}/answer`, answer, task.person);
      localStorage.removeItem(place);
      location.assign(next || task.next);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      sent = false;
      byId("submit").disabled = false;
      say("");
      if (error.status === 0) {
        problem("The app isn't responding. Your work is kept here; trying again …");
        setTimeout(() => submit(skip), RETRY_AFTER);
      } else if (error.status === 401) {
        problem("You are signed out. Sign in in another tab, come back and submit again: your work is kept here.");
      } else problem(error.message);
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
    const own = keys && keys(event, { change, task });
    if (own) return event.preventDefault();
    if (event.altKey) return;
    const common = { u: undo, s: task.adjudicates ? null : skip, "?": () => byId("help-dialog").showModal() };
    if (event.key === "Enter" && !target.closest("button, a, summary")) common.Enter = () => submit();
    if (common[event.key]) {
      event.preventDefault();
      common[event.key]();
    }
  }

  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", measure);
  byId("submit").addEventListener("click", () => submit());
  byId("undo").addEventListener("click", undo);
  byId("help").addEventListener("click", () => byId("help-dialog").showModal());
  if (byId("skip")) byId("skip").addEventListener("click", skip);
  reopenByButtons();
  note.value = draft.content.note || "";
  if (note.value) note.closest("details").open = true;
  note.addEventListener("input", () => typed((content) => (content.note = note.value)));
  if (!task.adjudicates) {
    setInterval(() => post(`/work/${task.item}/heartbeat`, {}, task.person).catch(() => {}), task.beat);
  }
  if (matchMedia("(max-width: 60rem)").matches) byId("guide").open = false;
  foldLong();
  show(draft.content, task);
  return { change, typed, content: () => draft.content, task };
}

// The later one of the server's draft and this browser's.
function newest(task, place) {
  let here = null;
  try {
    here = JSON.parse(localStorage.getItem(place));
  } catch {
    localStorage.removeItem(place);
  }
  const there = Object.keys(task.draft).length
    ? { content: { note: "", ...task.draft }, submission: random(), saved: task.saved }
    : null;
  if (here && (!there || here.saved >= there.saved - 5000)) return here;
  return there;
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
