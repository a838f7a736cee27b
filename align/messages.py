"""Messages of a conversation: their roles, tool calls and the tools that come with a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from align.literals import literal
from align.values import (
    RecordError,
    checked_list,
    checked_text,
    in_json_words,
    json_text,
    read_literal,
    refuse_unknown,
)

# A message has a role and a content, which is text. An assistant's may have `tool_calls` (in OpenAI's form,
# `arguments` as JSON text) and `reasoning_content`, a tool's `name` and `tool_call_id`. Where a prompt comes
# with tools, its first message has the role TOOLS and their JSON list as content.
Message = dict[str, Any]
Messages = tuple[Message, ...]
ROLES = ("system", "user", "assistant", "tool")
TOOLS = "tools"
OF_ROLE = {"assistant": ("tool_calls", "reasoning_content"), "tool": ("name", "tool_call_id")}
MESSAGE_KEYS = ("role", "content", *OF_ROLE["assistant"], *OF_ROLE["tool"])
_LIKE_MESSAGES = re.compile(r"""\s*(?:array\()?\s*\[\s*\{\s*["']""")
_SPEAKER = re.compile(r"""["'](?:role|from)["']\s*:""")


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
    content = tools_text(tools, field)
    if content is None:
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if messages and isinstance(messages[0], Mapping) and messages[0].get("role") == TOOLS:
        raise RecordError(field, "comes beside a prompt that begins with its tools: give them once")
    return [{"role": TOOLS, "content": content}, *messages]


def tools_text(value: Any, field: str) -> str | None:
    """The tools as one JSON list, each in OpenAI's form; None where there are none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    found = []
    for i, tool in enumerate(checked_list(read_literal(value, field), field, "tools")):
        tool = read_literal(tool, f"{field}[{i}]")
        about = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(about, Mapping) or not isinstance(about.get("name"), str):
            raise RecordError(f"{field}[{i}]", "must be a tool: an object with the `name` of a function")
        found.append(tool if "function" in tool else {"type": "function", "function": tool})
    return json_text(found, field) if found else None


def tool_calls(value: Any, field: str) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, or a `{name, arguments}` alone; arguments become JSON text; RecordError."""
    calls = []
    for i, call in enumerate(checked_list(read_literal(value, field), field, "tool calls")):
        at = f"{field}[{i}]"
        call = read_literal(call, at)
        called = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(called, Mapping) or not isinstance(called.get("name"), str):
            raise RecordError(
                at, "must be a tool call: an object with the `name` and `arguments` of a function"
            )
        given = called.get("arguments", called.get("parameters"))
        arguments = read_literal(given, f"{at}.arguments") if given not in (None, "") else {}
        if not isinstance(arguments, Mapping):
            raise RecordError(
                f"{at}.arguments", f"must be an object, or one as JSON text, not {in_json_words(arguments)}"
            )
        function = {
            "name": checked_text(called["name"], at),
            "arguments": json_text(arguments, f"{at}.arguments"),
        }
        name = (
            {"id": checked_text(call["id"], f"{at}.id")}
            if isinstance(call.get("id"), str) and call["id"]
            else {}
        )
        calls.append({**name, "type": "function", "function": function})
    return calls


def words_of(message: Message) -> str:
    """All that a message says, as a person reads it: its text, its reasoning before and its calls behind."""
    if len(message) == 2:
        return str(message["content"])
    calls = [call["function"] for call in message.get("tool_calls", ())]
    said = [message.get("reasoning_content"), message["content"]]
    return "\n".join(filter(None, [*said, *(f"{call['name']}({call['arguments']})" for call in calls)]))


def checked_message(value: Any, field: str, first: bool) -> Message:
    """A message as a record has it; raises RecordError. Only the first may hold the tools."""
    if not isinstance(value, Mapping):
        raise RecordError(field, f"must be a message with role and content, not {in_json_words(value)}")
    refuse_unknown(value, ("role", "content"), "a message", f"{field}.", beside=MESSAGE_KEYS)
    calls = value.get("tool_calls")
    for key in ("role", "content"):
        if key not in value and not (key == "content" and calls):
            raise RecordError(f"{field}.{key}", "is missing")
    role = checked_text(value["role"], f"{field}.role")
    if role == TOOLS and first:
        return {"role": TOOLS, "content": tools_text(value["content"], f"{field}.content") or "[]"}
    if role not in ROLES:
        raise RecordError(f"{field}.role", f"must be one of {', '.join(ROLES)}, not {role[:40]!r}")
    more = {key: given for key, given in value.items() if key not in ("role", "content") and given}
    for key in more:
        if key not in OF_ROLE.get(role, ()):
            raise RecordError(f"{field}.{key}", f"is no part of a message of the {role}")
    # A call needs no words beside it, and a tool may give none.
    bare = role == "tool" or bool(calls)
    content = value.get("content")
    text = "" if bare and content in (None, "") else checked_text(content, f"{field}.content")
    message: Message = {"role": role, "content": text}
    for key, given in more.items():
        at = f"{field}.{key}"
        message[key] = tool_calls(given, at) if key == "tool_calls" else checked_text(given, at)
    return message
