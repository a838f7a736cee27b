"""Texts and prompts that are the same, or nearly, and records that come again."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from align.data.doubts import NO_CELL, PLACEHOLDER
from align.messages import Messages, words_of

NEAR = 0.9  # near-identical: so large a share of the two responses' word triples is common to both

_MARKUP = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|begin_of_text|eot_id|endoftext|user|assistant|system|end)"
    r"\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<extra_id_[0-9]>|^### (?:Instruction|Input|Response):",
    re.MULTILINE,
)
_ENDS = re.compile(r"\A\s*<s>|</s>\s*\Z")  # within a text these two strike words through

NO_INPUT = frozenset(("<noinput>", "<no input>", "noinput", "n/a"))
_FIRST = 40  # characters that nearly always tell whether a text says something


class _Bare(dict[int, str | int | None]):
    """For str.translate: punctuation and control characters go, every kind of space is one; the rest stays.

    Symbols stay because they may be all there is: a thumb up is not a thumb down.
    """

    def __missing__(self, code: int) -> str | int | None:
        sign = chr(code)
        gone = unicodedata.category(sign)[0] in "PZC"
        return self.setdefault(code, " " if sign.isspace() else None if gone else code)


_BARE = _Bare()


def bare_words(text: str) -> list[str]:
    """The words of a text, casefolded and without punctuation."""
    return text.casefold().translate(_BARE).split()


def words(text: str) -> list[str]:
    """The words of a text as they are written, without punctuation."""
    return text.translate(_BARE).split()


def normal(text: str) -> str:
    """Casefolded, without punctuation and spaces; of a text with nothing else, the text itself."""
    return "".join(bare_words(text)) or text.strip()


def normal_prompt(prompt: str | Messages) -> str:
    """The normal form of a prompt; a text equals the one user message that it stands for."""
    if isinstance(prompt, str):
        return f"user:{normal(prompt)}"
    return "\n".join(f"{message['role']}:{normal(words_of(message))}" for message in prompt)


def says_nothing(text: str) -> bool:
    """Whether no letter, digit or symbol stands in it."""
    return not bare_words(text[:_FIRST]) and not bare_words(text)


def is_no_cell(text: str) -> bool:
    """Whether a text is only what tables write where a cell is empty."""
    return text.strip() in NO_CELL


def ends_with_no_cell(text: str) -> bool:
    """Whether a part of a prompt, or its last paragraph, is only that, or what Alpaca writes for no input."""
    last = text.rpartition("\n\n")[2].strip()
    return last in NO_CELL or last.casefold() in NO_INPUT


def is_list_as_text(text: str) -> bool:
    """Whether a text is a list of texts, as JSON writes it."""
    bare = text.strip()
    if not (bare.startswith('["') and bare.endswith("]")):
        return False
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and all(isinstance(part, (str, type(None))) for part in found)


def foreign_markup(text: str) -> set[str]:
    """The marks of chat templates that stand in a text as words."""
    if not any(sign in text for sign in ("<", "[", "### ")):  # one of these is in each, and this is fast
        return set()
    return set(_MARKUP.findall(text)) | {hit.strip() for hit in _ENDS.findall(text)}


def placeholders(text: str) -> set[str]:
    """The marks in a text where an image, a video or a sound stood."""
    found = PLACEHOLDER.finditer(text) if "<" in text or "[IM" in text else ()
    return {mark[0] for mark in found}


@dataclass(frozen=True)
class Alike:
    """Pairs of responses of one record, as indices i < j: the same text, or nearly."""

    identical: list[tuple[int, int]]
    near: list[tuple[int, int]]


def alike(responses: Sequence[str]) -> Alike:
    """Compare all pairs: identical but for outer spaces; near: one normal form, or `jaccard` >= 0.9.

    Responses of which one is over 1.4 times as long as the other are not near, whatever they repeat.
    """
    stripped = [text.strip() for text in responses]
    words = [bare_words(text) for text in stripped]
    forms = ["".join(parts) or text for parts, text in zip(words, stripped, strict=True)]
    identical: list[tuple[int, int]] = []
    near: list[tuple[int, int]] = []
    triples: dict[int, frozenset[tuple[str, ...]]] = {}
    for i, j in combinations(range(len(stripped)), 2):
        if stripped[i] == stripped[j]:
            identical.append((i, j))
        elif forms[i] == forms[j]:
            near.append((i, j))
        elif max(len(forms[i]), len(forms[j])) <= 1.4 * min(len(forms[i]), len(forms[j])) and _may_be_near(
            words[i], words[j]
        ):
            for k in (i, j):
                if k not in triples:
                    triples[k] = word_triples(words[k])
            if jaccard(triples[i], triples[j]) >= NEAR:
                near.append((i, j))
    return Alike(identical, near)


def _may_be_near(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether `jaccard` of the texts' word triples can be NEAR, by their words alone, which is faster.

    A word that only one of the texts has is in a triple that only it has, and three at most are in one. Of
    n triples at most, the smaller number, (1 / NEAR - 1) n may be in one text alone.
    """
    apart = len(set(a).symmetric_difference(b))
    return apart <= 3 * (1 / NEAR - 1) * max(1, min(len(a), len(b)) - 2) + 1e-9


def word_triples(words: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """The three-word shingles of a text's words; of fewer words, all of them as one."""
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset([tuple(words)])


def jaccard(a: frozenset[Hashable], b: frozenset[Hashable]) -> float:
    """The share of what is in either that is in both."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


@dataclass(frozen=True)
class Repeats:
    """Among the records of one side of one kind."""

    prompts: int  # different prompts
    again: int  # records whose prompt came before
    near: int  # prompts that are another one but for case, punctuation and spaces
    whole: int  # records that came before, label and labeler included


def repeats(records: Iterable[tuple[int, int, Hashable]]) -> Repeats:
    """Count over records given as (prompt's key, key of its normal form, the rest of the record)."""
    count, whole = 0, Counter[tuple[int, Hashable]]()
    forms: dict[int, int] = {}  # a prompt's key to its normal form's
    for prompt, form, rest in records:
        count += 1
        forms[prompt] = form
        whole[prompt, rest] += 1
    return Repeats(len(forms), count - len(forms), len(forms) - len(set(forms.values())), count - len(whole))
