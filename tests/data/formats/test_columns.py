"""`columns:` of an entry, on small files as people have them: what comes out, or the one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.data.formats import from_columns
from align.data.formats.base import LeftOut
from align.data.load import load
from align.data.scan import gathered
from align.data.table import Records
from align.errors import UserError
from align.recipe.data import Source
from align.recipe.load import read_columns
from align.records import Ranking
from align.values import RecordError

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "data"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
BRIEF = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Open?"}]
OPEN, RAIN = {"q": "Open?", "a": "Yes.", "b": "No."}, {"q": "Rain?", "a": "Yes.", "b": "No."}


def read(columns: Any, *rows: dict[str, Any]) -> list[Any]:
    """What the rows of one file give: records as dicts, and the reasons of what is left out."""
    given = [(f":{i}", row) for i, row in enumerate(rows, 1)]
    form = from_columns(read_columns(columns))
    parts = [part for _, row in gathered(form, iter(given)) for part in form.read(row)]
    return [part.reason if isinstance(part, LeftOut) else part.to_dict() for part in parts]


def loaded(file: str, columns: str) -> Records[Ranking]:
    """What an entry with a case's file and this mapping gives."""
    entry = {"path": str(CASES / file), "columns": read_columns(columns)}
    return load(Ranking, Source.model_validate({"train": [entry], "held_out": 0.0}), "rankings").train


