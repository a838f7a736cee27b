"""Each detail of PPO does what its field says: sums by hand, and controls with the field off."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from align.data.load import load
from align.errors import AlignError
from align.ppo import train as ppo
from align.ppo import update
from align.ppo.ptx import ptx_rows, with_demonstrations
from align.ppo.roles import Context, prepare
from align.recipe.load import load_recipe
from align.records import Demonstration
from align.run.folder import StageRun, open_stage
from align.stages.frame import set_up, source

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


@pytest.fixture(scope="module")
def recipe_path(finished_run: Path) -> Path:
    return finished_run.parents[1] / "recipe.yaml"


@contextmanager
def opened(path: Path, folder: Path, *overrides: str) -> Iterator[tuple[Context, StageRun]]:
    """Four roles of the finished run, in a run folder of the test's own."""
    run = path.parent / "runs" / "tiny"
    recipe = load_recipe(path, [f"run.folder={folder}", *overrides])
    setup = set_up(recipe)
    context = prepare(recipe, setup, run / "sft" / "final", run / "rm" / "final")
    demonstrations = load(Demonstration, source(recipe, "demonstrations", "ppo"), "demonstrations")
    context = with_demonstrations(context, recipe, demonstrations if recipe.ppo.ptx_coef else None)
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        yield context, stage


def move(context: Context, by: float = 0.05) -> None:
    """A policy that differs from its reference."""
    with torch.no_grad():
        for parameter in context.forward.roles.parameters_of("policy").values():
            parameter.add_(by)


def ends_soon(context: Context) -> None:
    """A base to which EOS is by far the likeliest token: it lies where the hidden states point."""
    base = context.forward.roles.base
    with torch.no_grad():
        hidden = base.base_model(input_ids=torch.tensor([[5, 6, 7, 8]])).last_hidden_state[0].mean(0)
        base.get_output_embeddings().weight[context.forward.eos_id] = 8 * hidden / hidden.norm()


def tensors(context: Context, role: str) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in context.forward.roles.parameters_of(role).items()}


def changed(context: Context, role: str, before: dict[str, torch.Tensor]) -> bool:
    after = tensors(context, role)
    return any(not torch.equal(after[name], before[name]) for name in before)


def test_scores_are_cut_then_penalised(recipe_path: Path, tmp_path: Path) -> None:
    fields = ["score_clip=0.01", "length_penalty=0.25", "missing_eos_penalty=2.0", "kl_coef=0.0"]
    with opened(recipe_path, tmp_path, *(f"ppo.{field}" for field in fields)) as (context, stage):
        found = ppo.iterate(context, stage, PROMPTS, 0)
    rollout, paid = found.rollout, found.estimate.rewards
    assert rollout.scores.abs().max() > 0.01
    for i, score in enumerate(rollout.scores.tolist()):
        by_hand = max(-0.01, min(0.01, score)) - 0.25 * int(rollout.response_mask[i].sum())
        by_hand -= 0.0 if rollout.eos[i] else 2.0
        assert paid[i].sum().item() == pytest.approx(by_hand, abs=1e-5)


def test_a_minimum_length_holds_in_sampling_training_and_on_held_out_prompts(
    recipe_path: Path, tmp_path: Path
) -> None:
    fields = ["min_response_tokens=6", "max_response_tokens=8", "entropy_coef=0.01", "importance_cap=2.0"]
    fields += ["rollout_batch_size=32", "minibatch_size=32", "ppo_epochs=1", "clip_range=0.001"]
    with opened(recipe_path, tmp_path, *(f"ppo.{field}" for field in fields)) as (context, stage):
        ends_soon(context)
        found = ppo.iterate(context, stage, PROMPTS, 0)
        judged = ppo.HeldOut(context, PROMPTS * 8).answered()
    metrics, lengths = found.metrics, found.rollout.response_mask.sum(1)
    assert lengths.min() >= 7 and found.rollout.eos.float().mean() > 0.5
    assert metrics["engine/logprob_gap"] < 1e-5
    assert metrics["policy/clip_fraction"] == 0  # the updates' log probabilities are the rollout's
    assert metrics["policy/entropy"] < 7
    assert min(one.policy_length for one in judged) >= 7


