"""What only a GPU shows: `make gpu`, or `make test MARKS=gpu`. Elsewhere their mark leaves them out."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, align, make_recipe
from peft import LoraConfig
from ranks import Ranks
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from align.models.roles import Roles
from align.plan.base import plan_base
from align.plan.lengths import limits
from align.plan.machine import this_machine
from align.plan.memory import Question
from align.plan.stage import plans
from align.ppo import train as ppo
from align.processes.determinism import choose_kernels
from align.recipe.load import load_recipe
from align.run.files import sha256
from align.sampling.lean import find_lean
from align.sampling.params import Draws, SamplingParams
from align.sampling.sampler import Hf
from align.stages import rm, sft

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs")
STAGES = {"sft": sft, "rm": rm, "ppo": ppo}


def rows(recipe: Path, stage: str, name: str = "tiny") -> list[dict[str, Any]]:
    path = recipe.parent / "runs" / name / stage / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(recipe: Path, *overrides: str) -> None:
    for stage in STAGES.values():
        stage.run(load_recipe(recipe, list(overrides)))


def test_all_savings_are_on_and_the_engine_agrees(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe(lora={"layers": 1})
    train(recipe)
    for stage, savings in (("rm", ("lean", "split", "share_prompt")), ("ppo", ("lean", "split"))):
        found = [row for row in rows(recipe, stage) if "savings/lean" in row]
        assert found
        assert all(row[f"savings/{saving}"] == 1 for row in found for saving in savings)
    gaps = [row["engine/logprob_gap"] for row in rows(recipe, "ppo") if "engine/logprob_gap" in row]
    assert gaps
    assert max(gaps) < 0.1  # bfloat16's floor is 0.05


def test_the_engine_agrees_closely_in_float32(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe(base={"dtype": "float32"})
    train(recipe)
    assert max(row.get("engine/logprob_gap", 0.0) for row in rows(recipe, "ppo")) < 1e-3


def test_decoding_runs_as_graphs_and_draws_the_tokens_of_the_models_own_passes(tiny_base: Path) -> None:
    choose_kernels(True)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    roles = Roles(model.cuda().requires_grad_(False).eval())
    roles.add("policy", LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False), trains=True)
    lean = find_lean(roles)
    assert lean is not None and lean.merge and lean.capture and not lean.remarks()
    params = SamplingParams(1.0, 1, 0, max_tokens=40, batch_tokens=10_000, min_tokens=3)
    prompts = [[5, 6, 7], [8] * 9, [8] * 9, [10, 11]] * 4
    draws = Draws(0, "test", 0, range(len(prompts)))
    expected = Hf(roles, every=1).sample(prompts, draws, params)
    found = Hf(roles, lean=lean).sample(prompts, draws, params)
    assert [one.response for one in found] == [one.response for one in expected]
    assert len({len(one.response) for one in found}) > 1
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_two_runs_have_the_same_bits(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe()
    hashes = []
    for name in ("one", "two"):
        train(recipe, f"run.name={name}")
        final = sorted((recipe.parent / "runs" / name).glob("*/final/**/*.safetensors"))
        hashes.append([sha256(path) for path in final])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) > 3


def test_cudnn_plans_no_attention() -> None:
    choose_kernels(True)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.are_deterministic_algorithms_enabled()


def test_speed_and_memory_are_in_the_metrics(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe()
    train(recipe)
    for stage in STAGES:
        found = [row for row in rows(recipe, stage) if "seconds/other" in row]
        assert all(row["memory/peak"] > 0 for row in found)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_is_the_planned_one(
    tmp_path: Path, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks/gpu")
    shapes = importlib.import_module("shapes")
    shapes.make_base("135m", tmp_path / "135m/base")
    again = {"gradient_checkpointing": checkpointing}
    recipe = shapes.make_recipe("135m", tmp_path, "peak", sft=again, rm=again, ppo=again)
    loaded = load_recipe(recipe)
    asked = Question(loaded, plan_base(loaded.base), limits(loaded), this_machine())
    planned = plans(asked)
    for name, stage in STAGES.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        stage.run(loaded)
        found = rows(recipe, name, "peak")
        peak = max(row["memory/peak"] for row in found if "memory/peak" in row)
        memory = planned[name].memory
        counted = (memory.static + memory.largest.size) / 2**30
        assert peak == pytest.approx(counted, rel=0.15), name


@two_gpus
def test_two_gpus_train_what_one_trains(group: Ranks, tmp_path: Path, tiny_base: Path) -> None:
    finals = []
    for processes in (1, 2):
        recipe = make_recipe(tmp_path / str(processes), tiny_base, base={"dtype": "float32"})
        for stage in STAGES:
            done = align(stage, recipe, "--num-processes", str(processes))
            assert done.returncode == 0, done.stderr
        folder = tmp_path / str(processes) / "runs/tiny"
        finals.append({p.parent.name: load_file(p) for p in sorted(folder.glob("*/final/*.safetensors"))})
    for name, one in finals[0].items():
        for key, tensor in one.items():
            torch.testing.assert_close(finals[1][name][key], tensor, rtol=1e-3, atol=1e-4)
