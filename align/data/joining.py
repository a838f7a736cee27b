"""A response's tokens behind its prompt's, so that together they are the text of both, and text again.

Byte-level BPE gives a text the same tokens wherever it stands. Tokenizers that SentencePiece made (Llama 2,
Mistral, TinyLlama, Phi-3) put a space in front of every text that they are given, and drop it when they
decode: a response that is encoded alone begins with a space that nobody wrote, and one that is decoded alone
loses the one it has. So there, a response is encoded and decoded behind another text, which is cut off again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = ("Yes", "yes", " Yes", "42", "(a", "é", "你好", "🙂")  # beginnings of responses
_ANCHORS = ("\n", "a", ".", "=")  # what a response may stand behind where nothing says what it does
_HEAD = re.compile(r"\s{0,8}\S{0,16}")  # what of a response may become one token with what is before it

Encode = Callable[[Sequence[str]], list[list[int]]]  # without special tokens around the texts


class Joining:
    """How responses become tokens behind their prompts.

    before: what stands in front of every response, a chat's generation prompt; "" in plain, where any text
    may. lead, tail: what the chat template writes between that and an answer's words, and behind them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encode: Encode,
        before: str = "",
        lead: str = "",
        tail: str = "",
    ) -> None:
        self._tokenizer = tokenizer
        self._encode = encode
        self._before, self._lead, self._tail = before, lead, tail
        self._heads: dict[str, bool] = {}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each response, without EOS."""
        return self._behind([f"{self._lead}{text}{self._tail}" for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        """The response that ids are, with or without EOS: the words that `encode` would have been given."""
        ended = bool(ids) and ids[-1] == self._tokenizer.eos_token_id
        text = self._shown(ids).removeprefix(self._shown_lead)
        return text.removesuffix(self._tail) if ended else text

    def decode_prompt(self, ids: Sequence[int]) -> str:
        """The text that a prompt's ids are, without special tokens."""
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def straddles(self, response: str) -> bool:
        """Whether the first token of a response would be one with the end of `before` in the whole text.

        Such a token can be neither sampled nor trained behind a prompt.
        """
        found = _HEAD.match(response)
        head = found[0] if found else ""
        if head not in self._heads:
            start, whole = self._encode([self._before, f"{self._before}{self._lead}{head}"])
            self._heads[head] = whole != start + self._behind([f"{self._lead}{head}"])[0]
        return self._heads[head]

    def keeps(self, text: str) -> bool:
        """Whether the tokens of a response are its text, to the byte."""
        return self.keeps_exactly(text) or self.comes_back(text) == text

    def comes_back(self, text: str) -> str:
        """The text that a response's tokens are."""
        return self.decode([*self.encode([text])[0], self._tokenizer.eos_token_id])

    def keeps_exactly(self, text: str) -> bool:
        """Whether the tokenizer is known to keep all bytes of a text, without asking it."""
        if self._exact is None:
            return False
        return self._exact == "all" or text.isascii() or unicodedata.is_normalized("NFC", text)

    @cached_property
    def drops_space(self) -> bool:
        """Whether the space that a text begins with is taken for the one that is put in front of others."""
        one, two = (self.decode_prompt(ids) for ids in self._encode([" Yes", "  Yes"]))
        return (one, two) == ("Yes", " Yes")

    @property
    def identity(self) -> Any:
        """What of it decides ids, in JSON's types; None where a response is its text encoded alone."""
        if not (self._starts or self._lead or self._tail):
            return None
        return [self._lead, self._tail, self.encode(PROBES)]

    def _behind(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that stand behind others."""
        if not self._starts:
            return self._encode(texts)
        found: dict[int, list[int]] = {}
        for text, start in self._starts:
            left = [i for i in range(len(texts)) if i not in found]
            whole = self._encode([text + texts[i] for i in left])
            found |= {
                i: ids[len(start) :] for i, ids in zip(left, whole, strict=True) if ids[: len(start)] == start
            }
        left = [i for i in range(len(texts)) if i not in found]
        found.update(zip(left, self._encode([texts[i] for i in left]), strict=True))
        return [found[i] for i in range(len(texts))]

    @cached_property
    def _starts(self) -> list[tuple[str, list[int]]]:
        """What to encode a response behind, with its ids, the best first; none where it may stand alone."""
        if self._before:
            start = self._encode([self._before])[0]
            alone = all(
                whole[: len(start)] != start or whole[len(start) :] == own
                for whole, own in zip(
                    self._encode([self._before + probe for probe in PROBES]),
                    self._encode(PROBES),
                    strict=True,
                )
            )
            return [] if alone else [(self._before, start), *self._anchors]
        (start,) = self._encode(["a"])
        alone = all(
            self.decode_prompt(start + own) == self.decode_prompt(start) + probe
            for probe, own in zip(PROBES, self._encode(PROBES), strict=True)
        )
        return [] if alone else self._anchors

    @cached_property
    def _anchors(self) -> list[tuple[str, list[int]]]:
        """Texts behind which every other text keeps its bytes."""
        found = []
        for anchor, start in zip(_ANCHORS, self._encode(_ANCHORS), strict=True):
            whole = self._encode([anchor + probe for probe in PROBES])
            shown = self.decode_prompt(start)
            if all(
                ids[: len(start)] == start and self.decode_prompt(ids) == shown + probe
                for ids, probe in zip(whole, PROBES, strict=True)
            ):
                found.append((anchor, start))
        return found

    def _shown(self, ids: Sequence[int]) -> str:
        front = self._front
        return (
            self.decode_prompt([*front, *ids])[len(self.decode_prompt(front)) :]
            if front
            else (self.decode_prompt(ids))
        )

    @cached_property
    def _front(self) -> list[int]:
        """What to decode a response behind; nothing where it keeps its first space alone."""
        # Not behind a line break: where that is a byte, half a character behind it would break it too.
        starts = [(text, start) for text, start in self._anchors if text != "\n"]
        for text, start in starts:
            if self.decode_prompt(self._encode([f"{text} Yes"])[0][len(start) :]) != " Yes":
                return start
        return []

    @cached_property
    def _shown_lead(self) -> str:
        """What decoding gives in front of an answer's words in a chat."""
        if not self._before:
            return ""
        shown, found, _ = self._shown(self.encode(["Yes"])[0]).partition("Yes")
        return shown if found and not shown.strip() else ""

    @cached_property
    def _exact(self) -> Literal["all", "nfc"] | None:
        """Which texts are known to keep their bytes: all, or those that are in Unicode's form NFC."""
        from tokenizers.decoders import ByteLevel
        from tokenizers.normalizers import NFC

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None or not isinstance(backend.decoder, ByteLevel) or self._starts:
            return None
        if self._front or self.decode_prompt(self._encode(["Yes"])[0]) != "Yes":
            return None
        if backend.normalizer is None:
            return "all"
        return "nfc" if isinstance(backend.normalizer, NFC) else None
