"""The three kinds of records that people write: prompts, demonstrations and rankings.

Plain data without torch. `from_dict` is the one place where a row from outside becomes a record.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

from align.errors import UserError

Messages = tuple[dict[str, str], ...]
V = TypeVar("V")
ROLES = ("system", "user", "assistant")
RecordKind = Literal["demonstrations", "rankings", "prompts"]  # as a recipe's data has them


class RecordError(UserError):
    """A row is not a good record: `field` is the path of the part that is wrong ("" for the whole row)."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"`{field}` {message}" if field else message)
        self.field = field
        self.message = message


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

    def to_dict(self) -> dict[str, Any]:
        """The row that `from_dict` reads back to an equal record."""
        return {"prompt": _plain(self.prompt)}


@dataclass(frozen=True)
class Demonstration:
    """A prompt with the response that a person wrote."""

    kind: ClassVar[RecordKind] = "demonstrations"
    prompt: str | Messages
    response: str

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Demonstration:
        """Check a row; raises RecordError."""
        _check_keys(row, cls)
        return cls(_prompt(row), _text(_needed(row, "response"), "response"))

    def to_dict(self) -> dict[str, Any]:
        """The row that `from_dict` reads back to an equal record."""
        return {"prompt": _plain(self.prompt), "response": self.response}


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

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Ranking:
        """Check a row; raises RecordError."""
        _check_keys(row, cls)
        prompt = _prompt(row)
        responses = _responses(_needed(row, "responses"))
        return cls(
            prompt,
            responses,
            _ranks(_needed(row, "ranks"), len(responses)),
            labeler=_optional(row, "labeler", _text),
            strength=_optional(row, "strength", _number),
            guideline=_optional(row, "guideline", _text),
            shown_order=_optional(row, "shown_order", lambda v, f: _permutation(v, f, len(responses))),
            seconds=_optional(row, "seconds", _number),
            source=_optional(row, "source", _text),
        )

    def to_dict(self) -> dict[str, Any]:
        """The row that `from_dict` reads back to an equal record; optional parts that are None stay away."""
        row = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {key: value for key, value in row.items() if value is not None}


RecordType = type[Prompt] | type[Demonstration] | type[Ranking]
RECORDS: dict[RecordKind, Any] = {record.kind: record for record in (Demonstration, Ranking, Prompt)}


def prompt_key(prompt: str | Messages) -> str:
    """The prompt's sha256 in hex, for splitting; a text equals the one user message that it stands for."""
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [dict(part) if isinstance(part, dict) else part for part in value]
    return value


def _check_keys(row: Any, record: RecordType) -> None:
    name = record.__name__.lower()
    if not isinstance(row, Mapping):
        raise RecordError("", f"a {name} is an object with keys, not {_say(row)}")
    _refuse_unknown(row, [f.name for f in fields(record)], f"a {name}", "")


def _refuse_unknown(row: Mapping[str, Any], known: list[str], owner: str, path: str) -> None:
    for key in row:
        if key in known:
            continue
        near = difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        # repr: a key from a stranger's file may hold line breaks or terminal codes.
        shown = repr(str(key)[:60])[1:-1]
        raise RecordError(f"{path}{shown}", f"is an unknown key; {hint}{owner} has {', '.join(known)}")


def _needed(row: Mapping[str, Any], field: str) -> Any:
    if field not in row:
        raise RecordError(field, "is missing")
    return row[field]


def _optional(row: Mapping[str, Any], field: str, check: Callable[[Any, str], V]) -> V | None:
    return None if row.get(field) is None else check(row[field], field)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise RecordError(field, f"must be text, not {_say(value)}")
    if not value.strip():
        raise RecordError(field, "is empty")
    if "\0" in value:
        raise RecordError(field, "holds a NUL character (\\u0000): remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            field, "holds half of a surrogate pair (\\ud800 to \\udfff), which no text has"
        ) from error
    return value


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecordError(field, f"must be a number, not {_say(value)}")
    if not 0 <= value <= 1e15 or math.isnan(value):
        raise RecordError(field, f"must be a number from 0 up, not {str(value)[:30]}")
    return float(value)


def _list(value: Any, field: str, of: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise RecordError(field, f"must be a list of {of}, not {_say(value)}")
    return list(value)


def _prompt(row: Mapping[str, Any]) -> str | Messages:
    value = _needed(row, "prompt")
    if isinstance(value, str):
        return _text(value, "prompt")
    if not isinstance(value, (list, tuple)):
        raise RecordError("prompt", f"must be text or a list of messages, not {_say(value)}")
    if not value:
        raise RecordError("prompt", "is an empty list of messages")
    messages = tuple(_message(part, f"prompt[{i}]") for i, part in enumerate(value))
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise RecordError("prompt", "has no user message")
    if roles[-1] == "assistant":
        raise RecordError(
            "prompt",
            "ends with an assistant message: the last one must be the user's, and what follows is a response",
        )
    if roles[-1] != "user":
        raise RecordError("prompt", f"ends with a {roles[-1]} message: the last one must be the user's")
    return messages


def _message(value: Any, field: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise RecordError(field, f"must be a message with role and content, not {_say(value)}")
    _refuse_unknown(value, ["role", "content"], "a message", f"{field}.")
    for key in ("role", "content"):
        if key not in value:
            raise RecordError(f"{field}.{key}", "is missing")
    role = _text(value["role"], f"{field}.role")
    if role not in ROLES:
        raise RecordError(f"{field}.role", f"must be one of {', '.join(ROLES)}, not {role[:40]!r}")
    return {"role": role, "content": _text(value["content"], f"{field}.content")}


def _responses(value: Any) -> tuple[str, ...]:
    responses = _list(value, "responses", "texts")
    if len(responses) < 2:
        raise RecordError("responses", f"has {len(responses)}: a ranking needs at least 2")
    return tuple(_text(part, f"responses[{i}]") for i, part in enumerate(responses))


def _ranks(value: Any, count: int) -> tuple[int | None, ...]:
    ranks = _list(value, "ranks", "whole numbers and nulls")
    if len(ranks) != count:
        raise RecordError("ranks", f"has length {len(ranks)}, and there are {count} responses")
    for i, rank in enumerate(ranks):
        if rank is None:
            continue
        if isinstance(rank, bool) or not isinstance(rank, int):
            shown = _say(rank) if not isinstance(rank, float) else str(rank)
            raise RecordError(f"ranks[{i}]", f"must be a whole number or null, not {shown}")
        if rank < 1:
            raise RecordError(f"ranks[{i}]", f"must be 1 (the best) or more, not {str(rank)[:30]}")
    if all(rank is None for rank in ranks):
        raise RecordError("ranks", "leaves every response unranked: rank some of them or drop the record")
    return tuple(ranks)


def _permutation(value: Any, field: str, count: int) -> tuple[int, ...]:
    order = _list(value, field, "whole numbers")
    whole = all(isinstance(i, int) and not isinstance(i, bool) for i in order)
    if not whole or sorted(order) != list(range(count)):
        raise RecordError(field, f"must hold each of 0 to {count - 1} once: the responses' indices as shown")
    return tuple(order)


def _say(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, (list, tuple)) else "an object"
