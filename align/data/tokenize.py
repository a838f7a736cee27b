"""From records to token ids on disk: encoded once, found again by their content."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Generic

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.data.formats import Record
from align.data.formats.base import T
from align.data.scan import Problem
from align.data.store import Batches, E, RowNumbers, RowSequence, code_of, content_key, kept, starts_of
from align.data.table import Records, valid
from align.data.template import Template
from align.errors import UserError
from align.messages import Messages
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and its responses with their EOS: one for a demonstration, K for a ranking."""

    prompt: list[int]
    responses: list[list[int]]


_CODE = tuple(
    f"data/{name}.py" for name in ("tokenize", "template", "chat_template", "rendering", "joining", "words")
)
_CHUNK = 256  # records that are tokenised together
_SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),  # prompt and responses one after the other
        ("ends", pa.list_(pa.int32())),  # where each of them ends
        ("longest", pa.int32()),  # tokens of the prompt with its longest response
        ("problem", pa.string()),  # why there are no ids
        ("field", pa.string()),  # the part of the record that has none
    ]
)


class Encodings(RowSequence[E], Generic[E]):
    """Token ids on disk, one item for each of `records`; see RowSequence.

    `lengths` [N]: tokens of an item's longest sequence (prompt and longest response); `totals` [N]: of its
    prompt and all responses. `skipped`: what was left out of the records that were given.
    """

    def __init__(
        self,
        batches: Batches,
        rows: RowNumbers,
        make: Callable[[Encoded], E],
        records: Sequence[Any],
        skipped: Sequence[Problem] = (),
    ) -> None:
        self.records = records
        self.skipped = list(skipped)
        super().__init__(rows)
        self._make = make
        self._starts = starts_of(batches).tolist()
        self._parts = [[*_flat(batch.column("ids")), *_flat(batch.column("ends"))] for batch in batches]
        self.lengths: NDArray[np.int64] = _whole(batches, lambda batch: batch.column("longest"))[rows]
        lengths = [np.diff(ids_at) for _, ids_at, _, _ in self._parts]
        self.totals: NDArray[np.int64] = (np.concatenate(lengths) if lengths else np.empty(0, np.int64))[rows]

    def item(self, row: int) -> E:
        """The ids of a row of the batches."""
        batch = bisect_right(self._starts, row) - 1
        i = row - self._starts[batch]
        ids, ids_at, ends, ends_at = self._parts[batch]
        tokens = ids[ids_at[i] : ids_at[i + 1]].tolist()
        cuts = ends[ends_at[i] : ends_at[i + 1]].tolist()
        return self._make(Encoded(tokens[: cuts[0]], [tokens[a:b] for a, b in pairwise(cuts)]))


def encode_demonstrations(
    template: Template,
    records: Sequence[Demonstration],
    max_length: int,
    where: str,
    cache: Path | None = None,
    skip: bool = False,
) -> Encodings[Encoded]:
    """Encode each demonstration; `where` names the records in messages, such as "data.demonstrations".

    `cache`: where the tokens of records that were loaded are kept. `skip`: leave out, and list, records that
    cannot be encoded or are too long. Otherwise UserError when one of them cannot be encoded, or its sequence
    has more than max_length tokens.
    """
    limit = _Limit(max_length, "sft.max_length", where)
    return _encode(template, records, limit, lambda encoded: encoded, cache, skip)


def encode_rankings(
    template: Template,
    records: Sequence[Ranking],
    max_length: int,
    where: str,
    cache: Path | None = None,
    skip: bool = False,
) -> Encodings[Encoded]:
    """Encode each ranking, its prompt once; raises UserError as encode_demonstrations does."""
    limit = _Limit(max_length, "rm.max_length", where)
    return _encode(template, records, limit, lambda encoded: encoded, cache, skip)


def encode_prompts(
    template: Template,
    records: Sequence[Prompt],
    max_prompt_tokens: int,
    where: str,
    room: int = 0,
    cache: Path | None = None,
    skip: bool = False,
) -> Encodings[list[int]]:
    """Encode each prompt; `room`: tokens of the response that will follow.

    Raises UserError as encode_demonstrations does, and where the base has no positions for the response.
    """
    limit = _Limit(max_prompt_tokens, "ppo.max_prompt_tokens", where, room)
    return _encode(template, records, limit, lambda encoded: encoded.prompt, cache, skip)


