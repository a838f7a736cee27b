"""How much each labeler's rankings count in the reward model's loss: `data.rankings.weight_by`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from align.errors import UserError
from align.records import Ranking
from align.stats.estimate import Estimate
from align.stats.reliability import LabelerReliability, Reliability, weight_of

FILE = "labelers.json"
_SHOWN = 20  # labelers that are listed; labelers.json has all
_DO = (
    "Let three people or more do each task (labeling.overlap), add gold tasks, or take weight_by out of the "
    "recipe"
)


@dataclass(frozen=True)
class LabelerWeights:
    """Weights with mean 1 over the training rankings; `other`: of who is not among `by_name`."""

    by_name: Mapping[str, float]
    other: float
    found: Reliability
    rankings: Mapping[str | None, int]  # that train, by labeler

    def of(self, ranking: Ranking) -> float:
        """What a ranking's loss is multiplied by."""
        return self.by_name.get(ranking.labeler or "", self.other)

    @property
    def identity(self) -> str:
        """The weights as the manifest keeps them."""
        return json.dumps({**self.by_name, "others": self.other}, ensure_ascii=False)

    def lines(self) -> Iterator[str]:
        """What a stage says of them."""
        yield (
            f"data.rankings: {len(self.rankings.keys() - {None})} labelers; a ranking weighs by its "
            "labeler's reliability a, the share of comparisons ordered right: log(a / (1 - a)), scaled to a "
            "mean of 1"
        )
        people = {one.name: one for one in self.found.labelers}
        names = sorted(self.rankings, key=lambda name: (-self.rankings[name], name or ""))
        for name in names[:_SHOWN]:
            one = people.get(name or "", LabelerReliability("", Estimate()))
            yield f"  {name or 'unnamed'}: {self._said(name, one)}"
        if len(names) > _SHOWN:
            yield f"  … and {len(names) - _SHOWN} more in {FILE}"

    def _said(self, name: str | None, one: LabelerReliability) -> str:
        weight, many = self.by_name.get(name or "", self.other), f"{self.rankings[name]:,} rankings"
        a = one.accuracy
        if a.value is None:
            return f"weight {weight:g} ({many}), the average: nothing says how reliable they are"
        span = "" if a.low is None else f" ({a.low:.2f} to {a.high:.2f})"
        said = f"weight {weight:g} ({many}), a = {a.value:.2f}{span} on {a.count:,} comparisons"
        if one.reversed:
            return (
                f"{said}: orders against the others. These rankings are left out, not turned round: are "
                "their ranks read the right way, 1 for the best?"
            )
        return f"{said}: may be guessing" if one.at_chance else said

    def document(self) -> dict[str, Any]:
        """All figures, as JSON has them."""
        labelers = [
            asdict(one) | {"weight": self.by_name.get(one.name), "rankings": self.rankings.get(one.name, 0)}
            for one in self.found.labelers
        ]
        return {**asdict(self.found), "labelers": labelers, "others_weight": self.other}


def weights_by(found: Reliability, rankings: Mapping[str | None, int]) -> LabelerWeights:
    """The weights for so many rankings of each labeler; UserError where they cannot be known.

    That is where nothing says how reliable anybody is, or nobody is above guessing.
    """
    if not found.is_known:
        raise UserError(f"{_why_unknown(found, rankings)}. {_DO}")
    known = {one.name: one.accuracy for one in found.labelers if one.accuracy.value is not None}
    own = {name: weight_of(accuracy.value or 0.0) for name, accuracy in known.items()}
    judged = sum(accuracy.count for accuracy in known.values())
    average = sum(own[name] * accuracy.count for name, accuracy in known.items()) / judged
    sums = sum(own.get(name or "", average) * count for name, count in rankings.items())
    mean = sums / sum(rankings.values())
    if mean <= 0:
        raise UserError(
            "nobody orders responses better than guessing would, so no ranking would train. Look "
            "whether ranks are read the right way (1 is best), and whether people understood the guideline"
        )
    # Rounded, so that the weights that are told and compared are the very ones that train.
    by_name = {name: round(own[name] / mean, 3) for name in sorted(own) if name in rankings}
    return LabelerWeights(by_name, round(average / mean, 3), found, rankings)


def _why_unknown(found: Reliability, rankings: Mapping[str | None, int]) -> str:
    names = sorted(name for name in rankings if name is not None)
    if not names:
        return "no training ranking names its labeler"
    if len(names) == 1:
        return f"{names[0]} alone made the rankings, so nothing says how reliable they are"
    if not found.pairs:
        return "no two labelers ranked the same responses, so nothing says how reliable they are"
    return (
        f"labelers ranked the same responses ({found.pairs:,} pairs), but never three of them in turn: where "
        "two disagree, nothing says which one is right"
    )
