"""The first sentence of the page: what a person who has no time must know, each part with its evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.report.documents import Answer, Preferences, Share
from align.report.read import RunFiles, StageFiles
from align.stats.bootstrap import Draws, Observation, means
from align.stats.estimate import Estimate
from align.stats.overoptimisation import WINDOW, overoptimised
from align.text import number, percent

# What PPO started from where this run's reward model alone judges: its temperature is of these scores then.
_ONE_REWARD = {"base", "template", "sft", "rm", "rm_head"}


@dataclass(frozen=True)
class Claim:
    """A part of the sentence and the id of the section that shows it."""

    text: str
    section: str


def headline(run: RunFiles) -> list[Claim]:
    """What came out, as far as the run has come; empty where no stage has a result yet."""
    claims = []
    sft, rm, ppo = (run.stages.get(name) for name in ("sft", "rm", "ppo"))
    if compared := _asked(run.compared):
        claims.append(Claim(compared, "compared"))
    elif ppo and (gained := _after_ppo(ppo, rm)):
        claims.append(Claim(gained, "answers" if both_scores(ppo.held_out) else "ppo"))
    if rm and (agrees := _reward_model(rm)):
        claims.append(Claim(agrees, "rm"))
    if ppo and ppo.metrics:
        claims.append(Claim(_exploited(ppo), "ppo"))
    elif sft and (learned := _demonstrations(sft)):
        claims.append(Claim(learned, "sft"))
    return claims


def _asked(document: Mapping[str, Any]) -> str:
    """What people said of the PPO policy's answers, or else a judge model; empty where nobody was asked."""
    people = _preferences(document.get("people"))
    for one in people.policies:
        if one.policy == "ppo" and one.win_rate.value is not None:
            share = _of_100(one.win_rate)
            return f"people, asked blind, preferred {share} of the PPO policy's answers to another's"
    judge = _preferences(document.get("judge"))
    for won in judge.wins:
        if (won.policy, won.against) == ("ppo", "sft") and won.win_rate.rate.value is not None:
            share = _of_100(won.win_rate.rate)
            return f"after PPO the judge {judge.model} prefers {share} answers to those before"
    return ""


def _preferences(found: object) -> Preferences:
    return Preferences.model_validate(found if isinstance(found, dict) else {})


def _after_ppo(ppo: StageFiles, rm: StageFiles | None) -> str:
    """How many of 100 held-out answers are preferred to those before PPO, and in whose eyes.

    The guard, which never trained the policy, is asked before the reward model that did. A difference of
    scores becomes a probability by the temperature that was fitted on held-out rankings (Bradley-Terry:
    sigmoid of the difference over the temperature); where none fits, only who scores higher is counted.
    """
    guarded = [
        (row.reference_guard, row.policy_guard)
        for row in ppo.held_out
        if row.reference_guard is not None and row.policy_guard is not None
    ]
    if guarded:
        share = _wins(guarded, None)
        return (
            f"after PPO {_of_100(share)} held-out answers score higher than before with the guard, a reward "
            "model that PPO was not trained on"
        )
    scored = both_scores(ppo.held_out)
    if not scored:
        return ""
    calibration = rm.evaluation.calibration if rm else None
    temperature = calibration.temperature if calibration and not calibration.at_bound else None
    if temperature and temperature > 0 and set(ppo.lineage) <= _ONE_REWARD:
        share = _wins(scored, temperature)
        return (
            f"after PPO people would prefer {_of_100(share)} answers to those before, if the reward model "
            "that PPO was trained on is right"
        )
    return f"after PPO {_of_100(_wins(scored, None))} held-out answers score higher than before"


def both_scores(rows: Sequence[Answer]) -> list[tuple[float, float]]:
    """(before, after) of the answers that have both scores."""
    return [
        (row.reference_score, row.policy_score)
        for row in rows
        if row.reference_score is not None and row.policy_score is not None
    ]


def _wins(pairs: Sequence[tuple[float, float]], temperature: float | None) -> Estimate:
    """The mean probability that the second of each pair is preferred, with its interval over prompts."""
    seen = [
        Observation(i, "", preferred(after - before, temperature)) for i, (before, after) in enumerate(pairs)
    ]
    return means(seen, len(seen), Draws())[""]


def preferred(gain: float, temperature: float | None) -> float:
    """The probability that a response that scores `gain` more is preferred; 1, 1/2 or 0 untempered."""
    if temperature is None:
        return (math.copysign(1, gain) + 1) / 2 if gain else 0.5
    return (1 + math.tanh(gain / temperature / 2)) / 2  # the sigmoid, without overflow


def _of_100(share: Estimate | Share) -> str:
    assert share.value is not None
    between = ""
    if share.low is not None and share.high is not None:
        between = f" ({100 * share.low:.0f} to {100 * share.high:.0f})"
    return f"{100 * share.value:.0f} of 100{between}"


def _reward_model(rm: StageFiles) -> str:
    """Whether the reward model agrees with people as they do with each other, or by how much at least."""
    found = rm.evaluation
    if (people := found.people) and people.agreement.value is not None and people.model.value is not None:
        words = _compared(people.model, people.agreement)
        return (
            f"the reward model agrees with people {words} people with each other "
            f"({percent(people.model.value)} and {percent(people.agreement.value)})"
        )
    if found.accuracy.value is None:
        return ""
    claim = f"the reward model orders {percent(found.accuracy.value)} of held-out pairs as people did"
    if found.length_only and found.length_only.value is not None:
        claim += f", length alone {percent(found.length_only.value)}"
    return claim


def _compared(model: Share, people: Share) -> str:
    assert model.value is not None and people.value is not None
    if model.high is not None and people.low is not None and model.high < people.low:
        return "less often than"
    if model.low is not None and people.high is not None and model.low > people.high:
        return "more often than"
    known = None not in (model.low, model.high, people.low, people.high)
    return "as often, within the intervals, as" if known else "about as often as"


def _exploited(ppo: StageFiles) -> str:
    """Whether the policy has begun to exploit the reward model, as `align ppo` decides it."""
    rows = [row for row in ppo.metrics if {"guard/score", "reward/score"} <= row.keys()]
    if not rows:
        return "nothing watched for over-optimisation (ppo.guard names a second reward model that does)"
    if len(rows) < 2 * WINDOW:
        return f"too few iterations to see over-optimisation ({len(rows)} of at least {2 * WINDOW})"
    training, guard = ([row[key] for row in rows] for key in ("reward/score", "guard/score"))
    for until in range(2 * WINDOW, len(rows) + 1):
        if overoptimised(training[:until], guard[:until]):
            step = rows[until - 1].get("step", until)
            return f"over-optimised: by iteration {number(step)} the guard had fallen and the score had not"
    return "no sign of over-optimisation: the guard did not fall"


def _demonstrations(sft: StageFiles) -> str:
    losses = [value for _, value in sft.curve("eval/loss")]
    if len(losses) < 2:
        return ""
    return (
        f"fine-tuning took the loss on held-out demonstrations from {number(losses[0])} "
        f"to {number(losses[-1])} nats a token"
    )
