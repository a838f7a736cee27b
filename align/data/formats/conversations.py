"""Conversations: messages under many names, transcripts in one text, and the pairs that end them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from align.data.formats.base import Row, comparison, items, short, text
from align.records import Ranking, RecordError
from align.text import dotted

Turns = list[dict[str, str]]
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
STEERLM_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def turns(row: Any, *path: str | int, role: str = "role", content: str = "content") -> Turns:
    """The messages at `path` with our roles and plain text; what else they carry is dropped."""
    return [
        {"role": _role(row, *path, i, role), "content": _content(row, *path, i, content)}
        for i in range(len(items(row, *path)))
    ]


def _role(row: Any, *path: str | int) -> str:
    name = text(row, *path)
    if name.lower() not in ROLES:
        raise RecordError(dotted(path), f"must be one of {', '.join(ROLES)}, not {short(name)}")
    return ROLES[name.lower()]


def _content(row: Any, *path: str | int) -> str:
    """Text, or a list of text parts; an image or a sound is refused."""
    value: Any = row
    for key in path[:-1]:
        value = value[key]
    value = value.get(path[-1])
    if not isinstance(value, (list, tuple)):
        return text(row, *path)
    for i, piece in enumerate(value):
        kind = piece.get("type") if isinstance(piece, Mapping) else None
        if kind is not None and kind != "text":
            raise RecordError(str(path[0]), f"holds {short(kind)} in a message: only text can be read")
        text(row, *path, i, "text")
    return "".join(piece["text"] for piece in value)


def is_conversation(value: Any) -> bool:
    """Whether a value looks like messages: a list of objects with a role."""
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(part, Mapping) and "role" in part for part in value)
    )


def last_answer(conversation: Turns, field: str) -> tuple[Turns, str]:
    """The conversation up to its last message, and that message, which must be the assistant's."""
    if not conversation:
        raise RecordError(field, "is empty")
    last = conversation[-1]
    if last["role"] != "assistant":
        raise RecordError(field, f"ends with a {last['role']} message: the last one must be the assistant's")
    return conversation[:-1], last["content"]


def compared(first: Turns, second: Turns, verdict: float, names: tuple[str, str], **optional: Any) -> Ranking:
    """A comparison of two conversations that are equal up to the last assistant turn."""
    prompt, answer = last_answer(first, names[0])
    other_prompt, other_answer = last_answer(second, names[1])
    if prompt != other_prompt:
        same = sum(1 for _ in _shared(prompt, other_prompt))
        raise RecordError(
            names[1],
            f"differs from `{names[0]}` before the last answer (at message {same + 1}): "
            "a ranking has one prompt for all its responses",
        )
    return comparison(prompt, (answer, other_answer), verdict, names[0], names, **optional)


def _shared(first: Turns, second: Turns) -> Turns:
    shared = []
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            break
        shared.append(ours)
    return shared


def is_transcript(value: Any) -> bool:
    """Whether a text is a transcript as in hh-rlhf."""
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def transcript(row: Row, *path: str) -> Turns:
    r"""The turns of a text with "\n\nHuman:" and "\n\nAssistant:"; turns of one speaker in a row become one.

    The last turn stays alone: it is the answer, or an empty "Assistant:" that waits for one.
    """
    whole = text(row, *path)
    pieces = TURN.split(whole)
    if pieces[0].strip() or len(pieces) < 3:
        raise RecordError(".".join(path), 'must be a transcript that begins with "\\n\\nHuman:"')
    conversation: Turns = []
    for i in range(1, len(pieces), 2):
        role = "user" if pieces[i] == "Human" else "assistant"
        said, is_last = pieces[i + 1].strip(), i == len(pieces) - 2
        if conversation and conversation[-1]["role"] == role and not is_last:
            conversation[-1]["content"] += f"\n\n{said}"
        else:
            conversation.append({"role": role, "content": said})
    return conversation


def steerlm(row: Row, key: str) -> str | Turns:
    """HelpSteer2's prompt: text, or turns set apart by <extra_id_1>User and <extra_id_1>Assistant."""
    pieces = STEERLM_TURN.split(text(row, key))
    if len(pieces) == 1:
        return pieces[0]
    said = zip(pieces[1::2], pieces[2::2], strict=True)
    first = [{"role": "user", "content": pieces[0]}] if pieces[0] else []
    return first + [{"role": ROLES[role.lower()], "content": content} for role, content in said]
