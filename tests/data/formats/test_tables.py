"""Formats in a CSV: cells are text, and a format that needs a list or an object reads the cell as one."""

import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_formats import SAMPLES, records_of

from align.data.formats import FORMATS, detect, find
from align.data.formats.base import as_number, label
from align.data.reading import Reading
from align.data.rows import read_rows
from align.data.scan import How, scan_file
from align.records import Ranking
from align.values import RecordError

WITH_LISTS = [name for name, format in FORMATS.items() if format.lists]
FLAT = ["alpaca", "dolly", "helpsteer2", "hh-rlhf", "pandalm", "shp"]


def as_table(path: Path, rows: list[dict[str, Any]], write: Callable[[Any], str]) -> list[dict[str, Any]]:
    """The rows as they come back from a CSV in which `write` wrote lists and objects."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: write(v) if isinstance(v, (list, dict)) else v for k, v in row.items()})
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize("name", [*WITH_LISTS, *FLAT])
def test_a_format_in_a_table_gives_the_same_records(
    tmp_path: Path, name: str, write: Callable[[Any], str]
) -> None:
    sample = SAMPLES[name]
    rows = as_table(tmp_path / "a.csv", sample["rows"], write)
    assert all(detect(row) is FORMATS[name] for row in rows)
    assert [record.to_dict() for record in records_of(FORMATS[name], rows)] == sample["expected"]


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_whole_conversations_in_a_table_are_conversations(
    tmp_path: Path, write: Callable[[Any], str]
) -> None:
    asked = [{"role": "user", "content": "Is it open?"}]
    talks = {
        name: [*asked, {"role": "assistant", "content": said}]
        for name, said in (("chosen", "Yes."), ("rejected", "No."))
    }
    for row in (talks, {"prompt": asked, **talks}):
        (found,) = as_table(tmp_path / "a.csv", [row], write)
        (record,) = records_of(detect(found), [found])
        assert record.to_dict() == {"prompt": asked, "responses": ["Yes.", "No."], "ranks": [1, 2]}


def test_a_list_that_cannot_be_read_is_told_by_its_column() -> None:
    row = {"instruction": "Open?", "completions": "[{'response': 'Yes.'}; {'response': 'No.'}]"}
    with pytest.raises(RecordError) as caught:
        list(FORMATS["ultrafeedback"].read(row))
    assert caught.value.field == "completions"
    assert caught.value.message.startswith("begins like a list and cannot be read as one")


@pytest.mark.parametrize("answer", ['["red", "blue"]', "[Your Name]", '{"a": 1}', "['a', 'b']"])
def test_an_answer_in_a_table_stays_text(answer: str) -> None:
    row = {"prompt": "Colours?", "chosen": answer, "rejected": answer + "."}
    format = detect(row)
    assert format.name == "trl-preference"
    (ranking,) = format.read(row)
    assert ranking.to_dict()["responses"] == [answer, answer + "."]


def test_a_function_compares_numbers_as_numbers_and_sees_no_empty_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_votes.py").write_text(
        "def ranked(row):\n"
        "    ranks = [1, 2] if row['votes_a'] > row['votes_b'] else [2, 1]\n"
        "    return {'prompt': row['q'], 'responses': [row['a'], row['b']], 'ranks': ranks}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a.csv").write_text("q,a,b,votes_a,votes_b\nOpen?,Yes.,No.,10,9\n,,,,\nRye?,Yes.,No.,7,12\n")
    reading = Reading()
    how = How(find("of_votes:ranked"), "named")
    found = list(scan_file(Ranking, tmp_path / "a.csv", how, None, reading))
    assert reading.counted() == "3 rows, 2 records, 1 left out: 1 × an empty row of the table (:3)"
    assert [part.record.ranks for part in found] == [(1, 2), (2, 1)]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (np.float32(2.5), 2.5),
        (np.int64(3), 3.0),
        (Decimal("2.50"), 2.5),
        ("2.5", 2.5),
        (" 1.0 ", 1.0),
        ("2,5", 2.5),
        ("-0,125", -0.125),
        ("1e-05", 1e-5),
    ],
)
def test_numbers_as_people_and_programs_write_them(value: Any, number: float) -> None:
    assert as_number(value, "score") == number


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("1,000", "may be a whole number with its thousands set apart or a fraction"),
        ("1,000,000", "thousands set apart"),
        ("1_000", "must be a number"),
        ("nan", "must be a number"),
        (float("nan"), "must be a number"),
        ("1" * 400, "must be a number"),
        (10**400, "must be a number"),
        (True, "must be a number"),
        (np.bool_(True), "must be a number"),
        ("", "must be a number"),
        ("2,5,5", "must be a number"),
    ],
)
def test_what_is_no_number_or_may_be_two_is_refused(value: Any, words: str) -> None:
    with pytest.raises(RecordError, match=words) as caught:
        as_number(value, "score")
    assert caught.value.field == "score"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (np.int64(4), "4"), (np.float64(5), "5"), ("ana", "ana"), (None, None), ("", None)],
)
def test_an_id_is_its_digits(value: Any, text: str | None) -> None:
    assert label(value, "labeler") == text


@pytest.mark.parametrize("value", [3.5, float("nan"), float("inf"), True, ["ana"], {}])
def test_what_is_neither_a_name_nor_an_id_is_refused(value: Any) -> None:
    with pytest.raises(RecordError, match="must be a name or a whole number"):
        label(value, "labeler")
