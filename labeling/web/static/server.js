// Requests to the app: with the page's CSRF token, and a new one if somebody signed in again meanwhile.

const meta = document.querySelector('meta[name="csrf"]');
let csrf = meta ? meta.content : "";

export class Refused extends Error {
  constructor(status, message, more = {}) {
    super(message);
    this.status = status; // 0: no answer at all
    this.more = more; // what the answer says besides
  }
}

async function once(path, body) {
  try {
    return await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, "The app isn't responding.");
  }
}

async function renew(person) {
  let answer;
  try {
    answer = await fetch("/session", { headers: { Accept: "application/json" } });
  } catch {
    throw new Refused(0, "The app isn't responding.");
  }
  if (!answer.ok) return false;
  const session = await answer.json();
  if (person !== undefined && session.person !== person) {
    throw new Refused(409, "Somebody else is signed in now. Sign in as yourself; your work is kept.");
  }
  csrf = session.csrf;
  return true;
}

export async function post(path, body, person) {
  let answer = await once(path, body);
  if (answer.status === 403 && (await renew(person))) answer = await once(path, body);
  if (answer.ok) {
    try {
      return await answer.json();
    } catch {
      throw new Refused(0, "The app's answer broke off.");
    }
  }
  let said = {};
  try {
    said = await answer.json();
  } catch {
    // not JSON: the status says enough
  }
  throw new Refused(answer.status, said.detail || `The app answered ${answer.status}.`, said);
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
