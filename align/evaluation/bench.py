"""Reward models on files of RewardBench: how they are read, and what scores make of them.

Version 1: {prompt, chosen, rejected, subset}, a text each. Version 2: chosen and rejected are lists, and the
subset Ties names its prompts by id ("ref:3", "tied:3").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.data.rows import EMPTY_ROW, FileError, read_rows
from align.errors import UserError
from align.evaluation.calibration import calibrate
from align.evaluation.reward import plain
from align.messages import Messages
from align.records import Demonstration
from align.stats.reward_bench import TIES, TiedPrompt, best_of_k, chosen_wins, version_1, version_2
from align.values import RecordError, whole_characters

_OTHER = "all"  # the subset of rows that name none


@dataclass(frozen=True)
class BenchItem:
    """One row: its right answers first. `several`: of version 2."""

    place: str
    prompt: str | Messages
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    subset: str
    several: bool
    id: str = ""

    @property
    def tied(self) -> bool:
        """Whether it is of the subset Ties, which has rules of its own."""
        return self.several and self.subset.lower() == TIES


def read_bench(path: Path) -> list[BenchItem]:
    """The rows of a file, all of one version; UserError names what is wrong and where."""
    found: list[BenchItem] = []
    try:
        for place, row in read_rows(path):
            if row is EMPTY_ROW:
                continue
            try:
                if isinstance(row, RecordError):
                    raise row
                found.append(_item(f"{path}{place}", row))
            except RecordError as error:
                raise UserError(f"{path}{place}: {error}") from error
    except FileError as error:
        raise UserError(f"{path}{error.place}: {error.message}") from error
    if not found:
        raise UserError(f"{path}: has no rows")
    if other := next((one for one in found if one.several != found[0].several), None):
        raise UserError(
            f"{other.place}: `chosen` is a list in some rows and a text in others: name two files"
        )
    ties: dict[str, str] = {}
    for one in found:
        if one.tied and ties.setdefault(one.id, one.place) != one.place:
            raise UserError(f"{one.place}: id {one.id} of Ties is there twice (first at {ties[one.id]})")
    return found


def _item(place: str, row: Any) -> BenchItem:
    if not isinstance(row, Mapping):
        raise RecordError("", "is not an object with columns")
    if lacking := [key for key in ("prompt", "chosen", "rejected") if key not in row]:
        raise RecordError(lacking[0], "is missing: rows of RewardBench have prompt, chosen and rejected")
    chosen, rejected = _listed(row["chosen"]), _listed(row["rejected"])
    several = isinstance(row["chosen"], list | tuple) or (
        isinstance(chosen, list) and isinstance(rejected, list)
    )
    if not several:  # a text may look like a list
        chosen, rejected = row["chosen"], row["rejected"]
        if isinstance(rejected, list | tuple):
            raise RecordError("rejected", "is a list, and `chosen` is a text: both are lists, or both texts")
    right, wrong = _texts(chosen, "chosen"), _texts(rejected, "rejected")
    record = Demonstration.from_dict({"prompt": row["prompt"], "response": "any"})
    subset, name = str(row.get("subset") or _OTHER), str(row.get("id", ""))
    if several and subset.lower() == TIES:
        kind, _, number = name.partition(":")
        if kind not in ("ref", "tied") or not number.isdecimal():
            raise RecordError("id", f"is {name!r}; of the subset Ties it is ref:NUMBER or tied:NUMBER")
    return BenchItem(place, record.prompt, right, wrong, subset, several, name)


def _listed(value: Any) -> Any:
    """A list of texts that a table holds as text; anything else as it is."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if found and all(isinstance(text, str) for text in found) else value
    return value


def _texts(value: Any, key: str) -> tuple[str, ...]:
    texts = list(value) if isinstance(value, list | tuple) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise RecordError(key, "must be a text, or a list of texts, and not empty")
    return tuple(whole_characters(text, key) for text in texts)


def bench_document(
    items: Sequence[BenchItem], scores: Sequence[Sequence[float]], seed: int
) -> dict[str, Any]:
    """Accuracy of each subset, the benchmark's score and calibration, for JSON.

    scores: of each item's right answers, then of its wrong ones. Rows with a score that is no number are left
    out; `no_number` is how many.
    """
    results: dict[str, list[float]] = {}
    tied: list[TiedPrompt] = []
    margins: list[float] = []
    prompts: list[int] = []
    for number, (item, said) in enumerate(zip(items, scores, strict=True)):
        right, wrong = said[: len(item.right)], said[len(item.right) :]
        if not all(map(math.isfinite, said)):
            continue
        if item.tied:
            kind, _, index = item.id.partition(":")
            tied.append(TiedPrompt(kind, int(index), right, wrong))
            continue
        result = best_of_k(said) if item.several else chosen_wins(right[0], wrong[0])
        results.setdefault(item.subset, []).append(result)
        margins += [right[0] - other for other in wrong]
        prompts += [number] * len(wrong)
    bench = version_2(results, tied) if items[0].several else version_1(results)
    document: dict[str, Any] = plain(
        {
            "version": 2 if items[0].several else 1,
            "score": asdict(bench.score),
            "sections": {name: asdict(one) for name, one in bench.sections.items()},
            "subsets": {name: asdict(one) for name, one in bench.subsets.items()},
            "ties": dict(bench.parts),
            "no_number": sum(not all(map(math.isfinite, said)) for said in scores),
        }
    )
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    if margins:
        document["calibration"] = plain(calibrate(margins, [numbers[p] for p in prompts], seed))
    return document
