// Times as the person's clock and language have them. The page has them in UTC, for whom there is no script.

import { locale } from "./words.js";

const LATELY = 3600; // seconds in which "5 minutes ago" says more than a time
const whole = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });
const ago = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });

function show(time) {
  const moment = new Date(time.dateTime);
  const seconds = (Date.now() - moment) / 1000;
  const lately = seconds >= 0 && seconds < LATELY;
  time.textContent = lately ? ago.format(-Math.floor(seconds / 60), "minute") : whole.format(moment);
  time.title = exact.format(moment);
}

for (const time of document.querySelectorAll("time[datetime]")) show(time);
