"""One iteration computed anew from the papers' equations, with transformers' own logits and autograd."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align.data.load import load
from align.ppo import train as ppo
from align.ppo.ptx import ptx_rows, with_demonstrations
from align.ppo.roles import Context, prepare
from align.recipe.load import load_recipe
from align.records import Demonstration
from align.rewards.rewards import find_sources
from align.run.folder import StageRun, open_stage
from align.stages.frame import set_up, source

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
FIELDS = {
    "temperature": 0.7,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "kl_coef": 0.3,
    "clip_range": 0.02,
    "value_clip_range": 0.05,
    "value_coef": 0.5,
    "entropy_coef": 0.2,
    "missing_eos_penalty": 2.0,
    "length_penalty": 0.1,
    "ppo_epochs": 2,
    "minibatch_size": 8,
    "microbatch_tokens": 40,
    "learning_rate": 0.003,
    "value_learning_rate": 0.02,
    "max_grad_norm": 0.05,
    "warmup": 0,
    "schedule": "constant",
}


@contextmanager
def opened(run: Path, folder: Path, **fields: Any) -> Iterator[tuple[Context, StageRun]]:
    """The roles of a finished run, in a run folder of the test's own; the policy is not the reference."""
    chosen = {"sft": run, "rm": run, **fields}
    path = run.parents[1] / "recipe.yaml"
    recipe = load_recipe(path, [f"run.folder={folder}", *(f"ppo.{k}={v}" for k, v in chosen.items())])
    setup = set_up(recipe)
    context = prepare(recipe, setup, run / "sft" / "final", find_sources(recipe, setup.lineage))
    demonstrations = load(Demonstration, source(recipe, "demonstrations", "ppo"), "demonstrations")
    context = with_demonstrations(context, recipe, demonstrations if recipe.ppo.ptx_coef else None)
    with torch.no_grad():
        for parameter in context.forward.roles.parameters_of("policy").values():
            parameter.add_(0.05)
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        yield context, stage


def output(context: Context, role: str, ids: Tensor) -> Any:
    context.forward.roles.activate(role)
    return context.forward.roles.base(input_ids=ids, output_hidden_states=True)


