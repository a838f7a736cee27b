"""Instructions with the answer that was written for them: Alpaca, Dolly, ShareGPT, questions, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from align.data.formats.base import (
    UNUSED,
    Format,
    LeftOut,
    Record,
    Row,
    has_texts,
    items,
    joined,
    list_of,
    make,
    text,
    unused,
)
from align.data.formats.parts import Names, demonstration, filled, is_verdict
from align.records import Demonstration
from align.values import RecordError

ALPACA = Names(prompt=("instruction",), about=("input",), response=("output",))
DOLLY = Names(prompt=("instruction",), about=("context",), response=("response",))
SHAREGPT = Names(messages=("conversations",))
QUESTIONS = Names(
    prompt=("query", "question", "instruction"),
    about=("input",),
    response=("response", "answer"),
    system=("system", "system_prompt"),
)
JUDGED = {"kto_tag", "chosen", "rejected", "rejected_response", "rejected_messages"}


def is_demonstration(row: Row) -> bool:
    """Whether nothing in a row compares its answer with another, or judges it."""
    return not JUDGED & set(row) and not is_verdict(row.get("label"))


def _self_instruct(row: Row) -> list[Record | LeftOut]:
    """One demonstration an instance."""
    found: list[Record | LeftOut] = []
    for i in range(len(items(row, "instances"))):
        name = f"instances[{i}]"
        response, about = text(row, "instances", i, "output"), row["instances"][i].get("input")
        prompt = joined(text(row, "instruction"), about, f"{name}.input")
        names = {"prompt": "instruction", "response": f"{name}.output"}
        found.append(make(Demonstration, {"prompt": prompt, "response": response}, names))
    return found or [LeftOut("an instruction without an instance")]


def _sharegpt(row: Row) -> list[Record]:
    """`conversations`, or ms-swift's `conversation`, in which a turn holds what both said."""
    name = filled(row, ("conversations", "conversation"))
    if name != "conversation":
        return demonstration(SHAREGPT, row)
    said: list[dict[str, Any]] = []
    for i in range(len(items(row, name))):
        for key, role in (("human", "user"), ("assistant", "assistant")):
            said.append({"role": role, "content": text(row, name, i, key)})
    if not said:
        raise RecordError(name, "is empty")
    return demonstration(SHAREGPT, {**row, "conversations": said})


def _detect_sharegpt(row: Row) -> bool:
    talks = list_of(row, "conversations", Mapping) and all(
        {"value", "from"} <= set(part) or ({"value", "content"} & set(part) and "role" in part)
        for part in row["conversations"]
    )
    pairs = list_of(row, "conversation", Mapping) and all(
        {"human", "assistant"} <= set(part) for part in row["conversation"]
    )
    return (talks or pairs) and is_demonstration(row)


def _detect_questions(row: Row) -> bool:
    asked = [name for name in QUESTIONS.prompt if isinstance(row.get(name), str)]
    others = {"context", "output", "answer"} & set(row)  # a question with an `answer` may be of a test
    return bool(asked) and has_texts(row, "response") and not others and is_demonstration(row)


DEMONSTRATION_FORMATS = (
    Format(
        "alpaca",
        "`instruction`, `input`, `output`: the input after a blank line; `system`, `history` before them",
        partial(demonstration, ALPACA),
        lambda row: has_texts(row, "instruction", "output") and is_demonstration(row),
        columns=ALPACA.columns("response", text=UNUSED),
    ),
    Format(
        "dolly",
        "`instruction`, `context`, `response`: the context follows the instruction after a blank line",
        partial(demonstration, DOLLY),
        lambda row: has_texts(row, "instruction", "response") and "context" in row and is_demonstration(row),
        columns=DOLLY.columns("response", category=UNUSED),
    ),
    Format(
        "question-answer",
        "`question` or `query`, and `response` (if named: or `answer`); `system`, `system_prompt`, `history`",
        partial(demonstration, QUESTIONS),
        _detect_questions,
        columns=QUESTIONS.columns("response", id=UNUSED),
    ),
    Format(
        "sharegpt",
        "`conversations[{from, value}]`, `system`, `tools`: the last answer is the demonstration",
        _sharegpt,
        _detect_sharegpt,
        columns=SHAREGPT.columns(conversations="prompt and response", conversation="prompt and response")
        | unused("id"),
    ),
    Format(
        "self-instruct",
        "`instruction`, `instances[{input, output}]`: one demonstration an instance",
        _self_instruct,
        lambda row: has_texts(row, "instruction") and list_of(row, "instances", Mapping),
        columns={"instruction": "prompt", "instances": "prompt and response"}
        | unused("id name is_classification"),
        lists=("instances",),
    ),
)
