"""What a response is worth: a weighted sum of reward models, functions and services.

A reward model of the policy's base is an adapter beside the policy's; one of another base brings its
own. Each process scores its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.template import Template
from align.data.tokenize import Encodings
from align.errors import UserError
from align.models.adapters import read_score_std
from align.models.base import find_base
from align.models.batch import PrefixStates, collate
from align.models.ensemble import Reduce, add_reward, member_folders, spread
from align.models.forward import Forward
from align.models.passes import PAIRS, passes
from align.models.roles import Roles
from align.processes import distributed
from align.recipe.ppo import PPO, Reward
from align.recipe.sections import Recipe
from align.rewards.external import ScoreTexts, Texts, scorer_of
from align.rewards.model import OwnModel
from align.run.lineage import as_trained, parent
from align.run.manifest import ParentRef
from align.sampling.params import Sampled


@dataclass(frozen=True)
class RewardSource:
    """A source that was found and verified, its model not yet loaded."""

    name: str
    weight: float
    adapter: Path | None = None  # the final/ of a reward model of the policy's base
    foreign: Recipe | None = None  # of a reward model with another base, which lies at `final`
    final: Path | None = None
    trained_on: Mapping[str, str] = field(default_factory=dict)  # base and template, with another base
    scorer: ScoreTexts | None = None  # a function or a service
    parent: ParentRef | None = None  # None for a service


def find_sources(recipe: Recipe, lineage: Mapping[str, str]) -> list[RewardSource]:
    """The sources that the recipe names; `lineage`: base and template of this run.

    Raises MissingStage where a reward model has not been trained, UserError where a run or function
    cannot be used.
    """
    if recipe.ppo.rewards is None:
        return [_own_rm(recipe, "model", 1.0, lineage)]
    return [_found(recipe, reward, lineage) for reward in recipe.ppo.rewards]


def _own_rm(recipe: Recipe, name: str, weight: float, lineage: Mapping[str, str]) -> RewardSource:
    rm = parent(recipe, "rm", recipe.ppo.rm, lineage)
    return RewardSource(name, weight, adapter=rm.final, final=rm.final, parent=rm.ref("rm"))


def _found(recipe: Recipe, reward: Reward, lineage: Mapping[str, str]) -> RewardSource:
    name, weight, key = reward.label, reward.weight, f"reward/{reward.label}"
    if reward.run == "this":
        return _own_rm(recipe, name, weight, lineage)
    if reward.run:
        theirs, manifest = as_trained(Path(reward.run), "rm")
        same = all(manifest.shared[part] == mine for part, mine in lineage.items())
        rm = parent(recipe if same else theirs, "rm", reward.run, lineage if same else {})
        if same:
            return RewardSource(name, weight, adapter=rm.final, final=rm.final, parent=rm.ref("reward", key))
        if (code := theirs.base.foreign_code) and not recipe.base.trust_remote_code:
            raise UserError(
                f"ppo.rewards: loading {reward.run} runs {' and '.join(code)}; that is done only where this "
                "recipe says so: base.trust_remote_code: true"
            )
        ref = rm.ref("reward", key, manifest.base)
        return RewardSource(
            name, weight, foreign=theirs, final=rm.final, trained_on=manifest.shared, parent=ref
        )
    scorer, function = scorer_of(reward)
    return RewardSource(name, weight, scorer=scorer, parent=function)


@dataclass(frozen=True)
class Rewards:
    """The sources of a run, ready to score. `roles`: of those that are adapters on the policy's base."""

    names: Sequence[str]
    weights: Sequence[float]
    roles: Mapping[str, str]  # by name
    scorers: Mapping[str, ScoreTexts]  # by name
    score_stds: Mapping[str, float]  # by name; what a reward model's scores are divided by

    def adapters(self, forward: Forward, prefix: PrefixStates) -> dict[str, Tensor]:
        """What the reward models of the policy's base say of a microbatch: by name, [b]."""
        return {name: forward.scores(role, prefix) for name, role in self.roles.items()}

    def with_disagreement(
        self, forward: Forward, prefix: PrefixStates
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The same, and how far the members of these reward models disagree [b], by the models' weights."""
        scores, apart = {}, []
        for name, weight in zip(self.names, self.weights, strict=True):
            role = self.roles.get(name)
            if role is None:
                continue
            members = forward.member_scores(role, prefix)
            ensemble = forward.roles.ensembles.get(role)
            scores[name] = members[0] if ensemble is None else ensemble.reduced(members)
            if ensemble is not None:
                apart.append(abs(weight) * spread(members) / self.score_stds.get(name, 1.0))
        return scores, torch.stack(apart).sum(0) if apart else None

    def all(self, scores: Mapping[str, Tensor], texts: Texts | None, device: torch.device) -> SourceScores:
        """The scores of adapters [B] with those of the other sources, and their weighted sum."""
        parts = dict(scores)
        if texts is not None and texts.responses:
            parts |= {name: scorer(texts).to(device) for name, scorer in self.scorers.items()}
        ordered = {name: parts[name] for name in self.names}
        return SourceScores(self._sum(ordered), ordered)

    def _sum(self, parts: Mapping[str, Tensor]) -> Tensor:
        if list(self.weights) == [1.0]:
            return parts[self.names[0]]
        weighted = [
            weight * parts[name] / self.score_stds.get(name, 1.0)
            for name, weight in zip(self.names, self.weights, strict=True)
        ]
        return torch.stack(weighted).sum(0)


@dataclass(frozen=True)
class SourceScores:
    """Scores [B], and what each source said [B], by name."""

    scores: Tensor
    parts: dict[str, Tensor]


def load_rewards(
    sources: Sequence[RewardSource],
    roles: Roles,
    device: torch.device,
    scale: bool,
    reduce: Reduce = "mean",
) -> tuple[Rewards, float]:
    """Give the sources' models their places; roles are added to the policy's base.

    reduce: what the members of a reward model of this base are worth together.
    Returns the rewards and what their sum is to be divided by: with `scale`, the spread of the only
    source's scores; of several, each reward model's scores are divided by their own spread.
    """
    models = [source.final for source in sources if source.final is not None]
    if reduce != "mean" and not any(len(member_folders(final)) > 1 for final in models):
        raise UserError(
            f"ppo.reward_reduce: {reduce} is about a reward model with several members, and there is none: "
            "train rm with `members: 4`, say, or take reward_reduce out"
        )
    adapters: dict[str, str] = {}
    scorers: dict[str, ScoreTexts] = {}
    score_stds: dict[str, float] = {}
    for source in sources:
        if source.adapter is not None:
            role = f"reward{len(adapters)}" if adapters else "reward"
            add_reward(roles, role, source.adapter, reduce)
            adapters[source.name] = role
        elif source.foreign is not None:
            scorers[source.name] = _own_model(source, device, reduce).scores
        elif source.scorer is not None:
            scorers[source.name] = source.scorer
        if scale and source.final is not None:
            score_stds[source.name] = read_score_std(source.final)
    alone = len(sources) == 1
    score_std = score_stds.get(sources[0].name, 1.0) if alone else 1.0
    names = [source.name for source in sources]
    weights = [source.weight for source in sources]
    return Rewards(names, weights, adapters, scorers, {} if alone else score_stds), score_std


def _own_model(source: RewardSource, device: torch.device, reduce: Reduce = "mean") -> OwnModel:
    recipe, final = source.foreign, source.final
    assert recipe is not None and final is not None
    who = f"ppo.rewards: the reward model {source.name}"
    base = find_base(recipe.base)
    template = base.template(recipe.data)
    found = {"base": base.fingerprint, "template": template.hash}
    if changed := [part for part, mine in found.items() if source.trained_on.get(part) != mine]:
        raise UserError(f"{who} was trained with another {' and '.join(changed)} than the one there now")
    roles = Roles(base.load_model(device))
    add_reward(roles, "reward", final, reduce)
    return OwnModel(who, base, template, Forward(roles, logits=False), recipe.rm.microbatch_tokens)


def texts_of(
    rewards: Rewards,
    sampled: Sequence[Sampled],
    prompts: Sequence[list[int]],
    rows: Sequence[int],
    template: Template,
) -> Texts | None:
    """Responses to these rows of the prompts as text; None where every source reads the policy's tokens.

    Prompts are given as the data have them; where that is not known, as the tokenizer reads the ids.
    """
    if not rewards.scorers:
        return None
    asked = (
        [prompts.records[row].prompt for row in rows]
        if isinstance(prompts, Encodings)
        else [template.prompt_text(prompts[row]) for row in rows]
    )
    return Texts(
        asked,
        [template.text(one.response) for one in sampled],
        [one.response[-1] == template.eos_id for one in sampled],
    )


@torch.no_grad()
def score_responses(
    forward: Forward, sampled: Sequence[Sampled], rewards: Rewards, texts: Texts | None, tokens: int
) -> Tensor:
    """The scores [N] of some responses, on the CPU; `tokens` go through the model at a time.

    Every process calls it together.
    """
    said = {name: torch.zeros(len(sampled)) for name in rewards.roles}
    pairs = [(one.prompt, one.response) for one in sampled]
    for part in passes(forward.roles, pairs, tokens, PAIRS):
        for name, found in rewards.adapters(forward, forward.prefix(collate(part.items))).items():
            said[name][part.rows] = found[: len(part.rows)].float().cpu()
    if not sampled:
        return torch.zeros(0)
    return rewards.all(said, texts, torch.device("cpu")).scores.float()


def part_metrics(parts: Mapping[str, Tensor], cfg: PPO, accel: Accelerator) -> dict[str, float]:
    """The mean of what each named source said, over all processes' responses."""
    if cfg.rewards is None:
        return {}
    sums = torch.stack([part.double().sum() for part in parts.values()])
    count = torch.full_like(sums[:1], len(next(iter(parts.values()))))
    *totals, rows = distributed.total(torch.cat([sums, count]), accel).tolist()
    return {f"reward/{name}": total / rows for name, total in zip(parts, totals, strict=True)}
