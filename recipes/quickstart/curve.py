"""The course of a PPO run as one SVG: `python recipes/quickstart/curve.py runs/film-reviews > curve.svg`.

Iteration by iteration: the score of the reward model that trains the policy and of the guard that does not,
the divergence from the SFT policy, and how positive the rollouts' texts are by the measure that neither the
reward model nor PPO ever sees.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import gold
from align.errors import AlignError
from align.svg import Series, line_chart
from table import Row, read_jsonl

WIDTH, HEIGHT, TOP = 360, 200, 26
STYLE = """
text { fill: #5b6470; font: 11px system-ui, sans-serif; } .title { fill: #1b1f24; font-weight: 600; }
.grid { stroke: #dfe3e8; } .axis, .reference { stroke: #5b6470; } .reference { stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .faint { stroke-width: 1; opacity: 0.3; }
.line.a { stroke: #2457c5; } .line.b { stroke: #c2410c; } .dot.b { fill: #c2410c; } tspan.b { fill: #c2410c; }
tspan.a { fill: #2457c5; }
"""


def curve(folder: Path) -> str:
    """The SVG; raises MissingStage where ppo has not run there."""
    metrics = read_jsonl(folder / "ppo" / "metrics.jsonl", "ppo")
    texts: dict[int, list[float]] = defaultdict(list)
    for row in read_jsonl(folder / "ppo" / "samples.jsonl", "ppo"):
        texts[row["step"]].append(gold.compound(row["prompt"] + row["response"]))
    found = {step: fmean(compounds) for step, compounds in texts.items()}
    panels = [
        (
            '<tspan class="a">reward model</tspan> and <tspan class="b">guard</tspan>, mean score',
            line_chart(
                "scores",
                [_series(metrics, "reward/score", "a"), _series(metrics, "guard/score", "b")],
                x="iteration",
            ),
        ),
        (
            "KL to the SFT policy, nats a response",
            line_chart("KL", [_series(metrics, "kl/reference", "a")], x="iteration"),
        ),
        (
            "never seen in training: VADER's compound score",
            line_chart("gold", [Series("gold", sorted(found.items()), "a")], x="iteration"),
        ),
    ]
    parts = [
        f'<text class="title" x="{i * WIDTH + 46}" y="16">{title}</text>'
        + str(chart).replace("<svg ", f'<svg x="{i * WIDTH}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" ', 1)
        for i, (title, chart) in enumerate(panels)
    ]
    box = f"{WIDTH * len(panels)} {HEIGHT + TOP}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {box}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _series(rows: list[Row], name: str, tone: str) -> Series:
    return Series(name, [(row["step"], row[name]) for row in rows if name in row], tone)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the course of a PPO run as an SVG, to stdout.")
    parser.add_argument("run", type=Path, help="a run folder, such as runs/film-reviews")
    try:
        sys.stdout.write(curve(parser.parse_args().run))
    except AlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