def token_counts(
    template: Template, records: Records[Any], cache: Path | None, seen: Callable[[int], None]
) -> Iterator[list[int] | RecordError]:
    """For each record the tokens of its prompt and of each response, or why and where it cannot be encoded.

    Encodes at once what is not in the cache, where `encode_*` finds it; `seen` hears how many more are.
    """
    return _counts(_batches(template, records, cache, None, seen))


def _counts(batches: Batches) -> Iterator[list[int] | RecordError]:
    for batch in batches:
        problems, fields = batch.column("problem").to_pylist(), batch.column("field").to_pylist()
        ends, ends_at = _flat(batch.column("ends"))
        for i, (problem, field) in enumerate(zip(problems, fields, strict=True)):
            if problem:
                yield RecordError(field, f"cannot be encoded: {problem}")
            else:
                cuts: list[int] = [0, *ends[ends_at[i] : ends_at[i + 1]].tolist()]
                yield [b - a for a, b in pairwise(cuts)]


def responses_of(record: Record) -> tuple[str, ...]:
    """The record's responses: K, one or none."""
    if isinstance(record, Ranking):
        return record.responses
    return (record.response,) if isinstance(record, Demonstration) else ()


@dataclass(frozen=True)
class _Limit:
    tokens: int
    key: str  # of the recipe
    where: str
    room: int = 0


def _encode(
    template: Template,
    records: Sequence[T],
    limit: _Limit,
    make: Callable[[Encoded], E],
    cache: Path | None,
    skip: bool,
) -> Encodings[E]:
    """Tokens of distinct records, from the cache or made now, seen through what the limits leave."""
    distinct, index = (
        records.distinct() if isinstance(records, Records) else (records, np.arange(len(records)))
    )
    batches = _batches(template, distinct, cache, None if skip else limit.where)
    lengths = _whole(batches, lambda batch: batch.column("longest"))
    if not skip:
        _refuse_long(distinct, lengths, limit)
        _refuse_beyond(template, int(max(lengths, default=0)), limit)
        return Encodings(batches, index, make, records)
    problems = _problems(batches) | _too_long(template, lengths, limit)
    skipped = [Problem(_place(distinct, row, limit.where), "", problems[row]) for row in sorted(problems)]
    good = ~np.isin(index, list(problems))
    if len(records) and not good.any():
        raise UserError(f"{limit.where}: no record is left. The first one left out: {skipped[0]}")
    chosen = (
        records.only(good)
        if isinstance(records, Records)
        else [records[i] for i in np.flatnonzero(good).tolist()]
    )
    return Encodings(batches, index[good], make, chosen, skipped)


def _batches(
    template: Template,
    records: Sequence[T],
    cache: Path | None,
    where: str | None,
    seen: Callable[[int], None] = lambda count: None,
) -> Batches:
    """Rows of _SCHEMA, from the cache or made now; UserError at the first problem if `where` is given."""

    def refuse(row: int, problem: str | None) -> None:
        if problem is not None and where is not None:
            raise UserError(f"{where}: {_named(records, row)}: {problem}")

    def rows() -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            for i, row in enumerate(_tokens(template, chunk)):
                refuse(start + i, row[3])
                yield row
            seen(len(chunk))

    if not isinstance(records, Records):
        return kept(None, "", _SCHEMA, rows)
    made = {"template": template.hash, "rows": template.rows, "records": records.fingerprint}
    key = content_key(code=code_of(*_CODE), **made)
    batches = kept(cache, f"tokens/{key}.arrow", _SCHEMA, rows)
    for row, problem in _problems(batches).items():
        refuse(row, problem)
    return batches


