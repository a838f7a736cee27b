"""Instructions with the answer that was written for them: Alpaca, Dolly, ShareGPT, Self-Instruct's seeds."""

from __future__ import annotations

from collections.abc import Mapping

from align.data.formats.base import Format, Record, Row, has_texts, items, joined, list_of, make, text
from align.data.formats.conversations import last_answer, turns
from align.records import Demonstration


def _answered(instruction: str, about: object, about_name: str, response: str, name: str) -> Demonstration:
    prompt = joined(instruction, about, about_name)
    names = {"prompt": "instruction", "response": name}
    return make(Demonstration, {"prompt": prompt, "response": response}, names)


def _alpaca(row: Row) -> list[Record]:
    return [_answered(text(row, "instruction"), row.get("input"), "input", text(row, "output"), "output")]


def _dolly(row: Row) -> list[Record]:
    asked, about = text(row, "instruction"), row.get("context")
    return [_answered(asked, about, "context", text(row, "response"), "response")]


def _self_instruct(row: Row) -> list[Record]:
    """One demonstration an instance."""
    found: list[Record] = []
    for i in range(len(items(row, "instances"))):
        name = f"instances[{i}].output"
        output, about = text(row, "instances", i, "output"), row["instances"][i].get("input")
        found.append(_answered(text(row, "instruction"), about, f"instances[{i}].input", output, name))
    return found


def _sharegpt(row: Row) -> list[Record]:
    conversation = turns(row, "conversations", role="from", content="value")
    prompt, answer = last_answer(conversation, "conversations")
    names = {"prompt": "conversations", "response": "conversations"}
    return [make(Demonstration, {"prompt": prompt, "response": answer}, names)]


def _detect_sharegpt(row: Row) -> bool:
    return list_of(row, "conversations", Mapping) and all(
        {"from", "value"} <= set(part) for part in row["conversations"]
    )


DEMONSTRATION_FORMATS = (
    Format(
        "alpaca",
        "`instruction`, `input`, `output`: the input follows the instruction after a blank line",
        _alpaca,
        lambda row: has_texts(row, "instruction", "output"),
    ),
    Format(
        "dolly",
        "`instruction`, `context`, `response`: the context follows the instruction after a blank line",
        _dolly,
        lambda row: has_texts(row, "instruction", "response") and "context" in row,
    ),
    Format(
        "sharegpt",
        "`conversations[{from, value}]`: the last answer is the demonstration, all before it the prompt",
        _sharegpt,
        _detect_sharegpt,
    ),
    Format(
        "self-instruct",
        "`instruction`, `instances[{input, output}]`: one demonstration an instance",
        _self_instruct,
        lambda row: has_texts(row, "instruction") and list_of(row, "instances", Mapping),
    ),
)
