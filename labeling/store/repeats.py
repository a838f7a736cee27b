"""Responses that stand in a task twice: people see each once, and rank it once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from align.records import Ranking
from align.values import RecordError
from labeling.answers import KINDS
from labeling.store.models import Item

NOTHING = "all responses are the same: nothing to rank"
TWICE = "a response that is in its task twice: people see it once"
TWO_RANKS = "one response has two ranks: this ranking is not kept"


def once_each(
    item: Item, authors: list[str | None], ranking: Ranking | None, left_out: Counter[str]
) -> tuple[Item, list[str | None], Ranking | None] | None:
    """The task with each response once; None where too few are left. `left_out` counts what went, by reason.

    What two people wrote alike stays twice: neither may judge it. Raises RecordError where the known ranks
    of a gold task differ for the same response.
    """
    kept, groups, authors = _groups([response.text for response in item.responses], authors)
    if len(kept) == len(groups):
        return item, authors, ranking
    if len(kept) < KINDS[item.kind].responses[0]:
        left_out[NOTHING] += 1
        return None
    left_out[TWICE] += len(groups) - len(kept)
    if item.gold is not None:
        if not _one_rank_each(item.gold, groups):
            raise RecordError("gold", "gives two ranks to responses that are the same")
        item.gold = [item.gold[i] for i in kept]
    if ranking is not None and not _one_rank_each(ranking.ranks, groups):
        left_out[TWO_RANKS] += 1
        ranking = None
    item.responses = [item.responses[i] for i in kept]
    for place, response in enumerate(item.responses):
        response.position = place
    if ranking is not None:
        texts = tuple(response.text for response in item.responses)
        ranks = tuple(ranking.ranks[i] for i in kept)
        ranking = replace(ranking, responses=texts, ranks=ranks, shown_order=None)
    return item, [authors[i] for i in kept], ranking


def _groups(
    texts: Sequence[str], authors: Sequence[str | None]
) -> tuple[list[int], list[int], list[str | None]]:
    """The first of each text, for each response the first that is the same, and who wrote each."""
    first: dict[str, int] = {}
    kept, groups, written = [], [], list(authors)
    for i, text in enumerate(texts):
        same = first.setdefault(text, i)
        if same != i and written[i] and written[same] and written[i] != written[same]:
            same = i
        if same == i:
            kept.append(i)
        written[same] = written[same] or written[i]
        groups.append(same)
    return kept, groups, written


def _one_rank_each(ranks: Sequence[int | None], groups: Sequence[int]) -> bool:
    return all(rank == ranks[same] for rank, same in zip(ranks, groups, strict=True))
