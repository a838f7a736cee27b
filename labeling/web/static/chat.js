// A conversation with the policy, or with two whose names nobody sees. Until it is over it is kept in this browser,
// as a draft is: what is being written, what was said, and how far an answer came.

import { watch } from "./active.js";
import { choices } from "./chat_pair.js";
import { byId, made, problem, say, show, showAll } from "./chat_show.js";
import { correcting } from "./chat_correct.js";
import { lines, post, random, Refused } from "./server.js";

const person = Number(byId("chat").dataset.person);
const pair = byId("chat").hasAttribute("data-pair");
const place = `align draft ${person} talk`; // signing out forgets it
const SAVE_AFTER = 500; // ms, while an answer comes
const NEAR = 80; // px from the end of the page: who is there follows what comes
const BROKE_OFF = "The answer broke off here and is not part of the talk. Ask again: it is given anew, from the beginning.";
const GIVEN_UP = 2000; // ms
const active = watch();
const log = byId("talk");
const field = byId("text");

// `talk`: messages; one of the policy has `given`, what it said and its seal, and `turn`, its number. `versions`
// are its texts, each with the number of the first answer that was given after it. `open`: the last question until
// its answer is there (`texts` so far; `end`: the whole answer of two).
const state = { text: "", turn: 0, talk: [], open: null, ...read() };
let running = null; // what stops the answer that is coming
let locked = false; // an earlier answer is being corrected
let over = false; // signed out: nothing is kept any more
let saved = 0;

function read() {
  try {
    return JSON.parse(localStorage.getItem(place)) || {};
  } catch {
    localStorage.removeItem(place);
    return {};
  }
}

function save() {
  saved = performance.now();
  if (over) return;
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    // a full or closed storage: the talk goes on
  }
}

// The conversation as it was when answer number `turn` was asked for; a chat template refuses an empty message.
function messages(upTo, turn) {
  return state.talk.slice(0, upTo).map(({ role, versions }) => {
    const { text } = versions.findLast(({ since }) => since <= turn);
    return { role, content: text.trim() ? text : "…" };
  });
}

const textOf = (message) => message.versions.at(-1).text;

function bubble(role, name) {
  const text = made("div", { className: "said", dir: "auto" });
  const who = made("p", { className: "role", textContent: name || (role === "user" ? "You" : "Policy") });
  return { box: made("div", { className: `message ${role}` }, who, text), text };
}

// Puts a message on the page; `render` shows its Markdown at once, else who calls does it for all.
function put(message, render = true) {
  const { box, text } = bubble(message.role);
  log.append(box);
  text.textContent = textOf(message);
  if (render) show(text, textOf(message), person);
  if (message.given) offer(message, box, text);
  return text;
}

function offer(message, box, text) {
  const at = active();
  const button = made("button", { className: "correct", type: "button", textContent: "This is wrong" });
  button.addEventListener("click", () => {
    lock(true);
    button.hidden = true;
    correcting({
      box,
      person,
      given: { ...message.given, messages: messages(state.talk.indexOf(message), message.turn) },
      value: textOf(message),
      seconds: () => active() - at,
      kept: (value) => {
        message.versions.push({ since: state.turn, text: value });
        show(text, value, person);
        save();
      },
      closed: () => {
        lock(false);
        button.hidden = false;
      },
    });
  });
  box.append(button);
}

function lock(value) {
  locked = value;
  allow();
}

function allow() {
  byId("send").disabled = byId("new").disabled = Boolean(running) || locked;
  byId("stop").hidden = !running;
  for (const button of log.querySelectorAll(".correct, .again")) button.disabled = Boolean(running) || locked;
}

async function ask(content) {
  if (running || locked || !content.trim()) return;
  if (state.open?.end) return problem("Say first which answer is better.");
  problem("");
  log.querySelectorAll(".coming").forEach((box) => box.remove());
  state.open = { content, texts: pair ? ["", ""] : [""] };
  if (field.value.trim() === content.trim()) field.value = state.text = "";
  save();
  const coming = begin(state.open);
  const control = new AbortController();
  const name = random();
  running = { stop: () => stopped(name, control) };
  allow();
  let end = null;
  try {
    const before = messages(state.talk.length, state.turn);
    const asked = { messages: [...before, { role: "user", content }], turn: state.turn, ask: name };
    await lines("/chat/answer", asked, person, (line) => (end = heard(line, coming) || end), control);
    if (!end) throw new Refused(0, "The app's answer broke off.");
    if (end.error) throw new Refused(end.status, end.error);
    running = null;
    finish(end, coming);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    running = null;
    failed(error, coming);
  }
  save();
  allow();
  if (!state.open?.end) field.focus();
}

