"""Charts as inline SVG: pure functions from numbers to markup; colours come from the page's CSS.

Every text is escaped here. Coordinates are those of a viewBox about as wide as a phone, so that text keeps
its size on any screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from align.stats.estimate import Estimate
from align.text import number

Point = tuple[float, float]

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 32
_SMOOTH_FROM = 40  # points
_POINTS = 240  # of a line; a longer one is shown by means of neighbours
# Of charts in rows:
_ACROSS = 340
_EDGE = 6  # room for a dot at a scale's end
_ROW = 40
_NAME = 34  # characters of a row's name


@dataclass(frozen=True)
class Series:
    """One line (or, with `dots`, single points) of a chart; `tone` is "a", "b" or "c"."""

    name: str
    points: Sequence[Point]
    tone: str = "a"
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """From a number to a place: `low` to `high` lie between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float] = field(default_factory=list)
    digits: int = 2  # decimals of a place

    def __call__(self, value: float) -> float:
        place = (value - self.low) / (self.high - self.low) * (self.end - self.start)
        return round(self.start + place, self.digits)


@dataclass(frozen=True)
class Mark:
    """A row of a chart of dots: a value with what lies around it."""

    name: str
    text: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Dots:
    """Dots with whiskers on a common scale; `reference` is a level with its interval and its name."""

    rows: Sequence[Mark]
    span: tuple[float, float]
    tick: Callable[[float], str]
    reference: tuple[float, float | None, float | None, str] | None = None


@dataclass(frozen=True)
class Bars:
    """Rows of bars: a name, a text, and parts in tones "a" to "e".

    `most` fills the width; None: every bar does. `rates` stand below the bars: a share with its interval,
    where the whole width is 1, and a mark at one half.
    """

    rows: Sequence[tuple[str, str, Sequence[tuple[str, float]]]]
    most: float | None = None
    rates: Sequence[Estimate] = ()


@dataclass(frozen=True)
class Columns:
    """Counts of consecutive days."""

    days: Sequence[tuple[str, int]]


def line_chart(
    title: str,
    series: Sequence[Series],
    x: str = "step",
    reference: float | None = None,
    whole: bool = True,
) -> Markup:
    """Lines over steps (or, not `whole`, over any number); `reference` is a dashed level.

    What is not finite is left out.

    A long line is drawn twice: faint as it is, and its running mean.
    """
    shown = [Series(s.name, _thinned(_finite(s.points)), s.tone, s.dots) for s in series]
    shown = [s for s in shown if s.points]
    if not shown:
        return Markup("")
    xs = [px for s in shown for px, _ in s.points]
    ys = [py for s in shown for _, py in s.points] + ([] if reference is None else [reference])
    across = axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, whole=whole)
    up = axis(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP)
    parts = _grid(across, up, x)
    if reference is not None:
        parts.append(_line("reference", across.start, across.end, up(reference), up(reference)))
    for s in shown:
        places = [(across(px), up(py)) for px, py in s.points]
        if not s.dots and len(places) > 1:
            smooth = _running_mean(places)
            if smooth:
                parts.append(_polyline(places, f"faint {s.tone}"))
            parts.append(_polyline(smooth or places, s.tone))
        else:
            parts += [_dot(f"dot {s.tone}", px, py, 3.2) for px, py in places]
    return _svg(title, parts, _WIDTH, _HEIGHT)


def reliability(title: str, bins: Sequence[dict[str, float]]) -> Markup:
    """What happened over what was predicted; on the diagonal the two are equal.

    A bin has probability, observed, observed_low, observed_high and count; empty ones are left out. The
    bars below are the counts.
    """
    filled = [b for b in bins if b.get("count") and _numbers(b, "probability", "observed")]
    if not filled:
        return Markup("")
    height, base = 300, 52
    across = Axis(0, 1, _LEFT, _WIDTH - _RIGHT, [0, 0.2, 0.4, 0.6, 0.8, 1])
    up = Axis(0, 1, height - _BOTTOM - base, _TOP, [0, 0.2, 0.4, 0.6, 0.8, 1])
    parts = _grid(across, up, "")
    parts.append(_line("reference", across(0), across(1), up(0), up(1)))
    most = max(b["count"] for b in filled)
    foot = height - _BOTTOM
    for b in filled:
        px, py = across(b["probability"]), up(b["observed"])
        if _numbers(b, "observed_low", "observed_high"):
            parts.append(_line("whisker a", px, px, up(b["observed_low"]), up(b["observed_high"])))
        parts.append(_dot("dot a", px, py, 3.6))
        if _numbers(b, "low", "high"):
            left, right = across(b["low"]) + 0.8, across(b["high"]) - 0.8
            tall = round(max(1.0, 34 * b["count"] / most), 2)
            parts.append(_rect("bar a", left, round(right - left, 2), foot - tall, tall, f"{b['count']:g}"))
    parts.append(_line("axis", across.start, across.end, foot, foot))
    parts.append(_text(_WIDTH - _RIGHT, height - 8, "what the model says, and how often", "end"))
    return _svg(title, parts, _WIDTH, height)


