"""Charts as numbers: where points lie, what is left out, what is escaped."""

from __future__ import annotations

import math
import random
import re
import xml.etree.ElementTree as ET
from statistics import pstdev

import pytest

from align.svg import Bars, Dots, Mark, Series, axis, chart, histogram, line_chart, reliability, whisker
from align.text import number, percent


def points(svg: str, number: int = 0) -> list[tuple[float, float]]:
    text = re.findall(r'<polyline[^>]* points="([^"]*)"', svg)[number]
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (3.2, 4.9, [3, 3.5, 4, 4.5, 5]),
        (-1.3, 1.4, [-2, -1, 0, 1, 2]),
        (0.0, 3e-6, [0, 1e-6, 2e-6, 3e-6]),
        (5.0, 5.0, [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
        (0.0, 0.0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_axes_have_round_ticks_that_cover_the_numbers(low: float, high: float, ticks: list[float]) -> None:
    found = axis(low, high, 0, 100)
    assert found.low <= low <= high <= found.high
    assert found.ticks == pytest.approx(ticks)


@pytest.mark.parametrize("high", [1, 2, 7, 50, 120, 99_999, 10**7])
def test_steps_are_counted_in_whole_numbers(high: int) -> None:
    found = axis(1, high, 0, 100, whole=True)
    assert all(tick == int(tick) for tick in found.ticks)
    assert 1 <= len(found.ticks) <= 8


def test_a_line_lies_where_its_numbers_say() -> None:
    svg = line_chart("t", [Series("", [(0, 0), (5, 10), (10, 5)])])
    (x0, y0), (x1, y1), (x2, y2) = points(svg)
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y1 < y2 < y0  # more is higher up
    assert (y0 - y2) == pytest.approx((y0 - y1) / 2, abs=0.1)


def test_what_is_no_number_is_left_out_and_nothing_is_no_chart() -> None:
    svg = line_chart("t", [Series("", [(1, 1.0), (2, math.nan), (3, math.inf), (4, 2.0)])])
    assert len(points(svg)) == 2
    assert "nan" not in svg
    assert line_chart("t", [Series("", [(1, math.nan)])]) == ""
    assert line_chart("t", [Series("", [])]) == ""
    assert reliability("t", []) == ""
    assert histogram("t", [1.0], [], "x") == ""


def test_one_number_is_a_dot_and_many_are_thinned_and_smoothed() -> None:
    assert "<circle" in line_chart("t", [Series("", [(1, 1.0)])])
    draw = random.Random(0)
    noisy = [(i, draw.random()) for i in range(100_000)]
    svg = line_chart("t", [Series("", noisy)])
    assert len(svg) < 20_000
    raw, smooth = points(svg, 0), points(svg, 1)
    assert len(raw) == len(smooth) <= 240
    assert pstdev(y for _, y in smooth) < 0.4 * pstdev(y for _, y in raw)


def test_reliability_puts_a_perfect_bin_on_the_diagonal() -> None:
    bins = [
        {"low": 0.2, "high": 0.3, "count": 4.0, "probability": 0.25, "observed": 0.25},
        {"low": 0.5, "high": 0.6, "count": 0.0},
        {
            **{"low": 0.7, "high": 0.8, "count": 9.0, "probability": 0.75, "observed": 0.5},
            **{"observed_low": 0.3, "observed_high": 0.7},
        },
    ]
    svg = reliability("t", bins)
    diagonal = re.search(r'class="reference" x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)" y2="([\d.]+)"', svg)
    assert diagonal
    x1, x2, y1, y2 = map(float, diagonal.groups())
    dots = [
        (float(x), float(y)) for x, y in re.findall(r'<circle class="dot a" cx="([\d.]+)" cy="([\d.]+)"', svg)
    ]
    assert len(dots) == 2
    assert (dots[0][0] - x1) / (x2 - x1) == pytest.approx(0.25, abs=0.01)
    assert (dots[0][1] - y1) / (y2 - y1) == pytest.approx(0.25, abs=0.01)
    assert dots[1][1] > y1 + 0.75 * (y2 - y1)  # below the diagonal: overconfident
    assert svg.count('class="whisker') == 1
    assert svg.count("<rect") == 2


def test_texts_are_escaped_and_the_markup_is_whole() -> None:
    hostile = '"><script>alert(1)</script>&'
    for svg in (
        line_chart(hostile, [Series(hostile, [(0, 1), (1, 2)])], x=hostile),
        histogram(hostile, [1.0, 2.0], [2.0, 3.0], hostile),
        reliability(hostile, [{"count": 1.0, "probability": 0.5, "observed": 0.5}]),
        whisker(0.5, 0.4, 0.6, (0, 1)),
    ):
        assert "<script" not in svg
        ET.fromstring(str(svg))


def test_whiskers_stay_on_their_track() -> None:
    svg = whisker(0.75, -1.0, 2.0, (0, 1))
    assert 'cx="75.00%"' in svg
    assert 'x1="0.00%" x2="100.00%"' in svg


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.0, "3"),
        (-0.3275, "−0.328"),
        (2.3458, "2.35"),
        (56.139, "56.1"),
        (481.0, "481"),
        (12345.6, "12,346"),
        (0.0213, "0.0213"),
        (1.38e-05, "1.4e−05"),
        (math.nan, "–"),
    ],
)
def test_numbers_as_a_reader_wants_them(value: float, text: str) -> None:
    assert number(value) == text


def test_percentages_have_one_decimal() -> None:
    assert [percent(x) for x in (0.7422, 0.93, 1.0, 0.0)] == ["74.2%", "93.0%", "100%", "0%"]


def test_charts_in_rows_stay_inside_and_escape_their_texts() -> None:
    rows = [Mark("<b>", "50 %", 0.5, 0.4, 0.6), Mark("far out", "700 %", 7.0)]
    dots = chart(Dots(rows, (0.0, 1.0), percent, (0.7, None, None, "&")), "t<", "n<", 3)
    ET.fromstring(dots)
    assert "&lt;b&gt;" in dots and 'id="c3t">t&lt;' in dots and "<b>" not in dots
    places = [float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', dots)]
    assert places == [170.0, 334.0]  # the middle of 340, and the end of the scale
    bars = chart(Bars([("a", "3", [("a", 1), ("d", 2)])]), "t", "n", 1)
    assert re.findall(r'class="tone-(\w)" x="([\d.]+)" width="([\d.]+)"', bars) == [
        ("a", "0", "113.3"),
        ("d", "113.3", "226.7"),
    ]


def test_ticks_are_labelled_by_their_own_numbers() -> None:
    drawn = line_chart("scores", [Series("gold", [(0, -8.9), (100, 2.0)])])
    assert axis(-8.9, 2.0, 0, 100).ticks == pytest.approx([-10, -7.5, -5, -2.5, 0, 2.5])
    for label in ("−7.5", "−2.5", "2.5"):
        assert f">{label}</text>" in drawn
