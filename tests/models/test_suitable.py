"""What a base can't do is found from its configuration alone, before a weight is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import make_base
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    FalconH1Config,
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Mamba2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen3MoeConfig,
)

from align.errors import UserError
from align.models import suitable
from align.models.base import BaseCheckpoint, find_base
from align.models.forward import check_padding
from align.models.suitable import check_base, check_logits, check_reading
from align.models.text_part import auto_class, text_decoder
from align.recipe.sections import Base as BaseSpec
from align.recipe.sections import Lora


def a_base(tiny_base: Path, folder: Path, kind: str) -> BaseCheckpoint:
    return find_base(BaseSpec(name=str(make_base(kind, tiny_base, folder / "base"))))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("t5", r"base .* is an encoder-decoder \(t5\).*Choose a base that goes on with its prompt"),
        ("bart", r"base .* is an encoder-decoder \(bart\)"),
        ("bert", "base: BertLMHeadModel reads a text in both directions.*reads forwards only"),
        ("xlnet", "base: XLNetLMHeadModel cannot read rows of different lengths with a mask"),
        (
            "paligemma",
            "base: PaliGemmaForConditionalGeneration gives .* other numbers when padding stands behind",
        ),
    ],
)
def test_bases_that_no_stage_can_train_are_refused(
    tiny_base: Path, tmp_path: Path, kind: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        check_base(a_base(tiny_base, tmp_path, kind), Lora())


@pytest.mark.parametrize(
    "kind", ["gemma2", "cohere", "minicpm3", "falcon_h1", "gemma3", "opt350", "llama4_text"]
)
def test_bases_that_scale_cap_or_name_their_parts_otherwise_pass_without_weights(
    tiny_base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = a_base(tiny_base, tmp_path, kind)
    monkeypatch.setattr(suitable, "_UNFIT", ())  # nothing of the probe is left to the stages
    for weights in base.folder.glob("*.safetensors"):
        weights.unlink()
    model = suitable.skeleton(base)
    check_logits(model)
    assert text_decoder(model) is not model
    assert all(p.is_meta for p in text_decoder(model).parameters() if p.ndim > 1 and p.shape[0] != 16)


class _Odd(LlamaForCausalLM):
    """Its last step is none that align knows."""

    def forward(self, *given: Any, **named: Any) -> Any:
        found = super().forward(*given, **named)
        found.logits = found.logits.sign() * found.logits.abs().sqrt()
        return found


def without_weights(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    with torch.device("meta"):
        return kind(config)


def test_another_last_step_is_refused_and_so_is_one_that_trl_reads_otherwise() -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, vocab_size=50)
    check_logits(without_weights(LlamaForCausalLM, config))
    with pytest.raises(UserError, match="_Odd gives other logits than its output layer"):
        check_logits(without_weights(_Odd, config))
    config.logit_scale = 3.0  # Llama does not read it, and TRL does
    with pytest.raises(UserError, match="TRL's log probabilities are not those of LlamaForCausalLM's own"):
        check_logits(without_weights(LlamaForCausalLM, config))


def test_a_large_base_costs_no_memory() -> None:
    """A model of 100 billion weights: building it in earnest would end this process."""
    config = CohereConfig(hidden_size=12288, intermediate_size=33792, num_hidden_layers=64)
    model = without_weights(CohereForCausalLM, config)
    check_reading(model)
    check_logits(model)


@pytest.mark.parametrize(
    "kind", [Qwen3MoeConfig, Mamba2Config, FalconH1Config, Qwen2_5_VLConfig, GptOssConfig]
)
def test_a_base_of_its_real_size_is_read_by_a_small_one(
    kind: type[PreTrainedConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the defaults of transformers, which are the shapes of a published model."""
    read = []
    monkeypatch.setattr(suitable, "check_padding", lambda model: read.append(check_padding(model)))
    config = kind()
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    check_reading(model)
    assert read == [None]


def test_what_cannot_be_made_small_is_left_to_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(model: PreTrainedModel, factor: int, seed: int) -> PreTrainedModel:
        raise ValueError("no such size")

    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, vocab_size=50)
    monkeypatch.setattr(suitable, "_small", small)
    check_reading(without_weights(LlamaForCausalLM, config))


def test_a_decoder_by_another_name_is_found() -> None:
    class Renamed(LlamaForCausalLM):
        base_model_prefix = "language_model"

    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, vocab_size=50)
    model = suitable.name_decoder(without_weights(Renamed, config))
    assert isinstance(text_decoder(model), LlamaModel)