def histogram(title: str, before: Sequence[float], after: Sequence[float], x: str) -> Markup:
    """Two distributions of the same quantity, one behind the other."""
    old, new = ([v for v in values if math.isfinite(v)] for values in (before, after))
    if not old or not new:
        return Markup("")
    across = axis(min(*old, *new), max(*old, *new), _LEFT, _WIDTH - _RIGHT)
    count = 24
    width = (across.high - across.low) / count

    def counted(values: Sequence[float]) -> list[float]:
        found = [0] * count
        for value in values:
            found[min(count - 1, int((value - across.low) / width))] += 1
        return [n / len(values) for n in found]

    shares = counted(old), counted(new)
    up = axis(0, max(max(part) for part in shares), _HEIGHT - _BOTTOM, _TOP)
    parts = _grid(across, up, x, lambda share: number(round(100 * share, 1)) + "%")
    for tone, part in zip("ba", shares, strict=True):
        for i, share in enumerate(part):
            if share:
                left, right = across(across.low + i * width), across(across.low + (i + 1) * width)
                tall = round(up(0) - up(share), 2)
                parts.append(_rect(f"bar {tone}", left + 0.5, round(right - left - 1, 2), up(share), tall))
    return _svg(title, parts, _WIDTH, _HEIGHT)


def whisker(value: float, low: float | None, high: float | None, span: Point, tone: str = "a") -> Markup:
    """A figure with its interval on a track as wide as its place; `span` is what the track covers.

    A thin line marks the middle of the span.
    """

    def at(number: float) -> str:
        return f"{100 * min(1.0, max(0.0, (number - span[0]) / (span[1] - span[0]))):.2f}%"

    parts = ['<line class="track" x1="0" x2="100%" y1="9" y2="9"/>']
    parts.append('<line class="middle" x1="50%" x2="50%" y1="2" y2="16"/>')
    if low is not None and high is not None:
        parts.append(f'<line class="whisker {tone}" x1="{at(low)}" x2="{at(high)}" y1="9" y2="9"/>')
    parts.append(f'<circle class="dot {tone}" cx="{at(value)}" cy="9" r="4.5"/>')
    return Markup('<svg class="row" height="18" aria-hidden="true">' + "".join(parts) + "</svg>")


def chart(of: Dots | Bars | Columns, title: str, note: str, place: int) -> Markup:
    """A chart in rows or columns; `note` says how to read it, `place` tells it from the page's others."""
    if isinstance(of, Dots):
        parts, height = _dots(of)
    else:
        parts, height = _bars(of) if isinstance(of, Bars) else _columns(of)
    names = f'<title id="c{place}t">{escape(title)}</title><desc id="c{place}d">{escape(note)}</desc>'
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_ACROSS} {height}" role="img" '
        f'aria-labelledby="c{place}t c{place}d">{names}{"".join(parts)}</svg>'
    )


def _dots(of: Dots) -> tuple[list[str], float]:
    """The chart's parts and its height."""
    scale = axis(*of.span, _EDGE, _ACROSS - _EDGE, digits=1)

    def at(value: float) -> float:
        return scale(min(scale.high, max(scale.low, value)))

    top = 20 if of.reference else 2
    foot = top + _ROW * len(of.rows)
    parts = []
    for value in scale.ticks:
        anchor = {scale.ticks[0]: "start", scale.ticks[-1]: "end"}.get(value, "middle")
        parts.append(_line("grid", at(value), at(value), foot, foot + 4))
        place = {"start": 0.0, "end": float(_ACROSS)}.get(anchor, at(value))
        parts.append(_text(place, foot + 17, of.tick(value), anchor, "tick"))
    for i, row in enumerate(of.rows):
        y = top + _ROW * i
        parts += _names(y, row.name, row.text)
        parts.append(_line("axis", _EDGE, _ACROSS - _EDGE, y + 27, y + 27))
        if of.reference:
            value, start, end, _ = of.reference
            if start is not None and end is not None:
                parts.append(_rect("band", at(start), round(at(end) - at(start), 1), y + 19, 16))
            parts.append(_line("reference", at(value), at(value), y + 19, y + 35))
        if row.low is not None and row.high is not None:
            parts.append(_line("whisker", at(row.low), at(row.high), y + 27, y + 27))
        parts.append(_dot("dot", at(row.value), y + 27, 5))
    if of.reference:
        x, name = at(of.reference[0]), of.reference[3]
        parts.append(_line("reference", x, x, 3, 15))
        end_side = x > _ACROSS / 2
        parts.append(_text(x - 5 if end_side else x + 5, 13, name, "end" if end_side else "start", "tick"))
    return parts, foot + 22


