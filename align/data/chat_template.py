"""Which of a base's chat templates a run uses, and what the recipe gives it beside the messages."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from align.errors import UserError
from align.messages import TOOLS, with_tools
from align.values import RecordError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some chat templates print today's date. A run that goes on tomorrow must see the same tokens.
TEMPLATE_DATE = date(2024, 7, 26)
TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
# The names by which transformers chooses (`PreTrainedTokenizerBase.get_chat_template`).
DEFAULT, TOOL_USE = "default", "tool_use"
_WORD = re.compile(r"[A-Za-z_]\w*")
_SHOWN = 12  # names in a message


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template as a run uses it.

    text: for conversations. with_tools: for those that come with tools; None: the same. names: all that the
    base has, where it has several by name. kwargs: what the template is given besides; tools: offered where a
    record has none of its own.
    """

    text: str
    with_tools: str | None = None
    names: tuple[str, ...] = ()
    chosen: str | None = None  # by the recipe
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: list[Any] | None = None

    def of(self, tools: object) -> str:
        """The template's text for a conversation with these tools, or none."""
        return self.with_tools if tools and self.with_tools is not None else self.text

    @property
    def identity(self) -> Any:
        """What of it decides a conversation's text, in JSON's types; the text alone where that is all."""
        others = {"with_tools": self.with_tools, "kwargs": dict(self.kwargs), "tools": self.tools}
        given = {name: value for name, value in others.items() if value}
        return {"text": self.text, **given} if given else self.text

    def exported(self, own: object) -> str | dict[str, str]:
        """A tokenizer's `chat_template` that writes the same where it is given nothing but messages.

        own: what the tokenizer has now; of several, those that the run does not use stay.
        """
        given = {**self.kwargs, **({TOOLS: self.tools} if self.tools else {})}
        text = _with_defaults(self.of(self.tools), given)
        if self.chosen is not None or not isinstance(own, dict):
            return text
        apart = {TOOL_USE: _with_defaults(self.with_tools, given)} if self.with_tools is not None else {}
        return {**own, DEFAULT: text, **apart}

    def remarks(self) -> list[str]:
        """What a person should know of how it was chosen, and of what it is given."""
        told = []
        if self.names and self.chosen is None:
            used = f"{DEFAULT!r} is used"
            if self.with_tools is not None:
                used += f", and {TOOL_USE!r} where a prompt comes with tools, as transformers does"
            told.append(
                f"the base has the chat templates {', '.join(self.names)}: {used}; `data.template_name` "
                "chooses another"
            )
        given = {**self.kwargs, **({TOOLS: [_name(tool) for tool in self.tools]} if self.tools else {})}
        if given:
            told.append(f"the chat template is given {json.dumps(given, ensure_ascii=False)} everywhere")
        return told


def find_chat_template(
    tokenizer: PreTrainedTokenizerBase, name: str | None, kwargs: Mapping[str, Any]
) -> ChatTemplate:
    """The chat template of this name, or the one that transformers would take; kwargs as in the recipe.

    Raises UserError where there is none, none of this name, or where it never reads one of the kwargs.
    """
    given: Any = tokenizer.chat_template
    several = given if isinstance(given, dict) and given else {}
    names = tuple(sorted(several))
    if not given:
        raise UserError(
            "data.template: the base's tokenizer has no chat template. "
            "Set `data.template: plain`, or take a base that was trained to chat."
        )
    if name is not None and name not in several:
        raise UserError(f"data.template_name: {_no_such(name, names)}")
    if name is None and several and DEFAULT not in several:
        raise UserError(
            f"data.template_name: the base has the chat templates {', '.join(names)}, and none is called "
            f"{DEFAULT!r}: name the one that is meant"
        )
    text = several[name or DEFAULT] if several else str(given)
    apart = several.get(TOOL_USE) if name is None else None
    found = ChatTemplate(
        undated(text),
        undated(apart) if apart is not None and apart != text else None,
        names,
        name,
        {key: value for key, value in kwargs.items() if key != TOOLS},
        _default_tools(kwargs.get(TOOLS)),
    )
    _refuse_unread(found)
    return found


def undated(text: str) -> str:
    """A chat template that prints the same date every day."""
    return TODAY.sub(lambda call: json.dumps(TEMPLATE_DATE.strftime(call[2])), text)


def _no_such(name: str, names: tuple[str, ...]) -> str:
    if not names:
        return f"the base has one chat template, without a name, and none called {name!r}: leave it out"
    return f"the base has no chat template {name!r}; it has {', '.join(names)}"


def _default_tools(value: Any) -> list[Any] | None:
    try:
        first = with_tools("", value, TOOLS)
    except RecordError as error:
        raise UserError(f"data.chat_template_kwargs.{error.field}: {error.message}") from error
    return None if isinstance(first, str) else json.loads(first[0]["content"])


def _refuse_unread(template: ChatTemplate) -> None:
    """A misspelt name would be ignored without a word: Jinja takes any."""
    words = set(_WORD.findall(template.text)) | set(_WORD.findall(template.with_tools or ""))
    for name in template.kwargs:
        if name not in words:
            near = difflib.get_close_matches(name, sorted(words), n=1, cutoff=0.75)
            meant = f" Is `{near[0]}` meant?" if near else " Leave it out, or take a base that knows it."
            raise UserError(
                f"data.chat_template_kwargs.{name}: the base's chat template never reads {name!r}.{meant}"
            )


def _with_defaults(text: str, given: Mapping[str, Any]) -> str:
    """The template with values for what it is not given."""
    lines = [
        # transformers passes `tools=None` and `documents=None` where there are none. It drops the line break
        # behind a block, so the template itself begins a line, as before.
        f"{{%- if {name} is not defined or {name} is none %}}{{%- set {name} = {_literal(value)} %}}"
        "{%- endif %}\n"
        for name, value in given.items()
    ]
    return "".join(lines) + text


def _literal(value: Any) -> str:
    """A value of JSON's types as Jinja writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _name(tool: Any) -> str:
    return str(tool.get("function", tool).get("name"))