def refused(columns: Any, *rows: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        read(columns, *rows)
    return str(caught.value)


def ranking(prompt: Any, responses: list[str], ranks: list[int | None], **details: Any) -> dict[str, Any]:
    return {"prompt": prompt, "responses": responses, "ranks": ranks, **details}


# The cases


@needs_cases
@pytest.mark.parametrize(
    ("file", "columns", "expected"),
    [
        (
            "convo_pairs.jsonl",
            "{chosen: better, rejected: worse}",
            [ranking([{"role": "user", "content": "Open?"}], ["Yes.", "No."], [1, 2])],
        ),
        (
            "order.jsonl",
            "{prompt: prompt, responses: responses, order: ranking}",
            [ranking("Which is best?", ["A", "B", "C", "D"], [3, 1, 4, 2])],
        ),
        (
            "order.jsonl",
            "{prompt: prompt, responses: responses, ranks: ranking, best: 1}",
            [ranking("Which is best?", ["A", "B", "C", "D"], [2, 4, 1, 3])],
        ),
        (
            "long.csv",
            "{prompt: prompt, responses: response, scores: score, labeler: annotator, "
            "group_by: [prompt, annotator]}",
            [
                ranking("Open?", ["Yes.", "No."], [1, 2], labeler="ana"),
                ranking("Open?", ["Yes.", "No."], [1, 1], labeler="bea"),
            ],
        ),
        (
            "long2.csv",
            "{prompt: prompt, responses: response, ranks: rank, group_by: prompt}",
            [ranking("Open?", ["Yes.", "No."], [1, 2])],
        ),
        (
            "wide.csv",
            "{prompt: prompt, responses: [response_a, response_b], verdict: winner}",
            [
                ranking("Open?", ["Yes.", "No."], [1, 2]),
                ranking("Rain?", ["Yes.", "No."], [2, 1]),
                ranking("Sun?", ["Yes.", "No."], [1, 1]),
            ],
        ),
        (
            "wide.csv",
            "{prompt: prompt, responses: [response_b, response_a], "
            "verdict: {column: winner, a: model_b, b: model_a, tie: [tie, draw]}}",
            [
                ranking("Open?", ["No.", "Yes."], [2, 1]),
                ranking("Rain?", ["No.", "Yes."], [1, 2]),
                ranking("Sun?", ["No.", "Yes."], [1, 1]),
            ],
        ),
        (
            "stars.csv",
            "{prompt: question, responses: [a, b], scores: [votes_a, votes_b]}",
            [
                ranking("Is it open?", ["Yes, until six.", "No idea."], [1, 2]),
                ranking("Do you sell rye?", ["Yes.", "No."], [2, 1]),
            ],
        ),
        (
            "bracket.jsonl",
            "{prompt: q, chosen: good, rejected: bad}",
            [
                ranking(
                    "List three fruits as a JSON array.",
                    ['["apple", "pear", "plum"]', "I cannot do that."],
                    [1, 2],
                ),
                ranking("List two colours as a JSON array.", ['["red", "blue"]', '["red"]'], [1, 2]),
            ],
        ),
        (
            "bracket2.jsonl",
            "{prompt: q, chosen: good, rejected: bad}",
            [ranking("Write a letter.", ["[Your Name]\n[Your Address]\nDear Sir", "No."], [1, 2])],
        ),
        (
            "msg_str.jsonl",
            "{prompt: messages, responses: [a, b], scores: [sa, sb]}",
            [
                ranking(
                    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Open?"}],
                    ["Yes.", "No."],
                    [1, 2],
                )
            ],
        ),
        (
            "ranks_0.jsonl",
            "{prompt: q, responses: a, ranks: r, best: 0}",
            [ranking("Open?", ["Yes.", "No.", "Hm."], [1, 3, 2]), ranking("Rain?", ["Yes.", "No."], [2, 1])],
        ),
        (
            "ranks_1st.jsonl",
            "{prompt: q, responses: a, ranks: r, best: 1st}",
            [ranking("Open?", ["Yes.", "No.", "Hm."], [1, 3, 2])],
        ),
        (
            "excel.csv",
            "{prompt: Frage, responses: [Antwort A, Antwort B], scores: [Note A, Note B], labeler: Wer}",
            [
                ranking("Hat es offen, heute?", ["Ja; bis sechs.", "Nein."], [1, 2], labeler="Ana"),
                ranking("Regnet es?", ["Nein.", "Ja,\r\nstark."], [2, 1], labeler="Bea"),
            ],
        ),
        (
            "sep.csv",
            "{prompt: Frage, responses: [A, B], scores: [sA, sB]}",
            [ranking("Offen?", ["Ja.", "Nein."], [1, 2])],
        ),
        (
            "x.tsv",
            "{prompt: question, responses: [a, b], scores: [sa, sb]}",
            [ranking("Open?", ["Yes.", "No."], [1, 2])],
        ),
        (
            "first_json.csv",
            "{prompt: q, chosen: good, rejected: bad}",
            [ranking("JSON please", ['{"a": 1}', "no"], [1, 2]), ranking("Rain?", ["Yes", "No"], [1, 2])],
        ),
        (
            "later_json.csv",
            "{prompt: q, chosen: good, rejected: bad}",
            [ranking("Rain?", ["Yes", "No"], [1, 2]), ranking("JSON please", ['{"a": 1}', "no"], [1, 2])],
        ),
        (
            "msg_repr.csv",
            "{prompt: messages, responses: [a, b], scores: [sa, sb]}",
            [ranking(BRIEF, ["Yes.", "No."], [1, 2]), ranking(BRIEF, ["Yes!", "No!"], [2, 1])],
        ),
        (
            "msg_mixed.csv",
            "{prompt: messages, responses: [a, b], scores: [sa, sb]}",
            [ranking("Is it open?", ["Yes.", "No."], [1, 2]), ranking(BRIEF, ["Yes!", "No!"], [2, 1])],
        ),
        (
            "labeler.jsonl",
            "{prompt: q, chosen: a, rejected: b, labeler: who}",
            [
                ranking("Open?", ["Yes.", "No."], [1, 2], labeler="3"),
                ranking("Rain?", ["Yes.", "No."], [1, 2]),
            ],
        ),
    ],
)
def test_a_case_is_read_as_its_maker_meant_it(file: str, columns: str, expected: list[Any]) -> None:
    assert [record.to_dict() for record in loaded(file, columns)] == expected


@needs_cases
@pytest.mark.parametrize(
    ("file", "columns", "words"),
    [
        (
            "order.jsonl",
            "{prompt: prompt, responses: responses, ranks: ranking}",
            "`ranking` holds each of 1 to 4 once in every row: are these ranks (say `best: 1`) or the "
            "answers' places, best first (say `order: ranking` instead of `ranks`)?",
        ),
        (
            "ranks_0.jsonl",
            "{prompt: q, responses: a, ranks: r}",
            "`r[0]` must be a whole number from 1, the best",
        ),
        ("ranks_0.jsonl", "{prompt: q, responses: a, ranks: r}", "say `best: 0`"),
        ("ranks_1st.jsonl", "{prompt: q, responses: a, ranks: r}", "say `best: 1st`"),
    ],
)
def test_a_case_that_can_be_read_in_two_ways_is_refused(file: str, columns: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded(file, columns)
    assert words in str(caught.value)


# Prompts and conversations

USER = {"role": "user", "content": "Open?"}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
SYSTEM = {"role": "system", "content": "Be brief."}
MORE = [{"role": "assistant", "content": "Which day?"}, {"role": "user", "content": "Today."}]
PAIR = "{prompt: q, chosen: a, rejected: b}"


@pytest.mark.parametrize(
    ("columns", "row", "prompt"),
    [
        (PAIR, {"a": [YES], "b": [NO]}, "Open?"),
        (PAIR, {"a": YES, "b": NO}, "Open?"),
        (PAIR, {"a": [USER, YES], "b": "No."}, "Open?"),
        (PAIR, {"a": json.dumps([YES]), "b": str([NO])}, "Open?"),
        (PAIR, {"q": [SYSTEM, USER], "a": [USER, YES], "b": [NO]}, [SYSTEM, USER]),
        (PAIR, {"a": [SYSTEM, USER, YES], "b": [SYSTEM, USER, NO]}, [SYSTEM, USER]),
        (PAIR, {"a": [*MORE, YES], "b": [USER, *MORE, NO]}, [USER, *MORE]),
        ("{chosen: a, rejected: b}", {"a": [USER, *MORE, YES], "b": str([USER, *MORE, NO])}, [USER, *MORE]),
        ("{prompt: q, system: s, chosen: a, rejected: b}", {"s": "Be brief."}, [SYSTEM, USER]),
        ("{prompt: q, system: s, chosen: a, rejected: b}", {"s": ""}, "Open?"),
        ("{prompt: q, system: s, chosen: a, rejected: b}", {"s": None}, "Open?"),
        (
            "{prompt: q, system: s, chosen: a, rejected: b}",
            {"s": "Be brief.", "q": [SYSTEM, USER]},
            [SYSTEM, USER],
        ),
        (
            "{chosen: a, rejected: b, messages: {role: who, content: says, user: man, assistant: [bot, us]}}",
            {
                "a": [{"who": "man", "says": "Open?"}, {"who": "bot", "says": "Yes."}],
                "b": '[{"who": "man", "says": "Open?"}, {"who": "us", "says": "No."}]',
            },
            [USER],
        ),
        (
            "{prompt: q, chosen: a, rejected: b}",
            {
                "q": [{"from": "human", "value": "Open?"}],
                "a": {"from": "gpt", "value": "Yes."},
                "b": {"from": "gpt", "value": "No."},
            },
            [USER],
        ),
        ("{responses: [a, b], scores: [x, y]}", {"a": [USER, YES], "b": [USER, NO], "x": 2, "y": 1}, [USER]),
    ],
)
def test_answers_may_be_messages_and_repeat_the_prompt_or_go_on_after_it(
    columns: str, row: dict[str, Any], prompt: Any
) -> None:
    assert read(columns, OPEN | row) == [ranking(prompt, ["Yes.", "No."], [1, 2])]


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (PAIR, {"a": [YES, USER]}, "`a` ends with a user message: the last one must be the assistant's"),
        (
            PAIR,
            {"a": [{"role": "user", "content": "Hm?"}, YES]},
            "`a` begins with a user message that `q` does not",
        ),
        (PAIR, {"a": [*MORE, YES], "b": [NO]}, "`b` differs from `a` before the last answer (at message 2)"),
        ("{chosen: a, rejected: b}", {}, "`a` is text, and the recipe maps no `prompt`"),
        (
            "{chosen: a, rejected: b}",
            {"a": [YES], "b": [NO]},
            "`a` is one message, and the recipe maps no `prompt`",
        ),
        (
            "{prompt: q, system: s, chosen: a, rejected: b}",
            {"s": "Be long.", "q": [SYSTEM, USER]},
            "`s` differs from the system message",
        ),
        (PAIR, {"q": '[{"role": "user", "content": '}, "`q` looks like messages"),
    ],
)
def test_a_turn_of_the_person_or_brackets_never_become_an_answer(
    columns: str, row: dict[str, Any], words: str
) -> None:
    assert words in refused(columns, OPEN | row)


