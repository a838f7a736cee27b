"""A conversation as a base's chat template writes it, and what of its messages would not come through."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jinja2

from align.data.chat_template import ChatTemplate
from align.errors import UserError
from align.messages import TOOLS, Message, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a template fails with: its own refusals, and what Python says where a message is not as it expects.
FAILURES = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError)
REASONING = re.compile(r"\A(?:(?!<think>).)*</think>|<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL)
CLOSED = re.compile(r"</(?:think|thinking|thought|reasoning)>")
OPENED = re.compile(r"<(?:think|thinking|thought|reasoning)>")
TRANSCRIPT = re.compile(r"\A\s*Human:.*\n\nAssistant:|\n\nHuman:.*\n\nAssistant:\s*\Z", re.DOTALL)
# The same by other names or without blank lines: only where it waits for the answer.
WAITING = re.compile(r"(?:\A|\n)\s*(?:Human|User):.*\n\s*(?:Assistant|AI|Bot):\s*\Z", re.DOTALL)
# And where it waits for nothing: a turn of the person, one of the assistant, and one of the person again.
BEGUN = re.compile(r"\s*(?:Human|User):.*\n\s*(?:Assistant|AI|Bot):.*\n\s*(?:Human|User):", re.DOTALL)
IS_TRANSCRIPT = (
    "the prompt is a transcript (Human: … Assistant: …), which the chat template would write as one message: "
    "write its turns as messages (`format: hh-rlhf` reads a transcript in `prompt`, or in `chosen` and "
    "`rejected`), or set `data.template: plain`"
)
# A prompt that some chat template has written already, and what such a template writes behind an answer.
RENDERED = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)*\s*(?:<\|im_start\|>|<\|start_header_id\|>|"
    r"<start_of_turn>|<\|(?:user|system|assistant|start_of_role)\|>|<\|turn>|\[INST\]|\[SYSTEM_PROMPT\]|"
    r"<\|START_OF_TURN_TOKEN\|>|<[|｜]User[|｜]>|"
    r"(?:Below is an instruction\b.*?)?### (?:Instruction|Human|User):.*\n### (?:Response|Assistant):)",
    re.DOTALL,
)
# Vicuna's, often on one line: a prompt that waits for the assistant's turn.
VICUNA = re.compile(r"(?:\A|\s)(USER|User|Human):\s.*\s(ASSISTANT|Assistant):\s*\Z", re.DOTALL)
MARK = re.compile(r"<[^>]*>|\[\w+\]|### \w+:")
ENDINGS = (
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"),
    *("<|END_OF_TURN_TOKEN|>", "<eos>", "<turn|>", "<｜end▁of▁sentence｜>", "</s>"),
)
IS_RENDERED = (
    "the prompt has been written by a chat template already ({}), and the base's own would be written around "
    "it: write its turns as messages, or set `data.template: plain`"
)
IS_ENDED = (
    "every response ends with {!r}, which a chat template wrote behind it, and training adds its own end: "
    "take it out of the texts (a `format` function can), or set `data.template: plain`"
)
ASKED, ANSWERED = ("Human:", "User:"), ("Assistant:", "AI:")  # tags of speakers, before what each says
IS_TAGGED = (
    "the prompt begins with {!r} and every response with {!r}, and the chat template says itself who speaks: "
    "take these tags out of the texts (a `format` function can), or set `data.template: plain`"
)
TOOLS_TWICE = (
    "the prompt comes with tools of its own, and data.chat_template_kwargs.tools names others: leave one of "
    "them out"
)
_MARK = "Qmark{}z"  # no template has it, and none treats it otherwise than words


@dataclass(frozen=True)
class Form:
    """How a template wants what templates disagree on."""

    no_words: str | None = ""  # the content of an assistant's message that only calls a tool
    as_text: bool = False  # the arguments of a call as JSON text, not as an object


FORMS = (Form(), Form(as_text=True), Form(None), Form(None, as_text=True))


@dataclass(frozen=True)
class Turn:
    """What a template writes around an answer."""

    before: str  # behind the user's words where the answer is asked for: the generation prompt
    written: str | None  # the same where the answer is a message; None where that cannot be told
    after: str  # behind the answer

    @property
    def follows(self) -> bool | None:
        """Whether an answer is the generation prompt, white space and its words; None: nobody can tell."""
        if self.written is None:
            return None
        return self.written.startswith(self.before) and not self.written[len(self.before) :].strip()

    @property
    def lead(self) -> str:
        """White space that the template writes in front of an answer's words."""
        return self.written[len(self.before) :] if self.written is not None and self.follows else ""


