"""What the exports of labeling tools have in common: which of a task's fields is the prompt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from align.data.formats.base import short
from align.data.formats.conversations import is_conversation, turns
from align.errors import UserError
from align.values import RecordError

PROMPTS = ("prompt", "instruction", "question", "input", "context", "query", "chat", "conversation", "text")
AROUND = (
    "system",
    "system_prompt",
    "history",
    "messages",
    "conversations",
    "dialogue",
    "document",
    "passage",
)
MEDIA = ("image", "images", "audio", "audios", "video", "videos", "tools")  # never left out unsaid, either
IDS = ("id", "uid", "uuid", "guid", "idx", "index", "key", "hash", "url")
ToolColumns = Mapping[str, "str | Sequence[str]"]


def check_columns(columns: ToolColumns | None, name: str, parts: Sequence[str]) -> None:
    """Raise UserError where `columns` names parts of a record that a tool's fields are not."""
    for part, source in (columns or {}).items():
        if part not in parts:
            raise UserError(
                f"columns: beside `format: {name}` they say which fields are the {' and '.join(parts)}; "
                f"`{part}` comes from the people's answers."
            )
        names = [source] if isinstance(source, str) else list(source)
        if not names or not all(isinstance(found, str) and found for found in names):
            raise UserError(f"columns.{part}: name the field that holds it.")


def prompt_of(
    fields: Mapping[str, Any], at: str, answers: Collection[str], columns: ToolColumns | None = None
) -> tuple[Any, str]:
    """The prompt among a task's fields, and its name.

    The one that `columns` says; else the one with a usual name, or the only text that is no answer. Where
    several may be a part of it, nothing is guessed. `at`: where the fields stand, "" for the row itself.
    """
    if columns and "prompt" in columns:
        return _named(fields, at, columns["prompt"])
    filled = {key: value for key, value in fields.items() if key not in answers and _filled(value)}
    asked = [key for key in (*PROMPTS, *AROUND, *MEDIA) if key in filled]
    texts = [
        key
        for key, value in filled.items()
        if (isinstance(value, str) and key.lower().rpartition("_")[2] not in IDS) or is_conversation(value)
    ]
    if len(asked) > 1:
        raise RecordError(
            at,
            f"has {', '.join(asked)}: say which of them, in which order, is the prompt, by "
            f"`columns: {{prompt: [{', '.join(asked)}]}}` beside `format`",
        )
    if not asked and len(texts) != 1:
        there = ", ".join(short(str(key)) for key in list(fields)[:20]) or "nothing"
        raise RecordError(
            at,
            f"has no prompt among {there}: say which field it is by `columns: {{prompt: …}}` beside `format`",
        )
    return _value(fields, (asked or texts)[0], at)


def _filled(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _named(fields: Mapping[str, Any], at: str, source: str | Sequence[str]) -> tuple[Any, str]:
    names = [source] if isinstance(source, str) else list(source)
    for name in names:
        field_of(fields, at, name)
    if len(names) == 1:
        return _value(fields, names[0], at)
    for name in names:
        if fields[name] is not None and not isinstance(fields[name], str):
            raise RecordError(_at(at, name), f"must be text, not {short(fields[name])}, to be put together")
    return "\n\n".join(fields[name] for name in names if fields[name] and fields[name].strip()), _at(
        at, names[0]
    )


def field_of(fields: Mapping[str, Any], at: str, name: str) -> Any:
    """A field that the recipe names; raises RecordError that names those that are there."""
    if name not in fields:
        there = ", ".join(short(str(key)) for key in list(fields)[:20]) or "none"
        raise RecordError(_at(at, name), f"is missing; the fields are {there}")
    return fields[name]


def _value(fields: Mapping[str, Any], key: str, at: str) -> tuple[Any, str]:
    value = fields[key]
    return (turns(fields, key) if is_conversation(value) else value), _at(at, key)


def _at(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
