"""The three kinds of records that people write: prompts, demonstrations and rankings.

Plain data without torch. `from_dict` is the one place where a row from outside becomes a record;
`from_checked` reads what `to_dict` of a checked record wrote.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, TypeVar

from align.errors import UserError

# A message has a role and a content, which is text. An assistant's may have `tool_calls` (in OpenAI's form,
# `arguments` as JSON text) and `reasoning_content`, a tool's `name` and `tool_call_id`. Where a prompt comes
# with tools, its first message has the role TOOLS and their JSON list as content.
Message = dict[str, Any]
Messages = tuple[Message, ...]
V = TypeVar("V")
ROLES = ("system", "user", "assistant", "tool")
TOOLS = "tools"
RecordKind = Literal["demonstrations", "rankings", "prompts"]  # as a recipe's data has them
OF_ROLE = {"assistant": ("tool_calls", "reasoning_content"), "tool": ("name", "tool_call_id")}
MESSAGE_KEYS = ("role", "content", *OF_ROLE["assistant"], *OF_ROLE["tool"])
_LIKE_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["']""")
_SPEAKER = re.compile(r"""["'](?:role|from)["']\s*:""")


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

    @classmethod
    def from_checked(cls, row: Mapping[str, Any]) -> Prompt:
        """The record that a row of `to_dict` was, without checking it again."""
        return cls(_frozen(row["prompt"]))

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

    @classmethod
    def from_checked(cls, row: Mapping[str, Any]) -> Demonstration:
        """The record that a row of `to_dict` was, without checking it again."""
        return cls(_frozen(row["prompt"]), row["response"])

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
        asked = (prompt if isinstance(prompt, str) else prompt[-1]["content"]).strip()
        if all(text.strip() == asked for text in responses):
            raise RecordError(
                "responses", "are the prompt itself, each of them: there is no answer to compare"
            )
        return cls(
            prompt,
            responses,
            _ranks(_needed(row, "ranks"), len(responses)),
            labeler=_optional(row, "labeler", _name),
            strength=_optional(row, "strength", _number),
            guideline=_optional(row, "guideline", _text),
            shown_order=_optional(row, "shown_order", lambda v, f: _permutation(v, f, len(responses))),
            seconds=_optional(row, "seconds", _number),
            source=_optional(row, "source", _name),
        )

    @classmethod
    def from_checked(cls, row: Mapping[str, Any]) -> Ranking:
        """The record that a row of `to_dict` was, without checking it again."""
        return cls(**{name: _frozen(value) for name, value in row.items()})

    def to_dict(self) -> dict[str, Any]:
        """The row that `from_dict` reads back to an equal record; optional parts that are None stay away."""
        row = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {key: value for key, value in row.items() if value is not None}


RecordType = type[Prompt] | type[Demonstration] | type[Ranking]
RECORDS: dict[RecordKind, Any] = {record.kind: record for record in (Demonstration, Ranking, Prompt)}


def literal(text: str) -> Any:
    """The value that a text writes as JSON, or as Python prints it (pandas and numpy); raises ValueError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():  # of odd escapes in a stranger's text
            warnings.simplefilter("ignore")
            try:
                return ast.literal_eval(text.strip())
            except SyntaxError:
                return ast.literal_eval(_with_commas(text.strip()))
    except (SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(str(error)) from error


def _with_commas(text: str) -> str:
    """numpy prints a list of objects without commas between them: they are put in."""
    found = list(tokenize.generate_tokens(io.StringIO(text).readline))
    lines = io.StringIO(text).readlines()
    for one, other in reversed(list(pairwise(t for t in found if t.type != tokenize.NL))):
        if one.string == "}" and other.string == "{":
            row, column = one.end
            lines[row - 1] = f"{lines[row - 1][:column]},{lines[row - 1][column:]}"
    return "".join(lines)


def messages_in(value: Any, field: str) -> Any:
    """A text that holds a list of messages, as JSON or as Python prints it, as that list; else the value.

    Raises RecordError for a text that begins as messages do and cannot be read as such.
    """
    if not isinstance(value, str) or not _LIKE_MESSAGES.match(value) or not _SPEAKER.search(value):
        return value
    try:
        found = literal(value)
    except ValueError:
        raise RecordError(field, "looks like messages, and is neither JSON nor a Python literal") from None
    is_list = isinstance(found, list) and all(isinstance(part, dict) for part in found)
    return found if is_list and all("role" in part or "from" in part for part in found) else value


def with_tools(prompt: Any, tools: Any, field: str) -> Any:
    """The prompt, text or messages, as messages of which the first holds the tools that may be called.

    `tools`: a list, or a text that holds one as JSON or as Python prints it; none: the prompt as it is.
    Raises RecordError, which names `field`.
    """
    content = _tools(tools, field)
    if content is None:
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if messages and isinstance(messages[0], Mapping) and messages[0].get("role") == TOOLS:
        raise RecordError(field, "comes beside a prompt that begins with its tools: give them once")
    return [{"role": TOOLS, "content": content}, *messages]


def _tools(value: Any, field: str) -> str | None:
    """The tools as one JSON list, each in OpenAI's form; None where there are none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    found = []
    for i, tool in enumerate(_list(_read(value, field), field, "tools")):
        tool = _read(tool, f"{field}[{i}]")
        about = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(about, Mapping) or not isinstance(about.get("name"), str):
            raise RecordError(f"{field}[{i}]", "must be a tool: an object with the `name` of a function")
        found.append(tool if "function" in tool else {"type": "function", "function": tool})
    return _json(found, field) if found else None


