// How long somebody was at the page: it was in view, and a key, the mouse or a finger moved not long ago.

const IDLE = 90_000; // ms after the last sign of somebody that still count: who reads a long text moves nothing
const SIGNS = ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "touchmove"];

// A watch that goes on from these seconds; each call says how many there are. No clock: those are set while people work.
export function watch(seconds = 0) {
  let sign = performance.now();
  let counted = document.hidden ? null : sign; // up to when; null: nobody sees the page

  function count() {
    const at = performance.now();
    if (counted !== null) seconds += Math.max(0, Math.min(at, sign + IDLE) - counted) / 1000;
    counted = document.hidden ? null : at;
    return seconds;
  }

  function seen() {
    count();
    sign = performance.now();
  }

  for (const name of SIGNS) document.addEventListener(name, seen, { capture: true, passive: true });
  document.addEventListener("visibilitychange", seen);
  return count;
}
