"""Each format's hand-written sample becomes the records that stand beside it, and is known by its columns."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from watched import Watched

from align.data.formats import FORMATS, UNUSED, Format, LeftOut, Record, detect, find
from align.errors import UserError
from align.values import RecordError

SAMPLES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(Path(__file__).with_name("samples").glob("*.json"))
}


def read(format: Format, rows: list[dict[str, Any]]) -> list[Record | LeftOut]:
    """As a loader reads a file: gathered where the format gathers."""
    placed = iter([(f"file:{i}", row) for i, row in enumerate(rows, 1)])
    if format.gather:
        placed = format.gather(placed)
    return [found for _, row in placed for found in format.read(row)]


def records_of(format: Format, rows: list[dict[str, Any]]) -> list[Record]:
    return [found for found in read(format, rows) if not isinstance(found, LeftOut)]


def left_out(format: Format, rows: list[dict[str, Any]]) -> list[str]:
    return [found.reason for found in read(format, rows) if isinstance(found, LeftOut)]


def test_every_format_has_a_sample() -> None:
    assert sorted(SAMPLES) == sorted(FORMATS)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_becomes_the_records_written_beside_it(name: str) -> None:
    sample = SAMPLES[name]
    assert [record.to_dict() for record in records_of(FORMATS[name], sample["rows"])] == sample["expected"]


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if "left_out" in sample])
def test_what_becomes_no_record_is_told_with_its_reason(name: str) -> None:
    assert left_out(FORMATS[name], SAMPLES[name]["rows"]) == SAMPLES[name]["left_out"]


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.columns is not None])
def test_a_format_names_the_columns_it_uses(name: str) -> None:
    used: set[str] = set()
    rows = [Watched(row, used) for row in SAMPLES[name]["rows"]]
    read(FORMATS[name], rows)
    known = FORMATS[name].columns or {}
    there = {key for row in SAMPLES[name]["rows"] for key in row}
    assert used & there <= {key for key in there if known.get(key, UNUSED) != UNUSED}
    assert there <= set(known), "the columns of a sample are known, used or not"


@pytest.mark.parametrize("name", SAMPLES)
def test_the_columns_of_every_row_say_its_format_and_no_other(name: str) -> None:
    for row in SAMPLES[name]["rows"]:
        assert [format.name for format in FORMATS.values() if format.detect(row)] == [name]
        assert detect(row) is FORMATS[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_format_is_found_by_its_name(name: str) -> None:
    assert find(name) is FORMATS[name]
    assert find(name.upper().replace("-", "_")) is FORMATS[name]


def test_formats_need_no_torch() -> None:
    code = "import sys, align.data.formats; print({'torch', 'transformers', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def change(name: str, row: int = 0, **changes: Any) -> dict[str, Any]:
    return SAMPLES[name]["rows"][row] | changes


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
OTHER = [{"role": "user", "content": "Ho"}, {"role": "assistant", "content": "Hello."}]


@pytest.mark.parametrize(
    ("name", "row", "field", "words"),
    [
        ("hh-rlhf", change("hh-rlhf", chosen="\n\nHuman: Is it open?\n\nAssistant: "), "chosen", "is empty"),
        ("hh-rlhf", change("hh-rlhf", chosen="Is it open?"), "chosen", "must be a transcript"),
        ("hh-rlhf", change("hh-rlhf", chosen="\n\nHuman: Is it open?"), "chosen", "must be the assistant's"),
        (
            "hh-rlhf",
            change("hh-rlhf", rejected="\n\nHuman: Is it?\n\nAssistant: No."),
            "rejected",
            "differs from `chosen` before the last answer (at message 1)",
        ),
        ("trl-preference", {"chosen": TURNS, "rejected": OTHER}, "rejected", "differs from `chosen`"),
        ("trl-preference", {"chosen": "It is.", "rejected": "It is not."}, "", "what two answers begin with"),
        ("trl-preference", change("trl-preference", margin=-1), "margin", "from 0 up"),
        ("trl-preference", {"chosen": TURNS[:1], "rejected": TURNS}, "", "has no `prompt`"),
        ("trl-prompt-completion", {"prompt": "a", "completion": "b", "label": True}, "label", "unpaired"),
        ("unpaired", {"prompt": "a", "completion": "b", "label": 0.5}, "label", "true or false (or 1 or 0)"),
        ("unpaired", {"prompt": "a", "label": True}, "completion", "is missing (or output, response)"),
        ("alpaca", {"instruction": "a", "output": "b", "kto_tag": False}, "kto_tag", "`format: unpaired`"),
        ("alpaca", change("alpaca", 2, history=[["a"]]), "history[0]", "must hold two texts"),
        ("alpaca", change("alpaca", 2, history=[["a", " "]]), "history[0][1]", "is empty"),
        ("alpaca", change("alpaca", 2, system="\0"), "system", "NUL"),
        ("alpaca", change("alpaca", 2, instruction=" "), "instruction", "is empty"),
        ("alpaca-preference", change("alpaca-preference", input=[]), "input", "must be text, not a list"),
        ("alpaca-preference", change("alpaca-preference", rejected=None), "rejected", "not null"),
        (
            "alpaca-preference",
            change("alpaca-preference", chosen_response="x"),
            "chosen_response",
            "and `chosen` hold the same part",
        ),
        (
            "sharegpt-preference",
            change("sharegpt-preference", chosen={"from": "human", "value": "I ask."}),
            "chosen",
            "ends with a user message",
        ),
        (
            "sharegpt-preference",
            change("sharegpt-preference", conversations=[{"from": "gpt", "value": "Hi."}]),
            "conversations",
            "no user message",
        ),
        (
            "sharegpt-preference",
            change("sharegpt-preference", 2, system="Be long."),
            "system",
            "beside another system message",
        ),
        ("sharegpt-preference", change("sharegpt-preference", 1, tools="{"), "tools", "neither JSON nor"),
        (
            "ms-swift",
            change("ms-swift", 1, rejected_messages=TURNS),
            "rejected_messages",
            "before the last answer",
        ),
        ("ms-swift", change("ms-swift", rejected_tools="[]"), "rejected_tools", "differs from `tools`"),
        ("openrlhf", change("openrlhf", chosen=OTHER), "chosen", "not the prompt's"),
        (
            "nemo-rl",
            {"context": OTHER[:1], "completions": [{"rank": 0, "completion": OTHER[:1]}]},
            "completions[0].completion",
            "ends with a user message",
        ),
        ("trl-preference", change("trl-preference", 4, prompt="Sea?"), "prompt", "is not in what `chosen`"),
        (
            "trl-messages",
            {"messages": [{"role": "critic", "content": "x"}]},
            "messages[0].role",
            "one of system",
        ),
        (
            "trl-messages",
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            "messages[0].content",
            "text only",
        ),
        ("trl-messages", {"messages": [{"role": "assistant", "content": "x"}]}, "messages", "empty list"),
        ("ultrafeedback", change("ultrafeedback", instruction=""), "instruction", "is empty"),
        (
            "ultrafeedback",
            {"instruction": "a", "completions": [{"response": "b"}, {"response": "c"}]},
            "completions",
            "neither ratings nor",
        ),
        (
            "ultrafeedback-binarized",
            change("ultrafeedback-binarized", score_chosen=1),
            "score_chosen",
            "is lower than `score_rejected`",
        ),
        (
            "nectar",
            change("nectar", answers=[{"answer": "a", "rank": 0}]),
            "answers[0].rank",
            "from 1, the best",
        ),
        ("summarize-from-feedback", change("summarize-from-feedback", choice=2), "choice", "0, 1, not 2"),
        ("webgpt", change("webgpt", score_0="high"), "score_0", "a number, not 'high'"),
        ("shp", change("shp", score_ratio=-2), "score_ratio", "from 0 up"),
        ("shp", change("shp", labels=True), "labels", "must be a number, not true"),
        ("helpsteer2", change("helpsteer2", preference_strength=4), "preference_strength", "from -3 to 3"),
        ("helpsteer3", change("helpsteer3", overall_preference=None), "overall_preference", "not null"),
        ("rewardbench2", change("rewardbench2", rejected=[]), "rejected", "at least one response"),
        ("arena", change("arena", winner="model_c"), "winner", "must be one of model_a, model_b, tie"),
        ("arena", change("arena", conversation_b=OTHER), "conversation_b", "a ranking has one prompt"),
        ("pandalm", change("pandalm", annotator2=3), "annotator2", "0, 1, 2, not 3"),
        ("pandalm", change("pandalm", response1=True), "response1", "must be text, not true"),
        (
            "finegrained-rlhf",
            change("finegrained-rlhf", preference=[1, 2, 1, 1, 1, 1]),
            "preference",
            "contradicts itself: 1 beats 2, 2 beats 3, 3 beats 1",
        ),
        (
            "finegrained-rlhf",
            change("finegrained-rlhf", preference=[0, 1, 1, 0, 1, 1]),
            "preference",
            "contradicts itself: 3 ties with 2, 2 ties with 1, 1 beats 3",
        ),
        ("finegrained-rlhf", change("finegrained-rlhf", preference=[1]), "preference", "six judgements"),
        ("alpaca", {"instruction": "Sky?", "output": " "}, "output", "is empty"),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "Hi"}]},
            "conversations",
            "the assistant's",
        ),
    ],
)
def test_what_is_wrong_is_told_by_the_sources_own_column(
    name: str, row: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(RecordError) as caught:
        records_of(FORMATS[name], [row])
    assert caught.value.field == field
    assert words in str(caught.value)


AXIS = SAMPLES["summarize-axis"]["rows"]


@pytest.mark.parametrize(
    ("name", "rows", "reason"),
    [
        ("ultrafeedback", [change("ultrafeedback", completions=[])], "fewer than two completions"),
        ("nectar", [change("nectar", answers=[{"answer": "a", "rank": 1}])], "fewer than two answers"),
        (
            "summarize-axis",
            [row | {"summary": row["summary"] | {"axes": {"overall": None}}} for row in AXIS[2:]],
            "summaries of which fewer than two have an overall rating",
        ),
    ],
)
def test_too_little_to_rank_is_left_out_with_its_reason(
    name: str, rows: list[dict[str, Any]], reason: str
) -> None:
    assert read(FORMATS[name], rows) == [LeftOut(reason)]


def test_a_label_that_its_own_votes_contradict_is_an_error() -> None:
    (record,) = records_of(FORMATS["shp"], [change("shp", labels=1, score_A=9, score_B=3)])
    assert record.to_dict()["ranks"] == [1, 2]
    for labels, votes in ((0, (9, 3)), (1, (3, 9))):
        row = change("shp", labels=labels, score_A=votes[0], score_B=votes[1])
        with pytest.raises(RecordError, match="say the opposite: 1 is for A, 0 for B"):
            records_of(FORMATS["shp"], [row])


def test_a_blank_instruction_is_left_out_before_its_input() -> None:
    record, *_ = records_of(FORMATS["pandalm"], [change("pandalm", instruction=" ", input="Rain.")])
    assert record.prompt == "Rain."


def tree(*replies: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": {"text": "Sky?", "role": "prompter", "replies": list(replies)}}


def answer(text: str = "Blue.", rank: Any = 0, **more: Any) -> dict[str, Any]:
    return {"text": text, "role": "assistant", "rank": rank, "replies": []} | more


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        (tree(answer(), answer(" ", 1)), "prompt.replies[1].text", "is empty"),
        (tree(answer(), answer("Grey.", -1)), "prompt.replies[1].rank", "from 0, the best"),
        (tree(answer(), answer("Grey.", "last")), "prompt.replies[1].rank", "a number, not 'last'"),
        (tree(answer(role="judge")), "prompt.replies[0].role", "prompter or assistant, not 'judge'"),
        (tree(answer(replies=3)), "prompt.replies[0].replies", "must be a list, not 3"),
        ({"prompt": "Sky?"}, "prompt", "must be the first message"),
    ],
)
def test_a_message_in_a_tree_is_named_by_where_it_stands(row: Any, field: str, words: str) -> None:
    with pytest.raises(RecordError) as caught:
        records_of(FORMATS["oasst-trees"], [row])
    assert (caught.value.field, words in str(caught.value)) == (field, True), str(caught.value)


def test_only_answers_of_the_assistant_are_ranked() -> None:
    asked = answer("Or the sea?", 0, role="prompter")
    (record,) = records_of(FORMATS["oasst-trees"], [tree(answer(), asked, answer("Grey.", 1))])
    assert record.to_dict()["responses"] == ["Blue.", "Grey."]
    assert records_of(FORMATS["oasst-trees"], [tree(answer(), asked)]) == []
    assert left_out(FORMATS["oasst-trees"], [tree(answer(), asked)]) == [
        "a question with a single answer",
        "a question with no answer",
    ]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "nan", "1e999", 10**400, True, None, [1]])
def test_what_is_no_finite_number_is_no_score(score: Any) -> None:
    with pytest.raises(RecordError, match="must be a number") as caught:
        records_of(FORMATS["webgpt"], [change("webgpt", score_1=score)])
    assert caught.value.field == "score_1"


def test_a_tree_ten_thousand_messages_deep_is_read() -> None:
    row = tree(answer(), answer("Grey.", 1))
    for _ in range(5_000):
        row = tree(answer(replies=[row["prompt"]]))
    (record,) = records_of(FORMATS["oasst-trees"], [row])
    assert len(record.prompt) == 10_001


def test_flat_messages_of_a_tree_must_follow_each_other() -> None:
    rows = SAMPLES["oasst-messages"]["rows"]
    with pytest.raises(RecordError, match="comes back after another tree's messages: sort the file"):
        records_of(FORMATS["oasst-messages"], [*rows, rows[2]])


def test_flat_messages_are_gathered_tree_by_tree_without_holding_the_file() -> None:
    rows = SAMPLES["oasst-messages"]["rows"]
    taken: list[int] = []

    def stream() -> Any:
        for i, row in enumerate(rows, 1):
            taken.append(i)
            yield f"file:{i}", row

    gather = FORMATS["oasst-messages"].gather
    assert gather is not None
    places = [(place, len(taken)) for place, _ in gather(stream())]
    assert places == [("file:1", 10), ("file:10", 12)]  # the first tree left as soon as the second began


def test_a_table_holds_lists_and_numbers_as_text() -> None:
    (record,) = FORMATS["align"].read({"prompt": "Hi", "responses": '["a", "b"]', "ranks": "[2, 1]"})
    assert record.to_dict() == {"prompt": "Hi", "responses": ["a", "b"], "ranks": [2, 1]}
    (record,) = FORMATS["align"].read({"prompt": "Hi", "responses": "['a', \"b's\"]", "ranks": "[None, 1]"})
    assert record.to_dict() == {"prompt": "Hi", "responses": ["a", "b's"], "ranks": [None, 1]}
    with pytest.raises(RecordError, match="`responses` begins like a list and cannot be read as one"):
        FORMATS["align"].read({"prompt": "Hi", "responses": "[a, b]", "ranks": "[2, 1]"})
    (record,) = FORMATS["align"].read({"prompt": "[1] or [2]?", "response": "[1]"})
    assert (record.prompt, record.response) == ("[1] or [2]?", "[1]")
    (record,) = FORMATS["helpsteer2"].read(change("helpsteer2", preference_strength="-3"))
    assert record.to_dict() == SAMPLES["helpsteer2"]["expected"][0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"frage": "x", "a": "y"}, ["'frage', 'a'", "`format:`", "`columns:`", "hh-rlhf"]),
        ({}, ["these columns: none"]),
        ({"prompt": "a", "answer": "b", "label": True}, ["'prompt', 'answer', 'label'"]),
        ({"text": "a whole document"}, ["no known format"]),
    ],
)
def test_unknown_columns_are_listed_with_what_to_do(row: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        detect(row)
    assert [word for word in words if word not in str(caught.value)] == []


def test_columns_that_fit_two_formats_are_not_guessed() -> None:
    row = change("shp") | change("webgpt")
    with pytest.raises(UserError, match=r"fit several formats: name one with `format:` \(webgpt, shp\)"):
        detect(row)


def test_a_misspelt_record_of_ours_is_told_the_right_name() -> None:
    row = {"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, 2], "strenght": 1}
    with pytest.raises(RecordError, match="did you mean `strength`"):
        list(detect(row).read(row))


def test_a_ranking_of_answers_is_never_called_ranks_by_a_guess() -> None:
    row = {"prompt": "Hi", "responses": ["a", "b", "c"], "ranking": [2, 3, 1]}
    with pytest.raises(UserError, match=r"best first \(if `ranking` holds their ranks instead, write"):
        detect(row)
