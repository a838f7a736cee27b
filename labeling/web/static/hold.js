// The card at hand stays where it is on the screen while others change places around it.

export function inSight(card) {
  const { bottom, top } = card.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

export function hold(list, card, act) {
  if (!inSight(card)) return act(); // nobody looks at it
  const before = card.getBoundingClientRect().top;
  act();
  list.style.padding = "";
  const page = document.documentElement;
  const off = () => card.getBoundingClientRect().top - before;
  const by = off();
  // Where the page ends before the card is back in its place, a blank makes up for it, until the next time.
  list.style.paddingTop = `${Math.max(0, -by - scrollY)}px`;
  list.style.paddingBottom = `${Math.max(0, by - (page.scrollHeight - innerHeight - scrollY))}px`;
  scrollBy(0, off());
}
