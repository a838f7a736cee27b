"""Bases that scale or cap their logits through the stages, and those that no stage can train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_recipe
from transformers import (
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from align.errors import UserError
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.serving.export import export
from align.stages import rm, sft

KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 5.0}),
    "granite": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 4.0}),
    "cohere": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.25}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bases_with_scaled_or_capped_logits_are_trained_and_exported(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    base, (model, config, fields) = tmp_path / "base", KINDS[kind]
    shutil.copytree(tiny_base, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(0)
    model(
        config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            initializer_range=0.1,
            **fields,
        )
    ).save_pretrained(base)
    recipe = load_recipe(make_recipe(tmp_path / "work", base), ["ppo.iterations=2"])
    for stage in (sft, rm, ppo):
        stage.run(recipe)
    lines = [json.loads(line) for line in (recipe.run.path / "ppo" / "metrics.jsonl").open()]
    assert max(line["engine/logprob_gap"] for line in lines if "engine/logprob_gap" in line) < 1e-4
    export(recipe.run.path, "ppo")  # which compares it with plain transformers


def test_a_base_that_the_trainer_reads_otherwise_is_refused_before_sft(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Its configuration names a scale that its model does not use, and TRL would."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"logit_scale": 3.0}))
    with pytest.raises(UserError, match="TRL's log probabilities are not those of LlamaForCausalLM's own"):
        sft.run(load_recipe(make_recipe(tmp_path / "work", base)))
    assert not (tmp_path / "work" / "runs" / "tiny" / "sft").exists()
