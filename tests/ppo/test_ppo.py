"""The PPO stage: what changes, what does not, and that the score goes up."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from align.ppo import train as ppo
from align.ppo.roles import prepare
from align.recipe.load import load_recipe
from align.run.folder import open_stage
from align.stages import rm, sft
from align.stages.frame import set_up

PPO = {
    "iterations": 24,
    "rollout_batch_size": 32,
    "minibatch_size": 16,
    "microbatch_tokens": 1024,
    "kl_coef": 0.01,
}


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    from conftest import make_recipe

    path = make_recipe(tmp_path_factory.mktemp("ppo"), tiny_base, rm={"steps": 40}, ppo=PPO)
    sft.run(load_recipe(path))
    rm.run(load_recipe(path))
    return path


def _final(path: Path, stage: str) -> Path:
    return path.parent / "runs" / "tiny" / stage / "final"


def test_one_iteration_changes_exactly_policy_and_value(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, ["run.name=one", f"ppo.sft={_final(recipe_path, 'sft').parents[1]}"])
    setup = set_up(recipe)
    context = prepare(recipe, setup, _final(recipe_path, "sft"), _final(recipe_path, "rm"))
    roles = context.forward.roles
    before = {name: p.detach().clone() for name, p in roles.named_parameters()}
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        ppo.iterate(context, stage, [[5, 6, 7], [8, 9]], 0)
    changed = {name for name, p in roles.named_parameters() if not torch.equal(p, before[name])}
    own = {id(p): role for role in ("policy", "value") for p in roles.parameters_of(role).values()}
    named = dict(roles.named_parameters())
    assert changed, "nothing was trained"
    assert {own.get(id(named[name])) for name in changed} == {"policy", "value"}
    trained = {name for name, p in named.items() if id(p) in own}
    # A fresh lora_B is zero only at initialisation; after SFT and RM every tensor of both roles moves.
    assert changed == trained


def test_the_first_iteration_starts_at_the_reference(recipe_path: Path) -> None:
    ppo.run(load_recipe(recipe_path))
    first, *_, last = [
        json.loads(line) for line in (_final(recipe_path, "ppo").parent / "metrics.jsonl").open()
    ]
    assert first["kl/reference"] == 0.0
    assert first["engine/logprob_gap"] < 1e-5
    assert last["eval/score"] > last["eval/reference_score"] + 0.2
    assert last["eval/kl"] > 0


def test_held_out_answers_and_samples_are_readable(recipe_path: Path) -> None:
    ppo.run(load_recipe(recipe_path))  # is finished, or becomes so
    folder = _final(recipe_path, "ppo").parent
    rows = [json.loads(line) for line in (folder / "held_out.jsonl").open()]
    prompts = {json.loads(line)["prompt"] for line in (recipe_path.parent / "prompts.jsonl").open()}
    assert rows and {row["prompt"] for row in rows} <= prompts
    assert all(isinstance(row["policy"], str) and math.isfinite(row["policy_score"]) for row in rows)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").open()]
    assert {row["step"] for row in samples} == set(range(1, PPO["iterations"] + 1))


def test_the_penalty_and_the_kl_reach_the_rewards(recipe_path: Path) -> None:
    """Sum of a response's rewards = score - penalty without EOS - kl_coef * (its log ratio): by hand."""
    recipe = load_recipe(recipe_path, ["run.name=rewards", "ppo.missing_eos_penalty=5.0", "ppo.kl_coef=0.5"])
    setup = set_up(recipe)
    context = prepare(recipe, setup, _final(recipe_path, "sft"), _final(recipe_path, "rm"))
    with torch.no_grad():  # a policy that differs from its reference
        for parameter in context.forward.roles.parameters_of("policy").values():
            parameter.add_(0.05)
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        found = ppo.iterate(context, stage, [[5, 6, 7], [8, 9]], 0)
    rollout = found.rollout
    log_ratio = ((rollout.old_logprobs - rollout.ref_logprobs) * rollout.response_mask).sum(1)
    expected = rollout.scores - 5.0 * (~rollout.eos).float() - 0.5 * log_ratio
    torch.testing.assert_close(found.estimate.rewards.sum(1), expected, rtol=1e-5, atol=1e-5)
    assert log_ratio.abs().max() > 0.01


def test_scaled_scores_are_divided_by_the_reward_models_spread(recipe_path: Path) -> None:
    """The penalty stays in units of the scaled score, and values start where the scaled scores are."""
    recipe = load_recipe(recipe_path, ["run.name=scaled", "ppo.scale_scores=true", "ppo.kl_coef=0.0"])
    spread = json.loads((_final(recipe_path, "rm") / "score.json").read_text())["std"]
    assert abs(spread - 1) > 0.01
    setup = set_up(recipe)
    context = prepare(recipe, setup, _final(recipe_path, "sft"), _final(recipe_path, "rm"))
    head = context.forward.roles.parameters_of("value")
    reward = context.forward.roles.parameters_of("reward")
    torch.testing.assert_close(head["head.weight"] * spread, reward["head.weight"])
    assert head["head.bias"].item() == 0.0
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        found = ppo.iterate(context, stage, [[5, 6, 7], [8, 9]], 0)
    rollout = found.rollout
    expected = rollout.scores / spread - (~rollout.eos).float()
    torch.testing.assert_close(found.estimate.rewards.sum(1), expected, rtol=1e-5, atol=1e-5)
    assert head["head.bias"].item() != 0.0
