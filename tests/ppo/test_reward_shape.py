"""ppo.reward_shape: what a score is worth beside those of the SFT policy's own responses (PAR)."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import TIMED, align, make_recipe
from safetensors.torch import load_file

from align.errors import UserError
from align.objectives.ppo import against_reference
from align.ppo import train as ppo
from align.ppo.references import announced
from align.ppo.roles import Context, prepare
from align.recipe.load import load_recipe
from align.run.folder import StageRun, open_stage
from align.sampling.engines import sampling_params
from align.sampling.params import Draws
from align.stages.frame import set_up

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
SIGMOID = ["ppo.reward_shape=sigmoid", "ppo.reference_responses=3"]


@pytest.fixture(scope="module")
def recipe_path(finished_run: Path) -> Path:
    return finished_run.parents[1] / "recipe.yaml"


@contextmanager
def opened(path: Path, folder: Path, *overrides: str) -> Iterator[tuple[Context, StageRun]]:
    run = path.parent / "runs" / "tiny"
    recipe = load_recipe(path, [f"run.folder={folder}", *overrides])
    setup = set_up(recipe)
    context = prepare(recipe, setup, run / "sft" / "final", run / "rm" / "final")
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        yield context, stage


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_worth_beside_the_reference_by_hand() -> None:
    scores, reference = torch.tensor([1.0, -2.0]), torch.tensor([[0.0, 2.0], [-2.0, -1.0]])
    assert against_reference(scores, reference, "centred").tolist() == [0.0, -0.5]
    found = against_reference(scores, reference, "sigmoid").tolist()
    # sigmoid(1) = 0.7310586, sigmoid(-1) = 0.2689414
    assert found == pytest.approx([0.5, (0.5 + 0.2689414) / 2], abs=1e-6)
    far = against_reference(torch.tensor([1e30, -1e30]), torch.zeros(2, 1), "sigmoid")
    assert far.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "more",
    [
        ["ppo.advantage=gae", "ppo.responses_per_prompt=2"],
        ["ppo.advantage=rloo", "ppo.responses_per_prompt=4"],
        ["ppo.advantage=group", "ppo.responses_per_prompt=4"],
        ["ppo.advantage=gae", "ppo.scale_scores=true"],
    ],
)
def test_the_shaped_score_is_paid_and_the_raw_one_is_shown(
    recipe_path: Path, tmp_path: Path, more: list[str]
) -> None:
    fields = [*SIGMOID, *more, "ppo.kl_coef=0.0", "ppo.missing_eos_penalty=0.25"]
    with opened(recipe_path, tmp_path, *fields) as (context, stage):
        found = ppo.iterate(context, stage, PROMPTS, 0)
        params = sampling_params(context.cfg, context.setup.base)
        rows = [(row, number) for row in range(3) for number in range(3)]
        draws = Draws(context.seed, "ppo reference", 0, rows)
        own = context.engine.sample([PROMPTS[row] for row, _ in rows], draws, params, "reference")
        theirs = ppo.score_rollout(
            context.forward, own, context.rewards, None, temperature=1.0, microbatch_tokens=4096
        ).scores.view(3, 3)
    rollout, paid, metrics = found.rollout, found.estimate.rewards, found.metrics
    std, expected = context.score_std, []
    assert (std != 1) == ("ppo.scale_scores=true" in more)
    for i, one in enumerate(rollout.sampled):
        beside = theirs[PROMPTS.index(one.prompt)].tolist()
        score = sum(sigmoid((float(rollout.scores[i]) - r) / std) for r in beside) / 3
        expected.append(score)
        by_hand = score - (0.0 if rollout.eos[i] else 0.25)
        assert paid[i].sum().item() == pytest.approx(by_hand, abs=1e-5)
    assert metrics["reward/shaped"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert metrics["reward/score"] == pytest.approx(rollout.scores.mean().item(), abs=1e-5)
    assert abs(metrics["reward/score"] - metrics["reward/shaped"]) > 0.1
    assert 0 < metrics["reward/shaped_std"] < 0.5


def test_centred_scores_are_cut_around_the_references_own(recipe_path: Path, tmp_path: Path) -> None:
    fields = ["reward_shape=centred", "score_clip=0.01", "missing_eos_penalty=0.0", "kl_coef=0.0"]
    with opened(recipe_path, tmp_path, *(f"ppo.{field}" for field in fields)) as (context, stage):
        found = ppo.iterate(context, stage, PROMPTS, 0)
    rollout = found.rollout
    assert rollout.reference_scores is not None
    moved = rollout.scores - rollout.reference_scores[:, 0]
    assert moved.abs().max() > 0.01
    torch.testing.assert_close(found.estimate.rewards.sum(1), moved.clamp(-0.01, 0.01))


def test_a_prompts_reference_is_drawn_once(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(recipe_path, tmp_path, *SIGMOID) as (context, stage):
        asked: list[int] = []
        sample = type(context.engine).sample

        def listening(self, prompts, draws, params, role="policy", heard=None):  # type: ignore[no-untyped-def]
            asked.extend([len(prompts)] if role == "reference" else [])
            return sample(self, prompts, draws, params, role, heard)

        monkeypatch.setattr(type(context.engine), "sample", listening)
        (said,) = announced(context, len(PROMPTS))
        assert "9 responses beside the rollouts' 32" in said
        for iteration in range(2):
            ppo.iterate(context, stage, PROMPTS, iteration)
        (said,) = announced(context, len(PROMPTS))
    assert asked == [9]
    assert "9 of them are there already" in said


def test_the_value_model_starts_as_the_sigmoids_tangent(recipe_path: Path, tmp_path: Path) -> None:
    heads = {}
    for shape in ("none", "sigmoid"):
        with opened(recipe_path, tmp_path / shape, f"ppo.reward_shape={shape}") as (context, _):
            heads[shape] = {
                k: p.detach().clone() for k, p in context.forward.roles.heads["value"].named_parameters()
            }
    torch.testing.assert_close(heads["sigmoid"]["weight"], heads["none"]["weight"] / 4)
    assert heads["sigmoid"]["bias"] == 0.5 and heads["none"]["bias"] == 0


def test_a_run_that_goes_on_compares_with_the_same_numbers(finished_run: Path, tmp_path: Path) -> None:
    results = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        shutil.copytree(finished_run.parents[1], folder)
        shutil.rmtree(folder / "runs" / "tiny" / "ppo")
        recipe = folder / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(str(finished_run.parents[1]), str(folder)))
        fields = ["ppo.reward_shape=sigmoid", "ppo.checkpoint_every=2"]
        if name == "killed":  # at an iteration that has no checkpoint: it draws again
            with pytest.raises(Stop):
                _stopped(recipe, fields)
        ppo.run(load_recipe(recipe, fields))
        out = folder / "runs" / "tiny" / "ppo"
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        kept = [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in lines]
        results.append((load_file(out / "final" / "adapter_model.safetensors"), kept))
    (whole, first), (again, second) = results
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert first == second and "reward/reference" in first[0]


class Stop(Exception):
    pass


def _stopped(recipe: Path, fields: list[str]) -> None:
    """Runs until the fourth iteration has its scores; its references are drawn, and lost."""
    found, calls = ppo.score_rollout, []

    def dies(*args, **kwargs):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 4:
            raise Stop
        return found(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "score_rollout", dies)
        ppo.run(load_recipe(recipe, fields))


def test_functions_are_compared_too_and_the_first_lines_say_the_cost(
    finished_run: Path, tmp_path: Path, tiny_base: Path
) -> None:
    fields = json.loads((finished_run.parents[1] / "recipe.yaml").read_text())["ppo"]
    more = {"rewards": [{"function": "judge:length"}], "advantage": "rloo", "responses_per_prompt": 2}
    recipe = make_recipe(
        tmp_path, tiny_base, ppo={**fields, **more, "reward_shape": "sigmoid", "value_init": "reward"}
    )
    shutil.copytree(finished_run / "sft", tmp_path / "runs" / "tiny" / "sft")
    (tmp_path / "judge.py").write_text(
        "def length(prompts, responses):\n    return [len(one) / 10 for one in responses]\n"
    )
    done = align("ppo", recipe)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "reward_shape: sigmoid: the SFT policy answers each training prompt too" in said
    rows = [json.loads(line) for line in (tmp_path / "runs/tiny/ppo/metrics.jsonl").open()]
    assert 0 < rows[0]["reward/shaped"] < 1
    assert rows[0]["reward/score"] == pytest.approx(rows[0]["reward/length"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["reward_shape=clip"], "scores are cut by score_clip"),
        (["reward_shape=sigmoid", "score_clip=2"], "take score_clip out"),
        (["reference_responses=2"], "does nothing with reward_shape: none"),
        (["reward_shape=sigmoid", "reference_responses=0"], "expected"),
        (["reward_shape=par"], "reward_shape"),
        (
            ["reward_shape=centred", "advantage=rloo", "responses_per_prompt=2"],
            "centred does nothing with advantage: rloo",
        ),
        (["reward_shape=sigmoid", "rewards=[{run: this, name: shaped}]"], "shaped is a metric of its own"),
    ],
)
def test_wrong_shapes_are_refused(tiny_recipe: Callable[..., Path], fields: list[str], message: str) -> None:
    with pytest.raises(UserError, match="ppo") as caught:
        load_recipe(tiny_recipe(), [f"ppo.{field}" for field in fields])
    assert message in str(caught.value)
