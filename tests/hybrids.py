"""Tiny bases whose layers are not all attention, with weights large enough for their states to matter."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

_COMMON = {"num_hidden_layers": 4, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
_SSM = {"mamba_n_heads": 4, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4}
_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
_DELTA = {
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
_FIELDS: dict[str, dict[str, Any]] = {
    "llama": _ATTENTION,
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 4},
    "jamba": _ATTENTION
    | _EXPERTS
    | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "falcon_h1": _ATTENTION | _SSM | {"mamba_d_ssm": 32, "mamba_d_head": 8},
    "lfm2": _ATTENTION | {"layer_types": ["conv", "full_attention"] * 2},
    "qwen3_next": _ATTENTION | _EXPERTS | _DELTA,
    "rwkv": {"attention_hidden_size": 32, "intermediate_size": 48, "context_length": 256},
    "recurrent_gemma": _ATTENTION
    | {
        "num_key_value_heads": 1,
        "lru_width": 32,
        "attention_window_size": 64,
        "logits_soft_cap": 1e6,  # none that counts
        "block_types": ["recurrent", "attention"],
    },
    "opt": {
        "word_embed_proj_dim": 16,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "do_layer_norm_before": False,
    },
}
NAMES = tuple(_FIELDS)


def tiny_model(name: str, vocabulary: int = 64) -> PreTrainedModel:
    """A frozen model of width 32 with four layers, of an architecture by transformers' name."""
    sizes = {"vocab_size": vocabulary, "hidden_size": 32}
    config = CONFIG_MAPPING[name](**{**_COMMON, **sizes, **_FIELDS[name]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    torch.manual_seed(1)
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1 and "A_log" not in key:
            parameter.normal_(std=0.15)
        elif key.endswith("bias"):
            parameter.normal_(std=0.1)
    return model
