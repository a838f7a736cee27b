"""From records to token ids: one template for all stages, so that they cannot disagree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import jinja2

from align.errors import UserError
from align.records import Demonstration, Messages, Prompt, Ranking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some chat templates print today's date. A run that goes on tomorrow must see the same tokens.
TEMPLATE_DATE = date(2024, 7, 26)
TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
PROBE = (
    "Hello, world!  Two spaces,\ttab\nnew line; 3.14159 + 2,000 = x_1 (CamelCase, don't).\n\n"
    "Ünïcödé für Ærøskøbing; Привет; γειά; שלום; سلام; 你好世界; こんにちは; 안녕; नमस्ते; 🙂👩🏽‍🚀 e\u0301"
)


class Template:
    """How a prompt and a response become token ids; kind is "chat" or "plain".

    chat: the tokenizer's chat template with the generation prompt; a text is one user message.
    plain: the prompt's text, with a BOS where the tokenizer adds one; the response follows verbatim.
    `positions`: how many tokens the base can read, None where nothing says so.
    Raises UserError when the tokenizer has no EOS, or no chat template where one is needed.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        kind: Literal["chat", "plain"],
        positions: int | None = None,
    ) -> None:
        if not isinstance(tokenizer.eos_token_id, int):
            raise UserError(
                "base.name: its tokenizer has no end-of-sequence token, so no response could end. "
                "Take another base."
            )
        self._tokenizer = tokenizer
        self._kind = kind
        self._chat_template = _chat_template(tokenizer) if kind == "chat" else None
        self.eos_id: int = tokenizer.eos_token_id
        self.positions = positions

    @property
    def hash(self) -> str:
        """A sha256 over what decides the ids: kind, chat template, vocabulary, special tokens, a probe."""
        tokenizer = self._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        model: dict[str, Any] = json.loads(backend.to_str())["model"] if backend is not None else {}
        content = {
            "kind": self._kind,
            "chat_template": self._chat_template,
            "vocabulary": tokenizer.get_vocab(),
            "merges": model.get("merges"),
            "bos": tokenizer.bos_token_id,
            "eos": self.eos_id,
            "probe": self._ids(PROBE, special=True),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def prompt_ids(self, prompt: str | Messages) -> list[int]:
        """The prompt's ids, never empty and never with an EOS behind a plain prompt; raises UserError."""
        ids = self._chat(prompt) if self._kind == "chat" else self._plain(prompt)
        if not ids:
            raise UserError("the prompt has no tokens: the tokenizer drops all of its text")
        return ids

    def response_ids(self, text: str) -> list[int]:
        """The response's ids, with one EOS at the end; raises UserError when an EOS stands in the text."""
        ids = self._ids(text, special=False)
        if self.eos_id in ids:
            raise UserError(
                f"the response holds {self._tokenizer.eos_token!r}, the base's end-of-sequence token: "
                "remove it from the text, it is added to every response"
            )
        return [*ids, self.eos_id]

    def _chat(self, prompt: str | Messages) -> list[int]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._chat_template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"the base's chat template refuses the prompt: {error}") from error
        return self._ids(str(text), special=False)

    def _plain(self, prompt: str | Messages) -> list[int]:
        if not isinstance(prompt, str):
            raise UserError(
                "the prompt is a list of messages, and `data.template: plain` takes text: "
                "use `data.template: chat`, or write the prompts as text"
            )
        ids = self._ids(prompt, special=True)
        # Some tokenizers close every text with an EOS; behind a prompt it would say that all is said.
        while len(ids) > 1 and ids[-1] == self.eos_id:
            ids.pop()
        return ids

    def _ids(self, text: str, special: bool) -> list[int]:
        # verbose: lengths are checked, and explained, by the functions below.
        return list(self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        text = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            "data.template: the base's tokenizer has no chat template. "
            "Set `data.template: plain`, or take a base that was trained to chat."
        ) from error
    return TODAY.sub(lambda call: json.dumps(TEMPLATE_DATE.strftime(call[2])), text)


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and its responses with their EOS: one for a demonstration, K for a ranking."""

    prompt: list[int]
    responses: list[list[int]]


def encode_demonstrations(
    template: Template, records: Sequence[Demonstration], max_length: int, where: str
) -> list[Encoded]:
    """Encode each demonstration; `where` names the records in messages, such as "data.demonstrations".

    Raises UserError when a record cannot be encoded or a sequence has more than max_length tokens.
    """
    encoded = [_encode(template, i, record, (record.response,), where) for i, record in enumerate(records, 1)]
    lengths = [_longest(part) for part in encoded]
    _refuse_long(records, lengths, max_length, where, "sft.max_length")
    _refuse_beyond(template, max(lengths, default=0), where)
    return encoded


def encode_rankings(
    template: Template, records: Sequence[Ranking], max_length: int, where: str
) -> list[Encoded]:
    """Encode each ranking, its prompt once; raises UserError as encode_demonstrations does."""
    encoded = [_encode(template, i, record, record.responses, where) for i, record in enumerate(records, 1)]
    lengths = [_longest(part) for part in encoded]
    _refuse_long(records, lengths, max_length, where, "rm.max_length")
    _refuse_beyond(template, max(lengths, default=0), where)
    return encoded


def encode_prompts(
    template: Template, records: Sequence[Prompt], max_prompt_tokens: int, where: str, room: int = 0
) -> list[list[int]]:
    """Encode each prompt; `room`: tokens of the response that will follow.

    Raises UserError when one cannot be encoded, is over max_prompt_tokens, or leaves no such room.
    """
    prompts = [_encode(template, i, record, (), where).prompt for i, record in enumerate(records, 1)]
    lengths = [len(ids) for ids in prompts]
    _refuse_long(records, lengths, max_prompt_tokens, where, "ppo.max_prompt_tokens")
    _refuse_beyond(template, max(lengths, default=0), where, room)
    return prompts


def _encode(
    template: Template,
    number: int,
    record: Prompt | Demonstration | Ranking,
    responses: Sequence[str],
    where: str,
) -> Encoded:
    try:
        return Encoded(
            template.prompt_ids(record.prompt), [template.response_ids(text) for text in responses]
        )
    except UserError as error:
        raise UserError(f"{where}: record {number} ({_opening(record.prompt)}): {error}") from error


def _longest(encoded: Encoded) -> int:
    return len(encoded.prompt) + max(len(response) for response in encoded.responses)


def _refuse_long(
    records: Sequence[Prompt | Demonstration | Ranking],
    lengths: Sequence[int],
    limit: int,
    where: str,
    key: str,
) -> None:
    long = [i for i, length in enumerate(lengths) if length > limit]
    if long:
        first = f"record {long[0] + 1} ({_opening(records[long[0]].prompt)}), {lengths[long[0]]} tokens"
        raise UserError(
            f"{where}: {len(long)} of {len(lengths)} records have more than {limit} tokens. "
            f"The first is {first}. The longest has {max(lengths)}: "
            f"raise `{key}` to {max(lengths)}, or shorten or drop these records."
        )


def _refuse_beyond(template: Template, longest: int, where: str, room: int = 0) -> None:
    """Raise UserError where the base has no position for a token; it would fail, or read nonsense."""
    if template.positions is None or longest + room <= template.positions:
        return
    after = f" and ppo.max_response_tokens is {room}" if room else ""
    lower = ", or lower `ppo.max_response_tokens`" if room else ""
    raise UserError(
        f"{where}: the longest record has {longest} tokens{after}, and the base reads at most "
        f"{template.positions}: shorten or drop the long records{lower}, or take another base"
    )


def _opening(prompt: str | Messages) -> str:
    """The prompt's first words, to search for in the file."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    words = " ".join(text.split())
    return repr(words if len(words) <= 50 else words[:50] + "…")
