"""align evaluate and a reward model with several members: all of them are asked, as PPO asks them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_recipe
from rich.console import Console

from align.compare.evaluating import opened
from align.errors import UserError
from align.models.scoring import score_members
from align.recipe.load import load_recipe
from align.serving.run import open_run, reward_model
from align.stages import rm, sft

THREE = ["rm.members=3", "rm.member_share=0.7"]


@pytest.fixture(scope="module")
def recipe_path(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sft, and rm with three members."""
    path = make_recipe(tmp_path_factory.mktemp("evaluated_members"), tiny_base)
    sft.run(load_recipe(path))
    rm.run(load_recipe(path, THREE))
    return path


@pytest.mark.parametrize("reduce", ["mean", "min"])
def test_score_guard_and_measures_ask_all_members(recipe_path: Path, reduce: str) -> None:
    folder = recipe_path.parent / "runs" / "tiny"
    overrides = [f"ppo.reward_reduce={reduce}", f"ppo.guard={folder}"]
    measure = f"evaluate.measures=[{{run: {folder}, name: same}}]"
    state = opened(load_recipe(recipe_path, [*THREE, *overrides, measure]), Console(quiet=True))
    prompts, responses = ["the film is", "the plot was", "a"], [" good", " old and tired", " bright and good"]
    rows = state.answering.text_scores(prompts, responses, str)
    trained = open_run(folder, "rm")
    template = trained.setup.template
    pairs = [
        (template.prompt_ids(prompt), template.response_ids(response))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    members = score_members(reward_model(trained), "reward", pairs, 512)
    score = members.mean(0) if reduce == "mean" else members.min(0).values
    for name, expected in (("score", score), ("guard", members.mean(0)), ("measure/same", members.mean(0))):
        found = torch.tensor([row[name] for row in rows])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=name)


def test_other_ways_to_sum_scores_are_other_files(recipe_path: Path) -> None:
    names = set()
    for overrides in ([], ["ppo.reward_reduce=min"], ["ppo.scale_scores=true"]):
        state = opened(load_recipe(recipe_path, [*THREE, *overrides]), Console(quiet=True))
        names.add(state.name_of(state.found.policies[0], {}))
    assert len(names) == 3


def test_a_weight_of_a_measure_is_refused(recipe_path: Path) -> None:
    with pytest.raises(UserError, match="measures: f: weight does nothing there"):
        load_recipe(recipe_path, ["evaluate.measures=[{function: 'm:f', weight: 2}]"])
