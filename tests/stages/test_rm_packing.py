"""How rankings go through the model in the reward model stage: it changes the time, never the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align.models.packed import Packed
from align.recipe.load import load_recipe
from align.stages import rm, sft


def _trained(recipe: Path, *overrides: str) -> dict[str, torch.Tensor]:
    rm.run(load_recipe(recipe, overrides))
    final = recipe.parent / "runs" / "tiny" / "rm" / "final"
    found = {**load_file(final / "adapter_model.safetensors"), **load_file(final / "head.safetensors")}
    shutil.rmtree(final.parent)
    return found


def test_budgets_and_separate_rows_give_the_same_reward_model(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe(rm={"steps": 4, "batch_size": 4})
    sft.run(load_recipe(recipe))
    expected = _trained(recipe)
    for override in ("rm.microbatch_tokens=1", "rm.microbatch_tokens=100", "rm.share_prompt=false"):
        for name, values in _trained(recipe, override).items():
            distance = float((values - expected[name]).norm())
            assert distance <= 1e-4 * float(expected[name].norm()) + 1e-6, (override, name)


def test_the_prompt_is_read_once(tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(rm={"steps": 1, "batch_size": 4, "microbatch_tokens": 10**6})
    sft.run(load_recipe(recipe))
    batches: list[object] = []
    below = rm.Forward.below
    monkeypatch.setattr(
        rm.Forward, "below", lambda self, batch: (batches.append(batch), below(self, batch))[1]
    )
    _trained(recipe)
    first = next(b for b in batches if isinstance(b, Packed) and b.input_ids.shape[0] == 4)
    assert len(first.rows) > 4  # rows of several responses
    batches.clear()
    _trained(recipe, "rm.share_prompt=false")
    assert batches and not any(isinstance(b, Packed) for b in batches)


def test_a_model_that_cannot_share_prompts_says_so_in_one_line(
    tiny_recipe: Callable[..., Path], tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "windowed"
    shutil.copytree(tiny_base, base)
    config = json.loads((base / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8}
    (base / "config.json").write_text(json.dumps(config))
    recipe = load_recipe(tiny_recipe(rm={"steps": 2, "batch_size": 4}), [f"base.name={base}"])
    sft.run(recipe)
    capsys.readouterr()
    rm.run(recipe)
    said = " ".join(part for stream in capsys.readouterr() for part in stream.split())
    assert said.count("behind a prompt of its own") == 1
    assert "some layers see 8 tokens back" in said


@pytest.mark.parametrize(("margin", "stronger"), [(0.0, False), (3.0, True)])
def test_a_margin_makes_strong_preferences_cost_more(
    tiny_recipe: Callable[..., Path], margin: float, stronger: bool
) -> None:
    recipe = tiny_recipe(rm={"steps": 1, "batch_size": 8, "margin": margin})
    sft.run(load_recipe(recipe))
    losses = []
    for strength in (None, 1.0):
        path = recipe.parent / "rankings.jsonl"
        rows = [json.loads(line) for line in path.open()]
        path.write_text("".join(json.dumps({**row, "strength": strength}) + "\n" for row in rows))
        rm.run(load_recipe(recipe))
        run = recipe.parent / "runs" / "tiny" / "rm"
        losses.append(json.loads((run / "metrics.jsonl").open().readline())["train/loss"])
        shutil.rmtree(run)
    assert (losses[1] > losses[0] + 1) == stronger
