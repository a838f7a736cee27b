// A conversation with the policy. Everything that anybody wrote is put on the page as text.

import { post, random, Refused } from "./server.js";

const byId = (id) => document.getElementById(id);
const person = Number(byId("chat").dataset.person);
let messages = [];
let turn = 0;
let busy = false;
let last = null; // the answer that can be overwritten: what was asked, what was said, its seal

function made(tag, props, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
}

function say(text) {
  byId("state").textContent = text;
}

function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function shown(role, content) {
  const text = made("p", { className: "said", dir: "auto", textContent: content });
  const who = made("p", { className: "role", textContent: role === "user" ? "You" : "Policy" });
  const box = made("div", { className: `message ${role}` }, who, text);
  byId("talk").append(box);
  return { box, text };
}

function settle() {
  for (const button of document.querySelectorAll("#talk .correct")) button.remove();
  last = null;
}

async function ask(event) {
  event.preventDefault();
  const content = byId("text").value.trim();
  if (busy || !content) return;
  busy = true;
  byId("send").disabled = byId("new").disabled = true;
  problem("");
  say("The policy is writing …");
  const asked = [...messages, { role: "user", content }];
  try {
    const answer = await post("/chat/answer", { messages: asked, turn }, person);
    settle();
    shown("user", content);
    turn += 1;
    messages = [...asked, { role: "assistant", content: answer.text.trim() ? answer.text : "…" }];
    last = { asked, answer, at: performance.now(), ...shown("assistant", answer.text) };
    offer();
    byId("text").value = "";
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    problem(error.message);
  }
  say("");
  busy = false;
  byId("send").disabled = byId("new").disabled = false;
  byId("text").focus();
}

function offer() {
  const button = made("button", { className: "correct", type: "button", textContent: "This is wrong" });
  button.addEventListener("click", () => edit(button));
  last.box.append(button);
}

function edit(button) {
  const { box, text, asked, answer, at } = last;
  let submission = random();
  let said = null; // what this submission was sent with: another text is another one
  const field = made("textarea", { id: "right", rows: 6, dir: "auto", maxLength: 100000, value: messages.at(-1).content });
  const label = made("label", { htmlFor: "right", textContent: "What it should have said" });
  const keep = made("button", { className: "primary", type: "button", textContent: "Keep" });
  const leave = made("button", { type: "button", textContent: "Cancel" });
  const form = made("div", { className: "written" }, label, field, made("p", { className: "actions" }, keep, leave));
  const close = () => {
    form.remove();
    byId("send").disabled = byId("new").disabled = busy = false;
  };
  busy = byId("send").disabled = byId("new").disabled = true;
  button.remove();
  box.append(form);
  field.focus();
  leave.addEventListener("click", () => {
    close();
    offer();
  });
  keep.addEventListener("click", async () => {
    if (!field.value.trim()) return problem("Write the response first.");
    if (field.value.trim() === answer.text.trim()) return problem("You changed nothing: write what it should have said, or cancel.");
    keep.disabled = true;
    problem("");
    const seconds = (performance.now() - at) / 1000;
    if (said !== null && said !== field.value) submission = random();
    said = field.value;
    const given = { messages: asked, turn: 0, answer: answer.text, origin: answer.origin, seal: answer.seal };
    try {
      await post("/chat/correct", { ...given, text: field.value, submission, seconds }, person);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      keep.disabled = false;
      return problem(error.message);
    }
    messages = [...asked, { role: "assistant", content: field.value }];
    text.textContent = field.value;
    close();
    offer();
    say("Kept as a demonstration");
    byId("text").focus();
  });
}

byId("ask").addEventListener("submit", ask);
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) ask(event);
});
byId("new").addEventListener("click", () => {
  settle();
  messages = [];
  byId("talk").replaceChildren();
  problem("");
  byId("text").focus();
});
