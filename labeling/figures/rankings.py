"""How far people order the same responses alike: pairs, Kendall's tau-b, Krippendorff's alpha, gold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import krippendorff
import numpy as np
from numpy.typing import NDArray

from align.stats.bootstrap import Numbers, Tally
from align.stats.rankings import Ranks


class PersonsRanking(NamedTuple):
    """One person's ranks of a task's responses (1 is best; None: not ranked)."""

    task: int
    prompt: int
    person: int
    ranks: Ranks


@dataclass(frozen=True)
class Couples:
    """Two people's rankings of one task, for all couples of people; arrays with an element each.

    `alike` of the `pairs` of responses that both ranked are ordered alike, a tie against an order being
    one half; of the `decided` ones, which neither tied, `decided_alike`. `tau` is nan where one of them
    tied everything. `share` is one over the number of couples of that task.
    """

    prompt: NDArray[np.int64]
    share: Numbers
    alike: Numbers
    pairs: Numbers
    decided_alike: Numbers
    decided: Numbers
    tau: Numbers


def signs(rankings: Sequence[Ranks]) -> Numbers:
    """For each ranking and each pair i < j of its responses: -1 where i is better, 1 where j is, 0 a tie.

    Rankings of the same length K; [rankings, K (K - 1) / 2]. nan where one of the two is not ranked.
    """
    table = np.array([[np.nan if rank is None else rank for rank in ranks] for ranks in rankings], float)
    first, second = np.triu_indices(table.shape[1], 1)
    return np.sign(table[:, first] - table[:, second])


def couples(rankings: Iterable[PersonsRanking]) -> Couples:
    """All couples of people who ranked the same task."""
    parts = [_couples(group) for group in _by_length(rankings)]
    names = Couples.__dataclass_fields__
    if not parts:
        return Couples(**{name: np.empty(0, np.int64 if name == "prompt" else float) for name in names})
    return Couples(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _couples(group: Sequence[PersonsRanking]) -> Couples:
    one: list[int] = []
    other: list[int] = []
    share: list[float] = []
    for places in _tasks(group).values():
        found = list(combinations(places, 2))
        one += [i for i, _ in found]
        other += [j for _, j in found]
        share += [1 / len(found) for _ in found]
    table = signs([ranking.ranks for ranking in group])
    a, b = table[np.array(one, np.int64)], table[np.array(other, np.int64)]
    both = ~np.isnan(a) & ~np.isnan(b)
    decided = both & (a != 0) & (b != 0)
    product = np.where(both, a * b, 0.0).sum(1)
    size = np.sqrt((both & (a != 0)).sum(1) * (both & (b != 0)).sum(1))
    return Couples(
        prompt=np.array([group[i].prompt for i in one], np.int64),
        share=np.array(share, float),
        alike=np.where(both, 1 - np.abs(a - b) / 2, 0.0).sum(1),
        pairs=both.sum(1).astype(float),
        decided_alike=(decided & (a == b)).sum(1).astype(float),
        decided=decided.sum(1).astype(float),
        tau=np.divide(product, size, out=np.full(len(one), np.nan), where=size > 0),
    )


def add_pairwise(tally: Tally, name: str, found: Couples) -> None:
    """Agreement on all pairs of responses, on those that both decided, and Kendall's tau-b.

    As groups (name, "all"), (name, "decided") and (name, "tau"). A task counts once, however many people
    did it: its couples share its weight.
    """
    share, at = found.share, found.prompt
    tally.add((name, "all"), at, found.alike * share, found.pairs * share, int(found.pairs.sum()))
    decided = int(found.decided.sum())
    tally.add((name, "decided"), at, found.decided_alike * share, found.decided * share, decided)
    known = ~np.isnan(found.tau)
    taus = (found.tau * share)[known]
    tally.add((name, "tau"), at[known], taus, share[known], int(known.sum()), bounds=(-1.0, 1.0))


def add_leave_one_out(tally: Tally, rankings: Iterable[PersonsRanking]) -> None:
    """Each person's orders against the majority of the others' on the same pairs: group ("others", person).

    An even split among the others is a tie; a tie against an order counts one half.
    """
    for group in _by_length(rankings):
        tasks = _tasks(group)
        several = [i for places in tasks.values() if len(places) > 1 for i in places]
        if not several:
            continue
        rows = [group[i] for i in several]
        table = signs([row.ranks for row in rows])
        known = ~np.isnan(table)
        at = np.unique([row.task for row in rows], return_inverse=True)[1]
        total, number = np.zeros((at.max() + 1, table.shape[1])), np.zeros((at.max() + 1, table.shape[1]))
        np.add.at(total, at, np.nan_to_num(table))
        np.add.at(number, at, known)
        others = np.sign(total[at] - np.nan_to_num(table))
        both = known & (number[at] > 1)
        _add_people(tally, "others", rows, table, others, both)


def add_gold(tally: Tally, rankings: Iterable[PersonsRanking], gold: Mapping[int, Ranks]) -> None:
    """Each person's orders against the known ones of gold tasks, as group ("gold", person)."""
    for group in _by_length(ranking for ranking in rankings if ranking.task in gold):
        table = signs([ranking.ranks for ranking in group])
        right = signs([gold[ranking.task] for ranking in group])
        _add_people(tally, "gold", group, table, right, ~np.isnan(table) & ~np.isnan(right))


