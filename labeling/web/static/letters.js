// Ranks from letters typed in their order, as plain data. No page here.
//
// What is being typed is { typed, tie, rest }: groups of places, best first; whether the next one ties with the last;
// the groups of those that had a rank before and are not typed yet, which stay behind.

import { groups, ranksOf } from "./order.js";

const full = (order, ranks) => order.typed.flat().length === ranks.length;

// A response without a rank comes behind what is ranked; one that has a rank begins a new order.
function begun(ranks, place) {
  const all = groups(ranks);
  return ranks[place] === null ? { typed: all, tie: false, rest: [] } : { typed: [], tie: false, rest: all };
}

// { ranks, order } with one more letter; null where that one is typed already.
export function letter(ranks, order, place) {
  const now = order && !full(order, ranks) ? order : begun(ranks, place);
  if (now.typed.flat().includes(place)) return null;
  const typed = now.tie ? [...now.typed.slice(0, -1), [...now.typed.at(-1), place]] : [...now.typed, [place]];
  const rest = now.rest.map((group) => group.filter((other) => other !== place)).filter((group) => group.length);
  return { ranks: ranksOf([...typed, ...rest], ranks.length), order: { typed, tie: false, rest } };
}

// With the sign that the next one ties with the last; null where there is no last or no next one.
export function equals(ranks, order) {
  const now = order || { typed: groups(ranks), tie: false, rest: [] };
  return now.typed.length && !full(now, ranks) ? { ...now, tie: !now.tie } : null;
}

export function asTyped(order, letters) {
  if (!order || !order.typed.length) return "";
  return order.typed.map((group) => group.map((place) => letters[place]).join("=")).join(" › ") + (order.tie ? "= …" : "");
}