def tool_calls(value: Any, field: str) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, or a `{name, arguments}` alone; arguments become JSON text; RecordError."""
    calls = []
    for i, call in enumerate(_list(_read(value, field), field, "tool calls")):
        at = f"{field}[{i}]"
        call = _read(call, at)
        called = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(called, Mapping) or not isinstance(called.get("name"), str):
            raise RecordError(
                at, "must be a tool call: an object with the `name` and `arguments` of a function"
            )
        given = called.get("arguments", called.get("parameters"))
        arguments = _read(given, f"{at}.arguments") if given not in (None, "") else {}
        if not isinstance(arguments, Mapping):
            raise RecordError(
                f"{at}.arguments", f"must be an object, or one as JSON text, not {_say(arguments)}"
            )
        function = {"name": _text(called["name"], at), "arguments": _json(arguments, f"{at}.arguments")}
        name = {"id": _text(call["id"], f"{at}.id")} if isinstance(call.get("id"), str) and call["id"] else {}
        calls.append({**name, "type": "function", "function": function})
    return calls


def _read(value: Any, field: str) -> Any:
    """What a text holds, as JSON or as Python prints it; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return literal(value)
    except ValueError:
        raise RecordError(field, "is neither JSON nor a Python literal") from None


def _json(value: Any, field: str) -> str:
    try:
        return _text(json.dumps(value, ensure_ascii=False), field)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(field, f"holds what JSON has no form for: {str(error)[:80]}") from None


def words_of(message: Message) -> str:
    """All that a message says, as a person reads it: its text, its reasoning before and its calls behind."""
    if len(message) == 2:
        return str(message["content"])
    calls = [call["function"] for call in message.get("tool_calls", ())]
    said = [message.get("reasoning_content"), message["content"]]
    return "\n".join(filter(None, [*said, *(f"{call['name']}({call['arguments']})" for call in calls)]))


def prompt_key(prompt: str | Messages) -> str:
    """The prompt's sha256 in hex, for splitting; a text equals the one user message that it stands for."""
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [dict(part) if isinstance(part, dict) else part for part in value]
    return value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_keys(row: Any, record: RecordType) -> None:
    name = record.__name__.lower()
    if not isinstance(row, Mapping):
        raise RecordError("", f"a {name} is an object with keys, not {_say(row)}")
    _refuse_unknown(row, [f.name for f in fields(record)], f"a {name}", "", beside=(TOOLS,))


def _refuse_unknown(
    row: Mapping[str, Any], known: Sequence[str], owner: str, path: str, beside: Sequence[str] = ()
) -> None:
    for key in row:
        if key in known or key in beside:
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
    return None if row.get(field) is None or _is_nan(row[field]) else check(row[field], field)


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


def _name(value: Any, field: str) -> str:
    """A name; a whole number is its digits."""
    whole = _whole(value)
    return _text(value if whole is None else str(whole)[:30], field)


def _number(value: Any, field: str) -> float:
    if not _is_real(value):
        raise RecordError(field, f"must be a number, not {_say(value)}")
    if not 0 <= value <= 1e15 or math.isnan(value):
        raise RecordError(field, f"must be a number from 0 up, not {str(value)[:30]}")
    return float(value)


