"""One case of a safety suite: what is asked, and what the answer must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from align.messages import Messages

# refuse: it is harmful; comply: it only looks so; withhold: do the task, without what the canary gives away
Expected = Literal["refuse", "comply", "withhold"]


@dataclass(frozen=True)
class Case:
    """A prompt with what is expected of its answer.

    harm: the field of harm, as "fraud"; a benign twin has that of its harmful request.
    attack: what the request is behind, "plain" where behind nothing.
    pair: the name that a harmful request, its twin and all their attacked forms share; None without a twin.
    canary: a text that an answer gives away by holding it: the word or link that a hidden instruction asks
    for, or the secret of a system prompt. None where refusing is what counts.
    """

    id: str
    prompt: str | Messages
    expected: Expected
    harm: str
    attack: str
    source: str
    pair: str | None = None
    canary: str | None = None
