"""Token ids of texts word by word: a word that has been encoded is looked up, which is several times faster.

A tokenizer of byte-level BPE cuts a text before it merges anything. A space between two printable ASCII
characters, `x y`, is always such a cut, and it belongs to what follows: no pattern of a known tokenizer
matches anything that goes on from a character that is no space into a space. What stands between two cuts
has the same tokens in every text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_CUT = re.compile(r"(?= [!-~])(?<=[!-~])")
_MOST = 2**17  # words that are remembered, about 30 MB; a few more before all are forgotten
_LONGEST = 64  # characters of a word that is worth remembering
# How GPT-2, Llama 3, Qwen 2 and 3, and GPT-4o cut a text, as their tokenizer.json writes it.
_PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


class WordEncoder:
    """Encodes texts without special tokens around them, as the tokenizer does, and remembers words.

    A word is known by its text without the space before it; with one space in front, it is what a text
    begins with; with two, it stands for what is behind them, however that begins and ends.
    """

    def __init__(self, backend: Tokenizer, added: dict[str, int]) -> None:
        self._backend = backend
        self._added = {" ": (), **{f"  {text}": (i,) for text, i in added.items()}}
        # Added tokens are found first, the longest where several begin; what lies between them is cut.
        longest_first = sorted(added, key=len, reverse=True)
        self._apart = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if added else None
        self._known: dict[str, tuple[int, ...]] = dict(self._added)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        if len(self._known) > _MOST:
            self._known = dict(self._added)
        ids = [self._looked_up(text) for text in texts]
        new: set[str] = set()
        cut = {i: self._words(texts[i], lambda text: self._cut(text, new)) for i in _absent(ids)}
        self._learn(list(new))
        for i, words in cut.items():
            ids[i] = self._ids(words)
        for word in new:
            if len(word) > _LONGEST:
                del self._known[word]
        return [found for found in ids if found is not None]

    def _looked_up(self, text: str) -> list[int] | None:
        """The ids of a text of which all words are known, as most texts are after a while; else None."""
        try:
            return self._ids(self._words(text, _at_spaces))
        except KeyError:
            return None

    def _ids(self, words: Sequence[str]) -> list[int]:
        return list(chain.from_iterable(map(self._known.__getitem__, words)))

    def _learn(self, words: Sequence[str]) -> None:
        texts = [word[2:] if word[:2] == "  " else _first_or_later(word) for word in words]
        found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        self._known.update((word, tuple(encoding.ids)) for word, encoding in zip(words, found, strict=True))

    def _words(self, text: str, cut: Callable[[str], list[str]]) -> list[str]:
        """The words of a text, which `cut` finds between two added tokens."""
        if self._apart is None:
            return cut(text)
        first, *others = self._apart.split(text)
        words = cut(first)
        for token, after in zip(others[::2], others[1::2], strict=True):
            words.append(f"  {token}")
            words += cut(after)
        return words

    def _cut(self, text: str, new: set[str]) -> list[str]:
        """The words of a text without an added token; those that are not known yet go to `new`."""
        words = _at_spaces(text)
        unknown = set(words).difference(self._known)
        if not all(map(_is_cut_out, unknown)):
            words = [f"  {part}" for part in _CUT.split(text)]
            unknown = set(words).difference(self._known)
        new |= unknown
        return words


def _absent(ids: Sequence[list[int] | None]) -> list[int]:
    return [i for i, found in enumerate(ids) if found is None]


def _at_spaces(text: str) -> list[str]:
    words = text.split(" ")
    words[0] = f" {words[0]}"
    return words


def _first_or_later(word: str) -> str:
    return word[1:] if word[0] == " " else f" {word}"


def _is_cut_out(word: str) -> bool:
    """Whether a text is cut on both sides of this word, so that every word that is known is such a one."""
    return " " <= word[:1] <= "~" and "!" <= word[-1:] <= "~"


def word_encoder(tokenizer: PreTrainedTokenizerBase) -> WordEncoder | None:
    """An encoder for a tokenizer of a known kind; None for any other, which may not cut at every space."""
    from tokenizers.models import BPE
    from tokenizers.normalizers import NFC

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or getattr(tokenizer, "split_special_tokens", False):
        return None
    tokens = backend.get_added_tokens_decoder()
    plain = not any(
        not token.content or token.lstrip or token.rstrip or token.single_word or token.normalized
        for token in tokens.values()
    )
    known = isinstance(backend.model, BPE) and not backend.model.dropout
    # NFC leaves ASCII as it is and puts nothing together across a space.
    known = known and (backend.normalizer is None or isinstance(backend.normalizer, NFC))
    if not (known and plain and backend.pre_tokenizer is not None):
        return None
    if not _cuts_at_spaces(json.loads(backend.pre_tokenizer.__getstate__())):
        return None
    backend.no_truncation()
    backend.no_padding()
    return WordEncoder(backend, {token.content: i for i, token in tokens.items()})


def _cuts_at_spaces(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether one of its steps cuts by a known pattern, and no other joins or adds anything."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    cuts = False
    for step in steps:
        if step["type"] == "ByteLevel":
            if step["add_prefix_space"]:
                return False
            cuts = cuts or step["use_regex"]
        elif step["type"] == "Split":
            pattern = step["pattern"].get("Regex")
            if pattern not in _PATTERNS or step["behavior"] != "Isolated" or step["invert"]:
                return False
            cuts = True
        elif step["type"] != "Digits":
            return False
    return bool(cuts)
