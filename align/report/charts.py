"""Charts as inline SVG: pure functions from numbers to markup; colours come from the page's CSS.

Text is escaped here. Coordinates are those of a viewBox about as wide as a phone, so that text keeps
its size on any screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 32
_SMOOTH_FROM = 40  # points
_POINTS = 240  # of a line; a longer one is shown by means of neighbours


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

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


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
        parts.append(
            f'<line class="reference" x1="{across.start}" x2="{across.end}" '
            f'y1="{up(reference)}" y2="{up(reference)}"/>'
        )
    for s in shown:
        places = [(across(px), up(py)) for px, py in s.points]
        if not s.dots and len(places) > 1:
            smooth = _running_mean(places)
            if smooth:
                parts.append(_polyline(places, f"faint {s.tone}"))
            parts.append(_polyline(smooth or places, s.tone))
        else:
            parts += [f'<circle class="dot {s.tone}" cx="{px:g}" cy="{py:g}" r="3.2"/>' for px, py in places]
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
    parts.append(f'<line class="reference" x1="{across(0)}" y1="{up(0)}" x2="{across(1)}" y2="{up(1)}"/>')
    most = max(b["count"] for b in filled)
    foot = height - _BOTTOM
    for b in filled:
        px, py = across(b["probability"]), up(b["observed"])
        if _numbers(b, "observed_low", "observed_high"):
            parts.append(
                f'<line class="whisker a" x1="{px}" x2="{px}" '
                f'y1="{up(b["observed_low"])}" y2="{up(b["observed_high"])}"/>'
            )
        parts.append(f'<circle class="dot a" cx="{px}" cy="{py}" r="3.6"/>')
        if _numbers(b, "low", "high"):
            left, right = across(b["low"]) + 0.8, across(b["high"]) - 0.8
            tall = round(max(1.0, 34 * b["count"] / most), 2)
            place = f'x="{left:g}" width="{right - left:.2f}" y="{foot - tall:g}" height="{tall}"'
            parts.append(f'<rect class="bar a" {place}><title>{b["count"]:g}</title></rect>')
    parts.append(f'<line class="axis" x1="{across.start}" x2="{across.end}" y1="{foot}" y2="{foot}"/>')
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
                parts.append(
                    f'<rect class="bar {tone}" x="{left + 0.5:g}" width="{right - left - 1:.2f}" '
                    f'y="{up(share):g}" height="{up(0) - up(share):.2f}"/>'
                )
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


def axis(low: float, high: float, start: float, end: float, whole: bool = False) -> Axis:
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
    return Axis(low, high, start, end, [i * step for i in range(first, last + 1)])


def number(value: float) -> str:
    """A number as a reader wants it: four figures at most, thousands set apart, a real minus sign."""
    if value != value or math.isinf(value):
        return "–"
    size = abs(value)
    if size >= 1000 or value == round(value):
        text = f"{value:,.0f}"
    elif size >= 0.001:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
        text = text.rstrip("0").rstrip(".") if size < 1 else text
    else:
        text = f"{value:.1e}"
    return text.replace("-", "−")


def two(value: float) -> str:
    """With two decimals at most: enough for a score."""
    return number(round(value, 2)) if math.isfinite(value) else number(value)


def percent(value: float) -> str:
    text = f"{100 * value:.1f}"
    return (text.removesuffix(".0") if text in ("0.0", "100.0") else text).replace("-", "−") + "%"


def _grid(across: Axis, up: Axis, x: str, label: Callable[[float], str] | None = None) -> list[str]:
    label = label or _tick(up)
    parts = []
    for tick in up.ticks:
        ends = f'x1="{across.start}" x2="{across.end}" y1="{up(tick)}" y2="{up(tick)}"'
        parts.append(f'<line class="grid" {ends}/>')
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
    if decimals and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1  # a step of 0.25 or 0.025
    return lambda value: f"{value + 0.0:,.{decimals}f}".replace("-", "−")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


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
