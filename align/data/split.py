"""Which records train and which are held out: functions of hashes, so that nothing moves when data grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from align.data.scan import Problem
from align.data.store import RowNumbers
from align.data.table import Table
from align.errors import UserError
from align.recipe.data import Source

_UNIT = 2.0**-52  # the upper 52 bits of a hash, exact in a float


def side(key: str, share: float) -> Literal["train", "held_out"]:
    """Where a record's key (64 hex digits) puts it when this share is held out."""
    return "held_out" if int(key[:13], 16) * _UNIT < share else "train"


def divide(table: Table, source: Source) -> tuple[RowNumbers, RowNumbers, list[Problem]]:
    """The rows that train, each as often as its weight says, the rows held out, and the leaks between them.

    A training record whose prompt, or whose value of split_key, is held out is a leak, and does not train.
    """
    if isinstance(source.held_out, list):
        held_out = table.good & table.held_out
    else:
        held_out = table.good & (_draws(table.keys) < source.held_out)
    train = table.good & ~held_out
    leaking, leaks = _leaks(table, train, held_out, source)
    train[leaking] = False
    rows = np.flatnonzero(train)
    return np.repeat(rows, _times(table, rows)), np.flatnonzero(held_out), leaks


def _draws(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A uniform number in [0, 1) for each hash."""
    draws: NDArray[np.float64] = (hashes >> np.uint64(12)).astype(np.float64) * _UNIT
    return draws


def _times(table: Table, rows: RowNumbers) -> NDArray[np.int64]:
    """How often each record comes an epoch: weight 2.3 is twice, and a third time for 0.3 of the records.

    Which ones, the record's hash decides.
    """
    weights = table.weights[rows]
    whole = np.floor(weights)
    times: NDArray[np.int64] = (whole + (_draws(table.digests[rows]) < weights - whole)).astype(np.int64)
    return times


def check_share(table: Table, held_out: RowNumbers, source: Source, name: str) -> None:
    """Raise UserError where a share, not files, holds out all of the records or none."""
    share, good = source.held_out, int(table.good.sum())
    if isinstance(share, list) or not share or not good or 0 < len(held_out) < good:
        return
    draws = np.unique(_draws(table.keys[table.good]))
    left = "nothing to train on" if len(held_out) else "nothing held out"
    others = "name held-out files, or 0.0 to hold nothing out"
    if len(draws) > 1:
        wanted = min(len(draws) - 1, max(1, round(share * len(draws))))
        between = (draws[wanted - 1] + draws[wanted]) / 2
        others = f"set {between:.4g} (holds out {wanted}), {others}"
    what = "prompts" if source.split_key is None else f"values of `{source.split_key}`"
    raise UserError(
        f"data.{name}.held_out: a share of {share} of {len(draws)} different {what} leaves {left} "
        f"(each one's side is drawn by its hash). What to do: {others}."
    )


def _leaks(
    table: Table, train: NDArray[np.bool_], held_out: NDArray[np.bool_], source: Source
) -> tuple[RowNumbers, list[Problem]]:
    """Training rows that share a prompt or key with a held-out row, and a problem for each of those."""
    hashes = {"prompt": table.prompts}
    if source.split_key is not None:
        hashes[source.split_key] = table.keys
    leaking = np.zeros_like(train)
    problems: list[Problem] = []
    for field, found in hashes.items():
        shared = np.intersect1d(found[train], found[held_out])
        if not len(shared):
            continue
        inside = np.isin(found, shared)
        leaking |= inside & train
        problems += _told(table, found, inside, train, held_out, field, source)
    return np.flatnonzero(leaking), problems


def _told(
    table: Table,
    hashes: NDArray[np.uint64],
    inside: NDArray[np.bool_],
    train: NDArray[np.bool_],
    held_out: NDArray[np.bool_],
    field: str,
    source: Source,
) -> Iterator[Problem]:
    first: dict[int, dict[Any, int]] = {}
    for at, mask in enumerate((train, held_out)):
        rows = np.flatnonzero(inside & mask)
        values, where = np.unique(hashes[rows], return_index=True)
        first[at] = dict(zip(values.tolist(), rows[where].tolist(), strict=True))
    if source.on_bad_record == "skip":
        for row in np.flatnonzero(inside & train).tolist():
            other = table.place(first[1][int(hashes[row])])
            yield Problem(table.place(row), field, f"is held out too ({other}): this record does not train")
        return
    by_share = not isinstance(source.held_out, list)
    advice = (
        f"`{source.split_key}` puts it on both sides: split by the prompt, or with `on_bad_record: skip` "
        "leave out the training ones"
        if by_share
        else "keep it in one of the two"
    )
    for row in np.flatnonzero(inside & held_out).tolist():
        other = table.place(first[0][int(hashes[row])])
        yield Problem(table.place(row), field, f"is held out and also trains ({other}): {advice}")
