"""Shapes of public and of people's own files: read right, or refused with the line that reads them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from ruamel.yaml import YAML

from align.data.load import load
from align.errors import UserError
from align.recipe.data import Source
from align.records import Ranking

Read = Callable[..., list[dict[str, Any]]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The rankings of rows; `table`: as a CSV holds them. Other keywords are the entry's."""

    def make(rows: list[dict[str, Any]], table: bool = False, **entry: Any) -> list[dict[str, Any]]:
        path = tmp_path / ("a.csv" if table else "a.jsonl")
        if table:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            write_jsonl(path, rows)
        source = Source(train=[{"path": str(path), **entry}], held_out=0.0)
        return [record.to_dict() for record in load(Ranking, source, "rankings").train]

    return make


def advised(read: Read, rows: list[dict[str, Any]], table: bool = False) -> list[dict[str, Any]]:
    """What is read with the `columns:` line that the refusal of these rows names."""
    with pytest.raises(UserError) as caught:
        read(rows, table)
    (line,) = set(re.findall(r"`columns: (\{.*?\})`", str(caught.value)))
    ignored = set(re.findall(r"`ignore: \[(.*?)\]`", str(caught.value)))
    ignore = {"ignore": [name for names in ignored for name in names.split(", ")]} if ignored else {}
    return read(rows, table, columns=YAML(typ="safe").load(line), **ignore)


def pair(prompt: Any, better: str, worse: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "responses": [better, worse], "ranks": [1, 2], **more}


LONG = {"prompt": "prompt", "responses": "answer", "group_by": "prompt"}


def test_each_column_of_marks_of_a_long_table_is_a_persons(read: Read) -> None:
    rows = [
        {"prompt": "Open?", "answer": "Yes.", "ann1": 5, "ann2": 1, "ann3": ""},
        {"prompt": "Open?", "answer": "No.", "ann1": 2, "ann2": 4, "ann3": ""},
    ]
    found = advised(read, rows, table=True)
    assert found == [
        pair("Open?", "Yes.", "No.", labeler="ann1"),
        {"prompt": "Open?", "responses": ["Yes.", "No."], "ranks": [2, 1], "labeler": "ann2"},
    ]
    ranks = {**LONG, "ranks": ["ann1", "ann2"], "best": 1}
    assert [record["ranks"] for record in read(rows, table=True, columns=ranks)] == [[5, 2], [1, 4]]
    with pytest.raises(ValueError, match="each column of scores is one labeler's"):
        read(rows, columns={**LONG, "scores": ["ann1", "ann2"], "labeler": "who"})


def test_scores_out_of_a_number_are_read_where_it_is_one(read: Read) -> None:
    rows = [
        {"prompt": "Open?", "answer": text, "rating": mark} for text, mark in (("a", "4/5"), ("b", "2 / 5"))
    ]
    assert advised(read, rows, table=True) == [pair("Open?", "a", "b")]
    for other in ("9/10", "3"):
        with pytest.raises(UserError, match=r"`rating` holds '4/5' and .* have one scale"):
            read([rows[0], {**rows[1], "rating": other}], columns={**LONG, "scores": "rating"})
    wide = {"prompt": "q", "responses": ["a", "b"], "scores": ["sa", "sb"]}
    row = {"q": "Open?", "a": "Yes.", "b": "No.", "sa": "1,5/10", "sb": "10/10"}
    assert read([row], columns=wide)[0]["ranks"] == [2, 1]
    with pytest.raises(UserError, match="one scale"):
        read([{**row, "sb": "5/5"}], columns=wide)


def test_thumbs_are_scores(read: Read) -> None:
    for up, down in (("thumbs_up", "thumbs_down"), ("Thumbs up", "Thumbs down"), ("👍", "👎")):
        rows = [
            {"prompt": "Open?", "answer": text, "feedback": mark} for text, mark in (("a", down), ("b", up))
        ]
        (found,) = advised(read, rows, table=True)
        assert found["ranks"] == [2, 1]


def test_marks_in_an_object_go_by_the_answers_ids(read: Read) -> None:
    answers = [{"id": "m1", "text": "No."}, {"id": "m2", "text": "Yes."}]
    rows = [{"prompt": "Open?", "responses": answers, "scores": {"m2": 5, "m1": 1}}]
    (found,) = advised(read, rows)
    assert (found["responses"], found["ranks"]) == (["No.", "Yes."], [2, 1])
    columns = {"prompt": "prompt", "responses": "responses.text", "scores": "scores"}
    with pytest.raises(UserError, match=r"is an object \(m2, m1\).*by `ids`, as in `ids: responses.id`"):
        read(rows, columns=columns)
    for keys in (("0", "1"), ("1", "2")):
        (found,) = read([{**rows[0], "scores": dict(zip(keys, (1, 5), strict=True))}], columns=columns)
        assert found["ranks"] == [2, 1]


def test_the_place_of_the_best_is_settled_by_the_whole_file(read: Read) -> None:
    rows = [{"prompt": f"Open {i}?", "responses": ["a", "b", "c"], "best_idx": i} for i in (1, 2)]
    columns = {"prompt": "prompt", "responses": "responses", "verdict": {"best": "best_idx"}}
    with pytest.raises(UserError, match="`best_idx` holds places, and nothing shows.*`places_from: 0`"):
        read(rows, columns=columns)
    zero = [*rows, {**rows[0], "best_idx": 0}]
    assert [record["ranks"] for record in advised(read, zero)] == [[2, 1, 2], [2, 2, 1], [1, 2, 2]]
    three = [*rows, {**rows[0], "best_idx": 3}]
    assert [record["ranks"] for record in advised(read, three)] == [[1, 2, 2], [2, 1, 2], [2, 2, 1]]


