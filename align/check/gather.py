"""Reads a kind of records once and keeps of each what is measured: keys, lengths and labels, no texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.check.result import EXAMPLES, SHOWN, Side
from align.check.texts import alike, key, normal_prompt, says_nothing
from align.data.load import Located, Problem, scan, side
from align.data.template import Template
from align.data.tokenize import opening
from align.errors import UserError
from align.recipe import Source
from align.records import Demonstration, Prompt, Ranking, prompt_key

Record = Prompt | Demonstration | Ranking
TYPES: dict[str, Any] = {"demonstrations": Demonstration, "rankings": Ranking, "prompts": Prompt}
_CHUNK = 2000  # records that are tokenised at once


@dataclass(frozen=True)
class Reader:
    """With what texts are measured."""

    template: Template | None  # None: there is no tokenizer, and lengths are in characters
    chat: bool
    control: re.Pattern[str] | None  # finds what the tokenizer reads as special tokens


@dataclass(slots=True)
class Row:
    """What stays of a record."""

    place: str
    opening: str  # the prompt's first words
    prompt: int  # key of the prompt
    form: int  # key of its normal form
    length: int  # of the prompt
    lengths: tuple[int, ...]  # of the responses
    responses: tuple[int, ...]  # their keys
    ranks: tuple[int | None, ...]
    labeler: str | None
    group: str  # what decides its side: the prompt's hash, or that of split_key's value

    @property
    def sequence(self) -> int:
        """The prompt with its longest response."""
        return self.length + max(self.lengths, default=0)


@dataclass
class Mark:
    """Something seen in records: how often, and where first."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str, count: int = 1) -> None:
        self.count += count
        if len(self.places) < EXAMPLES and place not in self.places:  # a row can become several records
            self.places.append(place)


@dataclass
class Pile:
    """One side of one kind."""

    rows: list[Row] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)

    def mark(self, name: str, place: str, count: int = 1) -> None:
        if count:
            self.marks.setdefault(name, Mark()).add(place, count)

    def marked(self, name: str) -> Mark:
        return self.marks.get(name, Mark())


@dataclass
class Gathered:
    """All of one kind."""

    kind: str
    source: Source
    train: Pile = field(default_factory=Pile)
    held_out: Pile = field(default_factory=Pile)
    problems: list[Problem] = field(default_factory=list)  # the first ones
    wrong: int = 0
    empty: int = 0
    files: int = 0  # that cannot be read, or not to their end

    def pile(self, name: Side) -> Pile:
        return self.train if name == "train" else self.held_out

    def refuse(self, problem: Problem) -> None:
        self.wrong += 1
        self.empty += problem.message.startswith("is empty")
        self.files += problem.whole_file
        if len(self.problems) < SHOWN:
            self.problems.append(problem)


def gather(
    kind: str, source: Source, reader: Reader, cache: Path | None, tell: Callable[[str], None]
) -> Gathered:
    """Read what `data.<kind>` names; `tell` hears how far it has come."""
    gathered = Gathered(kind, source)
    names: dict[str, str] = {}  # a labeler's name once in memory, however many records say it
    parts: list[tuple[Located[Any], Side]] = []
    for part in _parts(kind, source, cache):
        if isinstance(part, Problem):
            gathered.refuse(part)
            continue
        parts.append(part)
        if len(parts) == _CHUNK:
            _take(parts, reader, gathered, names)
            tell(f"{kind}: {len(gathered.train.rows) + len(gathered.held_out.rows):,} records read")
            parts = []
    _take(parts, reader, gathered, names)
    return gathered


def _parts(kind: str, source: Source, cache: Path | None) -> Iterator[tuple[Located[Any], Side] | Problem]:
    """Every record with the side that it falls on."""
    share = source.held_out
    for part in scan(TYPES[kind], source.train, source.split_key, cache):
        if isinstance(part, Problem):
            yield part
        else:
            yield part, "train" if isinstance(share, list) else side(part.key, share)
    if isinstance(share, list):
        for part in scan(TYPES[kind], share, source.split_key, cache):
            yield part if isinstance(part, Problem) else (part, "held_out")


