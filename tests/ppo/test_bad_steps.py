"""What is written of steps that were not applied, where a stage goes on before them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.ppo import train as ppo
from align.ppo.roles import Context
from align.recipe.load import load_recipe
from align.run.folder import StageRun


def test_lines_of_steps_that_are_done_again_are_not_doubled(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second iteration has a bad score, so nothing is saved after it."""
    fields = [f"ppo.sft={finished_run}", f"ppo.rm={finished_run}", "ppo.iterations=3"]
    recipe = load_recipe(finished_run.parents[1] / "recipe.yaml", [f"run.folder={tmp_path}", *fields])
    iteration, assess, ended = ppo.iterate, ppo.score_rollout, False
    at = 0

    def counted(context: Context, stage: StageRun, prompts: Any, number: int) -> Any:
        nonlocal at
        at = number
        if number == 2 and not ended:
            raise MemoryError
        return iteration(context, stage, prompts, number)

    def broken(*arguments: Any, **keywords: Any) -> Any:
        rollout = assess(*arguments, **keywords)
        return replace(rollout, scores=rollout.scores * math.nan) if at == 1 else rollout

    monkeypatch.setattr(ppo, "iterate", counted)
    monkeypatch.setattr(ppo, "score_rollout", broken)
    with pytest.raises(MemoryError):
        ppo.run(recipe)
    path = recipe.run.path / "ppo" / "bad-steps.jsonl"
    assert [json.loads(line)["iteration"] for line in path.open()] == [2]
    ended = True
    ppo.run(recipe)
    assert [json.loads(line)["iteration"] for line in path.open()] == [2]
    assert [json.loads(line)["step"] for line in (path.parent / "metrics.jsonl").open()] == [1, 2, 3, 3]
