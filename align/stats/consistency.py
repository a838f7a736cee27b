"""Whether rankings of one prompt contradict each other: pairs ordered both ways, orders in a circle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from align.stats.rankings import comparisons, ties


@dataclass(frozen=True, slots=True)
class KeyedRanking:
    """One ranking, with its responses as keys."""

    prompt: int
    responses: tuple[int, ...]
    ranks: tuple[int | None, ...]
    labeler: str | None
    place: str


@dataclass(frozen=True)
class Conflict:
    """Labels of one prompt that contradict each other, with the records that they stand in."""

    prompt: int
    places: list[str]
    responses: int  # 2 for a contradictory pair, more for a cycle


@dataclass
class Consistency:
    """What rankings of the same prompts say of each other."""

    repeated_pairs: int = 0  # pairs of responses that more than one record decides
    contradictory: list[Conflict] = field(default_factory=list)  # of these, ordered both ways
    self_contradictory: int = 0  # of these, by one labeler who said both
    by: list[tuple[str, str, int]] = field(default_factory=list)  # who against whom, most often first
    cycles: list[Conflict] = field(default_factory=list)  # one a prompt
    judged_twice: int = 0  # pairs that two or more labelers judged, ties included
    agreeing: int = 0  # two labelers, one pair: both decide, and alike
    disagreeing: int = 0  # both decide, and differently
    one_tied: int = 0  # one decides, the other says tie
    both_tied: int = 0

    @property
    def agreement(self) -> float | None:
        """Share of pairs of decided judgements, by different labelers, that agree; None without any."""
        both = self.agreeing + self.disagreeing
        return self.agreeing / both if both else None


Vote = tuple[int, str | None, str]  # 1: the pair's first is better, -1: the second, 0: a tie; labeler; place


def consistency(judgements: Iterable[KeyedRanking]) -> Consistency:
    """Compare all records of each prompt with each other: responses are the same where their keys are."""
    groups: dict[int, list[KeyedRanking]] = {}
    for judgement in judgements:
        groups.setdefault(judgement.prompt, []).append(judgement)
    found = Consistency()
    against: Counter[tuple[str, str]] = Counter()
    for prompt, group in groups.items():
        if len(group) < 2:
            continue
        votes = _votes(group)
        for pair_votes in votes.values():
            if len(pair_votes) > 1:
                _compare(prompt, pair_votes, found, against)
        cycle = find_cycle(majority(votes))
        if cycle:
            steps = {frozenset(step) for step in zip(cycle, cycle[1:] + cycle[:1], strict=True)}
            places = [
                place for pair, given in votes.items() if frozenset(pair) in steps for *_, place in given
            ]
            found.cycles.append(Conflict(prompt, sorted(set(places), key=places.index), len(cycle)))
    found.by = [(a, b, count) for (a, b), count in against.most_common()]
    return found


def _votes(group: Sequence[KeyedRanking]) -> dict[tuple[int, int], list[Vote]]:
    """What was said of each pair of responses; a pair's keys are in ascending order."""
    votes: dict[tuple[int, int], list[Vote]] = {}
    for judgement in group:
        keys, who, place = judgement.responses, judgement.labeler, judgement.place
        pairs = [(i, j, 1) for i, j in comparisons(judgement.ranks)]
        for i, j, sign in pairs + [(i, j, 0) for i, j in ties(judgement.ranks)]:
            a, b = keys[i], keys[j]
            if a != b:
                pair, said = ((a, b), sign) if a < b else ((b, a), -sign)
                votes.setdefault(pair, []).append((said, who, place))
    return votes


def _compare(
    prompt: int, votes: Sequence[Vote], found: Consistency, against: Counter[tuple[str, str]]
) -> None:
    """Add what the votes on one pair of responses say to what was found."""
    ups = [vote for vote in votes if vote[0] > 0]
    downs = [vote for vote in votes if vote[0] < 0]
    found.repeated_pairs += len(ups) + len(downs) > 1
    if ups and downs:
        places = list(dict.fromkeys(place for *_, place in (ups[0], downs[0])))
        found.contradictory.append(Conflict(prompt, places, 2))
        opposed = {
            (min(a, b), max(a, b))
            for a in {who or "unnamed" for _, who, _ in ups}
            for b in {who or "unnamed" for _, who, _ in downs}
        }
        against.update(opposed)
        found.self_contradictory += bool(
            {who for _, who, _ in ups if who} & {who for _, who, _ in downs if who}
        )
    # Counting by sign and labeler instead of couple by couple keeps pairs that thousands judged cheap.
    named: dict[str, Counter[int]] = {}
    for sign, who, _ in votes:
        if who is not None:
            named.setdefault(who, Counter())[sign] += 1
    everybody = _couples(Counter(sign for sign, who, _ in votes if who is not None))
    couples = zip(everybody, *map(_couples, named.values()), strict=True)
    between = [count - sum(of_one_person) for count, *of_one_person in couples]
    agreeing, disagreeing, one_tied, both_tied = between
    found.judged_twice += any(between)
    found.agreeing += agreeing
    found.disagreeing += disagreeing
    found.one_tied += one_tied
    found.both_tied += both_tied


def _couples(votes: Mapping[int, int]) -> tuple[int, int, int, int]:
    """Of votes counted by sign, the couples that agree, that disagree, with one tie, and with two."""
    up, down, tie = (votes.get(sign, 0) for sign in (1, -1, 0))
    alike = up * (up - 1) // 2 + down * (down - 1) // 2
    return alike, up * down, (up + down) * tie, tie * (tie - 1) // 2


def majority(votes: Mapping[tuple[int, int], Sequence[Vote]]) -> dict[int, list[int]]:
    """The relation "more labels prefer it to": a response's key to those of the responses it beats."""
    beats: dict[int, list[int]] = {}
    for (a, b), given in votes.items():
        balance = sum(sign for sign, *_ in given)
        if balance:
            winner, loser = (a, b) if balance > 0 else (b, a)
            beats.setdefault(winner, []).append(loser)
    return beats


def find_cycle(beats: Mapping[int, Sequence[int]]) -> list[int]:
    """Nodes of one cycle in order, empty where there is none; linear in the number of edges."""
    beaten_by = Counter(loser for losers in beats.values() for loser in losers)
    free = [node for node in beats if not beaten_by[node]]
    gone = set(free)
    while free:  # what nobody beats is in no cycle; without it, what it alone beat is not either
        for loser in beats.get(free.pop(), ()):
            beaten_by[loser] -= 1
            if not beaten_by[loser]:
                gone.add(loser)
                free.append(loser)
    left = {loser: winner for winner in beats if winner not in gone for loser in beats[winner]}
    if not left:
        return []
    # Everything left is beaten by something left: going from loser to winner must come back.
    steps: dict[int, int] = {}  # a node to its place on the way
    node = next(iter(left))
    while node not in steps:
        steps[node] = len(steps)
        node = left[node]
    return list(steps)[steps[node] :][::-1]