class Rendering:
    """A chat template at work. What it does to a kind of conversation is asked once, with marked words."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: ChatTemplate) -> None:
        self.chat_template = chat_template
        self._tokenizer = tokenizer
        self._asked: dict[tuple[Any, ...], tuple[Form, str | None]] = {}

    def prompt(self, prompt: str | Messages) -> str | UserError:
        """The prompt with the generation prompt; in its place, what is wrong with it."""
        messages, tools = self._taken_apart(prompt)
        if len(messages) == 1 and is_transcript(messages[0]["content"]):
            return UserError(IS_TRANSCRIPT)
        if messages and (mark := rendered(messages[-1]["content"])):
            return UserError(IS_RENDERED.format(mark))
        if self.chat_template.tools and taken_apart(prompt)[1]:
            return UserError(TOOLS_TWICE)
        form, problem = self._form(messages, tools)
        if problem is not None:
            return UserError(problem)
        try:
            text = self._write(messages, tools, form)
        except jinja2.TemplateError as error:
            return UserError(f"the base's chat template refuses the prompt: {error}")
        except FAILURES as error:
            return UserError(f"the base's chat template cannot write the prompt: {error}")
        problem = _lost(messages, text)
        return text if problem is None else UserError(problem)

    def drops_reasoning(self, prompt: str | Messages) -> bool:
        """Whether reasoning of the assistant's earlier turns is left out, as many templates do on purpose."""
        messages, tools = self._taken_apart(prompt)
        thought = [text for message in messages for text in _reasoning(message)]
        if not thought:
            return False
        try:
            text = _bare(self._write(messages, tools, self._form(messages, tools)[0]))
        except FAILURES:
            return False
        return any(_bare(part) not in text for part in thought)

    def strips(self, prompt: str | Messages, response: str) -> str | None:
        """What the template leaves out of a response as the last message; None: nothing, or it refuses."""
        messages, tools = self._taken_apart(prompt)
        answered = [*messages, {"role": "assistant", "content": response}]
        try:
            text = _bare(self._write(answered, tools, self._form(messages, tools)[0], generation=False))
        except FAILURES:
            return None
        if _bare(response) in text:
            return None
        thought = [part for part in _reasoning(answered[-1]) if _bare(part) not in text]
        return thought[0] if thought else response

    @cached_property
    def turn(self) -> Turn:
        """What stands around an answer, where it is asked for and where it is a message."""
        user, answer = _MARK.format(0), _MARK.format(1)
        asked: list[Message] = [{"role": "user", "content": user}]
        answered: list[Message] = [*asked, {"role": "assistant", "content": answer}]
        try:
            before = self._write(asked, self.chat_template.tools, Form()).rpartition(user)[2]
        except FAILURES:
            return Turn("", None, "")
        try:
            whole = self._write(answered, self.chat_template.tools, Form(), generation=False)
        except FAILURES:
            return Turn(before, None, "")
        written, found, after = whole.rpartition(user)[2].partition(answer)
        return Turn(before, written if found else None, after)

    @cached_property
    def opened(self) -> tuple[str, bool] | None:
        """The tag of reasoning in the generation prompt, such as "<think>", and whether it is closed."""
        before = self.turn.before
        found = OPENED.search(before)
        return (found[0], f"</{found[0][1:]}" in before) if found else None

    def with_kwargs(self, **more: Any) -> Rendering:
        """The same template, given more."""
        template = replace(self.chat_template, kwargs={**self.chat_template.kwargs, **more})
        return Rendering(self._tokenizer, template)

    def render(self, messages: Sequence[Message], generation: bool = False) -> str | None:
        """Messages of any kind as the template writes them; None where it refuses them."""
        try:
            return self._write(messages, self.chat_template.tools, Form(), generation)
        except FAILURES:
            return None

    def _write(self, messages: Sequence[Message], tools: Any, form: Form, generation: bool = True) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                [_formed(message, form) for message in messages],
                tools=tools,
                chat_template=self.chat_template.of(tools),
                tokenize=False,
                add_generation_prompt=generation,
                **self.chat_template.kwargs,
            )
        )

    def _taken_apart(self, prompt: str | Messages) -> tuple[list[Message], Any]:
        """The messages of a prompt, and the tools that come with it, or the recipe's, or None."""
        messages, tools = taken_apart(prompt)
        return messages, tools or self.chat_template.tools

    def _form(self, messages: Sequence[Message], tools: Any) -> tuple[Form, str | None]:
        """How to write a conversation of this kind, and what of it would be lost; asked once."""
        kind = (bool(tools), *map(_kind, messages))
        if kind not in self._asked:
            self._asked[kind] = self._ask(messages, bool(tools))
        return self._asked[kind]

    def _ask(self, messages: Sequence[Message], tools: bool) -> tuple[Form, str | None]:
        marked = [_marked(message, i) for i, message in enumerate(messages, 1)]
        offered = [_tool(_MARK.format("tool"), _MARK.format("about"))] if tools else None
        found: list[tuple[Form, str | None]] = []
        for form in FORMS if any("tool_calls" in message for message in messages) else FORMS[:1]:
            try:
                text = self._write(marked, offered, form)
            except FAILURES:
                continue
            problem = _unmarked(messages, marked, offered, text)
            if problem is None:
                return form, None
            found.append((form, problem))
        return found[0] if found else (Form(), None)  # what it refuses, it refuses with the words too


