"""What is proposed for columns that no format knows reads them rightly, as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from align.data.formats import FORMATS, detect, from_columns
from align.data.formats.base import LeftOut
from align.data.formats.suggest import suggest
from align.data.rows import read_rows
from align.data.scan import gathered
from align.errors import UserError
from align.recipe.load import read_columns

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "data"


def proposed(row: dict[str, Any]) -> str:
    """The mapping that is proposed for a row, "" where there is none."""
    found = re.search(r"`columns: (\{.*\})`", suggest(row, FORMATS.values()) or "")
    return found[1] if found else ""


def ranked(mapping: str, rows: list[dict[str, Any]]) -> list[Any]:
    form = from_columns(read_columns(mapping))
    placed = gathered(form, iter([(f":{i}", row) for i, row in enumerate(rows, 1)]))
    records = [record for _, row in placed for record in form.read(row)]
    return [
        record.reason if isinstance(record, LeftOut) else sorted_by_rank(record.to_dict())
        for record in records
    ]


def sorted_by_rank(record: dict[str, Any]) -> Any:
    """The prompt, then the responses, best first, with their ranks."""
    pairs = sorted(zip(record["ranks"], record["responses"], strict=True))
    return record["prompt"], pairs


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
@pytest.mark.parametrize(
    ("file", "mapping", "expected"),
    [
        (
            "wide.csv",
            "{prompt: prompt, responses: [response_a, response_b], verdict: winner}",
            [("Open?", [(1, "Yes."), (2, "No.")]), ("Rain?", [(1, "No."), (2, "Yes.")])],
        ),
        (
            "long.csv",
            "{prompt: prompt, responses: response, scores: score, labeler: annotator, "
            "group_by: [prompt, annotator]}",
            [("Open?", [(1, "Yes."), (2, "No.")]), ("Open?", [(1, "No."), (1, "Yes.")])],
        ),
        (
            "long2.csv",
            "{prompt: prompt, responses: response, ranks: rank, group_by: prompt}",
            [("Open?", [(1, "Yes."), (2, "No.")])],
        ),
        (
            "convo_pairs.jsonl",
            "{chosen: better, rejected: worse}",
            [([{"role": "user", "content": "Open?"}], [(1, "Yes."), (2, "No.")])],
        ),
        (
            "stars.csv",
            "{prompt: question, responses: [a, b], scores: [votes_a, votes_b]}",
            [
                ("Is it open?", [(1, "Yes, until six."), (2, "No idea.")]),
                ("Do you sell rye?", [(1, "No."), (2, "Yes.")]),
            ],
        ),
        (
            "order.jsonl",
            "{prompt: prompt, responses: responses, order: ranking}",
            [("Which is best?", [(1, "B"), (2, "D"), (3, "A"), (4, "C")])],
        ),
        (
            "msg_str.jsonl",
            "{prompt: messages, responses: [a, b], scores: [sa, sb]}",
            [
                (
                    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Open?"}],
                    [(1, "Yes."), (2, "No.")],
                )
            ],
        ),
        (
            "bracket2.jsonl",
            "{prompt: q, chosen: good, rejected: bad}",
            [("Write a letter.", [(1, "[Your Name]\n[Your Address]\nDear Sir"), (2, "No.")])],
        ),
    ],
)
def test_the_line_that_is_proposed_for_a_case_reads_it_rightly(
    file: str, mapping: str, expected: list[Any]
) -> None:
    rows = [row for _, row in read_rows(CASES / file)]
    assert proposed(rows[0]) == mapping
    assert ranked(mapping, rows)[: len(expected)] == expected


def test_a_spreadsheet_in_another_language_is_seen_by_its_shape() -> None:
    row = {
        "Frage": "Hat es offen?",
        "Antwort A": "Ja.",
        "Antwort B": "Nein.",
        "Note A": "2,5",
        "Note B": "4,5",
    }
    mapping = proposed(row)
    assert mapping == "{prompt: Frage, responses: [Antwort A, Antwort B], scores: [Note A, Note B]}"
    assert ranked(mapping, [row]) == [("Hat es offen?", [(1, "Nein."), (2, "Ja.")])]


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        (
            {"id": 1, "question": "Q", "winner": "A", "loser": "B", "annotator": 3},
            "{prompt: question, chosen: winner, rejected: loser, labeler: annotator}",
        ),
        (
            {"system": "S", "query": "Q", "preferred_response": "A", "rejected_response": "B"},
            "{prompt: query, system: system, chosen: preferred_response, rejected: rejected_response}",
        ),
        (
            {
                "q": "Q",
                "answer_1": "A",
                "answer_2": "B",
                "answer_3": "C",
                "stars_1": 3,
                "stars_2": 5,
                "stars_3": 1,
            },
            "{prompt: q, responses: [answer_1, answer_2, answer_3], scores: [stars_1, stars_2, stars_3]}",
        ),
        (
            {"q": "Q", "a": "A", "b": "B", "c": "C", "rank_a": 2, "rank_b": 3, "rank_c": 1},
            "{prompt: q, responses: [a, b, c], ranks: [rank_a, rank_b, rank_c]}",
        ),
        (
            {"q": "Q", "answers": ["A", "B", "C"], "ranks": [2, 0, 1]},
            "{prompt: q, responses: answers, ranks: ranks, best: 0}",
        ),
        (
            {"q": "Q", "answers": '["A", "B"]', "scores": "[2, 1]"},
            "{prompt: q, responses: answers, scores: scores}",
        ),
        (
            {"q": "Q", "model_a": "m1", "model_b": "m2", "text_a": "A", "text_b": "B", "winner": "m2"},
            "{prompt: q, responses: [text_a, text_b], verdict: {column: winner, names: [model_a, model_b]}}",
        ),
        (
            {"q": "Q", "left text 1": "A", "left text 2": "B", "choice": 0},
            "{prompt: q, responses: [left text 1, left text 2], verdict: {column: choice, "
            "a: [where left text 1 is better], b: [where left text 2 is better]}}",
        ),
        (
            {"question": "Q", "answer": "A", "is_best": "true", "who": "x"},
            "{prompt: question, responses: answer, chosen: is_best, labeler: who, group_by: [question, who]}",
        ),
        (
            {"q": "Q", "good: one": "A", "bad: one": "B"},
            '{prompt: q, chosen: "good: one", rejected: "bad: one"}',
        ),
        ({"x": 1, "y": "text"}, ""),
        ({}, ""),
    ],
)
def test_columns_are_seen_by_their_names_and_types(row: dict[str, Any], mapping: str) -> None:
    assert proposed(row) == mapping
    if mapping and "where" not in mapping:
        assert list(from_columns(read_columns(mapping)).read(row))


def test_what_only_a_person_can_know_reads_nothing_until_they_say_it() -> None:
    row = {"q": "Q", "text_1": "A", "text_2": "B", "choice": 0}
    with pytest.raises(UserError, match="`choice` is 0, which the verdict lists under none"):
        ranked(proposed(row), [row])


def test_the_error_names_the_nearest_format_and_what_it_needs() -> None:
    row = {"q": "Q", "good": "A", "bad": "B"}
    with pytest.raises(
        UserError, match=r"These look like a better and a worse answer: `columns: \{prompt: q, "
    ):
        detect(row)
    with pytest.raises(UserError, match="The nearest format is pandalm"):
        detect({"response1": "A", "response2": "B", "annotator1": 1, "annotator2": 1})


def test_what_belongs_to_the_prompt_is_proposed_with_it() -> None:
    row = {
        "instruction": "Translate.",
        "input": "Bonjour",
        "output_1": "Hi.",
        "output_2": "No.",
        "preference": 2,
    }
    assert ranked(proposed(row), [row]) == [("Translate.\n\nBonjour", [(1, "No."), (2, "Hi.")])]


def test_a_number_that_may_be_an_error_is_told_to_be_more_is_better() -> None:
    row = {"prompt": "Open?", "responses": ["Yes.", "No."]}
    assert "lower_is_better" in (suggest(row | {"errors": [0.1, 0.9]}, FORMATS.values()) or "")
    assert "lower_is_better" not in (suggest(row | {"rewards": [0.1, 0.9]}, FORMATS.values()) or "")


@pytest.mark.parametrize(("value", "told"), [(None, "is empty"), (5, "is 5")])
def test_a_first_row_with_a_hole_is_still_of_its_format(value: Any, told: str) -> None:
    with pytest.raises(UserError, match=rf"columns of the format trl-preference, .*`rejected` {told}"):
        detect({"prompt": "Open?", "chosen": "Yes.", "rejected": value})


def test_marks_by_person_beside_a_plain_list_are_told_so() -> None:
    row = {"prompt": "Open?", "responses": ["Yes.", "No."], "ranks": {"ana": [1, 2], "bea": [2, 1]}}
    with pytest.raises(UserError, match=r"is an object \(ana, bea\), and the responses are a list"):
        list(from_columns({"prompt": "prompt", "responses": "responses", "ranks": "ranks"}).read(row))


def test_what_the_user_asked_is_the_prompt_and_no_labeler() -> None:
    row = {
        "system_prompt": "Be brief.",
        "user_prompt": "Open?",
        "response_a": "Yes.",
        "response_b": "No.",
        "preferred": "response_b",
        "user_id": "u7",
    }
    form = from_columns(read_columns(proposed(row)))
    (record,) = form.read(row)
    assert [part["content"] for part in record.to_dict()["prompt"]] == ["Be brief.", "Open?"]
    assert (record.to_dict()["ranks"], record.to_dict()["labeler"]) == ([2, 1], "u7")
