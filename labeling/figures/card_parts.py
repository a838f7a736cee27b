"""What cards are made of: a chart with its table, and values as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from align.stats.estimate import Estimate
from align.svg import Bars, Columns, Dots, Mark
from labeling.language import gettext, number, percent


@dataclass(frozen=True)
class Card:
    """`note` says how to read it, or, without a chart, what is missing; `legend` what a bar's tones are."""

    title: str
    note: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    chart: Dots | Bars | Columns | None = None
    legend: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CardSection:
    """A heading with its cards."""

    title: str
    cards: Sequence[Card]


def shares_card(
    title: str,
    note: str,
    first: str,
    found: Sequence[tuple[str, Estimate]],
    missing: str,
    reference: tuple[float, float | None, float | None, str] | None = None,
) -> Card:
    """A card of shares with their intervals; `reference`: a value, its interval, and its name."""
    rows = [
        (name, *value_cells(e, percent), number(e.count), number(e.prompts))
        for name, e in found
        if e.value is not None
    ]
    if reference and rows:
        value, low, high, name = reference
        rows.append((name, *value_cells(Estimate(value, low, high), percent), "", ""))
    head = (first, gettext("Share"), gettext("95 %% interval"), gettext("Pairs"), gettext("Prompts"))
    span = (int(scale_from(0.5, found) * 10 + 1e-9) / 10, 1.0)
    return dots_card(title, note, head, rows, found, percent, missing, reference, span)


def dots_card(
    title: str,
    note: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    found: Sequence[tuple[str, Estimate]],
    text: Callable[[float], str],
    missing: str,
    reference: tuple[float, float | None, float | None, str] | None = None,
    span: tuple[float, float] | None = None,
) -> Card:
    """A card of values with their intervals; without `span` its scale begins at 0 and has room for all."""
    marks = [Mark(name, text(e.value), e.value, e.low, e.high) for name, e in found if e.value is not None]
    if not marks:
        return Card(title, missing, head if rows else (), rows)
    most = max(mark.high if mark.high is not None else mark.value for mark in marks)
    return Card(title, note, head, rows, Dots(marks, span or (0.0, most or 1.0), text, reference))


def scale_from(start: float, found: Sequence[tuple[str, Estimate]]) -> float:
    """Where a scale begins that reaches down to `start`, and to all values and intervals."""
    return min([start, *(x for _, e in found for x in (e.value, e.low) if x is not None)])


def value_cells(estimate: Estimate, text: Callable[[float], str]) -> tuple[str, str]:
    """A table's value and interval."""
    low, high = estimate.low, estimate.high
    value = "–" if estimate.value is None else text(estimate.value)
    return value, "–" if low is None or high is None else gettext(
        "%(low)s to %(high)s", low=text(low), high=text(high)
    )


def seconds(value: float) -> str:
    """A time in seconds, with a decimal below ten."""
    return f"{number(value, 0 if value >= 10 or value == round(value) else 1)} s"


def two(value: float) -> str:
    """A coefficient with two decimals."""
    return number(value, 2).replace("-", "−")


def points(value: float) -> str:
    """A rating, or points of 100, as a whole number with its sign."""
    return f"{value:+.0f}".replace("-", "−").replace("+0", "0") if round(value) else "0"