def test_a_minimum_length_leaves_demonstrations_alone(recipe_path: Path, tmp_path: Path) -> None:
    losses = []
    for least in (0, 7):
        fields = [f"min_response_tokens={least}", "ptx_coef=1.0", "ppo_epochs=1", "minibatch_size=8"]
        folder = tmp_path / str(least)
        with opened(recipe_path, folder, *(f"ppo.{field}" for field in fields)) as (context, stage):
            losses.append(ppo.iterate(context, stage, PROMPTS, 0).metrics["policy/ptx_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_estimator_is_what_the_rewards_pay(recipe_path: Path, tmp_path: Path, estimator: str) -> None:
    fields = [f"kl_estimator={estimator}", "kl_coef=0.5", "missing_eos_penalty=0.0"]
    with opened(recipe_path, tmp_path, *(f"ppo.{field}" for field in fields)) as (context, stage):
        move(context)
        found = ppo.iterate(context, stage, PROMPTS, 0)
    rollout, paid = found.rollout, found.estimate.rewards
    x = rollout.old_logprobs - rollout.ref_logprobs
    by_hand = {"k1": x, "k2": x * x / 2, "k3": (-x).exp() - 1 + x}[estimator]
    paid = paid.sum(1) - rollout.scores
    torch.testing.assert_close(paid, -0.5 * by_hand.sum(1), rtol=1e-4, atol=1e-4)
    assert x.abs().max() > 0.01


def test_a_kl_loss_leaves_the_rewards_alone_and_moves_the_policy_to_its_reference(
    recipe_path: Path, tmp_path: Path
) -> None:
    fields = ["kl_in=loss", "kl_estimator=k3", "missing_eos_penalty=0.0", "learning_rate=0.01", "warmup=0"]
    fields += ["schedule=constant", "rollout_batch_size=16", "minibatch_size=16"]
    ends: dict[int, float] = {}
    for coef in (100, 0):  # without a penalty the same steps go elsewhere
        chosen = [f"ppo.{field}" for field in [*fields, f"kl_coef={coef}"]]
        with opened(recipe_path, tmp_path / str(coef), *chosen) as (context, stage):
            move(context, 0.2)
            found = [ppo.iterate(context, stage, PROMPTS, i) for i in range(24)]
        torch.testing.assert_close(found[-1].estimate.rewards.sum(1), found[-1].rollout.scores)
        rows = [one.metrics for one in found]
        assert ("policy/kl_loss" in rows[0]) == (coef > 0)
        kls = [row["kl/reverse"] for row in rows]
        assert kls[0] > 0.1
        ends[coef] = sum(kls[-3:]) / sum(kls[:3])
    assert ends[100] < 0.5
    assert ends[0] > 0.9


def test_kl_target_moves_the_coefficient_by_zieglers_rule_and_survives_a_restart(
    recipe_path: Path, tmp_path: Path
) -> None:
    fields = ["ppo.kl_coef=0.1", "ppo.kl_target=50", "ppo.kl_horizon=16"]
    with opened(recipe_path, tmp_path, *fields) as (context, stage):
        rows = [ppo.iterate(context, stage, PROMPTS, i).metrics for i in range(2)]
        ppo.save(context, stage, 2)
    # far below the target: the error is cut at -0.2, and 8 responses of a horizon of 16 are half of it
    assert [row["kl/coef"] for row in rows] == pytest.approx([0.1, 0.1 * 0.9])
    with opened(recipe_path, tmp_path, *fields) as (context, stage):
        assert ppo.resume(context, stage) == 2
        assert context.state.kl_coef == pytest.approx(0.1 * 0.9 * 0.9)


def test_above_kl_limit_the_stage_stops_with_a_good_checkpoint(recipe_path: Path, tmp_path: Path) -> None:
    fields = [
        "ppo.kl_limit=0.001",
        "ppo.checkpoint_every=100",
        "ppo.warmup=0",
        f"ppo.sft={_run(recipe_path)}",
    ]
    fields += [f"ppo.rm={_run(recipe_path)}", f"run.folder={tmp_path}"]
    with pytest.raises(AlignError, match=r"above ppo.kl_limit \(0.001\).*step-00000\d.*kl_limit") as caught:
        ppo.run(load_recipe(recipe_path, fields))
    assert caught.value.exit_code == 1
    (folder,) = (tmp_path / "tiny" / "ppo" / "checkpoints").glob("step-*")
    assert load_file(folder / "policy.safetensors")
    # the same again stops at the same place; with a higher limit, which needs no --restart, it goes on
    with pytest.raises(AlignError, match="kl_limit"):
        ppo.run(load_recipe(recipe_path, fields))
    ppo.run(load_recipe(recipe_path, [*fields, "ppo.kl_limit=1000"]))
    assert (tmp_path / "tiny" / "ppo" / "final").is_dir()


def _run(recipe_path: Path) -> Path:
    return recipe_path.parent / "runs" / "tiny"


def test_an_entropy_bonus_raises_the_entropy(recipe_path: Path, tmp_path: Path) -> None:
    entropies = {}
    for coef in (0.0, 10.0):
        fields = [f"ppo.entropy_coef={coef}", "ppo.warmup=0", "ppo.schedule=constant"]
        fields += ["ppo.learning_rate=0.003"]
        with opened(recipe_path, tmp_path / str(coef), *fields) as (context, stage):
            rows = [ppo.iterate(context, stage, PROMPTS, i).metrics for i in range(6)]
        entropies[coef] = [row["policy/entropy"] for row in rows]
        assert ("policy/entropy_bonus" in rows[0]) == (coef > 0)
    assert entropies[0.0][0] == entropies[10.0][0]
    assert entropies[10.0][-1] > entropies[0.0][-1]


def test_target_kl_ends_the_inner_epochs(recipe_path: Path, tmp_path: Path) -> None:
    fields = ["ppo.ppo_epochs=4", "ppo.warmup=0"]
    with opened(recipe_path, tmp_path / "a", *fields) as (context, stage):
        whole = ppo.iterate(context, stage, PROMPTS, 0).metrics
    assert whole["policy/updates"] == 4 * 2
    with opened(recipe_path, tmp_path / "b", *fields, "ppo.target_kl=1e-9") as (context, stage):
        before = tensors(context, "policy")
        stopped = ppo.iterate(context, stage, PROMPTS, 0).metrics
        assert changed(context, "policy", before)
    # the first update starts at KL 0 and is applied; the second sees a policy that has moved
    assert stopped["policy/updates"] == 1


def test_value_warmup_leaves_the_policy_alone(recipe_path: Path, tmp_path: Path) -> None:
    with opened(recipe_path, tmp_path, "ppo.value_warmup=1", "ppo.warmup=0") as (context, stage):
        policy, value = tensors(context, "policy"), tensors(context, "value")
        metrics = ppo.iterate(context, stage, PROMPTS, 0).metrics
        assert not changed(context, "policy", policy)
        assert changed(context, "value", value)
        assert metrics["policy/learning_rate"] == metrics["policy/approx_kl"] == 0
        ppo.iterate(context, stage, PROMPTS, 1)
        assert changed(context, "policy", policy)


def test_value_coef_scales_the_values_gradient(recipe_path: Path, tmp_path: Path) -> None:
    norms, losses = [], []
    for coef in (1.0, 0.125):
        fields = [f"ppo.value_coef={coef}", "ppo.ppo_epochs=1", "ppo.minibatch_size=8"]
        with opened(recipe_path, tmp_path / str(coef), *fields) as (context, stage):
            metrics = ppo.iterate(context, stage, PROMPTS, 0).metrics
        norms.append(metrics["value/gradient_norm"])
        losses.append(metrics["value/loss"])
    assert norms[1] == pytest.approx(norms[0] / 8, rel=1e-5)
    assert losses[0] == losses[1]  # what is logged is in units of the score whatever it counts for


def test_several_responses_to_a_prompt(recipe_path: Path, tmp_path: Path) -> None:
    with opened(recipe_path, tmp_path, "ppo.responses_per_prompt=4") as (context, stage):
        prefixes = ppo.iterate(context, stage, PROMPTS, 0).rollout.prefixes
    prompts = [tuple(t.input_ids[0, : int(t.prompt_lengths)].tolist()) for t in prefixes]
    assert len(prompts) == 8
    assert len(set(prompts)) == 2 and len(set(prompts[:4])) == len(set(prompts[4:])) == 1
    assert len({tuple(t.input_ids[0].tolist()) for t in prefixes}) > 2  # draws are a row's own


def test_ptx_is_the_demonstrations_negative_log_likelihood(recipe_path: Path, tmp_path: Path) -> None:
    fields = ["ppo.ptx_coef=0.5", "ppo.ptx_batch_size=3", "ppo.ppo_epochs=1", "ppo.minibatch_size=8"]
    with opened(recipe_path, tmp_path, *fields) as (context, stage):
        assert len(context.demonstrations) > 10
        base, total, count = context.forward.roles.base, 0.0, 0
        context.forward.roles.activate("policy")
        for prompt, response in ptx_rows(context.seed, 0, 3, context.demonstrations):
            ids = torch.tensor([[*prompt, *response]])
            labels = ids.clone()
            labels[0, : len(prompt)] = -100
            with torch.no_grad():
                total += base(input_ids=ids, labels=labels).loss.item() * len(response)  # transformers' own
            count += len(response)
        metrics = ppo.iterate(context, stage, PROMPTS, 0).metrics
    assert metrics["policy/ptx_loss"] == pytest.approx(total / count, rel=1e-5)


def test_ptx_keeps_the_demonstrations_likely(recipe_path: Path, tmp_path: Path) -> None:
    fields = ["ppo.ptx_coef=10", "ppo.warmup=0", "ppo.schedule=constant", "ppo.learning_rate=0.003"]
    with opened(recipe_path, tmp_path, *fields) as (context, stage):
        losses = [ppo.iterate(context, stage, PROMPTS, i).metrics["policy/ptx_loss"] for i in range(10)]
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize(("role", "name"), [("policy", "policy/loss"), ("value", "value/loss")])
def test_a_loss_that_is_not_finite_is_not_applied_and_the_third_stops(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, name: str
) -> None:
    original = getattr(update, f"{role}_loss")

    def broken(*arguments: Any) -> Any:
        loss, stats = original(*arguments)
        return loss * math.nan, stats

    with opened(recipe_path, tmp_path, "ppo.ppo_epochs=1", "ppo.warmup=0") as (context, stage):
        monkeypatch.setattr(update, f"{role}_loss", broken)
        before = {r: tensors(context, r) for r in ("policy", "value")}
        metrics = ppo.iterate(context, stage, PROMPTS, 0).metrics  # two steps
        assert metrics["policy/updates"] == 0
        with pytest.raises(AlignError, match=f"3 steps in a row.*{name}.*no checkpoint") as caught:
            ppo.iterate(context, stage, PROMPTS, 1)
        assert caught.value.exit_code == 1
        assert not any(changed(context, r, before[r]) for r in before)
        rows = [json.loads(line) for line in (stage.folder / "bad-steps.jsonl").open()]
    assert [row["iteration"] for row in rows] == [1, 1, 2]
    assert any(name in text for text in rows[0]["what"])
    assert sorted(r["row"] for row in rows[:2] for r in row["rows"]) == list(range(8))
    assert all(isinstance(r["prompt"], str) and isinstance(r["response"], str) for r in rows[0]["rows"])


EXPLODES = ["learning_rate=1e20", "warmup=0", "schedule=constant", "minibatch_size=8", "ppo_epochs=1"]


def test_weights_that_broke_are_in_no_good_checkpoint(recipe_path: Path, tmp_path: Path) -> None:
    """The update of iteration 2 breaks the policy, and iteration 3 sees it: what was saved before is good."""
    fields = [*EXPLODES, "iterations=8", "value_warmup=1"]
    fields += [f"sft={_run(recipe_path)}", f"rm={_run(recipe_path)}", "value_learning_rate=1e-5"]
    recipe = load_recipe(recipe_path, [f"run.folder={tmp_path}", *(f"ppo.{field}" for field in fields)])
    with pytest.raises(
        AlignError, match=r"3 steps in a row.*last good checkpoint is \S*step-000001\."
    ) as caught:
        ppo.run(recipe)
    assert caught.value.exit_code == 1
    checkpoints = tmp_path / "tiny" / "ppo" / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-000001", "step-000002"]
    rows = [json.loads(line) for line in (checkpoints.parent / "bad-steps.jsonl").open()]
    assert [row["iteration"] for row in rows] == [3, 4, 5]


@pytest.mark.parametrize(("iterations", "best"), [(1, False), (2, False), (2, True)])
def test_a_policy_that_broke_at_the_end_is_not_final(
    recipe_path: Path, tmp_path: Path, iterations: int, best: bool
) -> None:
    fields = [*EXPLODES, f"iterations={iterations}", f"sft={_run(recipe_path)}", f"rm={_run(recipe_path)}"]
    fields += ["keep=best", "evaluate_every=1"] if best else []
    recipe = load_recipe(recipe_path, [f"run.folder={tmp_path}", *(f"ppo.{field}" for field in fields)])
    with pytest.raises(AlignError, match="eval/kl is nan.*There is no good checkpoint"):
        ppo.run(recipe)
    assert not (tmp_path / "tiny" / "ppo" / "final").exists()


def test_a_good_step_between_bad_ones_starts_the_count_again(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = update.policy_loss, []

    def sometimes(*arguments: Any) -> Any:
        calls.append(1)
        loss, stats = original(*arguments)
        return (loss * math.inf if len(calls) % 3 else loss), stats

    fields = ["ppo.ppo_epochs=1", "ppo.microbatch_tokens=10000"]
    with opened(recipe_path, tmp_path, *fields) as (context, stage):
        monkeypatch.setattr(update, "policy_loss", sometimes)
        for i in range(3):
            ppo.iterate(context, stage, PROMPTS, i)
    assert len((stage.folder / "bad-steps.jsonl").read_text().splitlines()) == 4


def test_a_score_that_is_not_finite_skips_the_rollouts_update(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ppo.score_rollout

    def broken(*arguments: Any, **keywords: Any) -> Any:
        rollout = original(*arguments, **keywords)
        scores = rollout.scores.clone()
        scores[5] = math.inf
        return replace(rollout, scores=scores)

    with opened(recipe_path, tmp_path, "ppo.kl_target=1") as (context, stage):
        before = {r: tensors(context, r) for r in ("policy", "value")}
        monkeypatch.setattr(ppo, "score_rollout", broken)
        ppo.iterate(context, stage, PROMPTS, 0)
        assert not any(changed(context, r, before[r]) for r in before)
        assert math.isfinite(context.state.kl_coef)
        (row,) = [json.loads(line) for line in (stage.folder / "bad-steps.jsonl").open()]
    assert [one["row"] for one in row["rows"]] == [5]
    assert any("score" in text for text in row["what"])
