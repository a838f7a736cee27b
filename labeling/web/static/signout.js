// Signing out leaves no draft of this person in the browser: others may use it.

const SAVED_BY_THEN = 800; // ms: a change just made goes to the server first

const form = document.getElementById("signout");

function forget(person) {
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(`align draft ${person} `)) localStorage.removeItem(key);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  form.querySelector("button").disabled = true;
  if (document.getElementById("task")) await new Promise((done) => setTimeout(done, SAVED_BY_THEN));
  try {
    const answer = await fetch("/signout", { method: "POST", body: new URLSearchParams(new FormData(form)), redirect: "manual" });
    if (answer.type !== "opaqueredirect" && answer.status !== 401) throw new Error();
    forget(form.dataset.person);
    location.assign("/signin");
  } catch {
    form.submit(); // the browser tells what is wrong; the drafts stay
  }
});
