"""The three kinds of records that people write: prompts, demonstrations and rankings.

Plain data without torch. `from_dict` is the one place where a row from outside becomes a record;
`from_checked` reads what `to_dict` of a checked record wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from align.messages import TOOLS, Messages, checked_message, messages_in, with_tools
from align.values import (
    RecordError,
    checked_list,
    checked_name,
    checked_number,
    checked_text,
    in_json_words,
    is_nan,
    is_real,
    needed_part,
    optional_part,
    refuse_unknown,
    unpacked,
    whole_number,
)

RecordKind = Literal["demonstrations", "rankings", "prompts"]  # as a recipe's data has them


@dataclass(frozen=True)
class Prompt:
    """What the policy is asked: text, or the messages of a conversation that waits for an answer."""

    kind: ClassVar[RecordKind] = "prompts"
    prompt: str | Messages

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Prompt:
        """Check a row; raises RecordError."""
        _check_keys(row, cls)
        return cls(_prompt(row))

    @classmethod
    def from_checked(cls, row: Mapping[str, Any]) -> Prompt:
        """The record that a row of `to_dict` was, without checking it again."""
        return cls(_frozen(row["prompt"]))

    def to_dict(self) -> dict[str, Any]:
        """The row that `from_dict` reads back to an equal record."""
        return {"prompt": _plain(self.prompt)}


@dataclass(frozen=True)
class Demonstration:
    """A prompt with the response that a person wrote; `parts` of it may come from other responses."""

    kind: ClassVar[RecordKind] = "demonstrations"
    prompt: str | Messages
    response: str
    parts: tuple[Mapping[str, Any], ...] | None = None  # each with the keys of _PART
    checks: tuple[str, ...] | None = None  # what the person had their text checked by before it was sent

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Demonstration:
        """Check a row; raises RecordError."""
        _check_keys(row, cls)
        response = checked_text(needed_part(row, "response"), "response")
        parts = optional_part(row, "parts", _parts)
        return cls(_prompt(row), response, parts, optional_part(row, "checks", _names))

    @classmethod
    def from_checked(cls, row: Mapping[str, Any]) -> Demonstration:
        """The record that a row of `to_dict` was, without checking it again."""
        return cls(**{name: _frozen(value) for name, value in row.items()})

    def to_dict(self) -> dict[str, Any]:
        """The row that `from_dict` reads back to an equal record; optional parts that are None stay away."""
        return _row(self)


@dataclass(frozen=True)
class Ranking:
    """A prompt, its K responses (K >= 2) and their ranks: 1 is best, equal is a tie, None is unranked."""

    kind: ClassVar[RecordKind] = "rankings"
    prompt: str | Messages
    responses: tuple[str, ...]
    ranks: tuple[int | None, ...]
    labeler: str | None = None
    strength: float | None = None  # how clear the preference was, >= 0
    guideline: str | None = None  # the hash of the labeling guideline
    shown_order: tuple[int, ...] | None = None  # indices of the responses, in the order the labeler saw
    seconds: float | None = None
    source: str | None = None
    checks: tuple[str, ...] | None = None  # what the labeler had a text of theirs checked by meanwhile

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Ranking:
        """Check a row; raises RecordError."""
        _check_keys(row, cls)
        prompt = _prompt(row)
        responses = _responses(needed_part(row, "responses"))
        asked = (prompt if isinstance(prompt, str) else prompt[-1]["content"]).strip()
        if all(text.strip() == asked for text in responses):
            raise RecordError(
                "responses", "are the prompt itself, each of them: there is no answer to compare"
            )
        return cls(
            prompt,
            responses,
            _ranks(needed_part(row, "ranks"), len(responses)),
            labeler=optional_part(row, "labeler", checked_name),
            strength=optional_part(row, "strength", checked_number),
            guideline=optional_part(row, "guideline", checked_text),
            shown_order=optional_part(row, "shown_order", lambda v, f: _permutation(v, f, len(responses))),
            seconds=optional_part(row, "seconds", checked_number),
            source=optional_part(row, "source", checked_name),
            checks=optional_part(row, "checks", _names),
        )

    @classmethod
    def from_checked(cls, row: Mapping[str, Any]) -> Ranking:
        """The record that a row of `to_dict` was, without checking it again."""
        return cls(**{name: _frozen(value) for name, value in row.items()})

    def to_dict(self) -> dict[str, Any]:
        """The row that `from_dict` reads back to an equal record; optional parts that are None stay away."""
        return _row(self)


RecordType = type[Prompt] | type[Demonstration] | type[Ranking]
RECORDS: dict[RecordKind, Any] = {record.kind: record for record in (Demonstration, Ranking, Prompt)}


def prompt_key(prompt: str | Messages) -> str:
    """The prompt's sha256 in hex, for splitting; a text equals the one user message that it stands for."""
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


