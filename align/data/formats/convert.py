"""One kind of record from another, where what is needed is part of what is there."""

from __future__ import annotations

from collections.abc import Iterator

from align.data.formats.base import Record, T, Unranked
from align.records import Demonstration, Prompt, Ranking, RecordError

HOLDS = {
    Prompt: "prompts without any response",
    Demonstration: "demonstrations (a prompt and one response)",
    Ranking: "rankings",
    Unranked: "responses that nobody has ranked",
}
NEEDS = {
    Prompt: "prompts",
    Demonstration: "demonstrations, a prompt with the response that a person wrote",
    Ranking: "rankings, a prompt with two or more responses and their ranks",
}


def as_kind(record: Record, kind: type[T]) -> Iterator[T]:
    """The record as one of `kind`: rankings give their best response as a demonstration, both give prompts.

    Of several best responses the first is taken. Raises RecordError when the record holds too little.
    """
    if isinstance(record, kind):
        return iter([record])
    if kind is Prompt:
        return iter([kind.from_dict({"prompt": record.prompt})])
    if kind is Demonstration and isinstance(record, Ranking):
        ranked = [(rank, i) for i, rank in enumerate(record.ranks) if rank is not None]
        response = record.responses[min(ranked)[1]]
        return iter([kind.from_dict({"prompt": record.prompt, "response": response})])
    raise RecordError("", f"gives {HOLDS[type(record)]}, and here {NEEDS[kind]} are needed")