def test_a_conversation_alone_is_a_demonstration_and_tools_go_before_it() -> None:
    tools = [{"type": "function", "function": {"name": "hours"}}]
    assert read("{response: talk}", {"talk": [USER, YES]}) == [{"prompt": [USER], "response": "Yes."}]
    (found,) = read("{prompt: q, response: a, tools: t}", OPEN | {"t": json.dumps(tools)})
    assert found["response"] == "Yes."
    assert "hours" in json.dumps(found)
    assert read("{prompt: q, response: a, tools: t}", OPEN | {"t": ""}) == [
        {"prompt": "Open?", "response": "Yes."}
    ]


# Ranks, scores, orders

THREE = {"q": "Open?", "all": ["A", "B", "C"]}


@pytest.mark.parametrize(
    ("columns", "row", "ranks"),
    [
        ("ranks: r", {"r": [2, 2, None]}, [2, 2, None]),
        ("ranks: r, best: 1", {"r": ["1.0", 3.0, "2."]}, [1, 3, 2]),
        ("ranks: r, best: 1st", {"r": ["2nd", "1st", "3rd"]}, [2, 1, 3]),
        ("ranks: r, best: 0", {"r": "[1, 0, null]"}, [2, 1, None]),
        ("scores: r", {"r": [0.5, None, 2]}, [2, None, 1]),
        ("scores: r", {"r": [True, False, True]}, [1, 2, 1]),
        ("scores: r, lower_is_better: true", {"r": [3, 1, 1]}, [2, 1, 1]),
        ("order: r", {"r": [3, 1]}, [2, None, 1]),
        ("order: r", {"r": "2,0,1"}, [2, 3, 1]),
        ("order: r", {"r": [[2, 3], 1]}, [2, 1, 1]),
        ("order: r, places_from: 1", {"r": [2]}, [None, 1, None]),
        ("order: r, ids: i", {"r": ["z", "x"], "i": ["x", "y", "z"]}, [2, None, 1]),
        ("order: r, ids: i", {"r": "z > x = y", "i": ["x", "y", "z"]}, [2, 2, 1]),
        ("order: r, ids: i", {"r": [1.0, 3], "i": ["3", "2", 1]}, [2, None, 1]),
        ("order: r", {"r": ["C", "A", "B"]}, [2, 3, 1]),
        ("order: r", {"r": [3, 1, 2], "all": ["2", "3", "1"]}, [2, 3, 1]),
    ],
)
def test_ranks_scores_and_orders_are_read_as_the_recipe_says(
    columns: str, row: dict[str, Any], ranks: list[int | None]
) -> None:
    mapping = f"{{prompt: q, responses: all, {columns}}}"
    (found,) = read(mapping, THREE | row)
    assert found["ranks"] == ranks


