"""Reads a kind of records as training does and keeps of each what is measured: keys, lengths and labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from align.check.personal import Hit, masked
from align.check.result import EXAMPLES, Example, PersonalRecord, Side, Understood, WrongRecords
from align.check.screens.seen import Seen
from align.check.texts import (
    alike,
    ends_with_no_cell,
    foreign_markup,
    is_list_as_text,
    is_no_cell,
    normal_prompt,
    placeholders,
    says_nothing,
)
from align.data.formats import Record
from align.data.load import Survey, survey
from align.data.reading import by_understanding
from align.data.rendering import ASKED, ends_reasoning
from align.data.scan import Problem
from align.data.store import let_go
from align.data.table import Records
from align.data.template import Template
from align.data.tokenize import opening, responses_of, token_counts
from align.data.without import LeftOut
from align.messages import words_of
from align.recipe.data import Source
from align.records import RECORDS, Ranking, RecordKind
from align.run.progress import ProgressBar
from align.text import key
from align.values import RecordError

EXAMPLES_READ = 2  # records that show how files were read
_CONTEXT = 10  # characters shown before a difference
_OFTEN = 500  # records between two words on how far it has come


@dataclass(frozen=True)
class TextMeasure:
    """With what texts are measured."""

    template: Template | None  # None: there is no tokenizer, and lengths are in characters
    chat: bool
    control: Callable[[str], list[str]]  # finds what the tokenizer reads as special tokens
    cache: Path | None
    console: Console  # for how far it has come
    personal: Callable[[str], list[Hit]] | None = None  # finds personal data; None: they are not looked for

    def hits(self, record: Record) -> list[Hit]:
        """The personal data of a record, each once."""
        if self.personal is None:
            return []
        return self.personal("\n".join((_prompt_text(record), *responses_of(record))))

    def bar(self, title: str, total: int | None) -> ProgressBar:
        """Shows how far a piece of work has come, while it lasts."""
        return ProgressBar(self.console, title, total, passing=True)


@dataclass(slots=True)
class MeasuredRow:
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
    seconds: float | None  # that the labeler took, where the record says so

    @property
    def sequence(self) -> int:
        """The prompt with its longest response."""
        return self.length + max(self.lengths, default=0)


@dataclass
class Pile:
    """One side of one kind, and what was seen in its records: how often, and where first."""

    rows: list[MeasuredRow] = field(default_factory=list)
    used: int = 0  # of the rows, those that a stage does not leave out, whatever their length
    counts: Counter[str] = field(default_factory=Counter)
    places: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    first: dict[str, str] = field(default_factory=dict)  # what was seen: the first's words
    personal: list[PersonalRecord] = field(default_factory=list)
    files: set[str] = field(default_factory=set)  # of which an answer was written with the template

    def mark(self, name: str, place: str, count: int = 1) -> None:
        """Note what was seen `count` times at a place; 0 is nothing to note."""
        if count:
            self.counts[name] += count
            places = self.places[name]
            if len(places) < EXAMPLES and place not in places:  # a row can become several records
                places.append(place)


@dataclass
class Gathered:
    """All of one kind."""

    kind: RecordKind
    source: Source
    wrong: WrongRecords
    train: Pile = field(default_factory=Pile)
    held_out: Pile = field(default_factory=Pile)
    on_both_sides: int = 0  # values of split_key, or prompts where there is none
    read: list[Understood] = field(default_factory=list)
    left_out: LeftOut | None = None  # by the source's `without`
    seen: Seen = field(default_factory=Seen)  # what screens look at

    def pile(self, name: Side) -> Pile:
        """The records of one side."""
        return self.train if name == "train" else self.held_out


def gather(kind: RecordKind, source: Source, reader: TextMeasure) -> Gathered:
    """Read what `data.<kind>` names; raises UserError where the cache cannot be written."""
    gathered = Gathered(kind, source, WrongRecords(kind, skipped=source.on_bad_record == "skip"))
    with reader.bar(f"{kind} read", None) as bar:
        found = survey(
            RECORDS[kind], source, gathered.wrong.add, reader.cache, lambda count: bar.advance(count=count)
        )
    gathered.read = _understood(kind, source, found, reader)
    gathered.left_out = found.left_out
    gathered.on_both_sides = len(np.intersect1d(found.train.keys, found.held_out.keys))
    _measure(found.train, found.trains, gathered, gathered.train, reader)
    _measure(found.held_out, np.ones(len(found.held_out), np.bool_), gathered, gathered.held_out, reader)
    return gathered


def _understood(kind: str, source: Source, found: Survey[Any], reader: TextMeasure) -> list[Understood]:
    """The files that were read, those that were read in one way together."""
    understood = []
    by_file = {
        part.name: [_example(records, i, reader) for i in range(len(records))]
        for part, records in found.files
    }
    sides: tuple[Side | None, ...] = ("train", "held_out") if isinstance(source.held_out, list) else (None,)
    for side in sides:
        parts = [part for part, _ in found.files if side is None or part.held_out == (side == "held_out")]
        for names, reading in by_understanding([(part.name, part.reading) for part in parts]):
            examples = [example for name in names for example in by_file[name]]
            understood.append(Understood(kind, side, names, reading, examples[:EXAMPLES_READ]))
    return understood


def _example(records: Records[Any], i: int, reader: TextMeasure) -> Example:
    record = records[i]
    hits = reader.hits(record)
    texts = responses_of(record)
    ranks = record.ranks if isinstance(record, Ranking) else (None,) * len(texts)
    order = sorted(range(len(texts)), key=lambda k: (ranks[k] is None, ranks[k] or 0))
    prompt = record.prompt
    said = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
    answers = [(ranks[k], masked(texts[k], hits)) for k in order]
    return Example(records.place(i), masked(said, hits), answers)


def _measure(
    records: Records[Any], trains: NDArray[np.bool_], gathered: Gathered, pile: Pile, reader: TextMeasure
) -> None:
    """Add the records to the pile, one after the other; `trains` [N] as in `Survey`."""
    once: dict[Any, Any] = {}  # labelers and ranks: once in memory, however many records say them
    side: Side = "train" if pile is gathered.train else "held_out"
    lengths = _lengths(records, trains, gathered.kind, reader)
    with reader.bar(f"{gathered.kind} measured", len(records)) as bar:
        for i, (record, prompt, found) in enumerate(
            zip(records, records.prompts.tolist(), lengths, strict=True)
        ):
            if i and i % _OFTEN == 0:
                _advance(bar, _OFTEN)
            if isinstance(found, RecordError):
                gathered.wrong.add(Problem(records.place(i), found.field, found.message))
                continue
            hits = reader.hits(record)
            label = record if isinstance(record, Ranking) else None
            ranks, labeler = (label.ranks, label.labeler) if label else ((), None)
            row = MeasuredRow(
                records.place(i),
                opening(masked(_asked(record), hits)),
                prompt,
                key(normal_prompt(record.prompt)),
                found[0],
                tuple(found[1:]),
                tuple(key(text.strip()) for text in responses_of(record)),
                once.setdefault(ranks, ranks),
                once.setdefault(labeler, labeler),
                label.seconds if label else None,
            )
            pile.rows.append(row)
            pile.used += bool(trains[i])
            gathered.seen.add(record, row.place, records.digest(i))
            _mark(record, row, pile, reader)
            pile.personal += _personal(hits, gathered.kind, side, row.place)
    if reader.personal is not None:
        pile.first = {mark: masked(said, reader.personal(said)) for mark, said in pile.first.items()}


def _lengths(
    records: Records[Any], trains: NDArray[np.bool_], kind: str, reader: TextMeasure
) -> Iterator[list[int] | RecordError]:
    """For each record the lengths of prompt and responses, or why it has none."""
    template = reader.template
    if template is None:
        return ([len(_prompt_text(r)), *map(len, responses_of(r))] for r in records)

    def counts(part: NDArray[np.bool_]) -> Iterator[list[int] | RecordError]:
        chosen = records.only(part)
        with reader.bar(f"{kind} encoded", len(chosen)) as bar:
            return token_counts(template, chosen, reader.cache, lambda count: _advance(bar, count))

    # A stage sees only the first part, and finds its tokens again.
    first, rest = counts(trains), counts(~trains)
    return (next(first if trained else rest) for trained in trains.tolist())


def _advance(bar: ProgressBar, count: int) -> None:
    """So many more records were read of the cache, and are not needed again for now."""
    bar.advance(count=count)
    let_go()


def _mark(record: Record, row: MeasuredRow, pile: Pile, reader: TextMeasure) -> None:
    """Note what is odd about one record."""
    texts, prompt = responses_of(record), _prompt_text(record)
    if len(texts) > 1:
        same = alike(texts)
        pile.mark("identical", row.place, bool(same.identical))
        pile.mark("near_identical", row.place, bool(same.near))
        apart = [1 for i, j in same.identical if _apart(row.ranks[i], row.ranks[j])]
        pile.mark("same_text_ranked_apart", row.place, bool(apart))
    asked = _asked(record)
    again = bool(texts and asked.strip()) and all(text.lstrip().startswith(asked.strip()) for text in texts)
    pile.mark("repeats_prompt", row.place, again)
    pile.mark("says_nothing", row.place, sum(map(says_nothing, texts)))
    pile.mark("no_cell", row.place, sum(map(is_no_cell, texts)))
    parts = [prompt] if isinstance(record.prompt, str) else map(words_of, record.prompt)
    pile.mark("no_input", row.place, any(map(ends_with_no_cell, parts)))
    pile.mark("list_as_text", row.place, is_list_as_text(prompt))
    for mark in placeholders(prompt):
        pile.mark(f"placeholder {mark}", row.place)
    hits = {hit for text in (prompt, *texts) for hit in reader.control(text)}
    for hit in hits:
        pile.mark(f"control {hit}", row.place)
    if reader.template is not None:
        _mark_tokens(record, row, pile, reader.template, bool(hits))
    if reader.chat:
        for mark in set().union(*map(foreign_markup, (prompt, *texts))) - hits:
            pile.mark(f"markup {mark}", row.place)
        pile.mark("speaker_tag", row.place, asked.lstrip().startswith(ASKED))
        pile.mark("response_starts_with_space", row.place, sum(text[0].isspace() for text in texts))
        if reader.template is not None:
            _mark_written(record, row, pile, reader.template)
    else:
        glued = sum(prompt[-1].isalnum() and text[0].isalnum() for text in texts)
        pile.mark("glued", row.place, glued)
        pile.mark("prompt_ends_with_space", row.place, prompt[-1] == " ")


def _personal(hits: Sequence[Hit], kind: RecordKind, side: Side, place: str) -> Iterator[PersonalRecord]:
    """A line for each kind of personal data in one record."""
    for what in dict.fromkeys(hit.kind for hit in hits):
        same = [hit for hit in hits if hit.kind == what]
        yield PersonalRecord(kind, side, place, what, len(same), same[0].masked)


def _mark_written(record: Record, row: MeasuredRow, pile: Pile, template: Template) -> None:
    """Note what the chat template makes of reasoning, and of the first answers of each file."""
    pile.mark("reasoning_dropped", row.place, template.drops_reasoning(record.prompt))
    file = row.place.rpartition(":")[0]
    is_first = file not in pile.files
    pile.files.add(file)
    thinks = template.opened is not None and not template.opened[1]
    for text in responses_of(record):
        ends = ends_reasoning(text)
        pile.mark("reasoning_never_ends", row.place, thinks and not ends)
        gone = template.strips(record.prompt, text) if is_first or ends else None
        if gone is not None:
            name = "answer_stripped" if template.opened is None else "reasoning_stripped"
            pile.first.setdefault(name, gone)
            pile.mark(name, row.place)


def _mark_tokens(record: Record, row: MeasuredRow, pile: Pile, template: Template, controls: bool) -> None:
    """Note whose tokens are not its text, or begin before it; where it holds control tokens, that is told."""
    texts = responses_of(record)
    for text in texts:
        if template.straddles(text):
            pile.first.setdefault("straddles", text)
            pile.mark("straddles", row.place)
    if controls:
        return
    found = [(text, template.loses(record.prompt, text)) for text in texts]
    found.append((_prompt_text(record), template.loses(record.prompt)))
    for text, becomes in found:
        if becomes is not None:
            pile.first.setdefault("not_verbatim", _difference(text, becomes))
            pile.mark("not_verbatim", row.place)


def _difference(text: str, becomes: str) -> str:
    """Where two texts begin to differ, and how."""
    start = next(
        (i for i, (a, b) in enumerate(zip(text, becomes, strict=False)) if a != b),
        min(len(text), len(becomes)),
    )
    start = max(0, start - _CONTEXT)
    end = start + 3 * _CONTEXT
    return f"{text[start:end]!r} becomes {becomes[start:end]!r}"


def _apart(a: int | None, b: int | None) -> bool:
    return a is not None and b is not None and a != b


def _asked(record: Record) -> str:
    """A prompt's text, or its last message's."""
    return record.prompt if isinstance(record.prompt, str) else record.prompt[-1]["content"]


def _prompt_text(record: Record) -> str:
    """The text of a prompt, or of all its messages."""
    prompt = record.prompt
    return prompt if isinstance(prompt, str) else "\n".join(map(words_of, prompt))
