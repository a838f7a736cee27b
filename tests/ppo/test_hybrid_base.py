"""The three stages on a base without attention, whose cache is not attention's."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import make_recipe
from tiny_bases import tiny_model
from transformers import AutoTokenizer

from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.stages import rm, sft


def test_responses_of_uneven_length_on_a_state_space_base(tiny_base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    model = tiny_model("mamba2", len(tokenizer))
    model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 8  # likely behind some words
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    steps = {"steps": 2}
    sizes = {"iterations": 2, "responses_per_prompt": 2, "max_response_tokens": 12}
    lora = {"targets": ["in_proj"], "layers": None}
    path = make_recipe(tmp_path, tmp_path / "base", lora=lora, sft=steps, rm=steps, ppo=sizes)
    recipe = load_recipe(path)
    for stage in (sft, rm, ppo):
        stage.run(recipe)
    folder = tmp_path / "runs" / "tiny" / "ppo"
    turns = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    turns = [turn for turn in turns if "engine/logprob_gap" in turn]
    assert len(turns) == 2
    assert all(turn["engine/logprob_gap"] < 1e-5 for turn in turns)
    assert any(turn["response/length"] < 12 for turn in turns)
