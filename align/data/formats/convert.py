"""One kind of record from another, where what is needed is part of what is there."""

from __future__ import annotations

from collections.abc import Iterator

from align.data.formats.base import Judged, LeftOut, Record, T, Unranked
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

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


def as_kind(record: Record, kind: type[T]) -> Iterator[T | LeftOut]:
    """The record as one of `kind`: rankings give their best response as a demonstration, both give prompts.

    Of several best responses the first is taken. Raises RecordError when the record holds too little.
    """
    if isinstance(record, kind):
        return iter([record])
    if kind is Prompt:
        return iter([kind.from_dict(Prompt(record.prompt).to_dict())])
    if isinstance(record, Judged):
        return _judged(record, kind)
    if kind is Demonstration and isinstance(record, Ranking):
        ranked = [(rank, i) for i, rank in enumerate(record.ranks) if rank is not None]
        response = record.responses[min(ranked)[1]]
        return iter([kind.from_dict({"prompt": record.prompt, "response": response})])
    raise RecordError("", f"gives {HOLDS[type(record)]}, and here {NEEDS[kind]} are needed")


def _judged(record: Judged, kind: type[T]) -> Iterator[T | LeftOut]:
    """Good answers over bad ones, each kind tied; or each good answer. An answer that is both is neither."""
    both = set(record.good) & set(record.bad)
    good = [answer for answer in record.good if answer not in both]
    bad = [answer for answer in record.bad if answer not in both]
    for _ in both:
        yield LeftOut("an answer judged good in one row and bad in another")
    if kind is Demonstration:
        for answer in good:
            yield kind.from_dict({"prompt": record.prompt, "response": answer})
        for _ in bad:
            yield LeftOut("an answer judged bad (label: false), which is no demonstration")
        return
    good, bad = list(dict.fromkeys(good)), list(dict.fromkeys(bad))
    if good and bad:
        ranks = [1] * len(good) + [2] * len(bad)
        yield kind.from_dict({"prompt": record.prompt, "responses": good + bad, "ranks": ranks})
    elif good or bad:
        kind_of = "good" if good else "bad"
        yield LeftOut(f"a prompt whose answers are all judged {kind_of}: there is nothing to compare")
