"""Equal compute: operations that were counted, turned into steps of each method.

What ppo computes after the SFT policy, its reward model included, is what each method may compute. How long
ppo's responses were is read of its run; a method that makes none is counted on the rankings as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from align.data.load import load
from align.data.tokenize import encode_demonstrations, encode_prompts, encode_rankings
from align.errors import UserError
from align.methods.variants import Starts
from align.models.base import find_base
from align.plan.base import plan_base
from align.plan.flops import Work
from align.plan.guard import smallest
from align.plan.lengths import limits
from align.plan.memory import Question, stage_memory
from align.plan.speed import of_demonstrations, of_pairs, of_sampling, of_scoring, of_updates
from align.recipe.ppo import PPO
from align.recipe.sections import Recipe
from align.records import Demonstration, Prompt, Ranking
from align.stages.dpo import pairs_of
from align.stages.frame import source
from align.stages.ranking_rows import EncodedRows

# As metrics.jsonl has them: of sft and rm, and of ppo's parts.
_FLOPS = ("perf/flops", "perf/sample_flops", "perf/judge_flops", "perf/update_flops")


@dataclass(frozen=True)
class Cost:
    """What stages took: seconds of each device, operations, and joules by the meter; None: not counted."""

    seconds: float = 0.0
    flops: float | None = 0.0
    joules: float | None = 0.0
    estimated: bool = False  # whether the joules are, where no meter could be read

    def __add__(self, other: Cost) -> Cost:
        flops, joules = (
            None if a is None or b is None else a + b
            for a, b in ((self.flops, other.flops), (self.joules, other.joules))
        )
        return Cost(self.seconds + other.seconds, flops, joules, self.estimated or other.estimated)


def cost_of(stage: Path) -> Cost:
    """What a stage's folder says that its steps took; what a killed process did in vain is not in it."""
    found: dict[str, list[float]] = {}
    for row in _metrics(stage):
        for name, value in row.items():
            found.setdefault(name, []).append(value)

    def total(*names: str) -> float | None:
        values = [value for name in names for value in found.get(name, ())]
        return sum(values) if values else None

    seconds = [max(value, 0.0) for name in found if name.startswith("seconds/") for value in found[name]]
    estimated = total("energy/cpu_estimated")
    measured = total("energy/gpu", "energy/cpu")
    return Cost(sum(seconds), total(*_FLOPS), estimated if measured is None else measured, measured is None)


def _metrics(stage: Path) -> list[dict[str, float]]:
    lines = (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Rows:
    """Lengths in tokens of a typical response to a prompt."""

    prompt: int
    response: int


class Counting:
    """Counts what a step of each method computes on a recipe's base and data."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._template = find_base(recipe.base).template(recipe.data)

    @cached_property
    def work(self) -> Work:
        """Of a token; the base is looked at without its weights."""
        base = plan_base(self.recipe.base)
        asked = Question(self.recipe, base, limits(self.recipe, positions=base.positions), smallest())
        return stage_memory(asked, "sft", False).work

    def rows(self, stage: Path) -> Rows:
        """Of a ppo stage that has finished: its prompts in the mean, and its responses."""
        found = load(Prompt, source(self.recipe, "prompts", "compare"), "prompts", self._cache).train
        cfg = self.recipe.ppo
        encoded = encode_prompts(
            self._template,
            found,
            cfg.max_prompt_tokens,
            "data.prompts",
            cfg.max_response_tokens,
            self._cache,
            True,
        )
        lengths = [row["response/length"] for row in _metrics(stage) if "response/length" in row]
        return Rows(round(encoded.lengths.mean()), round(sum(lengths) / len(lengths)))

    def iteration(self, cfg: PPO, rows: Rows, members: int) -> float:
        """Operations of an iteration of ppo; members: reward models that are adapters on the base."""
        lengths, split = [(rows.prompt, rows.response)] * cfg.rollout_batch_size, self.work.lower > 0
        apart = cfg.has_value_model and cfg.value_model == "separate"
        sampled = of_sampling(self.work, lengths, cfg.responses_per_prompt)
        scored = of_scoring(self.work, lengths, 2 + apart + members, 2, split)
        updated = of_updates(self.work, lengths, cfg.ppo_epochs, True, apart, split)
        return sampled.flops + scored.flops + updated.flops

    def answer(self, rows: Rows, n: int, members: int) -> float:
        """Operations of one answer that is the best of n by the reward model."""
        lengths = [(rows.prompt, rows.response)] * n
        scored = of_scoring(self.work, lengths, members, 0, self.work.lower > 0)
        return of_sampling(self.work, lengths, n).flops + scored.flops

    def demonstration(self, recipe: Recipe) -> tuple[float, int]:
        """Operations of one demonstration of the recipe in the mean, and how many train."""
        found = load(
            Demonstration, source(recipe, "demonstrations", "compare"), "demonstrations", self._cache
        )
        encoded = encode_demonstrations(
            self._template, found.train, recipe.sft.max_length, "the best answers", self._cache, False
        )
        if not len(encoded):
            raise UserError(
                "compare: no ranking has a single best response, so sft-best has nothing to learn"
            )
        learned = sum(len(response) for one in encoded for response in one.responses)
        whole = of_demonstrations(self.work, encoded.lengths.tolist(), learned).flops
        return whole / len(encoded), len(encoded)

    def pair(self) -> tuple[float, int]:
        """The same of a pair of the recipe's rankings, as dpo takes it."""
        cfg, rankings = self.recipe.dpo, source(self.recipe, "rankings", "compare")
        found = load(Ranking, rankings, "rankings", self._cache)
        skip = rankings.on_bad_record == "skip"
        encoded = encode_rankings(
            self._template, found.train, cfg.max_length, "data.rankings", self._cache, skip
        )
        pairs = pairs_of(EncodedRows(encoded), cfg.pairs)
        if not pairs:
            raise UserError("compare: no ranking puts one response before another, so dpo learns nothing")
        answers = [(len(one.prompt), len(x)) for one in pairs for x in (one.chosen, one.rejected)]
        whole = of_pairs(self.work, [a + b for a, b in answers], sum(b for _, b in answers))
        return whole.flops / len(pairs), len(pairs)

    @property
    def _cache(self) -> Path:
        return self.recipe.data.cache_folder


def members_of(recipe: Recipe, start: Starts) -> int:
    """How many reward models of the base score a response."""
    rewards = recipe.ppo.rewards
    runs = 1 if rewards is None else sum(one.run is not None for one in rewards)
    return runs + (recipe.rm.members - 1 if start.rm and recipe.ppo.rm is None else 0)


def iterations(counting: Counting, yardstick: PPO, mine: PPO, rows: Rows, members: int) -> int:
    """How many iterations of `mine` cost what those of the yardstick do, at the same lengths."""
    whole = yardstick.iterations * counting.iteration(yardstick, rows, members)
    return max(1, round(whole / counting.iteration(mine, rows, members)))


def steps(budget: float, each: float, batch_size: int, count: int, most_epochs: int | None) -> int:
    """How many steps of a supervised method the budget allows, each record costing `each` operations.

    most_epochs: how often at most it passes over the `count` records.
    """
    found = max(1, round(budget / (each * batch_size)))
    return found if most_epochs is None else min(found, -(-most_epochs * count // batch_size))
