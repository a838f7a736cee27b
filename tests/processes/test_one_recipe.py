"""Each process is started with a recipe; where one has another, none begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import make_recipe
from ranks import Ranks

from align.run.folder import begun


@pytest.mark.parametrize(
    ("stage", "section", "key", "value"),
    [
        ("sft", "sft", "learning_rate", 0.02),  # the copies would drift apart
        ("sft", "sft", "steps", 8),  # one would wait for the other for ever
        ("sft", "sft", "checkpoint_every", 3),
        ("sft", "run", "seed", 7),
        ("rm", "lora", "alpha", 16),
        ("ppo", "ppo", "kl_coef", 0.3),
        ("ppo", "data", "template", "chat"),
    ],
)
def test_another_recipe_on_one_process_is_refused_by_both(
    group: Ranks, tiny_base: Path, tmp_path: Path, stage: str, section: str, key: str, value: Any
) -> None:
    recipe = make_recipe(tmp_path, tiny_base)
    was = json.loads(recipe.read_text())[section].get(key, 0)
    ended = group.run("call", "rank_probes:with_other_value", stage, recipe, f"{section}.{key}={value}")
    assert ended.codes == [2, 2], ended.output
    there, here = (json.dumps(one) for one in (value, was))
    assert "process 1 (on " in ended.output[0]
    assert "has another recipe than process 0 (on " in ended.output[0]
    if was:
        assert f"{section}.{key} is {there} there and {here} here" in ended.output[0]
    assert ended.output[0].count("error: ") == 1
    assert ended.output[1] == ""
    assert not begun(tmp_path / "runs" / "tiny" / stage)


def test_places_of_files_may_differ(group: Ranks, tiny_base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, tiny_base)
    ended = group.run(
        "call", "rank_probes:with_other_value", "sft", recipe, f"data.cache={tmp_path / 'mine'}"
    )
    assert ended.codes == [0, 0], ended.output