def _add_people(
    tally: Tally,
    name: str,
    rows: Sequence[PersonsRanking],
    table: Numbers,
    against: Numbers,
    both: NDArray[np.bool_],
) -> None:
    alike = np.where(both, 1 - np.abs(table - against) / 2, 0.0).sum(1)
    pairs = both.sum(1).astype(float)
    people = np.array([row.person for row in rows])
    prompt = np.array([row.prompt for row in rows])
    for person in np.unique(people):
        mine = people == person
        tally.add((name, int(person)), prompt[mine], alike[mine], pairs[mine], int(pairs[mine].sum()))


def alpha_of_ranks(rankings: Iterable[PersonsRanking]) -> float | None:
    """Krippendorff's ordinal alpha of complete rankings: units are responses, values their mean ranks.

    Ranks of 3 responses and of 9 are different scales: alpha is taken for each K alone, and their mean
    weighs by the ranks compared. None where nothing can be compared.
    """
    parts = []
    for group in _by_length(rankings):
        complete = [ranking for ranking in group if None not in ranking.ranks]
        places = [p for p in _tasks(complete).values() if len(p) > 1]
        if not places:
            continue
        table = mean_ranks([ranking.ranks for ranking in complete])
        units = [column for p in places for column in table[p].T]
        value = alpha(units)
        if value is not None:
            parts.append((value, sum(len(unit) for unit in units)))
    weight = sum(size for _, size in parts)
    return sum(value * size for value, size in parts) / weight if weight else None


def mean_ranks(rankings: Sequence[Ranks]) -> Numbers:
    """Complete rankings with ranks from 1 to K, where tied responses have the mean of their places."""
    table = np.array(rankings, float)
    here, there = table[:, :, None], table[:, None, :]
    return (here > there).sum(2) + ((here == there).sum(2) + 1) / 2


def alpha(units: Iterable[Sequence[float] | Numbers]) -> float | None:
    """Krippendorff's alpha with the ordinal metric; a unit has the values that people gave one thing."""
    pairable = [unit for unit in units if len(unit) > 1]
    if not pairable:
        return None
    values, place = np.unique(
        np.concatenate([np.asarray(unit, float) for unit in pairable]), return_inverse=True
    )
    if len(values) < 2:
        return None
    counts = np.zeros((len(pairable), len(values)), np.int64)
    np.add.at(counts, (np.repeat(np.arange(len(pairable)), [len(unit) for unit in pairable]), place), 1)
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="ordinal"))


def _by_length(rankings: Iterable[PersonsRanking]) -> Iterator[list[PersonsRanking]]:
    groups: dict[int, list[PersonsRanking]] = {}
    for ranking in rankings:
        groups.setdefault(len(ranking.ranks), []).append(ranking)
    yield from groups.values()


def _tasks(group: Sequence[PersonsRanking]) -> dict[int, list[int]]:
    """The places of each task's rankings."""
    found: dict[int, list[int]] = {}
    for i, ranking in enumerate(group):
        found.setdefault(ranking.task, []).append(i)
    return found