def test_an_object_of_systems_is_matched_by_its_keys() -> None:
    row = {"q": "Open?", "out": {"m1": "A", "m2": "B"}, "s": {"m2": 5, "m1": 2}, "o": ["m2", "m1"]}
    for judged in ("scores: s", "order: o", "verdict: {best: o.0}"):
        assert read(f"{{prompt: q, responses: out, {judged}}}", row) == [ranking("Open?", ["A", "B"], [2, 1])]
    mapping = "{prompt: q, responses: out, scores: s}"
    assert "`s` has no 'm1', which is one of the responses" in refused(mapping, row | {"s": {"m2": 5}})
    assert "`s` has 'm3', which is none" in refused(mapping, row | {"s": {"m1": 1, "m2": 5, "m3": 1}})


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        (
            "ranks: r, best: 1",
            [{"r": [0, 1, 2]}],
            "`r[0]` must be a whole number from 1, the best, up, not 0",
        ),
        ("ranks: r", [{"r": [2, 3, 1]}, {"r": [1, 2, 3]}], "`r` holds each of 1 to 3 once in every row"),
        (
            "order: r",
            [{"r": [2]}],
            "`r` holds places, and nothing shows whether the first response is 0 or 1",
        ),
        (
            "order: r",
            [{"r": [3, 1]}, {"r": [0, 1]}],
            "`r` names the place 0, and the responses have places from 1",
        ),
        ("order: r", [{"r": [1, 1, 3]}], "`r` names the same response twice"),
        ("order: r", [{"r": ["Z", "A"]}], "`r` names 'Z', which is no response's id, name, text or place"),
        ("order: r", [{"r": {"A": 1}}], "`r` is an object, and its keys have no order"),
        ("order: r, ids: q", [{"r": [1]}], "`q` has 1 ids, and there are 3 responses"),
        (
            "order: r, ids: i",
            [{"r": ["w"], "i": ["x", "y", "z"]}],
            "`r` names 'w', which is none of the ids (x, y, z)",
        ),
        (
            "order: r, ids: i",
            [{"r": ["x"], "i": ["x", "x", "z"]}],
            "`i[1]` is 'x', which another response is",
        ),
    ],
)
def test_an_order_that_could_turn_round_is_refused(columns: str, rows: list[Any], words: str) -> None:
    assert words in refused(f"{{prompt: q, responses: all, {columns}}}", *(THREE | row for row in rows))