def logprobs(context: Context, role: str, ids: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Of the response's tokens, and the entropies where they were drawn."""
    whole = (output(context, role, ids).logits[0, start - 1 : -1] / 0.7).log_softmax(-1)
    return whole.gather(1, ids[0, start:, None])[:, 0], -(whole.exp() * whole).sum(1)


def values(context: Context, ids: Tensor, start: int) -> Tensor:
    hidden = output(context, "value", ids).hidden_states[-1][0, start - 1 : -1]
    own = context.forward.roles.parameters_of("value")
    found: Tensor = hidden @ own["head.weight"].flatten() + own["head.bias"]
    return found


class ByHand:
    """What an iteration should hold, a list of tensors by response."""

    def __init__(self, context: Context, rollout: Any) -> None:
        self.rows = [(t.input_ids, int(t.prompt_lengths)) for t in rollout.prefixes]
        with torch.no_grad():
            pairs = [logprobs(context, "policy", *row) for row in self.rows]
            self.old, self.entropy = ([pair[i] for pair in pairs] for i in (0, 1))
            self.reference = [logprobs(context, "reference", *row)[0] for row in self.rows]
            self.values = [values(context, *row) for row in self.rows]
        eos = context.setup.template.eos_id
        self.rewards, advantages = [], []
        for i, (ids, _) in enumerate(self.rows):
            paid = -0.3 * (self.old[i] - self.reference[i])
            penalty = 0.1 * len(paid) + (0.0 if int(ids[0, -1]) == eos else 2.0)
            paid[-1] += rollout.scores[i] - penalty
            self.rewards.append(paid)
            after, gain, gains = 0.0, 0.0, []
            for r, v in zip(reversed(paid.tolist()), reversed(self.values[i].tolist()), strict=True):
                gain = r + 0.9 * after - v + 0.9 * 0.8 * gain
                after = v
                gains.append(gain)
            advantages.append(torch.tensor(gains[::-1]))
        self.returns = [a + v for a, v in zip(advantages, self.values, strict=True)]
        every = torch.cat(advantages)
        self.advantages = [(a - every.mean()) / every.std(correction=0) for a in advantages]

    def gradients(self, context: Context) -> dict[str, list[Tensor]]:
        """Of policy and value at their present weights, cut to norm 0.05."""
        count = sum(map(len, self.old))
        losses = {"policy": torch.zeros(()), "value": torch.zeros(())}
        for i, row in enumerate(self.rows):
            new, entropy = logprobs(context, "policy", *row)
            ratio, a = (new - self.old[i]).exp(), self.advantages[i]
            surrogate = torch.minimum(ratio * a, ratio.clamp(0.98, 1.02) * a)
            losses["policy"] = losses["policy"] - (surrogate + 0.2 * entropy).sum() / count
            v, old = values(context, *row), self.values[i]
            near = old + (v - old).clamp(-0.05, 0.05)
            errors = torch.maximum((v - self.returns[i]) ** 2, (near - self.returns[i]) ** 2)
            losses["value"] = losses["value"] + 0.5 * 0.5 * errors.sum() / count
        found = {}
        for role, loss in losses.items():
            own = list(context.forward.roles.parameters_of(role).values())
            slopes = torch.autograd.grad(loss, own)
            norm = float(torch.cat([s.flatten() for s in slopes]).norm())
            assert norm > 0.05, "nothing is cut"
            found[role] = [s * 0.05 / norm for s in slopes]
        return found


def watched(context: Context) -> dict[str, Any]:
    """The gradients and rates of the last update of each role, and those by hand of the second."""
    seen: dict[str, Any] = {"steps": 0}

    def before(role: str) -> Any:
        def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if role == "policy":
                seen["steps"] += 1
                if seen["steps"] == 2:
                    seen["expected"] = seen["hand"].gradients(context)
            own = context.forward.roles.parameters_of(role).values()
            seen[role] = [p.grad.clone() for p in own if p.grad is not None]
            seen[f"{role}_rate"] = optimizer.param_groups[0]["lr"]

        return hook

    for role, optimizer in context.optimizers.items():
        optimizer.register_step_pre_hook(before(role))
    return seen


def test_an_iteration_is_what_the_papers_say(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(finished_run, tmp_path, **FIELDS) as (context, stage):
        seen = watched(context)
        score = ppo.score_rollout

        def scored(*arguments: Any, **options: Any) -> Any:
            rollout = score(*arguments, **options)
            seen["hand"] = ByHand(context, rollout)  # before the update changes the roles
            return rollout

        monkeypatch.setattr(ppo, "score_rollout", scored)
        found = ppo.iterate(context, stage, PROMPTS, 0)
    hand, rollout, metrics = seen["hand"], found.rollout, found.metrics
    for i, rewards in enumerate(hand.rewards):
        n = len(rewards)
        torch.testing.assert_close(rollout.old_logprobs[i, :n], hand.old[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.estimate.rewards[i, :n], rewards, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.estimate.returns[i, :n], hand.returns[i], rtol=1e-4, atol=1e-4)
        assert not found.estimate.rewards[i, n:].any()
    for role, expected in seen["expected"].items():
        ours, theirs = (torch.cat([g.flatten() for g in part]) for part in (seen[role], expected))
        assert float((ours - theirs).norm()) < 2e-3 * 0.05, role
    assert (seen["policy_rate"], seen["value_rate"]) == (0.003, 0.02)
    assert 0.0 < metrics["policy/clip_fraction"] < 1.0
    assert {o.defaults["eps"] for o in context.optimizers.values()} == {1e-5}

    old, reference = torch.cat(hand.old), torch.cat(hand.reference)
    ratio = (reference - old).exp()
    errors = torch.cat(hand.returns) - torch.cat(hand.values)
    spread = torch.cat(hand.returns).var(correction=0)
    by_hand = {
        "reward/score": rollout.scores.mean(),
        "reward/score_std": rollout.scores.std(correction=0),
        "reward/total": torch.cat(hand.rewards).sum() / 8,
        "kl/reference": (old - reference).sum() / 8,
        "kl/reverse": (ratio * (reference - old) - (ratio - 1)).sum() / 8,
        "response/length": len(old) / 8,
        "policy/entropy": torch.cat(hand.entropy).mean(),
        "value/explained_variance": 1 - errors.var(correction=0) / spread,
    }
    for name, expected in by_hand.items():
        assert metrics[name] == pytest.approx(float(expected), rel=1e-3, abs=1e-4), name


def test_a_steered_coefficient_is_what_the_next_rollout_pays(finished_run: Path, tmp_path: Path) -> None:
    """The KL is near its target, where Ziegler's rule is not cut."""
    fields = {"kl_coef": 0.5, "kl_horizon": 10, "missing_eos_penalty": 0.0, "learning_rate": 1e-9}
    with opened(finished_run, tmp_path / "probe", **fields) as (context, stage):
        kls = [ppo.iterate(context, stage, PROMPTS, i).metrics["kl/reference"] for i in range(4)]
    start = kls.index(max(kls))
    target = kls[start] / 1.1
    assert target > 0.01
    with opened(finished_run, tmp_path / "run", **fields, kl_target=target) as (context, stage):
        found = [ppo.iterate(context, stage, PROMPTS, start + i) for i in range(2)]
    rows = [one.metrics for one in found]
    expected = 0.5 * (1 + (rows[0]["kl/reference"] / target - 1) * 8 / 10)
    assert expected == pytest.approx(0.54, abs=1e-3)
    assert rows[1]["kl/coef"] == pytest.approx(expected, rel=1e-6)
    rollout, rewards = found[-1].rollout, found[-1].estimate.rewards
    log_ratio = (rollout.old_logprobs - rollout.ref_logprobs).sum(1)
    torch.testing.assert_close(rewards.sum(1), rollout.scores - expected * log_ratio, rtol=1e-4, atol=1e-4)


def test_each_update_has_demonstrations_of_its_own(finished_run: Path, tmp_path: Path) -> None:
    fields = {"ptx_coef": 0.5, "ptx_batch_size": 3, "ppo_epochs": 1, "minibatch_size": 4}
    with opened(finished_run, tmp_path, **fields, learning_rate=1e-12) as (context, stage):
        losses = []
        for update in range(4):  # two an iteration
            total, count = 0.0, 0
            for prompt, response in ptx_rows(context.seed, update, 3, context.demonstrations):
                ids = torch.tensor([[*prompt, *response]])
                with torch.no_grad():
                    whole = output(context, "policy", ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                total -= float(whole.gather(1, ids[0, len(prompt) :, None]).sum())
                count += len(response)
            losses.append(total / count)
        rows = [ppo.iterate(context, stage, PROMPTS, i).metrics for i in range(2)]
    assert len({round(loss, 4) for loss in losses}) == 4
    for i, row in enumerate(rows):
        assert row["policy/ptx_loss"] == pytest.approx(sum(losses[2 * i : 2 * i + 2]) / 2, rel=1e-4)


def test_several_sources_are_scaled_each_by_its_spread(finished_run: Path, tmp_path: Path) -> None:
    """And the value model starts as what the first reward model adds to the score."""
    run = tmp_path / "first" / "runs" / "tiny"
    shutil.copytree(finished_run.parents[1], tmp_path / "first")
    (tmp_path / "seven.py").write_text("def count(prompts, responses): return [7.0] * len(responses)")
    rewards = f"[{{run: this, weight: -2.0}}, {{function: '{tmp_path}/seven.py:count', weight: 0.5}}]"
    with opened(run, tmp_path / "run", scale_scores="true", rewards=rewards) as (context, stage):
        spread = json.loads((run / "rm" / "final" / "score.json").read_text())["std"]
        assert context.score_std == 1.0
        own = [context.forward.roles.parameters_of(role)["head.weight"] for role in ("value", "reward")]
        torch.testing.assert_close(own[0], own[1] * -2.0 / spread)
        metrics = ppo.iterate(context, stage, PROMPTS, 0).metrics
    assert metrics["reward/count"] == 7.0
    assert metrics["reward/score"] == pytest.approx(0.5 * 7 - 2 * metrics["reward/model"] / spread, rel=1e-4)
