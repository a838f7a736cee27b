"""How varied texts are: distinct n-grams over all of them, and repetition within one. Words, no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams of words, as a share of all of them, over all texts (Li et al. 2016, 1510.03055).

    None where no text has n words. It falls with the amount of text: compare it at equal counts alone.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(text: str, n: int = 4) -> float | None:
    """The share of a text's n-grams of words that it has already (seq-rep-n, Welleck et al. 1908.04319)."""
    grams = _grams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