def test_ranks_that_read_the_same_both_ways_or_stand_beside_their_answers_are_no_question() -> None:
    mapping = "{prompt: q, responses: all, ranks: r}"
    assert read(mapping, THREE | {"r": [2, 1, 3]}) == [ranking("Open?", ["A", "B", "C"], [2, 1, 3])]
    assert len(read(mapping, THREE | {"r": [2, 3, 1]}, THREE | {"r": [1, 1, 2]})) == 2
    row = {"q": "Open?", "x": [{"t": "A", "r": 2}, {"t": "B", "r": 3}, {"t": "C", "r": 1}]}
    assert read("{prompt: q, responses: x.t, ranks: x.r}", row) == [
        ranking("Open?", ["A", "B", "C"], [2, 3, 1])
    ]
    wide = {"q": "Open?", "a": "A", "b": "B", "c": "C", "ra": 2, "rb": 3, "rc": 1}
    assert "say `order: [ra, rb, rc]`" in refused(
        "{prompt: q, responses: [a, b, c], ranks: [ra, rb, rc]}", wide
    )


def test_where_places_begin_is_what_the_file_shows() -> None:
    mapping = "{prompt: q, responses: all, order: r}"
    rows = [THREE | {"r": row} for row in ([1], [2, 1], [0, 2, 1])]
    assert [found["ranks"] for found in read(mapping, *rows)] == [[None, 1, None], [None, 2, 1], [1, 3, 2]]
    rows[2] = THREE | {"r": [3, 2]}
    assert [found["ranks"] for found in read(mapping, *rows)] == [[1, None, None], [2, 1, None], [None, 2, 1]]


def test_an_empty_cell_of_the_prompt_is_told_as_such() -> None:
    told = refused("{prompt: q, chosen: a, rejected: b}", OPEN, OPEN | {"q": None})
    assert told.startswith("`q` is empty: there is no prompt")


def test_a_row_that_nobody_ranked_is_left_out() -> None:
    assert read("{prompt: q, responses: all, ranks: r}", THREE | {"r": [None, None, None]}) == [
        "a row without any rank"
    ]


# Verdicts


@pytest.mark.parametrize(
    ("verdict", "value", "ranks"),
    [
        ("w", "a", [1, 2]),
        ("w", "B", [2, 1]),
        ("w", "model_b", [2, 1]),
        ("w", "right", [2, 1]),
        ("w", "Both bad", [1, 1]),
        ("w", "tie (bothbad)", [1, 1]),
        ("{column: w, a: [1, x], b: 2, tie: 0}", "1.0", [1, 2]),
        ("{column: w, a: [1, x], b: 2, tie: 0}", 2.0, [2, 1]),
        ("{column: w, a: [1, x], b: 2, tie: 0}", 0, [1, 1]),
        ("{column: w, a: true, b: false}", "False", [2, 1]),
        ("{column: w, a: x, b: y, tie: ['']}", None, [1, 1]),
        ("{column: w, names: [m, n]}", "gpt", [2, 1]),
        ("{column: w, names: [m, n], tie: same}", "same", [1, 1]),
    ],
)
def test_a_verdict_by_words(verdict: str, value: Any, ranks: list[int]) -> None:
    row = OPEN | {"w": value, "m": "ours", "n": "gpt"}
    assert read(f"{{prompt: q, responses: [a, b], verdict: {verdict}}}", row) == [
        ranking("Open?", ["Yes.", "No."], ranks)
    ]


@pytest.mark.parametrize(
    ("value", "ranks", "strength"), [(-3, [1, 2], 3.0), ("1", [2, 1], 1.0), (0, [1, 1], 0.0)]
)
def test_a_verdict_on_a_scale(value: Any, ranks: list[int], strength: float) -> None:
    mapping = "{prompt: q, responses: [a, b], verdict: {column: w, low: a, high: b, middle: 0}}"
    assert read(mapping, OPEN | {"w": value}) == [ranking("Open?", ["Yes.", "No."], ranks, strength=strength)]


