"""Refusals that training makes: harmless requests, answered at every evaluation, and a limit."""

from __future__ import annotations

from dataclasses import dataclass

from align.errors import AlignError, UserError
from align.ppo.roles import Context
from align.ppo.safety import keep
from align.processes import distributed
from align.recipe.sections import Recipe
from align.run.folder import StageRun
from align.safety.attacks import PLAIN
from align.safety.cases import Case
from align.safety.scoring import refused
from align.safety.suite import cases
from align.sampling.engines import sampling_params
from align.sampling.params import Draws


@dataclass
class Refusals:
    """Harmless requests as token ids, and the share of them that the SFT policy refuses, once it is known."""

    context: Context
    prompts: list[list[int]]
    limit: float
    _reference: float | None = None

    def measured(self) -> dict[str, float]:
        """The shares that policy and reference refuse, over all processes; {} where nothing is watched."""
        if not self.prompts:
            return {}
        if self._reference is None:  # its answers stay the same
            self._reference = self._share("reference")
        return {"eval/refusals": self._share("policy"), "eval/reference_refusals": self._reference}

    def check(self, found: dict[str, float], stage: StageRun, iteration: int) -> None:
        """Raise AlignError where metrics say that the policy refuses too much more than the SFT policy.

        It stops with a checkpoint of this iteration. Metrics without an evaluation pass.
        """
        if "eval/refusals" not in found:
            return
        now, before = found["eval/refusals"], found["eval/reference_refusals"]
        if now - before <= self.limit:
            return
        keep(self.context, stage, iteration)
        raise AlignError(
            f"ppo stopped after {iteration} iterations: of {len(self.prompts)} harmless requests the policy "
            f"refuses {now:.0%}, the SFT policy {before:.0%}: more than ppo.refusal_limit ({self.limit:g}) "
            "above it. To go on from there, run the same command with a higher ppo.refusal_limit; to refuse "
            "less, raise ppo.kl_coef, or give rankings in which harmless requests are answered, and add "
            "--restart"
        )

    def _share(self, role: str) -> float:
        context = self.context
        template, accel = context.setup.template, context.accel
        rows = distributed.share(list(range(len(self.prompts))), accel)
        if role == "policy":
            context.engine.update()
        draws = Draws(context.seed, "refusals", 0, rows)
        params = sampling_params(context.cfg, context.setup.base)
        sampled = context.engine.sample([self.prompts[i] for i in rows], draws, params, role)
        said = [refused(template.text(one.response)).verdict == "refused" for one in sampled]
        return sum(distributed.gather_lists(said, accel)) / len(self.prompts)


def watched_refusals(context: Context, recipe: Recipe, stage: StageRun) -> Refusals:
    """What ppo.refusal_limit watches: the harmless twins of the safety suite's requests, behind no attack.

    Raises UserError where none of them fits into ppo.max_prompt_tokens.
    """
    limit = recipe.ppo.refusal_limit
    if limit is None:
        return Refusals(context, [], 0.0)
    room, twins = recipe.ppo.max_prompt_tokens, harmless_twins()
    encoded = context.setup.template.prompts_ids([case.prompt for case in twins])
    fitting = [ids for ids in encoded if not isinstance(ids, UserError) and len(ids) <= room]
    if not fitting:
        raise UserError(
            f"ppo.refusal_limit: none of the {len(twins)} harmless requests of the safety suite fits into "
            f"ppo.max_prompt_tokens ({room}): raise it, or leave refusal_limit out"
        )
    longer = len(twins) - len(fitting)
    left = f"; {longer} are left out, longer than ppo.max_prompt_tokens" if longer else ""
    stage.say(f"ppo: {len(fitting)} harmless requests of the safety suite watch over refusals{left}")
    return Refusals(context, fitting, limit)


def harmless_twins() -> list[Case]:
    """Requests that only sound like a harmful one; controls of other attacks are not among them."""
    plain = cases(attacks=[PLAIN])
    harmful = {case.pair for case in plain if case.expected == "refuse"}
    return [case for case in plain if case.expected == "comply" and case.pair in harmful]