def _row(record: Demonstration | Ranking) -> dict[str, Any]:
    row = {f.name: _plain(getattr(record, f.name)) for f in fields(record)}
    return {key: value for key, value in row.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [dict(part) if isinstance(part, dict) else part for part in value]
    return value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_keys(row: Any, record: RecordType) -> None:
    name = record.__name__.lower()
    if not isinstance(row, Mapping):
        raise RecordError("", f"a {name} is an object with keys, not {in_json_words(row)}")
    refuse_unknown(row, [f.name for f in fields(record)], f"a {name}", "", beside=(TOOLS,))


def _prompt(row: Mapping[str, Any]) -> str | Messages:
    value = unpacked(messages_in(needed_part(row, "prompt"), "prompt"))
    value = with_tools(value, row.get(TOOLS), TOOLS) if isinstance(value, (str, list)) else value
    if isinstance(value, str):
        return checked_text(value, "prompt")
    if not isinstance(value, list):
        raise RecordError("prompt", f"must be text or a list of messages, not {in_json_words(value)}")
    if not value:
        raise RecordError("prompt", "is an empty list of messages")
    messages = tuple(checked_message(part, f"prompt[{i}]", i == 0) for i, part in enumerate(value))
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise RecordError("prompt", "has no user message")
    if roles[-1] == "assistant":
        raise RecordError(
            "prompt",
            "ends with an assistant message: the last one must be the user's, and what follows is a response",
        )
    if roles[-1] not in ("user", "tool"):
        raise RecordError("prompt", f"ends with a {roles[-1]} message: the last one must be the user's")
    return messages


def _responses(value: Any) -> tuple[str, ...]:
    responses = checked_list(value, "responses", "texts")
    if len(responses) < 2:
        raise RecordError("responses", f"has {len(responses)}: a ranking needs at least 2")
    return tuple(checked_text(part, f"responses[{i}]") for i, part in enumerate(responses))


def _ranks(value: Any, count: int) -> tuple[int | None, ...]:
    ranks = checked_list(value, "ranks", "whole numbers and nulls")
    if len(ranks) != count:
        raise RecordError("ranks", f"has length {len(ranks)}, and there are {count} responses")
    ranks = [None if is_nan(rank) else rank for rank in ranks]
    for i, rank in enumerate(ranks):
        if rank is None:
            continue
        whole = whole_number(rank)
        if whole is None:
            shown = str(rank) if is_real(rank) else in_json_words(rank)
            raise RecordError(f"ranks[{i}]", f"must be a whole number or null, not {shown}")
        if whole < 1:
            raise RecordError(f"ranks[{i}]", f"must be 1 (the best) or more, not {str(rank)[:30]}")
        ranks[i] = whole
    if all(rank is None for rank in ranks):
        raise RecordError("ranks", "leaves every response unranked: rank some of them or drop the record")
    return tuple(ranks)


_PART = ("task", "response", "start", "end", "edited")  # characters [start, end) of a response of a task


def _parts(value: Any, field: str) -> tuple[Mapping[str, Any], ...]:
    found = tuple(checked_list(value, field, "parts of other responses"))
    for i, part in enumerate(found):
        if not isinstance(part, Mapping) or set(part) != set(_PART):
            raise RecordError(f"{field}[{i}]", f"must be an object with {', '.join(_PART)}")
        numbers = [whole_number(part[key]) for key in _PART[:-1]]
        if not isinstance(part["edited"], bool) or any(number is None or number < 0 for number in numbers):
            raise RecordError(f"{field}[{i}]", "must have whole numbers from 0 on, and edited: true or false")
        if part["start"] >= part["end"]:
            raise RecordError(f"{field}[{i}]", "must start before its end")
    return found


def _names(value: Any, field: str) -> tuple[str, ...]:
    return tuple(
        checked_name(name, f"{field}[{i}]") for i, name in enumerate(checked_list(value, field, "names"))
    )


def _permutation(value: Any, field: str, count: int) -> tuple[int, ...]:
    order = checked_list(value, field, "whole numbers")
    whole = [whole_number(i) for i in order]
    if sorted(-1 if i is None else i for i in whole) != list(range(count)):
        raise RecordError(field, f"must hold each of 0 to {count - 1} once: the responses' indices as shown")
    return tuple(i for i in whole if i is not None)