@pytest.mark.parametrize(
    ("verdict", "row", "ranks"),
    [
        ("{best: x, worst: y}", {"x": "r_2", "y": "r_1"}, [3, 1, 2]),
        ("{best: x, worst: y}", {"x": 2, "y": "1"}, [3, 1, 2]),
        ("{best: x}", {"x": "r_3"}, [2, 2, 1]),
        ("{worst: x}", {"x": "C"}, [1, 1, 2]),
        ("{best: x}", {"x": 2, "r_1": "5", "r_2": "4"}, [2, 1, 2]),
    ],
)
def test_the_best_and_the_worst_of_several(verdict: str, row: dict[str, Any], ranks: list[int]) -> None:
    given = {"q": "Open?", "r_1": "A", "r_2": "B", "r_3": "C"}
    mapping = f"{{prompt: q, responses: [r_1, r_2, r_3], verdict: {verdict}}}"
    (found,) = read(mapping, given | row)
    assert found["ranks"] == ranks
    in_list = "{prompt: q, responses: all, places_from: 1, verdict: {best: x, worst: y}}"
    assert read(in_list, THREE | {"x": 3, "y": "1"}) == [ranking("Open?", ["A", "B", "C"], [3, 2, 1])]


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (
            "responses: all, verdict: {best: w}",
            {"w": 1},
            "`w` holds places, and nothing shows whether the first",
        ),
        (
            "responses: [r_1, r_2], verdict: {best: w}",
            {"w": 2, "r_1": "2", "r_2": "4"},
            "the name of another",
        ),
        ("responses: [a, b], verdict: w", {"w": "x"}, "`w` is 'x', and nothing says which response that is"),
        ("responses: [a, b], verdict: w", {"w": 1}, "list the values, as in `verdict: {column: w, a: [1]"),
        ("responses: [b, a], verdict: w", {"w": "left"}, "`w` is 'left', and nothing says which"),
        (
            "responses: [a, b], verdict: {column: w, a: x, b: y}",
            {"w": "z"},
            "`w` is 'z', which the verdict lists",
        ),
        (
            "responses: [a, b], verdict: {column: w, names: [m, n]}",
            {"w": "z"},
            "`w` is 'z', which is neither `m`",
        ),
        (
            "responses: [a, b], verdict: {column: w, names: [m, m]}",
            {"w": "ours"},
            "`w` is 'ours', which is the name of both responses",
        ),
        (
            "responses: [a, b], verdict: {best: w, worst: v}",
            {"w": "a", "v": "a"},
            "`v` names the same response as `w`",
        ),
        (
            "responses: [a, b], verdict: {best: w}",
            {"w": "c"},
            "`w` is 'c', which is none of the responses (a, b)",
        ),
        ("responses: all, verdict: w", {"w": "a"}, "`w` is a verdict on two responses, and there are 3"),
        (
            "responses: [a, b], verdict: w",
            {"w": "a", "a": None},
            "`a` holds no response, and `w` says that it is",
        ),
        (
            "responses: [a, b], verdict: {column: w, low: a, middle: 0}",
            {"w": 2},
            "`w` is 2, above the middle, 0",
        ),
    ],
)
def test_a_verdict_that_says_nothing_sure_is_refused(columns: str, row: dict[str, Any], words: str) -> None:
    given = OPEN | {"m": "ours", "n": "gpt", "all": ["A", "B", "C"]} | row
    assert words in refused(f"{{prompt: q, {columns}}}", given)


def test_a_side_that_no_verdict_takes_is_told_after_the_last_row() -> None:
    mapping = "{prompt: q, responses: [a, b], verdict: {column: w, a: [x, X], b: y, tie: [z]}}"
    rows = [OPEN | {"w": "x"}, OPEN | {"w": "x"}, OPEN | {"w": "z"}]
    assert "`w` is never 'y' (verdict.b): the values are 'x', 'z'" in refused(mapping, *rows)
    misspelt = [(f":{i}", OPEN | {"w": word}) for i, word in enumerate("xxY", 1)]
    assert list(gathered(from_columns(read_columns(mapping)), iter(misspelt))), (
        "the rows tell of these values"
    )
    scale = "{prompt: q, responses: [a, b], verdict: {column: w, low: a, high: b, middle: 0}}"
    rows = [OPEN | {"w": value} for value in (1, 3, 5)]
    assert "`w` is never below the middle, 0: the values go from 1 to 5" in refused(scale, *rows)


def test_a_row_without_a_verdict_is_left_out() -> None:
    assert read("{prompt: q, responses: [a, b], verdict: w}", OPEN | {"w": None}, OPEN | {"w": "b"}) == [
        "a row without a verdict in `w`",
        ranking("Open?", ["Yes.", "No."], [2, 1]),
    ]


