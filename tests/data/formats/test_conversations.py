"""Messages under many names: roles, calls, observations, and what is no text."""

import json
from typing import Any

import pytest

from align.data.formats.conversations import last_answer, turns
from align.values import RecordError

CALL = {"name": "w", "arguments": {"b": "Köln", "a": 1}}
IN_OUR_FORM = {"type": "function", "function": {"name": "w", "arguments": '{"b": "Köln", "a": 1}'}}


def said(*messages: tuple[str, Any]) -> dict[str, Any]:
    return {"talk": [{"from": role, "value": content} for role, content in messages]}


@pytest.mark.parametrize("call", [json.dumps(CALL), str(CALL), CALL, [CALL], json.dumps([CALL])])
def test_sharegpt_calls_and_observations_are_turns(call: Any) -> None:
    row = said(("human", "Weather?"), ("function_call", call), ("observation", "20"), ("gpt", "Warm."))
    prompt, answer = last_answer(turns(row, "talk", role="from", content="value"), "talk")
    assert answer == "Warm."
    assert prompt == [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [IN_OUR_FORM]},
        {"role": "tool", "content": "20"},
    ]


def test_openai_calls_keep_their_ids_and_names() -> None:
    called = IN_OUR_FORM | {"id": "c1"}
    row = {
        "messages": [
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            },
            {"role": "user", "content": "Weather?", "name": "ana", "id": 7},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [called],
                "reasoning": "hm",
                "tool_call_id": None,
            },
            {"role": "tool", "content": {"t": 20}, "name": "w", "tool_call_id": "c1"},
        ]
    }
    expected = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [called], "reasoning_content": "hm"},
        {"role": "tool", "content": '{"t": 20}', "name": "w", "tool_call_id": "c1"},
    ]
    assert turns(row, "messages") == expected
    assert turns({"messages": json.dumps(row["messages"])}, "messages") == expected
    assert turns({"messages": str(row["messages"])}, "messages") == expected


def test_a_files_own_tags_come_before_ours() -> None:
    row = said(("Q", "Hi"), ("system", "20"), ("fc", json.dumps(CALL)))
    tags = {"Q": "user", "system": "tool", "fc": "function_call"}
    roles = [message["role"] for message in turns(row, "talk", role="from", content="value", tags=tags)]
    assert roles == ["user", "tool", "assistant"]


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        ({"role": "critic", "content": "x"}, "m[1].role", "must be one of system"),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "m[1].content",
            "an image: align trains on text",
        ),
        ({"role": "user", "content": "x", "images": ["a.png"]}, "m[1].images", "holds an image"),
        ({"role": "user", "content": "x", "audio": "a.wav"}, "m[1].audio", "holds audio"),
        ({"role": "user", "content": [{"type": "tool_use"}]}, "m[1].content", "a part of type 'tool_use'"),
        ({"role": "assistant", "content": "x", "weight": 0}, "m[1].weight", "not to be learnt"),
        ({"role": "assistant", "content": "x", "train": False}, "m[1].train", "not to be learnt"),
        ({"role": "function_call", "content": '{"name": '}, "m[1].content", "a call as JSON"),
        ({"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}, "m[1].tool_calls[0]", "`name`"),
        ({"role": "user"}, "m[1].content", "is missing"),
        ("Hi", "m[1]", "must be an object"),
    ],
)
def test_what_is_no_text_and_no_known_turn_is_refused(message: Any, field: str, words: str) -> None:
    with pytest.raises(RecordError) as caught:
        turns({"m": [{"role": "user", "content": "Hi", "images": [], "weight": 0}, message]}, "m")
    assert caught.value.field == field
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("more", "words"),
    [({"tool_calls": [CALL]}, "ends with a tool call"), ({"reasoning_content": "hm"}, "reasoning beside")],
)
def test_an_answer_that_is_more_than_text_is_refused(more: dict[str, Any], words: str) -> None:
    talk = turns(
        {"m": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x", **more}]}, "m"
    )
    with pytest.raises(RecordError, match=words):
        last_answer(talk, "m")


def test_parts_of_a_message_may_hold_their_text_under_value() -> None:
    """As LLaMA-Factory's own samples are written since its version 1 (data/v1_sft_demo.jsonl)."""
    asked = [{"type": "text", "value": "Is it "}, {"type": "text", "value": "open?"}]
    said = {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "Yes."}]}
    assert turns(said, "messages")[0] == {"role": "user", "content": "Is it open?"}
    thought = {"role": "assistant", "content": [{"type": "reasoning", "value": "Hm."}]}
    with pytest.raises(RecordError, match="holds a part of type 'reasoning'"):
        turns({"messages": [thought]}, "messages")


@pytest.mark.parametrize("key", ["weight", "train", "loss", "loss_weight"])
def test_an_answer_that_is_not_to_be_learnt_is_no_demonstration(key: str) -> None:
    """`loss` is ms-swift's, `train` axolotl's, `loss_weight` LLaMA-Factory's."""
    asked, said = {"role": "user", "content": "Open?", key: 0.0}, {"role": "assistant", "content": "Yes."}
    with pytest.raises(RecordError, match="this answer is not to be learnt"):
        turns({"m": [asked, said | {key: False}]}, "m")
    assert len(turns({"m": [asked, said | {key: True}]}, "m")) == 2
    assert len(turns({"m": [asked, said | {key: None}]}, "m")) == 2
