"""The cards on how far each labeler can be trusted, by the model of reliability."""

from __future__ import annotations

from collections.abc import Sequence

from align.stats.estimate import Estimate
from labeling.figures.card_parts import (
    Card,
    dots_card,
    points,
    scale_from,
    two,
    value_cells,
)
from labeling.figures.shapes import LabelerFigures, TeamReliability
from labeling.language import gettext, number, percent


def reliability_cards(found: TeamReliability) -> list[Card]:
    people = [one for one in found.labelers if one.reliability.count]
    note = gettext(
        "The share of comparisons that a person orders right, as the answers of all who did the same tasks "
        "and gold tasks say together. 50 %% is guessing. The weight is a label's with weight_by: reliability."
    )
    missing = gettext(
        "Nothing says yet who is right. It takes three people who share tasks with each other, or gold tasks."
    )
    head = (
        gettext("Name"),
        gettext("Right"),
        gettext("95 %% interval"),
        gettext("Comparisons"),
        gettext("Prompts"),
        gettext("Weight"),
        "",
    )
    rows = [
        (
            one.name,
            *value_cells(one.reliability, percent),
            number(one.reliability.count),
            number(one.reliability.prompts),
            "–" if one.weight is None else two(one.weight),
            gettext("against the others")
            if one.reversed
            else gettext("may be guessing")
            if one.at_chance
            else "",
        )
        for one in people
    ]
    marks = [(one.name, one.reliability) for one in people]
    span = (int(scale_from(0.5, marks) * 10 + 1e-9) / 10, 1.0)
    guessing = (0.5, None, None, gettext("guessing 50 %%"))
    card = dots_card(
        gettext("Who orders responses right"), note, head, rows, marks, percent, missing, guessing, span
    )
    return [card, _together(found), _leanings(people)]


def _together(found: TeamReliability) -> Card:
    title = gettext("Answers put together")
    ways = [
        (gettext("One answer"), found.one),
        (gettext("The majority"), found.majority),
        (gettext("By reliability"), found.weighted),
    ]
    rows = [(name, percent(value)) for name, value in ways if value is not None]
    if not rows:
        return Card(title, gettext("It is not known yet whose answers are right."))
    note = gettext(
        "How often each is expected to be right, over %(pairs)s pairs that several people ordered.",
        pairs=number(found.pairs),
    )
    return Card(title, note, ("", gettext("Right")), rows)


def _leanings(people: Sequence[LabelerFigures]) -> Card:
    title = gettext("What mistakes have in common")
    rows = [
        (
            one.name,
            *(_leaning(found) for found in (one.first_shown, one.longer, one.ties)),
            *("–" if found.value is None else percent(found.value) for found in (one.next_to, one.apart)),
        )
        for one in people
        if one.reliability.value is not None
    ]
    if not rows:
        return Card(title, gettext("It is not known yet whose answers are right."))
    note = gettext(
        "In points of 100: how much more often than expected somebody prefers the response shown first, or "
        "the longer one, and how much more often than the others they tie a pair; * where the interval "
        "leaves out 0. Then the share ordered right where their ranks differ by one, and by more."
    )
    head = (
        gettext("Name"),
        gettext("First shown"),
        gettext("Longer"),
        gettext("Ties"),
        gettext("Right, next ranks"),
        gettext("Right, further apart"),
    )
    return Card(title, note, head, rows)


def _leaning(found: Estimate) -> str:
    """A difference of shares in points, with a star where its interval leaves out 0."""
    if found.value is None:
        return "–"
    clear = found.low is not None and found.high is not None and not found.low <= 0 <= found.high
    return points(100 * found.value) + ("*" if clear else "")