def test_a_list_of_answers_with_their_ranks_is_seen(read: Read) -> None:
    answers = [{"answer": "B", "model": "m", "rank": 2.0}, {"answer": "A", "model": "n", "rank": 1.0}]
    (found,) = advised(read, [{"question": "Open?", "answers": answers}])
    assert found == {"prompt": "Open?", "responses": ["B", "A"], "ranks": [2, 1]}


@pytest.mark.parametrize("names", [("response1", "response2"), ("response_a", "response_b")])
def test_a_signed_preference_is_seen_as_a_scale(read: Read, names: tuple[str, str]) -> None:
    rows = [
        {"prompt": f"Open {i}?", names[0]: "Yes.", names[1]: "No.", "overall_preference": value}
        for i, value in enumerate((-3, 2, 0))
    ]
    found = advised(read, rows)
    assert [record["ranks"] for record in found] == [[1, 2], [2, 1], [1, 1]]
    assert [record["strength"] for record in found] == [3.0, 2.0, 0.0]


def test_the_safer_answers_number_is_a_verdict(read: Read) -> None:
    rows = [
        {"prompt": f"Open {i}?", "response_0": "Yes.", "response_1": "No.", "safer_response_id": i}
        for i in (0, 1, 1)
    ]
    assert [record["ranks"] for record in advised(read, rows)] == [[1, 2], [2, 1], [2, 1]]
    both = [{**row, "better_response_id": 1 - row["safer_response_id"]} for row in rows]
    assert [record["ranks"] for record in advised(read, both)] == [[2, 1], [1, 2], [1, 2]]


def test_answers_to_compare_beside_a_demonstration_are_seen(read: Read) -> None:
    rows = [
        {
            "orig_instruction": f"Open {i}?",
            "orig_response_A": "Yes.",
            "orig_response_B": "No.",
            "orig_preference": side,
            "instruction": "Judge these two: Yes. No.",
            "output": f"[RESULT] {side}",
        }
        for i, side in enumerate("ABB")
    ]
    found = advised(read, rows)
    assert [record["prompt"] for record in found] == ["Open 0?", "Open 1?", "Open 2?"]
    assert [record["ranks"] for record in found] == [[1, 2], [2, 1], [2, 1]]


def test_a_verdict_on_a_turn_is_on_that_turns_answer(read: Read) -> None:
    talks = {
        f"conversation_{side}": [user("Open?"), bot(f"{side}1"), user("Late?"), bot(f"{side}2")]
        for side in "ab"
    }
    row = {"winner": "model_b", "judge": "expert_1", "model_a": "m", "model_b": "n", **talks}
    (found,) = read([{**row, "turn": 1}])
    assert (found["prompt"], found["responses"], found["ranks"]) == ([user("Open?")], ["a1", "b1"], [2, 1])
    with pytest.raises(UserError, match=r"before the last answer \(at message 2\).*on_bad_record: skip"):
        read([{**row, "turn": 2}])


def test_what_a_task_holds_beside_prompt_and_answers_is_told(read: Read, tmp_path: Path) -> None:
    data = {
        "prompt": "Open?",
        "hint": "See the sign.",
        "id": "t1",
        "items": [{"id": "a", "body": "No."}, {"id": "b", "body": "Yes."}],
    }
    result = {
        "from_name": "rank",
        "to_name": "items",
        "type": "ranker",
        "value": {"ranker": {"rank": ["b", "a"]}},
    }
    task = {"id": 1, "data": data, "annotations": [{"completed_by": 1, "result": [result]}]}
    source = {"train": [{"path": str(tmp_path / "a.jsonl")}], "held_out": 0.0}
    assert read([task])[0]["ranks"] == [2, 1]
    split = load(Ranking, Source.model_validate(source), "rankings")
    assert split.readings[0][1].unread == ["data.hint"]
    two = {"format": "label-studio", "columns": {"prompt": "prompt"}}
    asked = {**task, "data": {**data, "system": "Be brief."}}
    with pytest.raises(UserError, match="`data.system` holds something.*`ignore: \\[data.system\\]`"):
        read([asked], **two)
    assert read([asked], ignore=["data.system"], **two)[0]["ranks"] == [2, 1]


def test_public_sets_of_preferences(read: Read) -> None:
    talk = [user("Hi"), bot("Hello"), user("Open?")]
    capybara = {
        "prompt": "Hi...",
        "conversation": [{"input": "Hi", "output": "Hello"}],
        "chosen": [*talk, bot("Yes.")],
        "rejected": [*talk, bot("No.")],
        "original_response": "No.",
        "rating_chosen": 5,
        "rating_rejected": 3,
    }
    with pytest.raises(UserError) as caught:
        read([capybara])
    assert {"ignore: [conversation]", "`ignore` this column"} <= set(
        re.findall(r"ignore: \[conversation\]|`ignore` this column", str(caught.value))
    )
    assert read([capybara], ignore=["conversation", "prompt"]) == [pair(talk, "Yes.", "No.")]
    skywork = {"chosen": [user("Open?"), bot("Yes.")], "rejected": [user("Open?"), bot("No.")], "source": "m"}
    assert read([skywork]) == [pair([user("Open?")], "Yes.", "No.")]
    question = {"dataset": "d", "id": "i", "full_text": "Open?"}
    webgpt = {"question": question, "answer_0": "Yes.", "answer_1": "No.", "score_0": -0.5, "score_1": 0.5}
    assert read([webgpt])[0]["ranks"] == [2, 1]
