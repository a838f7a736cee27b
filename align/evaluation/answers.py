"""Answers of a policy to prompts, and all that is measured of each: scores, KL, entropy, length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.data.template import Template
from align.errors import AlignError, UserError
from align.messages import Messages
from align.models.batch import Pair, collate
from align.models.ensemble import add_reward
from align.models.forward import Forward
from align.models.passes import PAIRS, passes
from align.models.roles import Roles
from align.models.token_kl import token_kl
from align.recipe.sections import Recipe
from align.rewards.external import ScoreTexts, Texts
from align.rewards.rewards import Rewards, RewardSource, find_sources, load_rewards
from align.sampling.params import Draws, Engine, Sampled, SamplingParams

SCORE, GUARD, REWARD, MEASURE = "score", "guard", "reward/", "measure/"
_DRAWS = "evaluate"  # names the random numbers


@dataclass(frozen=True)
class Asked:
    """A prompt as the data have it, its key, and its token ids."""

    prompt: str | Messages
    key: str
    ids: list[int]

    @property
    def plain(self) -> Any:
        """The prompt as JSON has it."""
        return self.prompt if isinstance(self.prompt, str) else list(self.prompt)


@dataclass(frozen=True)
class Scoring:
    """What gives answers numbers: the recipe's rewards, a guard, and measures that train nobody."""

    rewards: Rewards | None  # their sum is `score`
    named: bool  # whether the recipe names its rewards, so that each one is told too
    guard: str | None  # its role
    roles: Mapping[str, str]  # of measures that are reward models of this base, by name
    scorers: Mapping[str, ScoreTexts]  # of the others

    @property
    def names(self) -> list[str]:
        """Of the numbers, as `scores_of` gives them."""
        found = [SCORE] if self.rewards else []
        found += [f"{REWARD}{name}" for name in self.rewards.names] if self.rewards and self.named else []
        found += [GUARD] if self.guard else []
        return found + [f"{MEASURE}{name}" for name in (*self.roles, *self.scorers)]


def find_measures(recipe: Recipe, lineage: Mapping[str, str]) -> list[RewardSource]:
    """The sources of evaluate.measures, verified; raises as `find_sources` does, naming that key."""
    if not recipe.evaluate.measures:
        return []
    as_rewards = recipe.ppo.model_copy(update={"rewards": recipe.evaluate.measures})
    with _of_measures():
        return find_sources(recipe.model_copy(update={"ppo": as_rewards}), lineage)


def load_scoring(
    recipe: Recipe,
    roles: Roles,
    sources: Sequence[RewardSource],
    guard: Path | None,
    measures: Sequence[RewardSource],
    device: torch.device,
) -> Scoring:
    """Give every model that scores its place on the base, or one of its own."""
    ppo, rewards = recipe.ppo, None
    if sources:
        rewards, _ = load_rewards(sources, roles, device, ppo.scale_scores, ppo.reward_reduce)
    own: dict[str, str] = {}
    scorers: dict[str, ScoreTexts] = {}
    for i, source in enumerate(measures):
        if source.adapter is not None:
            own[source.name] = f"measure{i}"
            add_reward(roles, own[source.name], source.adapter)
            continue
        with _of_measures():
            loaded, _ = load_rewards([source], roles, device, scale=False)
        scorers[source.name] = _measured(loaded.scorers[source.name])
    if guard is not None:
        add_reward(roles, GUARD, guard)
    return Scoring(rewards, ppo.rewards is not None, GUARD if guard else None, own, scorers)


def _measured(scorer: ScoreTexts) -> ScoreTexts:
    def scores(texts: Texts) -> Tensor:
        with _of_measures():
            return scorer(texts)

    return scores


@contextmanager
def _of_measures() -> Iterator[None]:
    """Errors of a source of rewards that stands under evaluate.measures name that key."""
    try:
        yield
    except AlignError as error:
        error.args = tuple(str(part).replace("ppo.rewards", "evaluate.measures") for part in error.args)
        raise