// Where the app does not know of the answer, or does not answer, the connection ends: the policy stops then too.
async function stopped(ask, control) {
  try {
    if ((await post("/chat/stop", { ask }, person)).stopped) return;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
  setTimeout(() => control.abort(), GIVEN_UP); // it may be whole and on its way
}

// The question and the answers that come to it.
function begin(open) {
  say("Waiting for the policy …");
  const question = bubble("user");
  show(question.text, open.content, person);
  const answers = open.texts.map((_, side) => bubble("assistant", pair ? `Answer ${"AB"[side]}` : ""));
  const box = made("div", { className: "coming" }, question.box);
  if (pair) box.append(made("div", { className: "pair" }, ...answers.map((answer) => answer.box)));
  else box.append(answers[0].box);
  answers.forEach((answer) => answer.text.setAttribute("aria-busy", "true"));
  log.append(box);
  toEnd(true);
  return { box, answers };
}

// The last line, or nothing.
function heard(line, { answers }) {
  if (line.waiting) return null;
  if (line.piece === undefined) return line;
  say("The policy is writing …");
  const { scrollHeight, scrollTop, clientHeight } = document.documentElement;
  const follows = scrollHeight - scrollTop - clientHeight < NEAR;
  state.open.texts[line.side] += line.piece;
  answers[line.side].text.append(line.piece);
  toEnd(follows);
  if (performance.now() - saved > SAVE_AFTER) save();
  return null;
}

// Who reads on further up is left there.
function toEnd(follows) {
  if (follows) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
}

function finish(end, coming) {
  if (end.stopped && (pair || !end.text.trim())) {
    back(coming);
    return say(pair ? "Stopped. Send it again to have both answers." : "Stopped before anything was said.");
  }
  say(end.stopped ? "Stopped; what was said so far is kept" : "");
  if (!pair) return settle(coming, { answer: end.text, origin: end.origin, seal: end.seal });
  state.open.end = end;
  compare(coming);
}

function settle(coming, given) {
  coming.box.remove();
  const question = { role: "user", versions: [{ since: 0, text: state.open.content }] };
  const answer = { role: "assistant", versions: [{ since: 0, text: given.answer }], given, turn: state.turn };
  state.talk.push(question, answer);
  state.turn += 1;
  state.open = null;
  put(question);
  put(answer);
  save();
}

function compare(coming) {
  const { end, content } = state.open;
  coming.answers.forEach(({ text }, side) => {
    text.removeAttribute("aria-busy");
    show(text, end.texts[side], person);
  });
  const asked = [...messages(state.talk.length, state.turn), { role: "user", content }];
  const goOn = (side) => {
    settle(coming, { answer: end.texts[side], origin: "", seal: end.seals[side] });
    field.focus();
  };
  choices(coming.box, { end, asked, person, active, goOn });
}

// What is not answered is written again; where something else is being written by now, it stays to be asked again.
function back(coming) {
  if (field.value.trim()) return brokenOff(coming, "This was not answered, and is not part of the talk.");
  coming.box.remove();
  field.value = state.text = state.open.content;
  state.open = null;
}

function failed(error, coming) {
  say("");
  const begun = state.open.texts.some((text) => text.trim());
  if (!begun && error.status !== 0) {
    back(coming);
    return problem(error.message);
  }
  brokenOff(coming);
  problem(error.status === 0 ? "" : error.message);
}

function brokenOff({ box, answers }, textContent = BROKE_OFF) {
  const { content } = state.open;
  answers.forEach(({ text }) => text.removeAttribute("aria-busy"));
  const why = made("p", { className: "broke", textContent });
  const again = made("button", { className: "again", type: "button", textContent: "Ask again" });
  again.addEventListener("click", () => ask(content));
  box.append(why, again);
  if (!field.value.trim()) field.value = state.text = content;
}

// What was here before the page was left.
function restore() {
  field.value = state.text;
  showAll(state.talk.map((message) => ({ element: put(message, false), text: textOf(message) })), person);
  if (state.open) {
    const coming = begin(state.open);
    coming.answers.forEach(({ text }, side) => (text.textContent = state.open.texts[side]));
    say("");
    if (state.open.end) compare(coming);
    else brokenOff(coming);
  }
  allow();
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(field.value.trim());
});
field.addEventListener("input", () => {
  state.text = field.value;
  save();
});
field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
  event.preventDefault();
  ask(field.value.trim());
});
function stop() {
  if (!running) return;
  say("Stopping …");
  running.stop();
}
byId("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && stop());
byId("new").addEventListener("click", () => {
  Object.assign(state, { talk: [], open: null });
  log.replaceChildren();
  problem("");
  say("");
  save();
  field.focus();
});
document.getElementById("signout").addEventListener("submit", () => (over = true), { capture: true });
restore();
