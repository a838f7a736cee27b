"""In half precision no saving switches itself off, and whatever is off is said and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from align.models.base import find_base
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.probe_ids import TEXT, probe_ids
from align.models.probes import share_prompts
from align.models.roles import Roles
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.recipe.sections import Base, Lora
from align.stages import rm, sft

QUICKSTART = ROOT / ".cache" / "quickstart" / "base"


def rows(recipe: Path, stage: str) -> list[dict[str, Any]]:
    path = recipe.parent / "runs" / "tiny" / stage / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_three_stages_in_bfloat16_with_all_savings_on(
    tiny_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(lora={"layers": 1})
    for stage in (sft, rm, ppo):
        stage.run(load_recipe(recipe, ["base.dtype=bfloat16"]))
    said = capsys.readouterr()
    for name, savings in (("rm", ("lean", "split", "share_prompt")), ("ppo", ("lean", "split"))):
        found = [row for row in rows(recipe, name) if "savings/lean" in row]
        assert found
        assert all(row[f"savings/{saving}"] == 1 for row in found for saving in savings)
    assert "no lean passes" not in said.out + said.err


def test_probes_read_the_words_of_a_text(tiny_base: Path) -> None:
    base = find_base(Base(name=str(tiny_base)))
    ids = probe_ids(base.load_model(torch.device("cpu")), 21).tolist()
    assert TEXT.startswith(base.tokenizer.decode(ids))
    assert not set(ids) & set(base.tokenizer.all_special_ids)


@pytest.mark.skipif(not QUICKSTART.is_dir(), reason="recipes/quickstart/prepare.py has not made its base")
def test_a_real_base_in_bfloat16_keeps_its_savings() -> None:
    model = find_base(Base(name=str(QUICKSTART), dtype="bfloat16")).load_model(torch.device("cpu"))
    roles = Roles(model)
    roles.add("reward", lora_config(Lora(rank=4), model), trains=True)
    forward = Forward(roles, logits=False)
    assert share_prompts(forward, "reward", 64) is None
    assert forward.remarks() == []
    assert forward.savings()["savings/lean"] == 1


def test_what_is_off_is_said_with_its_reason(
    tiny_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe()
    for stage in (sft, rm):
        stage.run(load_recipe(recipe, ["base.attention=eager"]))
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert "rm: no lean passes on LlamaForCausalLM: they are for Llama" in text
    first = rows(recipe, "rm")[0]
    assert (first["savings/lean"], first["savings/share_prompt"]) == (0, 1)
