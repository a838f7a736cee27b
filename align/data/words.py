"""Token ids of texts word by word: a word that has been encoded is looked up, which is several times faster.

A tokenizer of byte-level BPE cuts a text before it merges anything. A space between two printable ASCII
characters, `x y`, is always such a cut, and it belongs to what follows: no pattern of a known tokenizer
matches anything that goes on from a character that is no space into a space. What stands between two cuts
has the same tokens in every text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_CUT = re.compile(r"(?= [!-~])(?<=[!-~])")
_MOST = 2**17  # words that are remembered, about 30 MB
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
    """Encodes texts without special tokens around them, as the tokenizer does, and remembers words."""

    def __init__(self, backend: Tokenizer, added: dict[str, int]) -> None:
        self._backend = backend
        self._added = {"": (), **{text: (i,) for text, i in added.items()}}
        # Added tokens are found first, the longest where several begin; what lies between them is cut.
        longest_first = sorted(added, key=len, reverse=True)
        self._apart = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if added else None
        self._known: dict[str, tuple[int, ...]] = dict(self._added)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        cut = [self._words(text) for text in texts]
        new = list(set[str]().union(*cut).difference(self._known))
        if len(self._known) + len(new) > _MOST:
            self._known = dict(self._added)
            new = list(set[str]().union(*cut).difference(self._known))
        found = self._backend.encode_batch_fast(new, add_special_tokens=False)
        self._known.update((word, tuple(encoding.ids)) for word, encoding in zip(new, found, strict=True))
        known = self._known.__getitem__
        ids = [list(chain.from_iterable(map(known, words))) for words in cut]
        for word in new:
            if len(word) > _LONGEST:
                del self._known[word]
        return ids

    def _words(self, text: str) -> list[str]:
        if self._apart is None:
            return _CUT.split(text)
        first, *others = self._apart.split(text)
        words = _CUT.split(first)
        for token, after in zip(others[::2], others[1::2], strict=True):
            words.append(token)
            words += _CUT.split(after)
        return words


def word_encoder(tokenizer: PreTrainedTokenizerBase) -> WordEncoder | None:
    """An encoder for a tokenizer of a known kind; None for any other, which may not cut at every space."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or getattr(tokenizer, "split_special_tokens", False):
        return None
    backend.no_truncation()
    backend.no_padding()
    parts: dict[str, Any] = json.loads(backend.to_str())
    added = {token["content"]: token["id"] for token in parts["added_tokens"]}
    plain = not any(
        token[flag]
        for token in parts["added_tokens"]
        for flag in ("lstrip", "rstrip", "single_word", "normalized")
    )
    model, normalizer = parts["model"], parts["normalizer"]
    known = model["type"] == "BPE" and not model.get("dropout")
    # NFC leaves ASCII as it is and puts nothing together across a space.
    known = known and (normalizer is None or normalizer["type"] == "NFC")
    if not (known and plain and "" not in added and _cuts_at_spaces(parts["pre_tokenizer"])):
        return None
    return WordEncoder(backend, added)


def _cuts_at_spaces(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether one of its steps cuts by a known pattern, and no other joins or adds anything."""
    if pre_tokenizer is None:
        return False
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
