"""How many responses rankings have, as the recipe's files say; nothing is fetched for it."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from align.data.scan import Located, scan
from align.recipe.data import LABELS, Entry
from align.recipe.sections import Recipe
from align.records import Ranking

_LOOKED_AT = 1000  # rankings of each entry


@dataclass(frozen=True)
class Responses:
    """Ranked responses of a ranking: in the mean, and at the most. said: where that is from."""

    mean: float = 4.0
    most: int = 16
    said: str = "4 responses a ranking, and 16 at the most, are assumed"


def responses_of(recipe: Recipe) -> Responses:
    """What the first rankings of each entry have; what is assumed, and why, where none can be read here."""
    source = recipe.data.rankings
    if source is None:
        return Responses()
    counts: list[int] = []
    for entry in source.train:
        counts += islice(_counts(entry), _LOOKED_AT)
    if not counts:
        names = ", ".join(entry.path for entry in source.train)
        why = f"as no ranking of data.rankings ({names}) can be read here without fetching it"
        return Responses(said=f"{Responses.said}, {why}")
    mean, most = sum(counts) / len(counts), max(counts)
    said = (
        f"{mean:.3g} responses a ranking, and {most} at the most, as the first {len(counts):,} rankings have"
    )
    return Responses(mean, most, said)


def _counts(entry: Entry) -> Iterator[int]:
    """Of each good ranking of an entry; of none where the entry is no file of this machine, or of no use."""
    path = Path(entry.path).expanduser()
    if entry.format == LABELS or not (path.exists() or glob.glob(str(path), recursive=True)):
        return
    try:
        for part in scan(Ranking, [entry]):
            if isinstance(part, Located):
                yield sum(rank is not None for rank in part.record.ranks)
    except Exception:  # of somebody's own format, say: `align check` tells what is wrong with the data
        return
