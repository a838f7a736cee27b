"""Rankings as the reward model's training takes them: token ids with ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from align.data.tokenize import Encoded, Encodings
from align.records import Ranking
from align.stats.rankings import Ranks


class RankingRow(NamedTuple):
    """A ranking as the model and the loss take it; strength is 0 where none is said."""

    encoded: Encoded
    ranks: Ranks
    strength: float = 0.0
    weight: float = 1.0  # of its loss


RankingRows = Sequence[RankingRow]


class EncodedRows(Sequence[RankingRow]):
    """Encoded rankings as rows, each made when it is asked for: they may be more than memory holds."""

    def __init__(
        self, encoded: Encodings[Encoded], weight: Callable[[Ranking], float] = lambda ranking: 1.0
    ) -> None:
        self._encoded, self._weight = encoded, weight

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: Any) -> Any:
        """A row, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ranking: Ranking = self._encoded.records[index]
        strength, weight = ranking.strength or 0.0, self._weight(ranking)
        return RankingRow(self._encoded[index], ranking.ranks, strength, weight)


def columns(rows: RankingRows) -> tuple[list[Encoded], list[Ranks]]:
    """What was ranked, and how."""
    return [row.encoded for row in rows], [row.ranks for row in rows]


def best_alone(row: RankingRow) -> RankingRow:
    """The first of the ranking's best responses, alone."""
    rank, place = min((rank, i) for i, rank in enumerate(row.ranks) if rank is not None)
    return RankingRow(Encoded(row.encoded.prompt, [row.encoded.responses[place]]), (rank,))