def _tokens(template: Template, records: Sequence[Record]) -> Iterator[tuple[Any, ...]]:
    """Rows of _SCHEMA."""
    texts = [responses_of(record) for record in records]
    prompts = template.prompts_ids([record.prompt for record in records])
    answers = iter(template.responses_ids([text for several in texts for text in several]))
    for record, prompt, several in zip(records, prompts, texts, strict=True):
        found = [prompt, *(next(answers) for _ in several)]
        if problem := template.tagged(record.prompt, several):
            yield (), (), 0, problem, "prompt"
            continue
        if problem := template.ended(several):
            yield (), (), 0, problem, "response" if len(several) == 1 else "responses"
            continue
        parts = [ids for ids in found if not isinstance(ids, UserError)]
        if len(parts) < len(found):
            wrong, ids = next((i, ids) for i, ids in enumerate(found) if isinstance(ids, UserError))
            response = "response" if len(several) == 1 else f"responses[{wrong - 1}]"
            yield (), (), 0, str(ids), response if wrong else "prompt"
            continue
        lengths = [len(part) for part in parts]
        flat = np.fromiter(chain.from_iterable(parts), np.int32, sum(lengths))
        ends = np.cumsum(lengths, dtype=np.int32)
        yield flat, ends, lengths[0] + max(lengths[1:], default=0), None, None


def _too_long(template: Template, lengths: NDArray[np.int64], limit: _Limit) -> dict[int, str]:
    """Why a row has too many tokens, by its number."""
    beyond = template.positions if template.positions is not None else np.inf
    free = f", {limit.room} of them kept free" * bool(limit.room)
    return {
        row: f"has {lengths[row]} tokens, and "
        + (
            f"`{limit.key}` is {limit.tokens}"
            if lengths[row] > limit.tokens
            else f"the base reads at most {beyond}{free}"
        )
        for row in np.flatnonzero((lengths > limit.tokens) | (lengths + limit.room > beyond)).tolist()
    }


def _flat(column: pa.ListArray) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The values of all lists and where each begins, without a copy (and without pandas: see `valid`)."""
    # The stubs do not know that an Arrow array speaks this protocol.
    values: NDArray[np.int32] = np.from_dlpack(column.values)  # type: ignore[assignment]
    offsets: NDArray[np.int32] = np.from_dlpack(column.offsets)  # type: ignore[assignment]
    return values, offsets


def _whole(batches: Batches, column: Callable[[pa.RecordBatch], pa.Array]) -> NDArray[Any]:
    """One column of numbers of all batches."""
    arrays = [column(batch).to_numpy(zero_copy_only=False) for batch in batches]
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)


def _problems(batches: Batches) -> dict[int, str]:
    """Why a row has no ids, by its number."""
    found: dict[int, str] = {}
    for start, batch in zip(starts_of(batches).tolist(), batches, strict=True):
        told = batch.column("problem")
        for i in np.flatnonzero(valid(told)).tolist():
            found[start + i] = str(told[i].as_py())
    return found


def _refuse_long(records: Sequence[T], lengths: NDArray[np.int64], limit: _Limit) -> None:
    long = np.flatnonzero(lengths > limit.tokens)
    if len(long):
        first, longest = int(long[0]), int(lengths.max())
        raise UserError(
            f"{limit.where}: {len(long)} of {len(lengths)} records have more than {limit.tokens} tokens. "
            f"The first is {_named(records, first)}, {lengths[first]} tokens. The longest has {longest}: "
            f"raise `{limit.key}` to {longest}, shorten or drop these records, or leave them out with "
            "`on_bad_record: skip`."
        )


def _refuse_beyond(template: Template, longest: int, limit: _Limit) -> None:
    """Raise UserError where the base has no position for a token; it would fail, or read nonsense."""
    if template.positions is None or longest + limit.room <= template.positions:
        return
    after = f" and ppo.max_response_tokens is {limit.room}" if limit.room else ""
    lower = ", or lower `ppo.max_response_tokens`" if limit.room else ""
    raise UserError(
        f"{limit.where}: the longest record has {longest} tokens{after}, and the base reads at most "
        f"{template.positions}: shorten or drop the long records, or leave them out with `on_bad_record: "
        f"skip`{lower}, or take another base"
    )


def _place(records: Sequence[T], row: int, where: str) -> str:
    return records.place(row) if isinstance(records, Records) else f"{where}: record {row + 1}"


def _named(records: Sequence[T], row: int) -> str:
    """A record's number, where it stands if that is known, and its prompt's first words."""
    place = f"{records.place(row)}: " if isinstance(records, Records) else ""
    return f"record {row + 1} ({place}{opening(records[row].prompt)})"


def opening(prompt: str | Messages) -> str:
    """The prompt's first words, to search for in the file."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    words = " ".join(text[:1000].split())
    return repr(words if len(words) <= 50 else words[:50] + "…")
