// Requests to the app: with the page's CSRF token, and a new one if somebody signed in again meanwhile.

import { gettext } from "./words.js";

const BROKE_OFF = gettext("The app's answer broke off.");
const SILENCE = 20_000; // ms; the app says something twice a second

const meta = document.querySelector('meta[name="csrf"]');
let csrf = meta ? meta.content : "";

export class Refused extends Error {
  constructor(status, message, more = {}) {
    super(message);
    this.status = status; // 0: no answer at all
    this.more = more; // what the answer says besides
  }
}

async function once(path, body, signal) {
  try {
    return await fetch(path, {
      method: "POST",
      signal,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, gettext("The app isn't responding."));
  }
}

async function renew(person) {
  let answer;
  try {
    answer = await fetch("/session", { headers: { Accept: "application/json" } });
  } catch {
    throw new Refused(0, gettext("The app isn't responding."));
  }
  if (!answer.ok) return false;
  const session = await answer.json();
  if (person !== undefined && session.person !== person) {
    throw new Refused(409, gettext("Somebody else is signed in now. Sign in as yourself; your work is kept."));
  }
  csrf = session.csrf;
  return true;
}

async function answered(path, body, person, signal) {
  let answer = await once(path, body, signal);
  if (answer.status === 403 && (await renew(person))) answer = await once(path, body, signal);
  if (answer.ok) return answer;
  let said = {};
  try {
    said = await answer.json();
  } catch {
    // not JSON: the status says enough
  }
  throw new Refused(answer.status, said.detail || gettext("The app answered %(status)s.", { status: answer.status }), said);
}

export async function post(path, body, person) {
  const answer = await answered(path, body, person);
  try {
    return await answer.json();
  } catch {
    throw new Refused(0, BROKE_OFF);
  }
}

// An answer that comes in lines of JSON: `hear` is told each. Silence is a connection that broke off.
export async function lines(path, body, person, hear, control) {
  let watch;
  const alive = () => {
    clearTimeout(watch);
    watch = setTimeout(() => control.abort(), SILENCE);
  };
  alive();
  try {
    const answer = await answered(path, body, person, control.signal);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      alive();
      const whole = (rest + part.value).split("\n");
      rest = whole.pop();
      for (const line of whole) hear(JSON.parse(line));
    }
  } catch (error) {
    throw error instanceof Refused ? error : new Refused(0, BROKE_OFF);
  } finally {
    clearTimeout(watch);
  }
}

// What names one submission: this content, so that it counts once.
export function random() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

export function reopenByButtons() {
  for (const button of document.querySelectorAll("[data-reopen]")) {
    button.addEventListener("click", () => {
      const dialog = document.getElementById("reopen-dialog");
      dialog.returnValue = "";
      dialog.showModal();
      dialog.onclose = () => dialog.returnValue && reopen(button);
    });
  }
}

async function reopen(button) {
  button.disabled = true;
  try {
    await post(`/reopen/${button.dataset.reopen}`, {});
    location.assign("/work");
  } catch (error) {
    button.disabled = false;
    button.textContent = error.message;
  }
}
