"""An iteration of PPO is the same, whichever engine samples."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TIMED
from stack import needs_paged
from vllm_server import Fake, serving

from align.errors import AlignError
from align.ppo import train as ppo
from align.ppo.roles import prepare
from align.recipe.load import load_recipe
from align.run.folder import open_stage
from align.stages.frame import set_up

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
FIELDS = ["ppo.temperature=0.8", "ppo.min_response_tokens=2", "ppo.responses_per_prompt=2"]


def iterations(finished: Path, folder: Path, *overrides: str) -> tuple[list[dict[str, float]], list[Any]]:
    """The metrics of two iterations, and what their updates left of the policy."""
    recipe = load_recipe(finished.parents[1] / "recipe.yaml", [f"run.folder={folder}", *FIELDS, *overrides])
    setup = set_up(recipe)
    context = prepare(recipe, setup, finished / "sft" / "final", finished / "rm" / "final")
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        metrics = [ppo.iterate(context, stage, PROMPTS, i).metrics for i in range(2)]
        context.engine.close()
    return metrics, [p.detach() for p in context.forward.roles.parameters_of("policy").values()]


@needs_paged
def test_paged_samples_what_hf_samples_before_and_after_an_update(finished_run: Path, tmp_path: Path) -> None:
    expected, policy = iterations(finished_run, tmp_path / "hf")
    found, moved = iterations(finished_run, tmp_path / "paged", "ppo.engine=paged")
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["engine/logprob_gap"] < 1e-5
        for name, value in theirs.items():
            if not name.startswith((*TIMED, "engine/")):
                assert mine[name] == pytest.approx(value, rel=1e-2, abs=1e-4), name
    for mine, theirs in zip(moved, policy, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)


def test_a_vllm_server_samples_an_iteration(finished_run: Path, tiny_base: Path, tmp_path: Path) -> None:
    fake = Fake(tiny_base)
    with serving(fake) as url:
        metrics, _ = iterations(finished_run, tmp_path, "ppo.engine=vllm", f"ppo.engine_url={url}")
    assert max(one["engine/logprob_gap"] for one in metrics) < 1e-5
    assert len(fake.loaded) == 2 and not fake.adapters
    assert not list((tmp_path / "tiny" / "ppo").rglob("align-*"))


def test_a_vllm_server_answers_held_out_prompts_and_samples_too(
    finished_run: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """With the policy of now also after the last update, when no iteration hands it over any more."""
    fake = Fake(tiny_base)
    fields = [f"run.folder={tmp_path}", f"ppo.sft={finished_run}", f"ppo.rm={finished_run}"]
    fields += ["ppo.iterations=2", "ppo.evaluate_every=1", "ppo.samples_every=2", "ppo.engine=vllm"]
    with serving(fake) as url:
        recipe = load_recipe(finished_run.parents[1] / "recipe.yaml", [*fields, f"ppo.engine_url={url}"])
        ppo.run(recipe)
    held_out = [json.loads(line) for line in (recipe.run.path / "ppo/held_out.jsonl").open()]
    asked = Counter(one["model"] for one in fake.asked)
    rollout, samples, prompts = 8, 4, len(held_out)
    reference = fake.loaded[1]  # when the first evaluation asks for it
    assert len(fake.loaded) == 5 and not fake.adapters and prompts > 1
    assert asked == {
        fake.loaded[0]: rollout,
        reference: prompts + samples,
        fake.loaded[2]: prompts,
        fake.loaded[3]: rollout,
        fake.loaded[4]: prompts,
    }
    assert any(row["policy"] != row["reference"] for row in held_out)


def test_a_server_that_answers_with_an_old_policy_is_found_out(
    finished_run: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(tiny_base)
    fake.stale = True
    with serving(fake) as url:
        fields = ["ppo.engine=vllm", f"ppo.engine_url={url}", "ppo.engine_gap_warn=1e-4", "ppo.warmup=0"]
        fields += ["ppo.importance_cap=2.0"]
        metrics, _ = iterations(finished_run, tmp_path / "warned", *fields)
        fake.first = None
        with pytest.raises(AlignError, match="over ppo.engine_gap_stop"):
            iterations(finished_run, tmp_path / "stopped", *fields, "ppo.engine_gap_stop=1e-4")
    assert metrics[0]["engine/logprob_gap"] < 1e-5 < 1e-4 < metrics[1]["engine/logprob_gap"]
    assert abs(metrics[0]["engine/weight"] - 1) < 1e-5 < abs(metrics[1]["engine/weight"] - 1)
    assert "the engine that samples and the trainer disagree" in capsys.readouterr().out
