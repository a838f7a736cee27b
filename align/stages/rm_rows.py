"""Rankings as the reward model takes them: token ids, ranks and strength, made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

from align.data.tokenize import Encoded, Encodings
from align.records import Ranking
from align.stats.rankings import Ranks


class Row(NamedTuple):
    """A ranking as the model and the loss take it; strength is 0 where none is said."""

    encoded: Encoded
    ranks: Ranks
    strength: float = 0.0


Rows = Sequence[Row]


class EncodedRows(Sequence[Row]):
    """Encoded rankings as rows, each made when it is asked for: they may be more than memory holds."""

    def __init__(self, encoded: Encodings[Encoded]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ranking: Ranking = self._encoded.records[index]
        return Row(self._encoded[index], ranking.ranks, ranking.strength or 0.0)


def columns(rows: Rows) -> tuple[list[Encoded], list[Ranks]]:
    """What was ranked, and how."""
    return [row.encoded for row in rows], [row.ranks for row in rows]


def best_alone(row: Row) -> Row:
    """The first of the ranking's best responses, alone."""
    rank, place = min((rank, i) for i, rank in enumerate(row.ranks) if rank is not None)
    return Row(Encoded(row.encoded.prompt, [row.encoded.responses[place]]), (rank,))
