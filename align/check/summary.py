"""From what was gathered of records to the numbers of the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from align.check.gather import Gathered, MeasuredRow
from align.check.result import (
    EXAMPLES,
    LabelerAgreement,
    LabelFacts,
    Leak,
    Lengths,
    Limit,
    Set,
    Side,
    spread,
)
from align.check.texts import repeats
from align.recipe.sections import Recipe
from align.stats.consistency import Consistency, KeyedRanking, consistency
from align.stats.rankings import LengthBias, comparisons, length_bias, length_wins, ties

SIDES: tuple[Side, ...] = ("train", "held_out")
_NAMED = 10  # labelers, and pairs of them, in the report


def summarise(gathered: Gathered, side: Side, limits: Sequence[tuple[str, int]], unit: str) -> Set:
    """One side of one kind; limits as (key, tokens) over the whole sequence."""
    pile = gathered.pile(side)
    rows = pile.rows
    return Set(
        kind=gathered.kind,
        side=side,
        records=len(rows),
        repeats=repeats((row.prompt, row.form, (row.responses, row.ranks, row.labeler)) for row in rows),
        lengths=_lengths(rows, limits, unit),
        labels=_labels(rows) if gathered.kind == "rankings" else None,
        identical=pile.counts["identical"],
        near_identical=pile.counts["near_identical"],
        says_nothing=pile.counts["says_nothing"],
    )


def limits_of(recipe: Recipe, kind: str, positions: int | None) -> list[tuple[str, int]]:
    """What bounds a sequence of this kind, as (the recipe's key or "base", tokens)."""
    if kind == "prompts":
        room = recipe.ppo.max_response_tokens
        own = ("ppo.max_prompt_tokens", recipe.ppo.max_prompt_tokens)
    else:
        room = 0
        stage, cfg = ("sft", recipe.sft) if kind == "demonstrations" else ("rm", recipe.rm)
        own = (f"{stage}.max_length", cfg.max_length)
    return [own] if positions is None else [own, ("base", positions - room)]


def _lengths(rows: Sequence[MeasuredRow], limits: Sequence[tuple[str, int]], unit: str) -> Lengths | None:
    prompt = spread(row.length for row in rows)
    if prompt is None:
        return None
    sequences = [row.sequence for row in rows]
    found = [
        Limit(name, tokens, sum(length > tokens for length in sequences), max(sequences))
        for name, tokens in limits
    ]
    response = spread(length for row in rows for length in row.lengths)
    return Lengths(unit, prompt, response, spread(sequences) if response else None, found)


def _labels(rows: Sequence[MeasuredRow]) -> LabelFacts:
    who = Counter(row.labeler for row in rows)
    unnamed = who.pop(None, 0)
    compared = [len(comparisons(row.ranks)) for row in rows]
    seconds = [row.seconds for row in rows if row.seconds is not None]
    return LabelFacts(
        k=dict(sorted(Counter(len(row.ranks) for row in rows).items())),
        comparisons=sum(compared),
        ties=sum(len(ties(row.ranks)) for row in rows),
        all_tied=compared.count(0),
        unranked=sum(rank is None for row in rows for rank in row.ranks),
        labelers=len(who),
        by_labeler=[(str(name), count) for name, count in who.most_common(_NAMED)],
        unnamed=unnamed,
        timed=len(seconds),
        seconds=math.fsum(seconds),
    )


def bias(rankings: Gathered, unit: str) -> LengthBias | None:
    """Whether the longer response wins, learnt on training rankings and measured on held-out ones."""
    sides = (rankings.train.rows, rankings.held_out.rows)
    train, held_out = (length_wins((row.ranks, row.lengths) for row in rows) for rows in sides)
    return length_bias(train, held_out, unit)


def consistency_of(rows: Sequence[MeasuredRow]) -> Consistency:
    """What rankings of the same prompts say of each other."""
    return consistency(
        KeyedRanking(row.prompt, row.responses, row.ranks, row.labeler, row.place) for row in rows
    )


def agreement(side: Side, found: Consistency) -> LabelerAgreement:
    """The same in numbers, for the report."""
    return LabelerAgreement(
        side=side,
        repeated_pairs=found.repeated_pairs,
        contradictory=len(found.contradictory),
        self_contradictory=found.self_contradictory,
        by=found.by[:_NAMED],
        cycles=len(found.cycles),
        judged_twice=found.judged_twice,
        judgements=found.agreeing + found.disagreeing,
        agreement=found.agreement,
        one_tied=found.one_tied,
        both_tied=found.both_tied,
    )


def leaks(everything: Sequence[Gathered]) -> Iterator[Leak]:
    """Prompts on the training side of one kind and the held-out side of the same or another."""
    for training in everything:
        trains = {row.prompt: row.place for row in reversed(training.train.rows)}
        forms = {row.form: row.place for row in reversed(training.train.rows)}
        for other in everything:
            held_out = {row.prompt: row for row in reversed(other.held_out.rows)}
            same = [row for prompt, row in held_out.items() if prompt in trains]
            near = [row for prompt, row in held_out.items() if prompt not in trains and row.form in forms]
            if same or near:
                first = [f"{row.opening}: {row.place} and {trains[row.prompt]}" for row in same]
                first += [f"{row.opening}: {row.place} and {forms[row.form]}" for row in near]
                counts = (len(same), len(near), len(held_out))
                yield Leak(training.kind, other.kind, *counts, first[:EXAMPLES])
