"""The curve of a PPO run: an SVG that a browser takes, with every iteration in it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import write_jsonl

import curve
from align.errors import MissingStage

SVG = "{http://www.w3.org/2000/svg}"


def test_scores_kl_and_the_measure_outside_have_a_point_an_iteration(tmp_path: Path) -> None:
    ppo = tmp_path / "ppo"
    ppo.mkdir()
    steps = range(1, 6)
    write_jsonl(
        ppo / "metrics.jsonl",
        [
            *(
                {"step": s, "reward/score": 0.1 * s, "guard/score": 0.0, "kl/reference": 2.0 * s}
                for s in steps
            ),
            {"step": 5, "eval/score": 3.0},
        ],
    )
    said = [" wonderful & <b>", " a table"]
    write_jsonl(
        ppo / "samples.jsonl",
        [{"step": s, "prompt": "It is", "response": text} for s in steps for text in said],
    )
    root = ElementTree.fromstring(curve.curve(tmp_path))
    panels = root.findall(f"{SVG}svg")
    lines = [[line.get("points", "").split() for line in panel.iter(f"{SVG}polyline")] for panel in panels]
    assert [[len(points) for points in panel] for panel in lines] == [[5, 5], [5], [5]]
    rising = [float(point.split(",")[1]) for point in lines[1][0]]
    assert rising == sorted(rising, reverse=True)  # SVG counts from the top
    assert len({point.split(",")[1] for point in lines[2][0]}) == 1  # the same texts in all iterations


def test_without_ppo_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingStage, match="ppo"):
        curve.curve(tmp_path)