@dataclass(frozen=True)
class Answering:
    """The models in memory that answer and measure. `reference`: the role that KL is measured to."""

    forward: Forward
    engine: Engine
    params: SamplingParams
    template: Template
    scoring: Scoring
    seed: int
    microbatch_tokens: int
    reference: str | None

    def answers(self, role: str, asked: Sequence[Asked], each: int) -> list[dict[str, Any]]:
        """`each` answers of a role to every prompt, a row for each, with what is measured of it.

        What is drawn is a function of seed, prompt and the answer's number, so all policies answer with the
        same random numbers, whatever else is asked. KL and entropy are measured of the first answer alone.
        """
        rows = [(one, number) for one in asked for number in range(each)]
        sampled, found = self.drawn(role, rows)
        texts = Texts(
            [one.prompt for one, _ in rows],
            [row["response"] for row in found],
            [row["ended"] for row in found],
        )
        pairs = [(one.prompt, one.response) for one in sampled]
        for row, scores in zip(found, self.scores(pairs, texts), strict=True):
            row.update(scores)
        first = [i for i, (_, number) in enumerate(rows) if number == 0]
        for i, more in zip(first, self._distances(role, [sampled[i] for i in first]), strict=True):
            found[i].update(more)
        return found

    def drawn(
        self, role: str, rows: Sequence[tuple[Asked, int]]
    ) -> tuple[list[Sampled], list[dict[str, Any]]]:
        """A role's answers to prompts, each with its number, as drawn and as rows; nothing is measured."""
        draws = Draws(self.seed, _DRAWS, 0, [(one.key, number) for one, number in rows])
        sampled = self.engine.sample([one.ids for one, _ in rows], draws, self.params, role)
        found: list[dict[str, Any]] = [
            {
                "prompt": one.plain,
                "key": one.key,
                "answer": number,
                "response": self.template.text(answer.response),
                "tokens": len(answer.response),
                "ended": answer.response[-1] == self.template.eos_id,
            }
            for (one, number), answer in zip(rows, sampled, strict=True)
        ]
        return sampled, found

    @torch.no_grad()
    def scores(self, pairs: Sequence[Pair], texts: Texts) -> list[dict[str, float]]:
        """What each reward, guard and measure says of each pair, by name."""
        scoring, count = self.scoring, len(pairs)
        rewards = scoring.rewards
        roles = dict(rewards.roles) if rewards else {}
        said = {name: torch.zeros(count) for name in roles}
        own = {f"{MEASURE}{name}": (role, torch.zeros(count)) for name, role in scoring.roles.items()}
        if scoring.guard:
            own[GUARD] = (scoring.guard, torch.zeros(count))
        if said or own:
            for part in passes(self.forward.roles, pairs, self.microbatch_tokens, PAIRS):
                prefix, rows = self.forward.prefix(collate(part.items)), part.rows
                for name, scores in (rewards.adapters(self.forward, prefix) if rewards else {}).items():
                    said[name][rows] = scores[: len(rows)].float().cpu()
                for role, column in own.values():
                    column[rows] = self.forward.scores(role, prefix)[: len(rows)].float().cpu()
        found: dict[str, Tensor] = {}
        if rewards:
            whole = rewards.all(said, texts if rewards.scorers else None, torch.device("cpu"))
            found[SCORE] = whole.scores
            found |= {f"{REWARD}{name}": part for name, part in whole.parts.items() if scoring.named}
        found |= {name: column for name, (_, column) in own.items()}
        found |= {f"{MEASURE}{name}": scorer(texts) for name, scorer in scoring.scorers.items()}
        columns = {name: found[name].tolist() for name in scoring.names}
        return [{name: column[i] for name, column in columns.items()} for i in range(count)]

    @torch.no_grad()
    def _distances(self, role: str, sampled: Sequence[Sampled]) -> list[dict[str, float]]:
        """Entropy in nats a token, and KL to the reference in nats a response: `kl` from the log ratios of
        what was drawn, `kl_exact` from the whole distributions along the way."""
        found: list[dict[str, float]] = [{} for _ in sampled]
        pairs = [(one.prompt, one.response) for one in sampled]
        temperature = self.params.temperature
        for part in passes(self.forward.roles, pairs, self.microbatch_tokens, PAIRS):
            prefix = self.forward.prefix(collate(part.items))
            own, entropies, mask = self.forward.logprobs(role, prefix, temperature)
            columns = {"entropy": entropies.sum(1) / mask.sum(1)}
            if self.reference is not None:
                theirs, _, _ = self.forward.logprobs(self.reference, prefix, temperature)
                exact = token_kl(self.forward, role, self.reference, prefix, temperature)
                columns |= {"kl": (own - theirs).sum(1), "kl_exact": exact.sum(1)}
            for name, column in columns.items():
                for row, value in zip(part.rows, column.tolist(), strict=False):
                    found[row][name] = value
        return found

    @torch.no_grad()
    def likelihoods(self, role: str, pairs: Sequence[Pair]) -> list[dict[str, float]]:
        """Of texts that people wrote: their negative log likelihood in nats, at temperature 1, and tokens."""
        found: list[dict[str, float]] = [{} for _ in pairs]
        for part in passes(self.forward.roles, pairs, self.microbatch_tokens, PAIRS):
            prefix = self.forward.prefix(collate(part.items))
            logprobs, _, mask = self.forward.logprobs(role, prefix, 1.0, end_anywhere=True)
            for row, nats, tokens in zip(
                part.rows, logprobs.sum(1).tolist(), mask.sum(1).tolist(), strict=False
            ):
                found[row] = {"nats": -nats, "tokens": tokens}
        return found

    def text_scores(
        self, prompts: Sequence[str | Messages], responses: Sequence[str], place: Callable[[int], str]
    ) -> list[dict[str, float]]:
        """The scores of answers that are given as text, as if each had ended by itself.

        place: where one stands, for messages. Raises UserError where one cannot be read.
        """
        pairs: list[Pair] = []
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            try:
                pair = self.template.prompt_ids(prompt), self.template.response_ids(response)
            except UserError as error:
                raise UserError(f"{place(i)}: {error}") from error
            length, most = len(pair[0]) + len(pair[1]), self.template.positions
            if most is not None and length > most:
                raise UserError(
                    f"{place(i)}: {length} tokens, and the base reads at most {most}: leave it out"
                )
            pairs.append(pair)
        return self.scores(pairs, Texts(prompts, responses, [True] * len(pairs)))
