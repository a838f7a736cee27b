"""An iteration of PPO is the same, whichever engine samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from align.recipe_file import load_recipe
from align.runtime.run import open_stage
from align.stages import ppo
from align.stages.ppo_roles import prepare
from align.stages.setup import set_up

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
FIELDS = ["ppo.temperature=0.8", "ppo.min_response_tokens=2", "ppo.responses_per_prompt=2"]


def iterations(finished: Path, folder: Path, *overrides: str) -> tuple[list[dict[str, float]], list[Any]]:
    """The metrics of two iterations, and what their updates left of the policy."""
    recipe = load_recipe(finished.parents[1] / "recipe.yaml", [f"run.folder={folder}", *FIELDS, *overrides])
    setup = set_up(recipe)
    context = prepare(recipe, setup, finished / "sft" / "final", finished / "rm" / "final")
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        metrics = [ppo._iteration(context, stage, PROMPTS, i) for i in range(2)]
        context.engine.close()
    return metrics, [p.detach() for p in context.forward.roles.parameters_of("policy").values()]


def test_paged_samples_what_hf_samples_before_and_after_an_update(finished_run: Path, tmp_path: Path) -> None:
    expected, policy = iterations(finished_run, tmp_path / "hf")
    found, moved = iterations(finished_run, tmp_path / "paged", "ppo.engine=paged")
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["engine/logprob_gap"] < 1e-5
        for name, value in theirs.items():
            if not name.startswith(("seconds/", "engine/")):
                assert mine[name] == pytest.approx(value, rel=1e-2, abs=1e-4), name
    for mine, theirs in zip(moved, policy, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)