def test_the_recipes_order_of_the_columns_is_no_trap() -> None:
    rows = [{"q": "Open?", "response_a": "A", "response_b": "B", "w": word} for word in ("model_b", "b")]
    for found in read("{prompt: q, responses: [response_b, response_a], verdict: w}", *rows):
        assert found == ranking("Open?", ["B", "A"], [1, 2])


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        ("A>B", [1, 2]),
        ("B>A", [2, 1]),
        ("A < B", [2, 1]),
        ("[[B>>A]]", [2, 1]),
        ("A=B", [1, 1]),
        ("response_A > response_B", [1, 2]),
        ("Assistant A", [1, 2]),
    ],
)
def test_a_comparison_is_read_in_its_direction(value: str, ranks: list[int]) -> None:
    row = {"q": "Open?", "response_A": "Yes.", "response_B": "No.", "w": value}
    (found,) = read("{prompt: q, responses: [response_A, response_B], verdict: w}", row)
    assert found["ranks"] == ranks


@pytest.mark.parametrize("value", ["A is better than B", "not A", "worse: B", "A>A", "A>B>A", "A>tie", ">"])
def test_a_sentence_that_ends_with_a_name_is_no_verdict_for_it(value: str) -> None:
    row = {"q": "Open?", "response_A": "Yes.", "response_B": "No.", "w": value}
    columns = "{prompt: q, responses: [response_A, response_B], verdict: %s}"
    assert "nothing says which response that is" in refused(columns % "w", row)
    assert "which is none of the responses" in refused(columns % "{best: w}", row)


# Long tables

LONG = "{prompt: q, responses: a, scores: s, group_by: [q, who]}"


def long(*rows: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(("q", "who", "a", "s"), row, strict=False)) for row in rows]


def test_rows_of_a_group_need_not_be_adjacent_and_groups_keep_their_place() -> None:
    rows = long(
        ("Open?", 1, "Yes.", 5), ("Rain?", 1, "Yes.", 1), ("Open?", "1.0", "No.", 2), ("Rain?", 1, "No.", "4")
    )
    assert read(LONG, *rows) == [
        ranking("Open?", ["Yes.", "No."], [1, 2]),
        ranking("Rain?", ["Yes.", "No."], [2, 1]),
    ]


@pytest.mark.parametrize("prompt", ['["Is it open?"]', "['Open?', 'And now?']"])
def test_a_list_of_texts_written_as_text_is_no_prompt(prompt: str) -> None:
    told = refused("{prompt: q, chosen: a, rejected: b}", OPEN | {"q": prompt})
    assert "`q` is a list of" in told
    assert read("{prompt: q, chosen: a, rejected: b}", OPEN | {"q": "[Draft] What is this?", "a": '["x"]'})


@pytest.mark.parametrize("row", [("", 1, "Yes.", 5), ("Open?", None, "Yes.", 5)])
def test_rows_without_what_groups_them_are_not_put_together(row: tuple[Any, ...]) -> None:
    assert "is empty, and `group_by` names it" in refused(LONG, *long(row, (*row[:2], "No.", 1)))


def test_a_part_that_an_item_of_a_list_lacks_is_told_with_its_place() -> None:
    row = {"q": "Open?", "all": [{"text": "Yes.", "score": 1}, {"text": "No."}]}
    told = refused("{prompt: q, responses: all.text, scores: all.score}", row)
    assert "`all[1].score` is missing" in told


def test_an_answer_alone_is_left_out_and_one_that_is_there_twice_counts_once() -> None:
    rows = long(
        ("Open?", 1, "Yes.", 5), ("Rain?", 1, "Yes.", 1), ("Rain?", 1, "Yes.", 1), ("Rain?", 1, "No.", 2)
    )
    assert read(LONG, *rows) == [
        "an answer alone in its group (`q`, `who`), which compares nothing",
        ranking("Rain?", ["Yes.", "No."], [2, 1]),
    ]


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        (
            "scores: s, group_by: q",
            [("Open?", 1, "Yes.", 5), ("Open?", 1, "No.", 2), ("Open?", 2, "Yes.", 1)],
            "`a` is 'Yes.' twice in one group (again at line 3), and ranked differently: name what tells "
            "the rows apart",
        ),
        (
            "scores: s, labeler: who, group_by: q",
            [("Open?", 1, "Yes.", 5), ("Open?", 2, "No.", 2)],
            "`who` is 1 here and 2 at line 2, in one group: name `who` in `group_by` too",
        ),
        (
            "scores: s, group_by: who",
            [("Open?", 1, "Yes.", 5), ("Rain?", 1, "No.", 2)],
            "`q` is 'Open?' here and 'Rain?' at line 2",
        ),
        (
            "chosen: s, group_by: q",
            [("Open?", 1, "A", True), ("Open?", 1, "B", 1), ("Open?", 1, "C", "")],
            "`s` marks 2 answers of one group: only one can be chosen",
        ),
        (
            "chosen: s, group_by: q",
            [("Open?", 1, "A", 1), ("Open?", 1, "B", 3)],
            "`s` must mark an answer or not (true or false, 1 or 0), not 3 (at line 2)",
        ),
        (
            "scores: s, group_by: q",
            [("Open?", 1, "A", 1), ("Open?", 1, "B", "x")],
            "`s` must be a number, not 'x' (at line 2)",
        ),
    ],
)
def test_rows_of_a_group_that_contradict_each_other_are_told(columns: str, rows: Any, words: str) -> None:
    assert words in refused(f"{{prompt: q, responses: a, {columns}}}", *long(*rows))


