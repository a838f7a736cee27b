"""How a prompt and a response become token ids: one template for all stages, so that they cannot disagree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from align.data.rendering import Rendering, ended, tagged
from align.data.words import WordEncoder, word_encoder
from align.errors import UserError
from align.messages import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some chat templates print today's date. A run that goes on tomorrow must see the same tokens.
TEMPLATE_DATE = date(2024, 7, 26)
TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_MORE_ROWS = (
    "A base gets rows for its tokens by transformers' resize_token_embeddings; saved with its tokenizer, it "
    "learns them in sft by lora.modules_to_save"
)
PROBE = (
    "Hello, world!  Two spaces,\ttab\nnew line; 3.14159 + 2,000 = x_1 (CamelCase, don't).\n\n"
    "Ünïcödé für Ærøskøbing; Привет; γειά; שלום; سلام; 你好世界; こんにちは; 안녕; नमस्ते; 🙂👩🏽‍🚀 e\u0301"
)


class Template:
    """How a prompt and a response become token ids; kind is "chat" or "plain".

    chat: the tokenizer's chat template with the generation prompt; a text is one user message.
    plain: the prompt's text, with a BOS where the tokenizer adds one; the response follows verbatim.
    `positions`: how many tokens the base can read, None where nothing says so. `rows`: how many tokens have
    a row in its embedding table, None where nothing says so; a text that needs another is refused.
    Raises UserError when the tokenizer has no EOS, or no chat template where one is needed, or when EOS or
    what stands around every prompt needs a token that has no row.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        kind: Literal["chat", "plain"],
        positions: int | None = None,
        rows: int | None = None,
    ) -> None:
        self.eos_id = response_end(tokenizer)
        self._tokenizer = tokenizer
        self._kind = kind
        self.chat_template = _chat_template(tokenizer) if kind == "chat" else None
        self._rendering = Rendering(tokenizer, self.chat_template) if self.chat_template is not None else None
        self.positions = positions
        self.rows = rows
        if rows is not None:
            self._check_rows(rows)

    def _check_rows(self, rows: int) -> None:
        chat = self._rendering is not None
        text = self._rendering.prompt("a") if self._rendering is not None else "a"
        always = self._ids([text], special=not chat)[0] if isinstance(text, str) else []
        wrong = self._embedded([self.eos_id, *always])
        if isinstance(wrong, UserError):
            plain = ", or `data.template: plain`" if chat and self.eos_id < rows else ""
            raise UserError(
                f"base.name: {wrong}. Take the tokenizer that belongs to this base, or a base that was "
                f"trained with that token{plain}. {_MORE_ROWS}"
            )

    @cached_property
    def told_rowless(self) -> str | None:
        """Which tokens the tokenizer may give that have no row in the base's embeddings, and what to do."""
        if self.rows is None:
            return None
        over = sorted((i, token) for token, i in self._tokenizer.get_vocab().items() if i >= self.rows)
        if not over:
            return None
        who = "a token" if len(over) == 1 else f"{len(over)} tokens"
        return (
            f"the tokenizer has {who} beyond the base's {self.rows} rows of embeddings, such as "
            f"{over[0][1]!r} (token {over[0][0]}): a text that needs one is refused. {_MORE_ROWS}"
        )

    @cached_property
    def hash(self) -> str:
        """A sha256 over what decides the ids: kind, chat template, vocabulary, special tokens, a probe."""
        tokenizer = self._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        model: dict[str, Any] = json.loads(backend.to_str())["model"] if backend is not None else {}
        content = {
            "kind": self._kind,
            "chat_template": self.chat_template,
            "vocabulary": tokenizer.get_vocab(),
            "merges": model.get("merges"),
            "bos": tokenizer.bos_token_id,
            "eos": self.eos_id,
            "probe": self._ids([PROBE], special=True)[0],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def prompt_ids(self, prompt: str | Messages) -> list[int]:
        """The prompt's ids, never empty and never with an EOS behind a plain prompt; raises UserError."""
        return _good(self.prompts_ids([prompt])[0])

    def response_ids(self, text: str) -> list[int]:
        """The response's ids, with one EOS at the end; raises UserError when an EOS stands in the text."""
        return _good(self.responses_ids([text])[0])

    def prompts_ids(self, prompts: Sequence[str | Messages]) -> list[list[int] | UserError]:
        """The ids of many prompts at once, which is faster; in place of ids, what is wrong with a prompt."""
        write = _plain if self._rendering is None else self._rendering.prompt
        texts = [write(prompt) for prompt in prompts]
        good = [text for text in texts if isinstance(text, str)]
        found = iter(self._ids(good, special=self._kind == "plain"))
        return [self._prompt(next(found)) if isinstance(text, str) else text for text in texts]

    def responses_ids(self, texts: Sequence[str]) -> list[list[int] | UserError]:
        """The ids of many responses at once; in place of ids, what is wrong with a response."""
        return [
            self._response(text, ids)
            for text, ids in zip(texts, self._ids(texts, special=False), strict=True)
        ]

    @property
    def opened(self) -> tuple[str, bool] | None:
        """The tag of reasoning in the chat template's generation prompt, and whether it is closed there."""
        return self._rendering.opened if self._rendering is not None else None

    def drops_reasoning(self, prompt: str | Messages) -> bool:
        """Whether the chat template leaves reasoning of the assistant's earlier turns out of the prompt."""
        return self._rendering is not None and self._rendering.drops_reasoning(prompt)

    def strips(self, prompt: str | Messages, response: str) -> str | None:
        """What the base's own template would leave out of the response; None: nothing, or nobody can say."""
        return self._rendering.strips(prompt, response) if self._rendering is not None else None

    def tagged(self, prompt: str | Messages, responses: Sequence[str]) -> str | None:
        """What is wrong where the texts name their speakers, as the chat template does; None: nothing."""
        return tagged(prompt, responses) if self._rendering is not None else None

    def ended(self, responses: Sequence[str]) -> str | None:
        """What is wrong where the texts end as a chat template ends an answer; None: nothing."""
        return ended(responses) if self._rendering is not None else None

    def _response(self, text: str, ids: list[int]) -> list[int] | UserError:
        if self.eos_id in ids:
            return UserError(
                f"the response holds {self._tokenizer.eos_token!r}, the base's end-of-sequence token: "
                "remove it from the text, it is added to every response"
            )
        if self.opened is not None and text.lstrip().startswith(self.opened[0]):
            return UserError(
                f"the response begins with {self.opened[0]!r}, which the chat template has written already: "
                "the tag would come twice, so take it out of the response"
            )
        return self._embedded([*ids, self.eos_id])

    def _prompt(self, ids: list[int]) -> list[int] | UserError:
        # Some tokenizers close every text with an EOS; behind a prompt it would end the response at once.
        while self._kind == "plain" and len(ids) > 1 and ids[-1] == self.eos_id:
            ids.pop()
        if not ids:
            return UserError("the prompt has no tokens: the tokenizer drops all of its text")
        return self._embedded(ids)

    def _embedded(self, ids: list[int]) -> list[int] | UserError:
        """The ids, or what is wrong where the base has no embedding for one of them."""
        largest = max(ids)
        if self.rows is None or largest < self.rows:
            return ids
        token = self._tokenizer.convert_ids_to_tokens(largest)
        return UserError(f"{token!r} is token {largest}, and the base has embeddings for {self.rows} tokens")

    def _ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        if special and self._frames:
            return self._whole_ids(texts, special)
        return self._words.encode(texts) if self._words is not None else self._whole_ids(texts, special)

    @cached_property
    def _frames(self) -> bool:
        """Whether the tokenizer puts special tokens around a text."""
        return self._whole_ids(["a"], special=True) != self._whole_ids(["a"], special=False)

    @cached_property
    def _words(self) -> WordEncoder | None:
        """Encodes word by word where that gives the same ids."""
        encoder = word_encoder(self._tokenizer)
        same = encoder is not None and encoder.encode([PROBE]) == self._whole_ids([PROBE], special=False)
        return encoder if same else None

    def _whole_ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        # verbose: lengths are checked, and explained, by align.data.tokenize.
        found = self._tokenizer(
            list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False
        )["input_ids"]
        return [list(ids) for ids in found]


def response_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a response: the tokenizer's EOS, whatever a base's configuration says beside it.

    This is the one place that decides: training, sampling, rewards and export ask here. Raises UserError
    where there is none.
    """
    if not isinstance(tokenizer.eos_token_id, int):
        raise UserError(
            "base.name: its tokenizer has no end-of-sequence token, so no response could end. "
            "Take another base."
        )
    return tokenizer.eos_token_id


def _plain(prompt: str | Messages) -> str | UserError:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:  # one user message is its text, as a text is one user message to a chat template
        return prompt[0]["content"]
    return UserError(
        "the prompt is a conversation, and `data.template: plain` takes text: "
        "use `data.template: chat`, or write the prompts as text"
    )


def _good(ids: list[int] | UserError) -> list[int]:
    if isinstance(ids, UserError):
        raise ids
    return ids


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        text = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            "data.template: the base's tokenizer has no chat template. "
            "Set `data.template: plain`, or take a base that was trained to chat."
        ) from error
    return TODAY.sub(lambda call: json.dumps(TEMPLATE_DATE.strftime(call[2])), text)
