"""Files of RewardBench, both versions: a hand-made file with a score that is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import write_jsonl

from align.errors import UserError
from align.evaluation.bench import bench_document, read_bench

FIRST = [
    {"prompt": "a", "chosen": "x", "rejected": "y", "subset": "hep-cpp", "id": 1},
    {"prompt": "b", "chosen": "x", "rejected": "y", "subset": "math-prm", "id": 2},
    {"prompt": "c", "chosen": "x", "rejected": "y", "subset": "donotanswer", "id": 3},
]
SECOND = [
    {"prompt": "a", "chosen": ["x"], "rejected": ["p", "q", "r"], "subset": "Math", "id": "1"},
    {"prompt": "b", "chosen": ["x"], "rejected": ["p", "q", "r"], "subset": "Focus", "id": "2"},
    {"prompt": "c", "chosen": ["x"], "rejected": ["p"], "subset": "Ties", "id": "ref:4"},
    {"prompt": "d", "chosen": ["x", "z"], "rejected": ["p", "q"], "subset": "Ties", "id": "tied:4"},
]


def test_version_1_by_hand(tmp_path: Path) -> None:
    items = read_bench(write_jsonl(tmp_path / "one.jsonl", FIRST))
    found = bench_document(items, [[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]], 0)
    # Reasoning: code is right with weight 164, mathematics wrong with 984; a tie in Safety is wrong.
    assert found["sections"]["Reasoning"]["value"] == pytest.approx(164 / 1148)
    assert found["sections"]["Safety"]["value"] == 0.0
    assert found["score"]["value"] == pytest.approx(164 / 1148 / 2)
    assert found["calibration"]["raw"]["log_loss"]["value"] == pytest.approx(
        (0.3132617 + 1.3132617 + 0.6931472) / 3, abs=1e-6
    )


def test_version_2_by_hand(tmp_path: Path) -> None:
    items = read_bench(write_jsonl(tmp_path / "two.jsonl", SECOND))
    scores = [[3.0, 1.0, 2.0, 0.0], [2.0, 2.0, 1.0, 0.0], [5.0, 1.0], [3.0, 2.5, 1.0, 0.0]]
    found = bench_document(items, scores, 0)
    # Ties: both are right; the right answers of the tied prompt lie 0.5 apart, 1.5 above the wrong ones;
    # its reference 4 above: margins count in full, tanh(1.5 / 0.5 - 1) = 0.9640276.
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * 0.9640276
    assert {name: one["value"] for name, one in found["subsets"].items()} == pytest.approx(
        {"Math": 1.0, "Focus": 0.5, "ties": ties}
    )
    assert found["score"]["value"] == pytest.approx((1.5 + ties) / 3)
    assert found["version"] == 2 and found["sections"] == {}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "chosen": "x"}, "rejected.*is missing"),
        ({"prompt": "a", "chosen": [], "rejected": "y"}, "chosen.*not empty"),
        ({"prompt": "a", "chosen": ["x"], "rejected": [3]}, "rejected.*list of texts"),
        ({"prompt": "a", "chosen": ["x"], "rejected": ["y"], "subset": "Ties", "id": "4"}, "ref:NUMBER"),
        ({"prompt": 3, "chosen": "x", "rejected": "y"}, "prompt"),
        (
            {"prompt": "a", "chosen": "x", "rejected": ["y", "z"]},
            "rejected.*is a list, and `chosen` is a text",
        ),
        ({"prompt": "a", "chosen": "x", "rejected": "\ud800"}, "rejected.*half of a surrogate pair"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, row: dict[str, object], says: str) -> None:
    path = write_jsonl(tmp_path / "bad.jsonl", [FIRST[0], row])
    with pytest.raises(UserError, match=f"bad.jsonl:2.*{says}"):
        read_bench(path)


def test_two_versions_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name two files"):
        read_bench(write_jsonl(tmp_path / "mixed.jsonl", [FIRST[0], SECOND[0]]))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no rows"):
        read_bench(write_jsonl(tmp_path / "none.jsonl", []))


def test_an_answer_that_looks_like_a_list_is_a_text(tmp_path: Path) -> None:
    rows = [FIRST[0] | {"chosen": "[1, 2]"}, FIRST[0] | {"chosen": '["a", "b"]'}, FIRST[0]]
    items = read_bench(write_jsonl(tmp_path / "one.jsonl", rows))
    assert [item.right for item in items] == [("[1, 2]",), ('["a", "b"]',), ("x",)]
    rows = [
        row | {"chosen": json.dumps(row["chosen"]), "rejected": json.dumps(row["rejected"])} for row in SECOND
    ]
    items = read_bench(write_jsonl(tmp_path / "two.jsonl", rows))  # lists that a table holds as text
    assert items[0].wrong == ("p", "q", "r") and all(item.several for item in items)


def test_a_prompt_of_ties_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"two.jsonl:3: id ref:4 of Ties is there twice \(first at .*:1\)"):
        read_bench(write_jsonl(tmp_path / "two.jsonl", [SECOND[2], SECOND[3], SECOND[2]]))


def test_scores_that_are_no_numbers_are_counted_and_not_called_wrong(tmp_path: Path) -> None:
    items = read_bench(write_jsonl(tmp_path / "one.jsonl", FIRST))
    found = bench_document(items, [[2.0, 1.0], [float("nan"), 2.0], [1.0, float("inf")]], 0)
    assert found["no_number"] == 2
    assert {name: one["value"] for name, one in found["subsets"].items()} == {"hep-cpp": 1.0}