def test_a_long_table_with_a_mark_on_the_best() -> None:
    rows = long(
        ("Open?", 1, "A", "no"), ("Open?", 1, "B", "yes"), ("Rain?", 1, "A", ""), ("Rain?", 1, "B", None)
    )
    assert read("{prompt: q, responses: a, chosen: s, group_by: q}", *rows) == [
        ranking("Open?", ["A", "B"], [2, 1]),
        "a group without any rank, score or mark",
    ]


# The mapping itself


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("{prompt: q, respones: a}", "columns.respones: unknown key; did you mean responses?"),
        (
            "{prompt: q, chosen: a}",
            "columns: chosen, prompt makes no record. Map one of these: prompt; prompt + ",
        ),
        ("{}", "columns: nothing makes no record"),
        ("{prompt: q, responses: [a, b], ranks: r, scores: s}", "makes no record"),
        ("{prompt: q, responses: a, ranks: r, best: 2}", "columns.best: expected one of 1, 0, 1st"),
        ("{prompt: q, responses: a, scores: r, best: 0}", "columns: best says how ranks are written"),
        (
            "{prompt: q, responses: a, ranks: r, lower_is_better: true}",
            "columns: lower_is_better says how scores",
        ),
        (
            "{prompt: q, chosen: a, rejected: b, ids: i}",
            "columns: ids says what order or verdict, or an object",
        ),
        ("{prompt: q, response: [a, b]}", "columns.response: expected text"),
        ("{prompt: []}", "columns: prompt: name the column that holds it"),
        ("{prompt: ''}", "columns: prompt: name the column that holds it"),
        ("{prompt: q, response: a, labeler: w}", "columns: labeler: only rankings have it"),
        ("{prompt: q, responses: [a, b], verdict: {a: x, b: y}}", "columns.verdict: column is missing"),
        (
            "{prompt: q, responses: [a, b], verdict: {column: w, A: x}}",
            "columns.verdict.A: unknown key; did you mean a",
        ),
        (
            "{prompt: q, responses: [a, b], verdict: {column: w, a: 1, b: [2, '1']}}",
            "'1' stands under both a and b",
        ),
        ("{prompt: q, responses: [a, b], verdict: {column: w, low: a, high: b}}", "a scale needs its middle"),
        (
            "{prompt: q, responses: [a, b], verdict: {best: w, worst: w}}",
            "best and worst name the same column",
        ),
        ("{prompt: q, responses: [a, b], verdict: loser}", "say `verdict: {worst: loser}`"),
        ("{prompt: q, responses: [a, b, c], verdict: w}", "verdict compares two responses, and there are 3"),
        (
            "{prompt: q, responses: [a, b], scores: s, group_by: q}",
            "responses takes one column where there is group",
        ),
        ("{prompt: q, chosen: a, rejected: b, group_by: q}", "group_by is for rows that are one answer each"),
        ("[a, b]", "columns: write {prompt: COLUMN"),
        ("{prompt: q", "columns: "),
    ],
)
def test_a_mistake_in_a_mapping_is_told_before_any_row_is_read(columns: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_columns(columns)
    assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_format_of_columns_says_what_it_uses_each_for() -> None:
    columns = "{prompt: [q, more.text], responses: [a, b], verdict: {column: w, names: [m, n]}, labeler: who}"
    assert from_columns(read_columns(columns)).columns == {
        "q": "prompt",
        "more.text": "prompt",
        "more": "prompt",
        "a": "response",
        "b": "response",
        "w": "verdict",
        "m": "name in the verdict",
        "n": "name in the verdict",
        "who": "labeler",
    }


def test_an_error_within_a_list_names_its_item() -> None:
    with pytest.raises(RecordError) as caught:
        read("{prompt: q, responses: all, scores: s}", THREE | {"s": [1, "good", 2]})
    assert caught.value.field == "s[1]"
