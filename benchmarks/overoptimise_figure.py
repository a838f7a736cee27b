"""The curves of overoptimise.py as an SVG: gold over iterations, and over the root of KL with the law."""

from __future__ import annotations

import math

import numpy as np
from overoptimise_table import Rows, fit, smooth

from align.svg import Series, line_chart

WIDE, HIGH = 360, 200
KINDS = {
    "seen": "repeats cost from the second on",
    "rare": "repeats cost from the third on",
    "none": "repeats cost nothing",
}
TONES = {"free": "b", "protected": "a", "held": "c"}
COLOURS = {"a": "#2457c5", "b": "#c2410c", "c": "#1b7f4d"}
STYLE = """
text { fill: #5b6470; font: 11px system-ui, sans-serif; } .title { fill: #1b1f24; font-weight: 600; }
.grid { stroke: #dfe3e8; } .reference { stroke: #5b6470; stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .faint { stroke-width: 1; opacity: 0.3; }
""" + "".join(
    f".line.{tone} {{ stroke: {colour}; }} .dot.{tone}, tspan.{tone} {{ fill: {colour}; }}\n"
    for tone, colour in COLOURS.items()
)


def figure(rows: Rows) -> str:
    """Gold over iterations and over the root of KL: by kind, the runs on the fewest labels and errors."""
    least = min((row["size"], row["noise"]) for row in rows)
    rows = [row for row in rows if (row["size"], row["noise"]) == least]
    parts, kinds = [], [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    for i, kind in enumerate(kinds):
        mine = [row for row in rows if row["kind"] == kind]
        y = 24 + i * (HIGH + 26)
        charts = (
            (f"gold, {KINDS[kind]}", _over_iterations(mine), "iteration"),
            ("gold of the free runs, and the law", _over_distance(mine), "root of KL"),
        )
        for x, (title, series, axis) in zip((0, WIDE), charts, strict=True):
            chart = str(line_chart(title, series, x=axis, reference=0.0, whole=axis == "iteration"))
            parts.append(f'<text class="title" x="{x + 46}" y="{y + 16}">{title}</text>')
            parts.append(
                chart.replace("<svg ", f'<svg x="{x}" y="{y + 22}" width="{WIDE}" height="{HIGH}" ', 1)
            )
    legend = (
        '<tspan class="b">free</tspan><tspan class="a" dx="14">members and sigmoid</tspan>'
        '<tspan class="c" dx="14">with kl_coef 0.05 too; on the right, the law</tspan>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDE} {24 + len(kinds) * (HIGH + 26)}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="46" y="14">{legend}</text>{"".join(parts)}</svg>\n'
    )


def _over_iterations(rows: Rows) -> list[Series]:
    """The mean of the arms' runs from those golds that have a run of each."""
    golds = set.intersection(*({row["gold"] for row in rows if row["arm"] == arm} for arm in TONES))
    series = []
    for arm, tone in TONES.items() if golds else ():
        curves = [smooth(r["curves"]["gold"]) for r in rows if r["arm"] == arm and r["gold"] in golds]
        means = np.mean(curves, 0).tolist()
        series.append(Series(arm, [(i + 1, value) for i, value in enumerate(means)], tone))
    return series


def _over_distance(rows: Rows) -> list[Series]:
    free = [row["curves"] for row in rows if row["arm"] == "free"]
    kl, gold = ([value for curve in free for value in curve[name]] for name in ("kl", "gold"))
    points = sorted((math.sqrt(k), g) for k, g in zip(kl, gold, strict=True) if k > 0)
    law = fit(kl, gold)
    ends = [points[0][0] + (points[-1][0] - points[0][0]) * i / 60 for i in range(61)]
    drawn = [(d, d * (law.alpha - law.beta * math.log(d))) for d in ends]
    return [Series("free", points[:: max(1, len(points) // 230)], "b", dots=True), Series("law", drawn, "c")]