def _take(
    parts: Sequence[tuple[Located[Any], Side]], reader: Reader, gathered: Gathered, names: dict[str, str]
) -> None:
    """Measure records together: tokenising them in one call is most of the time that a check takes."""
    lengths = _lengths([part.record for part, _ in parts], reader)
    by_prompt = gathered.source.split_key is None  # then the key is the prompt's
    for (part, where), found in zip(parts, lengths, strict=True):
        if isinstance(found, UserError):
            name, message = found.args
            gathered.refuse(Problem(part.place, name, message))
            continue
        record, pile = part.record, gathered.pile(where)
        texts = responses(record)
        label = record.labeler if isinstance(record, Ranking) else None
        row = Row(
            part.place,
            opening(record.prompt),
            int((part.key if by_prompt else prompt_key(record.prompt))[:16], 16),
            key(normal_prompt(record.prompt)),
            found[0],
            tuple(found[1:]),
            tuple(key(text.strip()) for text in texts),
            record.ranks if isinstance(record, Ranking) else (),
            None if label is None else names.setdefault(label, label),
            part.key[:16],
        )
        pile.rows.append(row)
        _mark(record, row, pile, reader)


def responses(record: Record) -> tuple[str, ...]:
    """The record's responses: K, one or none."""
    if isinstance(record, Ranking):
        return record.responses
    return (record.response,) if isinstance(record, Demonstration) else ()


def _lengths(records: Sequence[Record], reader: Reader) -> list[list[int] | UserError]:
    """For each record the lengths of prompt and responses, or UserError(field, message)."""
    template = reader.template
    if template is None:
        return [[len(_prompt_text(r)), *map(len, responses(r))] for r in records]
    found: list[list[int] | UserError] = []
    prompts = template.prompts_ids([record.prompt for record in records])
    answers = iter(template.responses_ids([text for record in records for text in responses(record)]))
    for record, prompt in zip(records, prompts, strict=True):
        mine = [next(answers) for _ in responses(record)]
        names = [f"responses[{k}]" for k in range(len(mine))] if len(mine) > 1 else ["response"]
        wrong = [
            UserError(name, f"cannot be encoded: {ids}")
            for name, ids in zip(["prompt", *names], [prompt, *mine], strict=False)
            if isinstance(ids, UserError)
        ]
        found.append(wrong[0] if wrong else [len(ids) for ids in (prompt, *mine) if isinstance(ids, list)])
    return found


def _mark(record: Record, row: Row, pile: Pile, reader: Reader) -> None:
    """Note what is odd about one record."""
    texts, prompt = responses(record), _prompt_text(record)
    if len(texts) > 1:
        same = alike(texts)
        pile.mark("identical", row.place, bool(same.identical))
        pile.mark("near_identical", row.place, bool(same.near))
        apart = [1 for i, j in same.identical if _apart(row.ranks[i], row.ranks[j])]
        pile.mark("same_text_ranked_apart", row.place, bool(apart))
    pile.mark("says_nothing", row.place, sum(map(says_nothing, texts)))
    if reader.control:
        hits = {hit for text in (prompt, *texts) for hit in reader.control.findall(text)}
        for hit in hits:
            pile.mark(f"control {hit}", row.place)
    if reader.chat:
        pile.mark("response_starts_with_space", row.place, sum(text[0].isspace() for text in texts))
    else:
        glued = sum(prompt[-1].isalnum() and text[0].isalnum() for text in texts)
        pile.mark("glued", row.place, glued)
        pile.mark("prompt_ends_with_space", row.place, prompt[-1] == " ")


def _apart(a: int | None, b: int | None) -> bool:
    return a is not None and b is not None and a != b


def _prompt_text(record: Record) -> str:
    """The text of a prompt, or of all its messages."""
    prompt = record.prompt
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
