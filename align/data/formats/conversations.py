"""Conversations: messages under many names, transcripts in one text, and the pairs that end them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from align.data.formats.base import Row, comparison, part, short, text
from align.literals import literal
from align.messages import Message, tool_calls
from align.messages import messages_in as messages_in
from align.messages import with_tools as with_tools
from align.records import Ranking
from align.text import dotted
from align.values import RecordError

Turns = list[Message]
CALL = "function_call"  # ShareGPT's role of an assistant's turn that holds calls and no words
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    CALL: CALL,
}
REASONING = ("reasoning_content", "reasoning", "thinking")
NOT_TEXT = {
    "an image": ("image", "images", "image_url", "input_image"),
    "audio": ("audio", "audios", "audio_url", "input_audio"),
    "a video": ("video", "videos", "video_url", "input_video"),
    "a file": ("file", "files", "attachments", "input_file"),
}
WEIGHTS = ("weight", "train", "loss", "loss_weight")  # 0 or false: this answer is not to be learnt
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
MAY_BEGIN_TALK = "[{ \t\r\n"  # what a text begins with that holds messages
_WRAPPED = ("messages", "conversations", "conversation")  # keys of an object that holds nothing but a talk
_SPOKEN = re.compile(r"""\s*\{\s*["'](?:role|from|content|value|messages|conversations?)["']\s*:""")
_ENDS = re.compile(r"[}\]]\s*\Z")
LOOSE_TURN = re.compile(r"(?:\A\s*|\n\s*)(Human|User|Assistant|AI|Bot):")  # where there are no blank lines
STEERLM_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def talk_in(value: Any, field: str) -> Any:
    """The messages that a value is, as a list, where it is plainly that: a message, messages, or an object of
    which `messages` is all; each also as JSON or as Python prints it, with nothing around it. Else the value.

    Raises RecordError for a text that begins and ends as these do and cannot be read.
    """
    found = messages_in(value, field)
    if isinstance(found, str) and _SPOKEN.match(found) and _ENDS.search(found):
        try:
            found = literal(found)
        except ValueError:
            if all(any(f"{mark}{key}{mark}" in value for mark in "\"'") for key in ("role", "content")):
                message = "looks like a message, and is neither JSON nor a Python literal"
                raise RecordError(field, message) from None
            return value
    if not isinstance(found, Mapping):
        return found
    if len(found) == 1 and (key := next(iter(found))) in _WRAPPED:
        inner = messages_in(found[key], field)
        return inner if _are_messages(inner) else value
    return [found] if _is_message(found) else value


def _are_messages(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    """Whether an object says who speaks, by a name that all know, and what: {"from": "EUR", …} does not."""
    if not isinstance(value, Mapping):
        return False
    role, content = ("role", "content") if "role" in value else ("from", "value")
    return content in value and str(value.get(role)).lower() in ROLES


def turns(
    row: Any,
    *path: str | int,
    role: str = "role",
    content: str = "content",
    tags: Mapping[str, str] | None = None,
) -> Turns:
    """The messages at `path` with our roles and plain text; a text that holds messages is read as them.

    `tags`: what a file calls our roles, and "function_call". Calls, reasoning and a tool's name stay;
    pictures and sounds are refused; what else a message carries is dropped.
    """
    found = talk_in(part(row, *path), dotted(path))
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise RecordError(dotted(path), f"must be a list of messages, not {short(found)}")
    names = ROLES | {name.lower(): ours for name, ours in (tags or {}).items()}
    said = [_turn(message, f"{dotted(path)}[{i}]", role, content, names) for i, message in enumerate(found)]
    if said and said[-1]["role"] == "assistant":
        for key in WEIGHTS:
            if found[-1].get(key) in (0, False):
                raise RecordError(
                    f"{dotted(path)}[{len(found) - 1}].{key}",
                    f"is {short(found[-1][key])}: this answer is not to be learnt, so leave the row out",
                )
    return said


def _turn(message: Any, at: str, role: str, content: str, names: Mapping[str, str]) -> Message:
    try:
        name = text(message, role)
        if name.lower() not in names:
            raise RecordError(role, f"must be one of {', '.join(names)}, not {short(name)}")
        ours = names[name.lower()]
        for what, keys in NOT_TEXT.items():
            for key in keys:
                if message.get(key):
                    raise RecordError(key, f"holds {what}: align trains on text only")
        if ours == CALL:
            given = part(message, content)
            return {"role": "assistant", "content": "", "tool_calls": _calls(given, content)}
        calls = message.get("tool_calls") if _some(message.get("tool_calls")) else message.get(CALL)
        if ours != "assistant" or not _some(calls):
            said: Message = {"role": ours, "content": _content(message, content, loose=ours == "tool")}
        else:
            given = None if message.get(content) is None else _content(message, content)
            said = {"role": ours, "content": given or "", "tool_calls": _calls(calls, "tool_calls")}
        kept = {key: message.get(key) for key in ("name", "tool_call_id")} if ours == "tool" else {}
        if ours == "assistant":
            thought = next((message[key] for key in REASONING if message.get(key)), None)
            kept = {"reasoning_content": thought}
        return said | {key: value for key, value in kept.items() if isinstance(value, str) and value}
    except RecordError as error:
        raise RecordError(f"{at}.{error.field}" if error.field else at, error.message) from None


def _some(value: Any) -> bool:
    return value is not None and (not isinstance(value, Sized) or len(value) > 0)


def _calls(value: Any, field: str) -> list[dict[str, Any]]:
    """One call or several, as an object, a list, or a text that holds them."""
    found = value
    if isinstance(value, str):
        try:
            found = literal(value)
        except ValueError:
            raise RecordError(field, "must be a call as JSON: {name, arguments}") from None
    return tool_calls([found] if isinstance(found, Mapping) else found, field)


def _content(message: Any, key: str, loose: bool = False) -> str:
    """Text, or a list of text parts; an image or a sound is refused. `loose`: any other object as JSON.

    A part has its text under `text`, or under `value` (LLaMA-Factory, data/v1_sft_demo.jsonl).
    """
    value = message.get(key)
    if loose and isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, (list, tuple)):
        return text(message, key)
    for piece in value:
        kind = piece.get("type") if isinstance(piece, Mapping) else None
        if kind not in (None, "text", "input_text", "output_text"):
            what = next(
                (what for what, keys in NOT_TEXT.items() if kind in keys), f"a part of type {short(kind)}"
            )
            raise RecordError(key, f"holds {what}: align trains on text only")
    names = [
        "value" if isinstance(one, Mapping) and "text" not in one and "value" in one else "text"
        for one in value
    ]
    return "".join(text(message, key, i, name) for i, name in enumerate(names))


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
    return conversation[:-1], answer_of(last, field)


def answer_of(message: Message, field: str) -> str:
    """The text of an assistant's message that is a response; raises RecordError where it holds more."""
    if message.get("tool_calls"):
        raise RecordError(
            field, "ends with a tool call: a response is text, so end with what is said after it"
        )
    if message.get("reasoning_content"):
        raise RecordError(
            field,
            "has reasoning beside the text of its last answer: write it into the text as the base does "
            "(`<think>…</think>`), or take it out",
        )
    return str(message["content"])


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

    Also of one with "User:", "AI:" or "Bot:", or without blank lines. The last turn stays alone: it is the
    answer, or an empty "Assistant:" that waits for one.
    """
    whole = text(row, *path)
    pieces = TURN.split(whole)
    if pieces[0].strip() or len(pieces) < 5:
        pieces = LOOSE_TURN.split(whole)
    if pieces[0].strip() or len(pieces) < 3:
        raise RecordError(".".join(path), 'must be a transcript that begins with "\\n\\nHuman:"')
    conversation: Turns = []
    for i in range(1, len(pieces), 2):
        role = "user" if pieces[i] in ("Human", "User") else "assistant"
        said, is_last = pieces[i + 1].strip(), i == len(pieces) - 2
        if conversation and conversation[-1]["role"] == role and not is_last:
            conversation[-1]["content"] += f"\n\n{said}"
        else:
            conversation.append({"role": role, "content": said})
    return conversation


def asked_in(row: Row, name: str) -> Any:
    """The messages of a transcript that waits for an answer; a text that names no speaker, as it is."""
    if not LOOSE_TURN.match(text(row, name)):
        return row[name]
    said = transcript(row, name)
    if said[-1] == {"role": "assistant", "content": ""}:
        said.pop()
    if not said or said[-1]["role"] != "user":
        raise RecordError(name, "ends with what the assistant says: the last turn must be the person's")
    while len(said) > 1 and said[-2]["role"] == "user":
        said[-2:] = [{"role": "user", "content": f"{said[-2]['content']}\n\n{said[-1]['content']}"}]
    return said


def steerlm(row: Row, key: str) -> str | Turns:
    """HelpSteer2's prompt: text, or turns set apart by <extra_id_1>User and <extra_id_1>Assistant."""
    pieces = STEERLM_TURN.split(text(row, key))
    if len(pieces) == 1:
        return pieces[0]
    said = zip(pieces[1::2], pieces[2::2], strict=True)
    first = [{"role": "user", "content": pieces[0]}] if pieces[0] else []
    return first + [{"role": ROLES[role.lower()], "content": content} for role, content in said]