def _whole(value: Any) -> int | None:
    """A whole number in any of the forms that libraries have (1, 1.0, numpy's); None: it is none."""
    if not _is_real(value) or not (isinstance(value, Integral) or math.isfinite(value)):
        return None
    return int(value) if value == int(value) else None


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _list(value: Any, field: str, of: str) -> list[Any]:
    value = _unpacked(value)
    if not isinstance(value, list):
        raise RecordError(field, f"must be a list of {of}, not {_say(value)}")
    return value


def _unpacked(value: Any) -> Any:
    """A tuple, or an array of numpy or pandas, as a list; anything else as it is."""
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "__len__") else value


def _prompt(row: Mapping[str, Any]) -> str | Messages:
    value = _unpacked(messages_in(_needed(row, "prompt"), "prompt"))
    value = with_tools(value, row.get(TOOLS), TOOLS) if isinstance(value, (str, list)) else value
    if isinstance(value, str):
        return _text(value, "prompt")
    if not isinstance(value, list):
        raise RecordError("prompt", f"must be text or a list of messages, not {_say(value)}")
    if not value:
        raise RecordError("prompt", "is an empty list of messages")
    messages = tuple(_message(part, f"prompt[{i}]", i == 0) for i, part in enumerate(value))
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


def _message(value: Any, field: str, first: bool) -> Message:
    if not isinstance(value, Mapping):
        raise RecordError(field, f"must be a message with role and content, not {_say(value)}")
    _refuse_unknown(value, ("role", "content"), "a message", f"{field}.", beside=MESSAGE_KEYS)
    calls = value.get("tool_calls")
    for key in ("role", "content"):
        if key not in value and not (key == "content" and calls):
            raise RecordError(f"{field}.{key}", "is missing")
    role = _text(value["role"], f"{field}.role")
    if role == TOOLS and first:
        return {"role": TOOLS, "content": _tools(value["content"], f"{field}.content") or "[]"}
    if role not in ROLES:
        raise RecordError(f"{field}.role", f"must be one of {', '.join(ROLES)}, not {role[:40]!r}")
    more = {key: given for key, given in value.items() if key not in ("role", "content") and given}
    for key in more:
        if key not in OF_ROLE.get(role, ()):
            raise RecordError(f"{field}.{key}", f"is no part of a message of the {role}")
    # A call needs no words beside it, and a tool may give none.
    bare = role == "tool" or bool(calls)
    content = value.get("content")
    text = "" if bare and content in (None, "") else _text(content, f"{field}.content")
    message: Message = {"role": role, "content": text}
    for key, given in more.items():
        at = f"{field}.{key}"
        message[key] = tool_calls(given, at) if key == "tool_calls" else _text(given, at)
    return message


def _responses(value: Any) -> tuple[str, ...]:
    responses = _list(value, "responses", "texts")
    if len(responses) < 2:
        raise RecordError("responses", f"has {len(responses)}: a ranking needs at least 2")
    return tuple(_text(part, f"responses[{i}]") for i, part in enumerate(responses))


def _ranks(value: Any, count: int) -> tuple[int | None, ...]:
    ranks = _list(value, "ranks", "whole numbers and nulls")
    if len(ranks) != count:
        raise RecordError("ranks", f"has length {len(ranks)}, and there are {count} responses")
    ranks = [None if _is_nan(rank) else rank for rank in ranks]
    for i, rank in enumerate(ranks):
        if rank is None:
            continue
        whole = _whole(rank)
        if whole is None:
            shown = str(rank) if _is_real(rank) else _say(rank)
            raise RecordError(f"ranks[{i}]", f"must be a whole number or null, not {shown}")
        if whole < 1:
            raise RecordError(f"ranks[{i}]", f"must be 1 (the best) or more, not {str(rank)[:30]}")
        ranks[i] = whole
    if all(rank is None for rank in ranks):
        raise RecordError("ranks", "leaves every response unranked: rank some of them or drop the record")
    return tuple(ranks)


def _is_nan(value: Any) -> bool:
    """Whether it is what pandas has for null."""
    return isinstance(value, float) and math.isnan(value)


def _permutation(value: Any, field: str, count: int) -> tuple[int, ...]:
    order = _list(value, field, "whole numbers")
    whole = [_whole(i) for i in order]
    if sorted(-1 if i is None else i for i in whole) != list(range(count)):
        raise RecordError(field, f"must hold each of 0 to {count - 1} once: the responses' indices as shown")
    return tuple(i for i in whole if i is not None)


def _say(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Real):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, (list, tuple)) else "an object"
