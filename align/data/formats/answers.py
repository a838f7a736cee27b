"""A prompt and what answers it, where each may be text, messages, or a whole conversation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.data.formats.base import Row, short
from align.data.formats.conversations import MAY_BEGIN_TALK, Turns, last_answer, talk_in, turns, with_tools
from align.data.formats.paths import look_up
from align.literals import literal
from align.values import RecordError

if TYPE_CHECKING:
    from align.recipe.columns import Columns, MessageKeys

Asked = str | Turns
_LIST_OF_TEXTS = re.compile(r"""\s*\[\s*["'].*["']\s*\]\s*\Z""", re.DOTALL)


@dataclass(frozen=True)
class Said:
    """A response: what stands before it in its own conversation, and its text."""

    name: str
    before: Turns
    text: Any
    whole: bool  # whether it was written as messages


def said(value: Any, name: str, keys: MessageKeys | None) -> Said:
    """A response that is text, one message, or messages that end with the assistant's."""
    if isinstance(value, Mapping) and _is_message(value, keys):
        value = [value]
    conversation = conversation_in(value, name, keys)
    if conversation is None:
        return Said(name, [], value, whole=False)
    before, text = last_answer(conversation, name)
    return Said(name, before, text, whole=True)


def conversation_in(value: Any, name: str, keys: MessageKeys | None) -> Turns | None:
    """The messages that a value holds, as a list or as its text; None for any other value."""
    if isinstance(value, str) and value[:1] not in MAY_BEGIN_TALK:
        return None  # nearly every text of a file
    found = talk_in(value, name)
    written = _written(keys)
    if isinstance(found, str) and keys and keys.role and found.lstrip().startswith("["):
        with suppress(ValueError):  # else it is a text
            found = literal(found)
            written = written if isinstance(found, list) else []
    for role, content in written:
        if _has_roles(found, role):
            return turns({name: found}, name, role=role, content=content, tags=keys.tags if keys else None)
    return None


def is_conversation(value: Any, keys: MessageKeys | None) -> bool:
    """Whether a value is messages, rather than several texts."""
    return any(_has_roles(value, role) for role, _ in _written(keys))


def _has_roles(value: Any, role: str) -> bool:
    is_list = isinstance(value, (list, tuple)) and bool(value)
    return is_list and all(isinstance(part, Mapping) and role in part for part in value)


def _written(keys: MessageKeys | None) -> list[tuple[str, str]]:
    """The pairs of keys that messages may be written with."""
    if keys and (keys.role or keys.content):
        return [(keys.role or "role", keys.content or "content")]
    return [("role", "content"), ("from", "value")]


def _is_message(value: Mapping[str, Any], keys: MessageKeys | None) -> bool:
    return any(role in value and content in value for role, content in _written(keys))


def asked(row: Row, columns: Columns) -> tuple[Asked | None, str]:
    """The prompt that `prompt` names, and its column; None where it names none."""
    if columns.prompt is None:
        return None, ""
    names = columns.names("prompt")
    if len(names) == 1:
        value = look_up(row, names[0])
        found = conversation_in(value, names[0], columns.messages)
        if found is None:
            _check_list(value, names[0])
        return (value if found is None else found), names[0]
    texts = []
    for name in names:
        value = look_up(row, name)
        if value is not None and not isinstance(value, str):
            raise RecordError(name, f"must be text, not {short(value)}: only texts can be put together")
        if value and conversation_in(value, name, columns.messages) is not None:
            raise RecordError(name, "holds messages: only texts can be put together")
        texts.append(value or "")
    return "\n\n".join(part for part in texts if part.strip()), names[0]


def _check_list(value: Any, name: str) -> None:
    """Raise RecordError for a list of texts that a table holds as text: it would be a prompt of brackets."""
    if not isinstance(value, str) or not _LIST_OF_TEXTS.match(value):
        return
    try:
        found = literal(value)
    except ValueError:
        return
    if isinstance(found, list) and all(isinstance(part, str) for part in found):
        raise RecordError(
            name,
            f"is a list of texts ({len(found)}), written as text: a prompt is "
            "one text or messages. If these are turns of a talk, a `format` function makes messages of them",
        )


def before_all(prompt: Asked | None, name: str, answers: Sequence[Said]) -> tuple[Asked, str]:
    """The one prompt of all the answers, and its column; raises RecordError where there are several.

    With a prompt, an answer's messages may repeat it, or go on after it; without one, the answers are whole
    conversations, which share all but the last message.
    """
    if prompt is None and name:
        raise RecordError(
            name,
            "is empty: there is no prompt (merged cells of a spreadsheet leave all but the first one empty)",
        )
    if prompt is None:
        short_of = next((answer for answer in answers if not answer.before), None)
        if short_of:
            what = "one message" if short_of.whole else "text"
            raise RecordError(
                short_of.name,
                f"is {what}, and the recipe maps no `prompt`: without one it must be a whole conversation",
            )
        befores = [answer.before for answer in answers]
    else:
        if not isinstance(prompt, (str, list)):
            return prompt, name  # what is wrong with it the record's own check says
        if not any(answer.before for answer in answers):
            return prompt, name
        asked_for = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        befores = [_joined(asked_for, answer, name) for answer in answers]
    for other, answer in zip(befores, answers, strict=True):
        if other != befores[0]:
            both = zip(befores[0], other, strict=False)
            shorter = min(len(other), len(befores[0]))
            at = next((i for i, (ours, theirs) in enumerate(both) if ours != theirs), shorter)
            raise RecordError(
                answer.name,
                f"differs from `{answers[0].name}` before the last answer (at message {at + 1}): "
                "a ranking has one prompt for all its responses",
            )
    whole = befores[0]
    if isinstance(prompt, str) and whole == [{"role": "user", "content": prompt}]:
        return prompt, name
    return whole, name or answers[0].name


def _joined(prompt: Turns, answer: Said, name: str) -> Turns:
    """The prompt with what an answer's own messages add to it."""
    own = answer.before
    for given in (prompt, prompt[1:] if prompt[0]["role"] == "system" else prompt):
        if own[: len(given)] == given:
            return [*prompt, *own[len(given) :]]
    if own and own[0]["role"] == "system" and own[1 : len(prompt) + 1] == prompt:
        return own
    if own and own[0]["role"] in ("user", "system"):
        raise RecordError(
            answer.name,
            f"begins with a {own[0]['role']} message that `{name}` does not hold: its messages must go on "
            "where the prompt ends, or repeat it",
        )
    return [*prompt, *own]


def complete(row: Row, columns: Columns, prompt: Asked) -> Asked:
    """The prompt with the system message and the tools that the recipe maps."""
    if columns.system is not None:
        system = look_up(row, columns.system)
        if system is not None and not isinstance(system, str):
            raise RecordError(columns.system, f"must be text, not {short(system)}")
        if system and system.strip() and isinstance(prompt, (str, list)):
            prompt = _as_messages(prompt)
            if prompt and prompt[0]["role"] == "system":
                if prompt[0]["content"] != system:
                    raise RecordError(
                        columns.system, "differs from the system message that the prompt begins with"
                    )
            else:
                prompt = [{"role": "system", "content": system}, *prompt]
    if columns.tools is not None and isinstance(prompt, (str, list)):
        prompt = with_tools(prompt, look_up(row, columns.tools), columns.tools)
    return prompt


def _as_messages(prompt: Asked) -> Turns:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
