"""From each seed's evaluation and costs to one table: a row a method, means and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.methods.budget import Cost
from align.recipe.sections import Recipe
from align.stats.best_of_n import kl_of_best
from align.stats.over_seeds import over_seeds

VERSION = 1
_SFT = "sft"
_SHARES = ("win/", "no_eos")


@dataclass(frozen=True)
class Trained:
    """A method with one seed: what was measured of it, and what it took.

    label: its name in the evaluation's document. cost: after the SFT policy; None: nothing was computed.
    allowed: what it might take. each: operations an answer, where answering is the method.
    """

    method: str
    seed: int
    label: str
    document: Mapping[str, Any]
    cost: Cost | None
    allowed: float | None
    each: float | None

    def figures(self, best_of: int) -> dict[str, float]:
        """All its numbers by name; what is not known is left out."""
        document = self.document
        own, found = document["policies"][self.label], dict[str, float | None]()
        for name in (*document["names"], "kl_exact", "tokens", "no_eos"):
            found[name] = _value(own.get(name))
        for name, gain in self._gains().items():
            found[f"gain/{name}"] = _value(gain)
        if self.each is not None:
            found["kl_exact"] = kl_of_best(best_of)
        told = document.get("perplexity", {}).get(self.label, {})
        found["perplexity"] = _value(told.get("perplexity"))
        found["memorised"] = _value(self._memorised())
        for by, rate in self._wins():
            found[f"win/{by}"] = rate
        if self.cost is not None:
            found |= {"seconds": self.cost.seconds, "flops": self.cost.flops, "joules": self.cost.joules}
            if self.allowed and self.cost.flops is not None:
                found["share"] = self.cost.flops / self.allowed
        found["flops_an_answer"] = self.each
        return {name: x for name, x in found.items() if x is not None and math.isfinite(x)}

    def _memorised(self) -> Any:
        """The share of training demonstrations that it repeats exactly from their prompts."""
        policies = (self.document.get("memorised") or {}).get("policies", {})
        return policies.get(self.label, {}).get("train", {}).get("prompt", {}).get("exact")

    @property
    def kl_se(self) -> float | None:
        """The standard error of its KL over prompts."""
        found: float | None = self.document["policies"][self.label].get("kl_exact_se")
        return None if self.each is not None or self.label == _SFT else found

    def _gains(self) -> Mapping[str, Any]:
        """Its scores less the SFT policy's, prompt by prompt; the SFT policy stands first in the document."""
        for one in self.document["differences"]:
            if (one["policy"], one["less"]) == (self.label, _SFT):
                return {name: one["figures"].get(name) for name in self.document["names"]}
        return {}

    def _wins(self) -> Iterable[tuple[str, float]]:
        """Its win rates against the SFT policy, by each score and by a judge."""
        judge = self.document.get("judge") or {"wins": []}
        for one in [*self.document["wins"], *judge["wins"]]:
            rate = _value(one["win_rate"]["rate"])
            if rate is None:
                continue
            if (one["policy"], one["against"]) == (self.label, _SFT):
                yield one["by"], rate


def _value(estimate: Any) -> float | None:
    return estimate.get("value") if isinstance(estimate, Mapping) else None


def comparison(
    recipe: Recipe, methods: Sequence[str], trained: Sequence[Trained], notes: Sequence[str]
) -> dict[str, Any]:
    """What compare.json says; the SFT policy first, then the methods in the recipe's order."""
    best_of = recipe.evaluate.best_of
    rows = []
    for method in (_SFT, *methods):
        mine = {one.seed: one for one in trained if one.method == method}
        numbers = {seed: one.figures(best_of) for seed, one in mine.items()}
        names = dict.fromkeys(name for found in numbers.values() for name in found)
        figures = {}
        for name in names:
            bounds = (0.0, 1.0) if name.startswith(_SHARES) else (-math.inf, math.inf)
            known = {seed: found[name] for seed, found in numbers.items() if name in found}
            figures[name] = over_seeds(known, *bounds)
        within = {str(seed): one.kl_se for seed, one in mine.items()}
        estimated = any(one.cost.estimated for one in mine.values() if one.cost)
        rows.append({"method": method, "figures": figures, "kl_se": within, "joules_estimated": estimated})
    first = trained[0].document
    return {
        "version": VERSION,
        "seeds": list(recipe.compare.seeds),
        "budget": recipe.compare.budget,
        "prompts": first["prompts"],
        "names": list(first["names"]),
        "best_of": best_of,
        "rows": rows,
        "notes": [*notes],
    }
