"""A command reads its file as a recipe's entry is read: the same columns are used, refused and ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from align.data.formats import LeftOut, given
from align.data.one_file import OneFile
from align.errors import UserError
from align.serving.records import ScoreItem, read_items
from align.values import RecordError

ROW = {"q": "Open?", "a": "Yes.", "b": "No.", "system": "Be brief.", "note": "from the shop"}
MAPPING = "{prompt: q, responses: [a, b]}"


def items(path: Path, *options: str | None, ignore: list[str] | None = None) -> tuple[list[Any], OneFile]:
    one = OneFile(ignore or [])
    return list(read_items(path, given(*options) if options else None, one)), one


def test_an_unmapped_system_column_is_refused_until_it_is_mapped_or_ignored(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [ROW, ROW])
    found, one = items(tmp_path / "a.jsonl", None, MAPPING)
    assert isinstance(found[-1], RecordError)
    assert str(found[-1]).startswith(f"{tmp_path / 'a.jsonl'}:1: `system` holds something in 2 rows")
    assert "what --columns maps does not use it" in str(found[-1])
    assert one.reading.unread == ["system", "note"]
    kept, one = items(tmp_path / "a.jsonl", None, MAPPING, ignore=["system", "note"])
    assert [type(item) for item in kept] == [ScoreItem, ScoreItem]
    assert one.reading.unread == []
    mapped, _ = items(tmp_path / "a.jsonl", None, "{prompt: q, system: system, responses: [a, b]}")
    assert [message["role"] for message in mapped[0].prompt] == ["system", "user"]


def test_a_format_that_is_guessed_is_watched_as_well(tmp_path: Path) -> None:
    pair = {"prompt": "Open?", "chosen": "Yes.", "rejected": "No.", "context": "A shop."}
    write_jsonl(tmp_path / "a.jsonl", [pair])
    found, _ = items(tmp_path / "a.jsonl")
    assert "`context` holds something" in str(found[-1])
    assert "guessed from the columns" in str(found[-1])
    found, _ = items(tmp_path / "a.jsonl", ignore=["context"])
    assert [type(item) for item in found] == [ScoreItem]


def test_messages_as_text_are_not_scored_as_text(tmp_path: Path) -> None:
    said = [json.dumps([{"role": "assistant", "content": text}]) for text in ("Yes.", "No.")]
    row = {"history": "Open?", "human_ref_A": said[0], "human_ref_B": said[1], "labels": 1}
    write_jsonl(tmp_path / "a.jsonl", [row])
    ((error,), _) = items(tmp_path / "a.jsonl")
    assert "messages that are written as text" in str(error)


def test_a_score_that_contradicts_the_order_does_not_stop_scoring(tmp_path: Path) -> None:
    pair = {"prompt": "Open?", "chosen": "Yes.", "rejected": "No.", "chosen_score": 1, "rejected_score": 2}
    write_jsonl(tmp_path / "a.jsonl", [pair])
    assert [type(item) for item in items(tmp_path / "a.jsonl")[0]] == [ScoreItem]


def test_buckets_are_an_option_as_in_a_recipe(tmp_path: Path) -> None:
    lists = {"good": ["a"], "bad": ["b"]}
    result = {"from_name": "r", "to_name": "items", "type": "ranker", "value": {"ranker": lists}}
    answers = [{"id": "a", "body": "Yes."}, {"id": "b", "body": "No."}]
    task = {"data": {"prompt": "Open?", "items": answers}, "annotations": [{"result": [result]}]}
    write_jsonl(tmp_path / "a.jsonl", [task])
    for written in ("good, bad", "[good, bad]"):
        (item,), _ = items(tmp_path / "a.jsonl", None, None, written)
        assert item.row["ranks"] == [1, 2]
    assert items(tmp_path / "a.jsonl", "label-studio", "{prompt: prompt}", "bad, good")[0][0].row[
        "ranks"
    ] == [2, 1]
    with pytest.raises(UserError, match="its rankers have the buckets bad, good"):
        items(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("argilla", None, "a, b"), "--buckets are a ranker's in label-studio, and --format names another"),
        ((None, MAPPING, "a, b"), "--buckets beside --columns: name label-studio by --format"),
        (("arena", MAPPING, None), "--format and --columns both say how to read a row"),
        ((None, None, "[a, {"), "--buckets: the text ends, and a quote or bracket"),
        ((None, None, " "), "--buckets: write the names with commas between them"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        given(*options)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Open?", "response": "Yes.", "rank": 1}])
    columns = "{prompt: prompt, responses: response, ranks: rank, best: 1, group_by: prompt}"
    ((found,), _) = items(tmp_path / "a.jsonl", None, columns)
    assert isinstance(found, LeftOut)
