// Ranks as plain data: 1 is best, equal is a tie, null is not ranked. No page here.

// The places of responses from best to worst, ties together.
export function groups(ranks) {
  const found = new Map();
  ranks.forEach((rank, place) => {
    if (rank !== null) found.set(rank, [...(found.get(rank) || []), place]);
  });
  return [...found.keys()].sort((a, b) => a - b).map((rank) => found.get(rank));
}

export function ranksOf(ordered, count) {
  const ranks = Array(count).fill(null);
  ordered.forEach((group, i) => group.forEach((place) => (ranks[place] = i + 1)));
  return ranks;
}

// All places as they stand on the screen: ranked ones, then the others.
export function onScreen(ranks) {
  const ranked = groups(ranks).flat();
  return [...ranked, ...ranks.map((_, place) => place).filter((place) => ranks[place] === null)];
}

export function nextRank(ranks) {
  return Math.max(0, ...ranks.filter((rank) => rank !== null)) + 1;
}

// Moves a response out of its place or tie to stand alone before group `to` (or behind the last).
export function moveTo(ranks, place, to) {
  const before = groups(ranks);
  const anchor = before[to];
  const kept = before.map((group) => group.filter((other) => other !== place));
  const at = anchor === undefined ? kept.length : to;
  kept.splice(at, 0, [place]);
  return ranksOf(kept.filter((group) => group.length), ranks.length);
}

export function step(ranks, place, by) {
  const all = groups(ranks);
  const at = all.findIndex((group) => group.includes(place));
  if (at < 0) return by < 0 ? moveTo(ranks, place, all.length) : ranks;
  const alone = all[at].length === 1;
  if (by < 0) return alone && at === 0 ? ranks : moveTo(ranks, place, alone ? at - 1 : at);
  if (alone && at === all.length - 1) return ranks;
  return moveTo(ranks, place, alone ? at + 2 : at + 1);
}

export function tieWith(ranks, place, other) {
  if (ranks[other] === null || place === other) return ranks;
  const tied = [...ranks];
  tied[place] = ranks[other];
  return ranksOf(groups(tied), ranks.length);
}

export function tieAbove(ranks, place) {
  const shown = onScreen(ranks);
  const at = shown.indexOf(place);
  return at > 0 ? tieWith(ranks, place, shown[at - 1]) : ranks;
}
