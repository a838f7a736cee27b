// How a person likes the page: kept in the browser, for each person.

const person = JSON.parse(document.getElementById("task").dataset.task).person;
const place = `align view ${person}`;

export function liked() {
  try {
    return JSON.parse(localStorage.getItem(place)) || {};
  } catch {
    return {}; // not readable: as it usually is
  }
}

export function like(more) {
  try {
    localStorage.setItem(place, JSON.stringify({ ...liked(), ...more }));
  } catch {
    // a full or closed storage: not remembered
  }
}
