"""How a prompt and a response become token ids: one template for all stages, so that they cannot disagree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align.data.chat_template import ChatTemplate, find_chat_template
from align.data.joining import Joining
from align.data.rendering import Rendering, ended, tagged
from align.data.thoughts import told_thought
from align.data.words import WordEncoder, word_encoder
from align.errors import UserError
from align.messages import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from align.recipe.data import Data

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

    chat: the tokenizer's chat template with the generation prompt; a text is one user message. `name` is that
    of the template where a base has several, and `kwargs` what it is given beside the messages. The response
    stands right behind the generation prompt, in training as in sampling, after the white space that the
    template itself writes there.
    plain: the prompt's text, with a BOS where the tokenizer adds one; the response follows verbatim.
    `positions`: how many tokens the base can read, None where nothing says so. `rows`: how many tokens have
    a row in its embedding table, None where nothing says so; a text that needs another is refused.
    Raises UserError when the tokenizer has no EOS, or no chat template (of this name) where one is needed, or
    one that never reads one of the kwargs, or when EOS or what stands around every prompt needs a token that
    has no row.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        kind: Literal["chat", "plain"],
        positions: int | None = None,
        rows: int | None = None,
        name: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.eos_id = response_end(tokenizer)
        self._tokenizer = tokenizer
        self._kind = kind
        chat = find_chat_template(tokenizer, name, kwargs or {}) if kind == "chat" else None
        self._rendering = Rendering(tokenizer, chat) if chat is not None else None
        self.positions = positions
        self.rows = rows
        if rows is not None:
            self._check_rows(rows)

    @classmethod
    def of_recipe(
        cls, data: Data, tokenizer: PreTrainedTokenizerBase, positions: int | None, rows: int | None
    ) -> Template:
        """The template that a recipe's data section names; raises UserError as the class does."""
        return cls(tokenizer, data.template, positions, rows, data.template_name, data.chat_template_kwargs)

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

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The chat template; None in plain."""
        return self._rendering.chat_template if self._rendering is not None else None

    @property
    def rendering(self) -> Rendering | None:
        """The chat template at work; None in plain."""
        return self._rendering

    @cached_property
    def around_response(self) -> tuple[str, str]:
        """White space that the chat template writes before an answer, and between it and the EOS."""
        if self._rendering is None:
            return "", ""
        turn = self._rendering.turn
        end = turn.after.lstrip()
        ends = end.startswith(str(self._tokenizer.eos_token))
        return turn.lead, turn.after.removesuffix(end) if ends else ""

    @cached_property
    def _joining(self) -> Joining:
        def encode(texts: Sequence[str]) -> list[list[int]]:
            return self._ids(texts, special=False)

        before = self._rendering.turn.before if self._rendering is not None else ""
        return Joining(self._tokenizer, encode, before, *self.around_response)

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
            "chat_template": self.chat_template.identity if self.chat_template is not None else None,
            "vocabulary": tokenizer.get_vocab(),
            "merges": model.get("merges"),
            "bos": tokenizer.bos_token_id,
            "eos": self.eos_id,
            "probe": self._ids([PROBE], special=True)[0],
        }
        if self._joining.identity is not None:
            content["responses"] = self._joining.identity
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def prompt_ids(self, prompt: str | Messages) -> list[int]:
        """The prompt's ids, never empty and never with an EOS behind a plain prompt; raises UserError."""
        return _good(self.prompts_ids([prompt])[0])

    def response_ids(self, text: str) -> list[int]:
        """The response's ids, with one EOS at the end; raises UserError when an EOS stands in the text."""
        return _good(self.responses_ids([text])[0])

    def prompts_ids(self, prompts: Sequence[str | Messages]) -> list[list[int] | UserError]:
        """The ids of many prompts at once, which is faster; in place of ids, what is wrong with a prompt."""
        write = self._plain if self._rendering is None else self._rendering.prompt
        texts = [write(prompt) for prompt in prompts]
        good = [text for text in texts if isinstance(text, str)]
        found = iter(self._ids(good, special=self._kind == "plain"))
        return [self._prompt(next(found)) if isinstance(text, str) else text for text in texts]

    def responses_ids(self, texts: Sequence[str]) -> list[list[int] | UserError]:
        """The ids of many responses at once; in place of ids, what is wrong with a response."""
        return [
            self._response(text, ids) for text, ids in zip(texts, self._joining.encode(texts), strict=True)
        ]

    def text(self, response: Sequence[int]) -> str:
        """The text of a response's ids, without special tokens: what `response_ids` was or would be given."""
        return self._joining.decode(response)

    def prompt_text(self, ids: Sequence[int]) -> str:
        """The text that a prompt's ids are, without special tokens."""
        return self._joining.decode_prompt(ids)

    def loses(self, prompt: str | Messages, response: str | None = None) -> str | None:
        """The text that the tokens of a response, or else of a plain prompt, are; None: it to the byte."""
        if response is not None:
            return None if self._joining.keeps(response) else self._joining.comes_back(response)
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        if self._rendering is not None or self._joining.keeps_exactly(text):
            return None
        shown = self._joining.decode_prompt(self.prompt_ids(prompt))
        return None if shown == text else shown

    def straddles(self, response: str) -> bool:
        """Whether the chat template's text has a token that begins before a response and ends in it."""
        return self._rendering is not None and self._joining.straddles(response)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, with a chat template that is this one where it is given nothing else.

        What it says must not change with the day, nor with who forgets what it was given.
        """
        own = self._tokenizer.chat_template
        if self.chat_template is not None:
            self._tokenizer.chat_template = self.chat_template.exported(own)
        self._tokenizer.save_pretrained(str(folder))
        self._tokenizer.chat_template = own

    def remarks(self) -> list[str]:
        """What a person should know of the chat template before anything trains."""
        if self._rendering is None:
            return []
        thought = told_thought(self._rendering)
        return self._rendering.chat_template.remarks() + ([thought] if thought else [])

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

    def _plain(self, prompt: str | Messages) -> str | UserError:
        if not isinstance(prompt, str) and len(prompt) > 1:
            return UserError(
                "the prompt is a conversation, and `data.template: plain` takes text: "
                "use `data.template: chat`, or write the prompts as text"
            )
        # One message is its text, as a text is one message in a chat.
        text = prompt if isinstance(prompt, str) else str(prompt[0]["content"])
        return f" {text}" if text[:1] == " " and self._joining.drops_space else text

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


def _good(ids: list[int] | UserError) -> list[int]:
    if isinstance(ids, UserError):
        raise ids
    return ids