def _bars(of: Bars) -> tuple[list[str], float]:
    """The chart's parts and its height."""
    parts = []
    row = _ROW + 12 if of.rates else _ROW
    for i, (name, text, sizes) in enumerate(of.rows):
        y = row * i
        parts += _names(y, name, text)
        x = 0.0
        for tone, size in sizes:
            width = size / (of.most or sum(part for _, part in sizes)) * _ACROSS
            if width:
                parts.append(_rect(f"tone-{tone}", round(x, 1), round(width, 1), y + 20, 12))
            x += width
    for i, rate in enumerate(of.rates):
        y = row * i + 40
        parts.append(_line("axis", 0, _ACROSS, y, y))
        parts.append(_line("reference", _ACROSS / 2, _ACROSS / 2, y - 23, y + 6))
        if rate.low is not None and rate.high is not None:
            parts.append(_line("whisker", rate.low * _ACROSS, rate.high * _ACROSS, y, y))
        parts.append(_dot("dot", (rate.value or 0.0) * _ACROSS, y, 5))
    return parts, row * len(of.rows)


def _columns(of: Columns) -> tuple[list[str], float]:
    """The chart's parts and its height."""
    top, foot = 16, 116
    most = max(count for _, count in of.days) or 1
    width = min(28.0, _ACROSS / len(of.days))
    parts = [_line("grid", 0, _ACROSS, top, top), _text(0, top - 4, f"{most:,}", "start", "tick")]
    for i, (_, count) in enumerate(of.days):
        tall = (foot - top) * count / most
        if count:
            x, wide = round(i * width + 1, 1), round(width - 2, 1)
            parts.append(_rect("tone-a", x, wide, round(foot - tall, 1), round(tall, 1)))
    parts.append(_line("axis", 0, _ACROSS, foot, foot))
    parts.append(_text(0, foot + 15, of.days[0][0], "start", "tick"))
    if len(of.days) * width > 2 * _ACROSS / 3:
        parts.append(_text(_ACROSS, foot + 15, of.days[-1][0], "end", "tick"))
    return parts, foot + 20


def axis(low: float, high: float, start: float, end: float, whole: bool = False, digits: int = 2) -> Axis:
    """An axis with two to seven round ticks that covers low to high."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        middle = abs(low) * 0.1 or 1.0
        low, high = low - middle, high + middle
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    else:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, start, end, [i * step for i in range(first, last + 1)], digits)


def _grid(across: Axis, up: Axis, x: str, label: Callable[[float], str] | None = None) -> list[str]:
    label = label or _tick(up)
    parts = []
    for tick in up.ticks:
        parts.append(_line("grid", across.start, across.end, up(tick), up(tick)))
        parts.append(_text(across.start - 6, up(tick) + 3.5, label(tick), "end"))
    for tick in across.ticks:
        parts.append(_text(across(tick), up.start + 15, _tick(across)(tick), "middle"))
    if x:
        parts.append(_text(across.end, up.start + 28, x, "end"))
    return parts


def _tick(of: Axis) -> Callable[[float], str]:
    """Ticks of one axis have the same number of decimals."""
    step = of.ticks[1] - of.ticks[0] if len(of.ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1  # a step of 2.5, 0.25 or 0.025
    return lambda value: f"{value + 0.0:,.{decimals}f}".replace("-", "−")


def _names(y: float, name: str, text: str) -> list[str]:
    shown = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
    return [_text(0, y + 14, shown, "start", "name"), _text(_ACROSS, y + 14, text, "end", "value")]


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    kind = f'class="{kind}" ' if kind else ""
    return f'<text {kind}x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:g}" x2="{x2:g}" y1="{y1:g}" y2="{y2:g}"/>'


def _rect(kind: str, x: float, width: float, y: float, height: float, title: str = "") -> str:
    end = f"><title>{title}</title></rect>" if title else "/>"
    return f'<rect class="{kind}" x="{x:g}" width="{width:g}" y="{y:g}" height="{height:g}"{end}'


def _dot(kind: str, x: float, y: float, radius: float) -> str:
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


def _svg(title: str, parts: Sequence[str], width: int, height: int) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _polyline(places: Sequence[Point], tone: str) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in places)
    return f'<polyline class="line {tone}" points="{path}"/>'


def _running_mean(points: Sequence[Point]) -> list[Point]:
    """Each point's mean with its neighbours on both sides; nothing where there are few points."""
    if len(points) < _SMOOTH_FROM:
        return []
    reach, smooth = len(points) // 16, []
    for i, (x, _) in enumerate(points):
        part = points[max(0, i - reach) : i + reach + 1]
        smooth.append((x, round(sum(y for _, y in part) / len(part), 2)))
    return smooth


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most _POINTS points, each the mean of equally many neighbours."""
    size = -(-len(points) // _POINTS)
    if size <= 1:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _numbers(row: dict[str, float], *keys: str) -> bool:
    return all(isinstance(row.get(key), (int, float)) and math.isfinite(row[key]) for key in keys)
