"""What the quick start measures that training never sees.

The gold measure is VADER (Hutto & Gilbert, ICWSM 2014), a sentiment lexicon with rules made by other
people; the reward model learns from people's ratings of whole sentences and never from VADER.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from math import sqrt
from statistics import fmean, stdev
from typing import Protocol

POSITIVE = 0.05  # VADER's own threshold for calling a text positive


class _Analyzer(Protocol):
    def polarity_scores(self, text: str) -> dict[str, float]: ...


@cache
def _analyzer() -> _Analyzer:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer: _Analyzer = SentimentIntensityAnalyzer()
    return analyzer


def compound(text: str) -> float:
    """VADER's compound score of a text, from -1 (most negative) to 1 (most positive)."""
    return _analyzer().polarity_scores(text)["compound"]


def vader(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The compound score of each prompt with its response: a measure for `evaluate.measures`."""
    return [compound(prompt + response) for prompt, response in zip(prompts, responses, strict=True)]


def positive_share(compounds: Sequence[float]) -> float:
    """The share of scores at or above VADER's threshold for positive."""
    return fmean(score >= POSITIVE for score in compounds)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error (0 for a single value)."""
    return fmean(values), stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def distinct_2(texts: Sequence[str]) -> float:
    """Distinct word pairs over all word pairs of all texts together (Li et al., arXiv 1510.03055).

    Words are compared without case and punctuation, pairs never cross texts; 0 where there is no pair.
    """
    pairs = [
        pair
        for words in (re.findall(r"\w+(?:'\w+)*", text.casefold()) for text in texts)
        for pair in zip(words, words[1:], strict=False)
    ]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
