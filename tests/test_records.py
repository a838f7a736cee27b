"""What counts as a record, and what a person is told when a row is not one."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from align.errors import UserError
from align.messages import messages_in, words_of
from align.records import Demonstration, Prompt, Ranking, prompt_key
from align.values import RecordError

texts = st.text('aZ 0é中🙂\n\t\r"\\/\u2028\x1f\u0301', min_size=1, max_size=20).filter(str.strip)
TOOLS = [{"name": "w", "description": "Weather ☀", "parameters": {"b": 1, "a": 2}}]
CALL = {"type": "function", "id": "c1", "function": {"name": "w", "arguments": '{"b": "Köln", "a": 1}'}}
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts}
) | st.just({"role": "assistant", "content": "", "tool_calls": [CALL]})
prompts = texts | st.lists(turns, max_size=4).flatmap(
    lambda head: texts.map(lambda last: [*head, {"role": "user", "content": last}])
)


@st.composite
def rankings(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(2, 9))
    ranks = draw(st.lists(st.none() | st.integers(1, 30), min_size=count, max_size=count).filter(any))
    row = {
        "prompt": draw(prompts),
        "responses": draw(st.lists(texts, min_size=count, max_size=count)),
        "ranks": ranks,
    }
    extra = {
        "labeler": texts,
        "strength": st.floats(0, 10),
        "guideline": texts,
        "shown_order": st.permutations(range(count)),
        "seconds": st.integers(0, 10_000),
        "source": texts,
    }
    asked = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
    assume(any(text.strip() != asked.strip() for text in row["responses"]))
    return row | draw(st.fixed_dictionaries({}, optional=extra))


def ranking(**changes: Any) -> dict[str, Any]:
    return {"prompt": "Hi", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]} | changes


def messages(*roles: str) -> dict[str, Any]:
    return {"prompt": [{"role": role, "content": "text"} for role in roles]}


@given(rankings())
def test_a_ranking_survives_the_way_to_disk_and_back(row: dict[str, Any]) -> None:
    record = Ranking.from_dict(row)
    written = json.loads(json.dumps(record.to_dict()))
    assert Ranking.from_dict(written) == Ranking.from_checked(written) == record
    assert record.to_dict() == row


@given(prompts, texts)
def test_demonstrations_and_prompts_survive_too(prompt: Any, response: str) -> None:
    assert Demonstration.from_dict({"prompt": prompt, "response": response}).to_dict() == {
        "prompt": prompt,
        "response": response,
    }
    assert Prompt.from_dict({"prompt": prompt}).to_dict() == {"prompt": prompt}


@pytest.mark.parametrize(
    ("kind", "row", "field", "words"),
    [
        (Demonstration, {"prompt": "Hi"}, "response", "is missing"),
        (Demonstration, {"response": "Hi"}, "prompt", "is missing"),
        (Demonstration, {"prompt": "Hi", "response": None}, "response", "must be text, not null"),
        (Demonstration, {"prompt": "Hi", "response": ["a"]}, "response", "must be text, not a list"),
        (Demonstration, {"prompt": "Hi", "response": ""}, "response", "is empty"),
        (Demonstration, {"prompt": "Hi", "response": " \n\t"}, "response", "is empty"),
        (Demonstration, {"prompt": "", "response": "a"}, "prompt", "is empty"),
        (Demonstration, {"prompt": "Hi", "response": "a\0b"}, "response", "NUL"),
        (Demonstration, {"prompt": "Hi", "response": "a\ud800b"}, "response", "surrogate"),
        (Demonstration, {"prompt": "Hi", "respones": "a"}, "respones", "did you mean `response`?"),
        (Demonstration, {"prompt": "Hi", "Response": "a"}, "Response", "did you mean `response`?"),
        (Demonstration, {"prompt": "Hi", "zzz": "a"}, "zzz", "a demonstration has prompt, response"),
        (Demonstration, {"prompt": "Hi", "a\nb": "a"}, "a\\nb", "unknown key"),
        (Demonstration, ["Hi", "a"], "", "an object with keys, not a list"),
        (Prompt, {"prompt": 3}, "prompt", "text or a list of messages, not a number"),
        (Prompt, {"prompt": []}, "prompt", "empty list"),
        (Prompt, {"prompt": ["Hi"]}, "prompt[0]", "role and content, not text"),
        (Prompt, {"prompt": "Hi", "response": "a"}, "response", "unknown key"),
        (Prompt, messages("user", "assistant"), "prompt", "ends with an assistant message"),
        (Prompt, messages("system"), "prompt", "no user message"),
        (Prompt, messages("user", "system"), "prompt", "the last one must be the user's"),
        (Prompt, messages("human"), "prompt[0].role", "one of system, user, assistant, tool, not 'human'"),
        (Prompt, {"prompt": [{"role": "user"}]}, "prompt[0].content", "is missing"),
        (Prompt, {"prompt": [{"content": "Hi"}]}, "prompt[0].role", "is missing"),
        (Prompt, {"prompt": [{"role": "user", "content": 5}]}, "prompt[0].content", "text, not a number"),
        (Prompt, {"prompt": [{"role": ["user"], "content": "a"}]}, "prompt[0].role", "text, not a list"),
        (
            Prompt,
            {"prompt": [{"role": "user", "text": "a"}]},
            "prompt[0].text",
            "a message has role, content",
        ),
        (Prompt, {"prompt": [{"role": "user", "content": ""}]}, "prompt[0].content", "is empty"),
        (
            Prompt,
            {"prompt": "array([{'role': 'user', 'content': 'Hi'}], dtype=object)"},
            "prompt",
            "looks like messages, and is neither JSON nor a Python literal",
        ),
        (
            Prompt,
            {"prompt": [{"role": "user", "content": "a", "tool_calls": [CALL]}]},
            "prompt[0].tool_calls",
            "no part of a message of the user",
        ),
        (
            Prompt,
            {"prompt": [{"role": "assistant", "tool_calls": [{"name": "w", "arguments": "{oops"}]}]},
            "prompt[0].tool_calls[0].arguments",
            "neither JSON nor a Python literal",
        ),
        (Prompt, {"prompt": "Hi", "tools": [{"type": "function"}]}, "tools[0]", "must be a tool"),
        (Prompt, {"prompt": "Hi", "tools": "{oops"}, "tools", "neither JSON"),
        (Prompt, {"prompt": "[{'role': 'user', 'conte"}, "prompt", "looks like messages"),
        (Ranking, ranking(responses=["Hi", " Hi\n"], ranks=[1, 2]), "responses", "are the prompt itself"),
        (Ranking, {"prompt": "Hi", "responses": ["a", "b"]}, "ranks", "is missing"),
        (Ranking, ranking(responses="abc"), "responses", "list of texts, not text"),
        (Ranking, ranking(responses=["a"], ranks=[1]), "responses", "has 1: a ranking needs at least 2"),
        (Ranking, ranking(responses=[], ranks=[]), "responses", "has 0"),
        (Ranking, ranking(responses=["a", "", "c"]), "responses[1]", "is empty"),
        (Ranking, ranking(responses=["a", "b", 3]), "responses[2]", "text, not a number"),
        (Ranking, ranking(ranks=[1, 2]), "ranks", "has length 2, and there are 3 responses"),
        (Ranking, ranking(ranks="123"), "ranks", "list of whole numbers and nulls, not text"),
        (Ranking, ranking(ranks=[None] * 3), "ranks", "every response unranked"),
        (Ranking, ranking(ranks=[1, 2, -1]), "ranks[2]", "1 (the best) or more, not -1"),
        (Ranking, ranking(ranks=[0, 1, 2]), "ranks[0]", "1 (the best) or more, not 0"),
        (Ranking, ranking(ranks=[1, 2.5, 3]), "ranks[1]", "whole number or null, not 2.5"),
        (Ranking, ranking(ranks=[1, True, 3]), "ranks[1]", "whole number or null, not true"),
        (Ranking, ranking(ranks=["1", 2, 3]), "ranks[0]", "whole number or null, not text"),
        (Ranking, ranking(seconds="5"), "seconds", "number, not text"),
        (Ranking, ranking(seconds=10**400), "seconds", "from 0 up"),
        (Ranking, ranking(strength=-1), "strength", "from 0 up"),
        (Ranking, ranking(labeler=7.5), "labeler", "text, not a number"),
        (Ranking, ranking(shown_order=[0, 1, 1]), "shown_order", "each of 0 to 2 once"),
        (Ranking, ranking(shown_order=[0, "1", 2]), "shown_order", "each of 0 to 2 once"),
        (Ranking, ranking(labeller="x"), "labeller", "did you mean `labeler`?"),
        (
            Ranking,
            {"prompt": "Hi", "chosen": "a", "rejected": "b"},
            "chosen",
            "a ranking has prompt, responses",
        ),
    ],
)
def test_a_bad_row_names_its_field(kind: type[Ranking], row: Any, field: str, words: str) -> None:
    with pytest.raises(RecordError) as caught:
        kind.from_dict(row)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("ranks", [[1, 5, 9], [2, 2, 2], [None, 1, 2], [3, 1, None]])
def test_ranks_may_skip_numbers_tie_and_leave_out(ranks: list[int | None]) -> None:
    assert Ranking.from_dict(ranking(ranks=ranks)).ranks == tuple(ranks)


def test_null_in_an_optional_part_is_as_if_it_were_not_there() -> None:
    assert Ranking.from_dict(ranking(labeler=None, seconds=None)) == Ranking.from_dict(ranking())


def test_the_prompts_key_is_the_same_on_every_machine_and_for_text_and_its_message() -> None:
    # printf '%s' '[{"content": "Hi", "role": "user"}]' | sha256sum
    assert prompt_key("Hi") == "b03cbbe7211f66c1387c8eabd4b820df435fb12c688e78bcf44d9a53f6f0fd7e"
    assert prompt_key(({"content": "Hi", "role": "user"},)) == prompt_key("Hi")
    assert prompt_key(({"role": "system", "content": "Hi"},)) != prompt_key("Hi")
    assert prompt_key("Hi ") != prompt_key("Hi")


def test_tools_beside_a_prompt_are_its_first_message_and_read_back_equal() -> None:
    for written in (TOOLS, json.dumps(TOOLS), str(TOOLS), [json.dumps(TOOLS[0])]):
        record = Demonstration.from_dict({"prompt": "Hi", "response": "a", "tools": written})
        assert [message["role"] for message in record.prompt if isinstance(message, dict)] == [
            "tools",
            "user",
        ]
        written = json.loads(json.dumps(record.to_dict(), sort_keys=True))
        assert Demonstration.from_dict(written) == Demonstration.from_checked(written) == record
        assert list(json.loads(record.prompt[0]["content"])[0]["function"]["parameters"]) == ["b", "a"]  # type: ignore[index, call-overload]
    for nothing in (None, "", [], "[]"):
        assert Prompt.from_dict({"prompt": "Hi", "tools": nothing}) == Prompt("Hi")


def test_a_prompt_may_end_with_what_a_tool_said_and_calls_are_kept_in_one_form() -> None:
    bare = {"name": "w", "arguments": {"b": "Köln", "a": 1}}
    prompt = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [bare], "reasoning_content": None},
        {"role": "tool", "content": "", "name": "w", "tool_call_id": None},
    ]
    record = Prompt.from_dict({"prompt": prompt})
    called = {"type": "function", "function": {"name": "w", "arguments": '{"b": "Köln", "a": 1}'}}
    assert record.prompt == (
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "", "name": "w"},
    )
    assert words_of(record.prompt[1]) == 'w({"b": "Köln", "a": 1})'
    assert Prompt.from_dict(record.to_dict()) == Prompt.from_checked(record.to_dict()) == record


MESSAGES = [{"role": "system", "content": "Be 'brief'.\n"}, {"role": "user", "content": "a}\n {b", "x": None}]


@pytest.mark.parametrize(
    "written",
    [json.dumps(MESSAGES), str(MESSAGES), str(np.array(MESSAGES, dtype=object)), f" {MESSAGES}\n"],
    ids=["json", "python", "numpy", "spaces"],
)
def test_a_text_that_holds_messages_is_those_messages(written: str) -> None:
    assert messages_in(written, "prompt") == MESSAGES


@pytest.mark.parametrize("text", ["Hi", "[1, 2]", "[{'x': 1}]", '[{"x": "role"}] what is this?', "[]", ""])
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert messages_in(text, "prompt") == text


def test_numbers_and_arrays_as_libraries_give_them() -> None:
    given = {
        "prompt": np.array([{"role": "user", "content": "Hi"}], dtype=object),
        "responses": np.array(["a", "b", "c"]),
        "ranks": np.array([1.0, np.nan, 2.0]),
        "labeler": np.float64(3.0),
        "strength": np.float32(0.5),
        "seconds": float("nan"),
        "shown_order": np.array([2, 0, 1]),
    }
    row = Ranking.from_dict(given).to_dict()
    assert json.loads(json.dumps(row)) == {
        "prompt": [{"role": "user", "content": "Hi"}],
        "responses": ["a", "b", "c"],
        "ranks": [1, None, 2],
        "labeler": "3",
        "strength": 0.5,
        "shown_order": [2, 0, 1],
    }
    assert Ranking.from_dict(ranking(ranks=(np.int64(1), 2.0, 3), labeler=7)).labeler == "7"
