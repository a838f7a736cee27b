"""ppo.advantage: what each estimator makes of the same rollout, by hand, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from align.ppo import train as ppo
from align.ppo.advantages import ESTIMATORS, estimate
from align.ppo.roles import prepare
from align.ppo.rollout import Rollout
from align.recipe.load import load_recipe
from align.recipe.ppo import PPO
from align.run.folder import open_stage
from align.sampling.params import Sampled
from align.stages.frame import set_up

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
GROUPS = ["ppo.responses_per_prompt=4"]
MASK = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
ALONE: Any = SimpleNamespace(num_processes=1, process_index=0)


def rollout(values: Tensor | None = None) -> Rollout:
    """Two prompts with two responses each; every token lies 0.5 nats above the reference."""
    old = torch.full((4, 2), -1.0) * MASK
    return Rollout(
        sampled=[Sampled([1], [2, 3], [])] * 4,
        prefixes=[],
        response_mask=MASK,
        old_logprobs=old,
        ref_logprobs=old - 0.5 * MASK,
        entropies=old,
        old_values=values,
        scores=torch.tensor([3.0, 1.0, -2.0, 4.0]),
        parts={},
        eos=torch.ones(4, dtype=torch.bool),
        engine_logprobs=old,
    )


def advantages(**fields: Any) -> Tensor:
    cfg = PPO(value_init="reward", responses_per_prompt=2, whiten_advantages=False, **fields)
    found = estimate(cfg, rollout(), 0.2, 1.0, ALONE)
    assert found.returns is None
    return found.advantages


# A token costs 0.2 * 0.5, so the responses are worth 2.8, 0.9, -2.2 and 3.8.


def test_rloo_by_hand() -> None:
    expected = torch.tensor([[1.9, 1.9], [-1.9, 0.0], [-6.0, -6.0], [6.0, 6.0]])
    torch.testing.assert_close(advantages(advantage="rloo"), expected)


def test_group_by_hand() -> None:
    """Of two numbers each lies half of their difference from the mean, which is 1/sqrt(2) deviations."""
    x = 0.5**0.5
    expected = torch.tensor([[x, x], [-x, 0.0], [-x, -x], [x, x]])
    torch.testing.assert_close(advantages(advantage="group"), expected, rtol=1e-5, atol=1e-5)


def test_reinforce_by_hand() -> None:
    """What follows a token, without a baseline: half of it a token later with gamma 0.5."""
    expected = torch.tensor([[2.8, 2.9], [0.9, 0.0], [-2.2, -2.1], [3.8, 3.9]])
    torch.testing.assert_close(advantages(advantage="reinforce++"), expected)
    expected = torch.tensor([[2.9 / 2 - 0.1, 2.9], [0.9, 0.0], [-2.1 / 2 - 0.1, -2.1], [3.9 / 2 - 0.1, 3.9]])
    torch.testing.assert_close(advantages(advantage="reinforce++", gamma=0.5), expected)


def test_whitened_advantages_have_mean_0_and_variance_1_whatever_estimates_them() -> None:
    for name in ESTIMATORS:
        cfg = PPO(advantage=name, responses_per_prompt=2)  # type: ignore[arg-type]
        found = estimate(cfg, rollout(torch.zeros(4, 2)), 0.2, 1.0, ALONE).advantages[MASK]
        assert float(found.mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(found.var(correction=0)) == pytest.approx(1.0, abs=1e-4)


def test_the_value_model_may_learn_returns_with_a_lambda_of_its_own() -> None:
    """With lambda 1 the returns are the rewards to come, whatever the values; the advantages keep 0."""
    values = torch.tensor([[1.0, 2.0], [0.5, 0.0], [0.0, 0.0], [1.0, -1.0]])
    cfg = PPO(gae_lambda=0.0, value_gae_lambda=1.0, whiten_advantages=False)
    found = estimate(cfg, rollout(values), 0.2, 1.0, ALONE)
    assert found.returns is not None
    torch.testing.assert_close(found.returns[0], torch.tensor([2.8, 2.9]))
    torch.testing.assert_close(found.advantages[0], torch.tensor([-0.1 + 2.0 - 1.0, 2.9 - 2.0]))
    plain = estimate(cfg.model_copy(update={"value_gae_lambda": None}), rollout(values), 0.2, 1.0, ALONE)
    assert torch.equal(plain.advantages, found.advantages)
    torch.testing.assert_close(plain.returns, plain.advantages + values * MASK)


# In the stage


@pytest.fixture(scope="module")
def recipe_path(finished_run: Path) -> Path:
    return finished_run.parents[1] / "recipe.yaml"


@pytest.mark.parametrize("name", ["rloo", "group", "reinforce++"])
def test_no_value_model_is_built_held_trained_or_saved(recipe_path: Path, tmp_path: Path, name: str) -> None:
    run = recipe_path.parent / "runs" / "tiny"
    fields = [f"ppo.advantage={name}", *GROUPS, f"ppo.sft={run}", f"ppo.rm={run}"]
    recipe = load_recipe(recipe_path, [f"run.folder={tmp_path}", *fields, "ppo.iterations=2"])
    context = prepare(recipe, set_up(recipe), run / "sft" / "final", run / "rm" / "final")
    roles, held = context.forward.roles, context.forward.roles.held(context.optimizers)
    assert [one.name for one in held] == ["base", "policy", "reference", "reward"]
    assert context.trained == ("policy",) and "value" not in roles.heads
    before = {n: p.detach().clone() for n, p in roles.named_parameters()}
    with open_stage(recipe, "ppo", context.accel, lineage={}, data={}, restart=False) as stage:
        found = ppo.iterate(context, stage, PROMPTS, 0)
    own = {id(p) for p in roles.parameters_of("policy").values()}
    changed = {id(p) for n, p in roles.named_parameters() if not torch.equal(p, before[n])}
    assert changed == own
    assert found.rollout.old_values is None and found.estimate.returns is None
    assert not [metric for metric in found.metrics if metric.startswith("value/")]

    whole = load_recipe(recipe_path, [f"run.folder={tmp_path / 'whole'}", *fields, "ppo.iterations=2"])
    ppo.run(whole)
    folder = whole.run.path / "ppo"
    assert not (folder / "final" / "value").exists()
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-2])
    assert last["policy/loss"] is not None and not [key for key in last if key.startswith("value/")]

    halves = load_recipe(recipe_path, [f"run.folder={tmp_path / 'halves'}", *fields, "ppo.iterations=2"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "outcome", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            ppo.run(halves)
    (checkpoint,) = (halves.run.path / "ppo" / "checkpoints").glob("step-000002")
    saved = {"policy.safetensors", "policy_optimizer.safetensors"}
    assert {path.name for path in checkpoint.glob("*.safetensors")} == saved
    ppo.run(halves)
    ours, theirs = (
        load_file(one.run.path / "ppo" / "final" / "adapter_model.safetensors") for one in (whole, halves)
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def _interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_a_group_is_the_responses_to_one_prompt(recipe_path: Path, tmp_path: Path) -> None:
    """Their advantages add up to 0 prompt by prompt; no other grouping of these rows does so."""
    run = recipe_path.parent / "runs" / "tiny"
    fields = ["ppo.advantage=rloo", *GROUPS, "ppo.whiten_advantages=false"]
    recipe = load_recipe(recipe_path, [f"run.folder={tmp_path}", *fields])
    context = prepare(recipe, set_up(recipe), run / "sft" / "final", run / "rm" / "final")
    with open_stage(recipe, "ppo", context.accel, lineage={}, data={}, restart=False) as stage:
        found = ppo.iterate(context, stage, PROMPTS, 0)
    per_response = found.estimate.advantages[:, 0]
    sums: dict[tuple[int, ...], float] = {}
    for one, advantage in zip(found.rollout.sampled, per_response.tolist(), strict=True):
        sums[tuple(one.prompt)] = sums.get(tuple(one.prompt), 0.0) + advantage
    assert len(sums) == 2 and all(abs(total) < 1e-5 for total in sums.values())
    assert float(per_response.abs().max()) > 1e-3
