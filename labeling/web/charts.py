"""Charts as inline SVG; their colours are in static/figures.css. Every text in them is escaped.

Their width is that of a phone, so that text keeps its size on any screen.
"""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from labeling.figures.cards import Bars, Card, Columns, Dots

_WIDTH = 340
_EDGE = 6  # room for a dot at a scale's end
_ROW = 40
_NAME = 34  # characters of a row's name


def chart(card: Card, number: int) -> Markup:
    """A card's chart; `number` tells it from the page's others."""
    draw = {Dots: _dots, Bars: _bars, Columns: _columns}[type(card.chart)]
    # The dictionary pairs each kind with its function, which its type can't say.
    parts, height = draw(card.chart)  # type: ignore[operator]
    names = (
        f'<title id="c{number}t">{escape(card.title)}</title><desc id="c{number}d">{escape(card.note)}</desc>'
    )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-labelledby="c{number}t c{number}d">{names}{"".join(parts)}</svg>'
    )


def _dots(of: Dots) -> tuple[list[str], float]:
    low, high = of.span
    step = _step(high - low)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step

    def at(value: float) -> float:
        place = (min(high, max(low, value)) - low) / (high - low)
        return round(_EDGE + place * (_WIDTH - 2 * _EDGE), 1)

    top = 20 if of.reference else 2
    foot = top + _ROW * len(of.rows)
    parts = []
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        anchor = "start" if i == 0 else "end" if value > high - step / 2 else "middle"
        parts.append(_line("grid", at(value), at(value), foot, foot + 4))
        place = {"start": 0.0, "end": float(_WIDTH)}.get(anchor, at(value))
        parts.append(_text(place, foot + 17, of.tick(value), anchor, "tick"))
    for i, row in enumerate(of.rows):
        y = top + _ROW * i
        parts += _names(y, row.name, row.text)
        parts.append(_line("axis", _EDGE, _WIDTH - _EDGE, y + 27, y + 27))
        if of.reference:
            value, start, end, _ = of.reference
            if start is not None and end is not None:
                parts.append(_rect("band", at(start), at(end) - at(start), y + 19, 16))
            parts.append(_line("reference", at(value), at(value), y + 19, y + 35))
        if row.low is not None and row.high is not None:
            parts.append(_line("whisker", at(row.low), at(row.high), y + 27, y + 27))
        parts.append(f'<circle class="dot" cx="{at(row.value):g}" cy="{y + 27:g}" r="5"/>')
    if of.reference:
        x, name = at(of.reference[0]), of.reference[3]
        parts.append(_line("reference", x, x, 3, 15))
        end_side = x > _WIDTH / 2
        parts.append(_text(x - 5 if end_side else x + 5, 13, name, "end" if end_side else "start", "tick"))
    return parts, foot + 22


def _bars(of: Bars) -> tuple[list[str], float]:
    parts = []
    row = _ROW + 12 if of.rates else _ROW
    for i, (name, text, sizes) in enumerate(of.rows):
        y = row * i
        parts += _names(y, name, text)
        x = 0.0
        for tone, size in sizes:
            width = size / (of.most or sum(part for _, part in sizes)) * _WIDTH
            if width:
                parts.append(_rect(f"tone-{tone}", x, width, y + 20, 12))
            x += width
    for i, rate in enumerate(of.rates):
        y = row * i + 40
        parts.append(_line("axis", 0, _WIDTH, y, y))
        parts.append(_line("reference", _WIDTH / 2, _WIDTH / 2, y - 23, y + 6))
        if rate.low is not None and rate.high is not None:
            parts.append(_line("whisker", rate.low * _WIDTH, rate.high * _WIDTH, y, y))
        parts.append(f'<circle class="dot" cx="{(rate.value or 0.0) * _WIDTH:g}" cy="{y}" r="5"/>')
    return parts, row * len(of.rows)


def _columns(of: Columns) -> tuple[list[str], float]:
    top, foot = 16, 116
    most = max(count for _, count in of.days) or 1
    width = min(28.0, _WIDTH / len(of.days))
    parts = [_line("grid", 0, _WIDTH, top, top), _text(0, top - 4, f"{most:,}", "start", "tick")]
    for i, (_, count) in enumerate(of.days):
        tall = (foot - top) * count / most
        if count:
            parts.append(_rect("tone-a", i * width + 1, width - 2, foot - tall, tall))
    parts.append(_line("axis", 0, _WIDTH, foot, foot))
    parts.append(_text(0, foot + 15, of.days[0][0], "start", "tick"))
    if len(of.days) * width > 2 * _WIDTH / 3:
        parts.append(_text(_WIDTH, foot + 15, of.days[-1][0], "end", "tick"))
    return parts, foot + 20


def _names(y: float, name: str, text: str) -> list[str]:
    shown = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
    return [_text(0, y + 14, shown, "start", "name"), _text(_WIDTH, y + 14, text, "end", "value")]


def _step(span: float) -> float:
    """The distance of three to six round ticks."""
    rough = span / 5
    power = 10 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:g}" x2="{x2:g}" y1="{y1:g}" y2="{y2:g}"/>'


def _rect(kind: str, x: float, width: float, y: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" width="{width:.1f}" y="{y:.1f}" height="{height:.1f}"/>'
