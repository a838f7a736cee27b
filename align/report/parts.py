"""What the sections of the page are made of: figures, charts with captions, shares with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from align.report.documents import Share
from align.report.read import StageFiles
from align.svg import Series, line_chart, whisker
from align.text import number, percent


@dataclass(frozen=True)
class Figure:
    """One of the numbers at the top."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Chart:
    """An SVG with its caption; `keys` are (tone, name) of its lines."""

    title: str
    svg: Markup
    keys: list[tuple[str, str]] = field(default_factory=list)
    about: str = ""


@dataclass(frozen=True)
class ShareBar:
    """A share with its interval, drawn and as text."""

    name: str
    svg: Markup
    value: str
    interval: str
    count: str


def chart(title: str, series: Sequence[Series], about: str = "", **options: Any) -> list[Chart]:
    """A chart, or none where there are no numbers."""
    svg = line_chart(title, series, **options)
    if not svg:
        return []
    keys = [(s.tone, s.name) for s in series if s.points]
    return [Chart(title, svg, keys if len(keys) > 1 else [], about)]


def both(stage: StageFiles, training: str, held_out: str, first: str = "training") -> list[Series]:
    """The curves of a metric while training, which is called `first`, and of one on held-out data."""
    return [
        Series(first, stage.curve(training)),
        Series("held out", stage.curve(held_out), "b", dots=True),
    ]


def interval(share: Share, show: Callable[[float], str]) -> str:
    """The interval of a share as text, or nothing where it is not known."""
    if share.low is None or share.high is None:
        return ""
    return f"{show(share.low)} to {show(share.high)}"


def bar(
    name: str, share: Share, span: tuple[float, float], unit: str = "", tone: str = "a"
) -> list[ShareBar]:
    """A share of evaluation.json as a row, or none where it is not known."""
    if share.value is None:
        return []
    show = percent if span[0] >= 0 else number
    count = f"{number(share.count)} {unit}".strip() if share.count is not None else ""
    svg = whisker(share.value, share.low, share.high, span, tone)
    return [ShareBar(name, svg, show(share.value), interval(share, show), count)]