def taken_apart(prompt: str | Messages) -> tuple[list[Message], Any]:
    """The messages of a prompt, and the tools that come with it, or None."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if messages[0]["role"] != TOOLS:
        return messages, None
    return messages[1:], json.loads(messages[0]["content"])


def ends_reasoning(text: str) -> bool:
    """Whether a thought ends in it, behind which the answer begins."""
    return "</" in text and CLOSED.search(text) is not None


def is_transcript(text: str) -> bool:
    """Whether a text is several turns of Human and Assistant, whole or waiting for the next answer."""
    if "\n" not in text:
        return False  # many prompts
    if "\n\nAssistant:" in text and TRANSCRIPT.search(text) is not None:
        return True
    if text.lstrip().startswith(ASKED) and BEGUN.match(text) is not None:
        return True
    return text.rstrip().endswith(("Assistant:", "AI:", "Bot:")) and WAITING.search(text) is not None


def rendered(text: str) -> str | None:
    """The mark by which a text shows that a chat template has written it; None: it is no such text."""
    if text.rstrip()[-10:].lower().endswith("assistant:") and (found := VICUNA.search(text)):
        return f"{found[1]}: … {found[2]}:"
    if text.lstrip()[:1] not in ("<", "[", "#", "B"):
        return None  # most prompts
    found = RENDERED.match(text)
    return MARK.findall(found[0])[-1] if found else None


def ended(responses: Sequence[str]) -> str | None:
    """What is wrong where every text ends with a mark that a chat template writes there; None: nothing."""
    if not responses or responses[0].rstrip()[-1:] != ">":
        return None  # nearly all
    for end in ENDINGS:
        if all(text.rstrip().endswith(end) for text in responses) and "<s>" not in responses[0][1:]:
            return IS_ENDED.format(end)
    return None


def tagged(prompt: str | Messages, responses: Sequence[str]) -> str | None:
    """What is wrong where texts name their speakers, as a transcript cut into pieces does; None: nothing."""
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    before = next((tag for tag in ASKED if asked.lstrip().startswith(tag)), None)
    if before is None or not responses:
        return None
    for after in ANSWERED:
        if all(text.lstrip().startswith(after) for text in responses):
            return IS_TAGGED.format(before, after)
    return None


def _formed(message: Message, form: Form) -> Message:
    if "tool_calls" not in message:
        return message
    calls = [
        call | {"function": call["function"] | {"arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    content = message["content"] or form.no_words
    return message | {"content": content, "tool_calls": message["tool_calls"] if form.as_text else calls}


def _kind(message: Message) -> tuple[Any, ...]:
    """What decides how a template treats a message, whatever its words."""
    if len(message) == 2 and message["content"]:
        return (message["role"],)
    calls = tuple("id" in call for call in message.get("tool_calls", ()))
    return message["role"], bool(message["content"]), calls, *sorted(message)


def _marked(message: Message, number: int) -> Message:
    mark = _MARK.format(number)
    made: Message = {key: mark for key in message if key != "role"} | {"role": message["role"]}
    if not message["content"]:
        made["content"] = ""
    if "tool_call_id" in message:
        made["tool_call_id"] = "abcdefgh9"
    if "tool_calls" in message:
        made["tool_calls"] = [
            {key: "abcdefgh9" for key in call if key == "id"}
            | {
                "type": "function",
                "function": {"name": f"{mark}call{i}", "arguments": f'{{"{mark}": "{mark}of{i}"}}'},
            }
            for i, call in enumerate(message["tool_calls"])
        ]
    return made


def _tool(name: str, about: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "string", "description": "a"}},
        "required": [],
    }
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def _unmarked(messages: Sequence[Message], marked: Sequence[Message], offered: Any, text: str) -> str | None:
    """What is missing in the text that a template made of marked messages; None: nothing."""
    if offered and not (_MARK.format("tool") in text and _MARK.format("about") in text):
        return (
            "the chat template knows no tools: leave them out of the data and of data.chat_template_kwargs, "
            "or take a base that calls tools"
        )
    places = []
    for number, (message, shown) in enumerate(zip(messages, marked, strict=True), 1):
        if shown["content"] and shown["content"] not in text.replace(f"{shown['content']}call", ""):
            return _swallowed(number, message)
        if shown["content"] and message["role"] != "system":  # some write it before the last question
            places.append(text.index(shown["content"]))
        for call in shown.get("tool_calls", ()):
            called = call["function"]
            mark = _MARK.format(number)
            whole = called["name"] in text and called["arguments"].split('"')[3] in text
            if not whole or f"{{'{mark}" in text:
                return f"the chat template swallows the tool call of message {number} (assistant)"
    return None if places == sorted(places) else "the chat template changes the order of the messages"


def _swallowed(number: int, message: Message) -> str:
    words = _opening(message["content"])
    if message["role"] == "system":
        return (
            f"the chat template drops the system message {words}: "
            "put it into the first user message, or take another base"
        )
    return f"the chat template swallows message {number} ({message['role']}) {words}"


def _lost(messages: Sequence[Message], text: str) -> str | None:
    """What the words of some message, or their like, kept from coming through; None: nothing."""
    for number, message in enumerate(messages, 1):
        said = message["content"].strip()
        if said not in text and not any(form in _bare(text) for form in _forms(message, said)):
            return _swallowed(number, message)
        for call in message.get("tool_calls", ()):
            for leaf in _leaves(json.loads(call["function"]["arguments"])):
                if leaf not in text and not any(_bare(form) in _bare(text) for form in _as_json(leaf)):
                    return (
                        f"the chat template swallows {_opening(leaf)} in the tool call of message {number} "
                        "(assistant)"
                    )
    return None


def _forms(message: Message, said: str) -> Iterator[str]:
    """In what other forms a template may write a message's words, without their white space."""
    yield _bare(said)
    yield from map(_bare, _as_json(said))
    if message["role"] == "assistant":
        yield _bare(REASONING.sub("", said))
    if message["role"] == "tool":
        try:
            found = json.loads(said)
        except (ValueError, RecursionError):
            return
        for ascii in (False, True):
            yield _bare(json.dumps(found, ensure_ascii=ascii))


def _as_json(text: str) -> Iterator[str]:
    for ascii in (False, True):
        yield json.dumps(text, ensure_ascii=ascii)[1:-1]


def _leaves(value: Any) -> Iterator[str]:
    """The texts in an object, but for its keys."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)


def _reasoning(message: Message) -> list[str]:
    """What an assistant's message thinks before it answers."""
    if message["role"] != "assistant":
        return []
    thought = [message["reasoning_content"]] if "reasoning_content" in message else []
    if ends_reasoning(message["content"]):
        thought += [found[0] for found in REASONING.finditer(message["content"])]
    return thought


def _bare(text: str) -> str:
    return "".join(text.split())


def _opening(text: str) -> str:
    words = " ".join(text[:1000].split())
    return repr(words if len(words) <= 50 else words[:50] + "…")
