"""Records that can be read and are hardly meant so are refused; what only looks like that stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from align.data.load import load
from align.errors import UserError
from align.recipe.data import Source
from align.records import Demonstration, Ranking

Read = Callable[..., list[dict[str, Any]]]
ASKED = {"role": "user", "content": "Is it open?"}
YES, NO = ({"role": "assistant", "content": text} for text in ("Yes.", "No."))


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def make(*rows: dict[str, Any], kind: Any = Ranking, skip: bool = False, **entry: Any) -> Any:
        write_jsonl(tmp_path / "a.jsonl", list(rows))
        source = Source(
            train=[{"path": str(tmp_path / "a.jsonl"), **entry}],
            held_out=0.0,
            on_bad_record="skip" if skip else "fail",
        )
        return [record.to_dict() for record in load(kind, source, kind.kind).train]

    return make


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda said: said,
        lambda said: [said],
        lambda said: {"messages": [said]},
        lambda said: {"messages": [ASKED, said]},
        lambda said: {"from": "gpt", "value": said["content"]},
        lambda said: {"conversations": [{"from": "gpt", "value": said["content"]}]},
    ],
)
@pytest.mark.parametrize("columns", [None, {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}])
def test_an_answer_that_is_plainly_messages_is_read_as_these(
    read: Read, wrapped: Any, write: Any, columns: Any
) -> None:
    row = {"prompt": ASKED["content"], "chosen": write(wrapped(YES)), "rejected": write(wrapped(NO))}
    (record,) = read(row, **({"columns": columns} if columns else {}))
    assert record["responses"] == ["Yes.", "No."]
    assert record["prompt"] in (ASKED["content"], [ASKED])


def test_objects_that_hold_messages_are_read_too(read: Read) -> None:
    (record,) = read({"chosen": {"messages": [ASKED, YES]}, "rejected": {"messages": [ASKED, NO]}})
    assert (record["prompt"], record["responses"]) == ([ASKED], ["Yes.", "No."])
    (shown,) = read({"prompt": "Is it open?", "completion": json.dumps([YES])}, kind=Demonstration)
    assert shown == {"prompt": "Is it open?", "response": "Yes."}


@pytest.mark.parametrize(
    "text",
    [
        '["red", "blue"]',
        "[1] is the source.",
        '{"from": "EUR", "value": 3}',
        '{"role": "admin", "content": "all"}',
        '[{"name": "Ann"}, {"name": "Bea"}]',
        '{"messages": 3}',
        '{"messages": [{"id": 1}]}',
        '{"role": "assistant"} is what the key says.',
        '{"content": "a", "title": "b"}',
    ],
)
def test_an_answer_that_is_json_of_something_else_stays_text(read: Read, text: str) -> None:
    for columns in ({}, {"columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}}):
        (record,) = read({"prompt": "Say it.", "chosen": text, "rejected": "No."}, **columns)
        assert record["responses"] == [text, "No."]
    (shp,) = read({"history": "Say it.", "human_ref_A": text, "human_ref_B": "No.", "labels": 1})
    assert shp["responses"] == [text, "No."]


def test_messages_as_text_in_a_format_of_plain_texts_are_refused(read: Read) -> None:
    row = {"history": "Open?", "human_ref_A": str([YES]), "human_ref_B": str([NO]), "labels": 1}
    with pytest.raises(
        UserError, match=r"messages that are written as text, and the format shp .*`columns:`"
    ):
        read(row)
    columns = {"prompt": "history", "responses": ["human_ref_A", "human_ref_B"]}
    verdict = {"column": "labels", "a": [1], "b": [0]}
    (record,) = read(row, columns={**columns, "verdict": verdict})
    assert (record["responses"], record["ranks"]) == (["Yes.", "No."], [1, 2])


def test_a_message_that_cannot_be_read_is_refused(read: Read) -> None:
    row = {"prompt": "Open?", "chosen": '{"role": "assistant", "content": "Yes}', "rejected": "No."}
    with pytest.raises(UserError, match="`chosen` looks like a message, and is neither JSON nor a Python"):
        read(row)
    with pytest.raises(UserError, match="`chosen` ends with a user message"):
        read({**row, "chosen": json.dumps(ASKED)})


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen-rating", "rejected-rating"),
        ("rewardChosen", "rewardRejected"),
    ],
)
def test_a_better_answer_with_the_lower_score_is_refused_until_the_score_is_ignored(
    read: Read, high: str, low: str
) -> None:
    rows = [
        {"prompt": f"Open {i}?", "chosen": "Yes.", "rejected": "No.", high: float(i), low: 1.5}
        for i in range(4)
    ]
    with pytest.raises(UserError, match=rf"`{high}` is lower than `{low}`.*wrong way round.*\(2 times"):
        read(*rows)
    assert [record["prompt"] for record in read(*rows, skip=True)] == ["Open 2?", "Open 3?"]
    assert len(read(*rows, ignore=[high, low])) == 4


def test_scores_of_mapped_columns_are_compared_as_well(read: Read) -> None:
    row = {"q": "Open?", "good": "Yes.", "bad": "No.", "good_rating": "2,5", "bad_rating": 4}
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    with pytest.raises(UserError, match="`good_rating` is lower than `bad_rating`"):
        read(row, columns=columns)
    assert len(read({**row, "bad_rating": 1}, columns=columns)) == 1
    assert len(read({**row, "bad_rating": [4, 5]}, columns=columns)) == 1


def test_answers_that_are_empty_cells_in_most_rows_are_refused(read: Read) -> None:
    rows = [{"prompt": f"Open {i}?", "chosen": "Yes.", "rejected": "nan"} for i in range(3)]
    with pytest.raises(UserError, match=r"3 of 3 records have an answer .*empty cell.*to_csv"):
        read(*rows)
    good = [{"prompt": f"Late {i}?", "chosen": "Yes.", "rejected": "No."} for i in range(4)]
    assert len(read(*rows, *good)) == 7
    assert len(read(*rows[:2])) == 2


def test_a_placeholder_of_an_ignored_image_is_refused(read: Read) -> None:
    row = {"prompt": "<image>\nWhat is it?", "chosen": "A cat.", "rejected": "A dog.", "images": ["a.png"]}
    with pytest.raises(UserError, match=r"`prompt` holds '<image>', and `images` is ignored"):
        read(row, ignore=["images"])
    assert len(read({**row, "prompt": "Is a cat a pet?"}, ignore=["images"])) == 1


def test_a_prompt_that_is_a_transcript_is_read_by_the_format_that_its_error_names(read: Read) -> None:
    asked = [ASKED, {"role": "assistant", "content": "Who asks?"}, {"role": "user", "content": "I do."}]
    for prompt in (
        "\n\nHuman: Is it open?\n\nAssistant: Who asks?\n\nHuman: I do.\n\nAssistant:",
        "User: Is it open?\nBot: Who asks?\nUser: I do.",
        "Human: Is it open?\nAssistant: Who asks?\nHuman: I do.\nAssistant: ",
    ):
        pair = {"prompt": prompt, "response": " Yes.", "chosen": " Yes.", "rejected": " No."}
        (record,) = read(pair, format="hh-rlhf")
        assert (record["prompt"], record["responses"]) == (asked, ["Yes.", "No."])
        shown = {"prompt": prompt, "completion": "Assistant: Yes."}
        assert read(shown, format="hh-rlhf", kind=Demonstration) == [{"prompt": asked, "response": "Yes."}]
    with pytest.raises(UserError, match="`response` differs from `chosen`"):
        read({**pair, "response": "Hm."}, format="hh-rlhf")
    with pytest.raises(UserError, match="`prompt` ends with what the assistant says"):
        read({**pair, "prompt": "Human: a\n\nAssistant: b"}, format="hh-rlhf")


def test_a_table_of_empty_rows_is_told_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\n,,\n,,\n")
    source = Source(train=[{"path": str(path)}], held_out=0.0)
    with pytest.raises(UserError, match=r"a.csv: has no records: 2 × an empty row of the table"):
        load(Ranking, source, "rankings")
