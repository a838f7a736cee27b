"""Bases of other architectures with tiny shapes and the tiny tokenizer: experts, towers, state spaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers import AutoTokenizer, PreTrainedConfig

from align.models.text_part import auto_class

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.1,
}
MAMBA = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 4, "bos_token_id": None}
MAMBA |= {"eos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.1}
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER |= {"image_size": 28, "patch_size": 14}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
SEES = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
SEES |= {"patch_size": 14, "window_size": 28, "fullatt_block_indexes": [1]}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**SMALL, **EXPERTS, head_dim=8, num_experts=4),
    "mixtral": lambda: hf.MixtralConfig(**SMALL, num_local_experts=4),
    "deepseek_v3": lambda: hf.DeepseekV3Config(
        **{**SMALL, **EXPERTS, **LATENT, "num_key_value_heads": 4},
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "gpt_oss": lambda: hf.GptOssConfig(**SMALL, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "granitemoe": lambda: hf.GraniteMoeConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "phimoe": lambda: hf.PhimoeConfig(**SMALL, num_local_experts=4),
    "llama4_text": lambda: hf.Llama4TextConfig(
        **SMALL, head_dim=8, intermediate_size_mlp=64, num_local_experts=4
    ),
    "gemma3": lambda: hf.Gemma3Config(
        text_config={**SMALL, "head_dim": 8, "sliding_window": 32},
        vision_config=TOWER,
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
        eos_token_id=1,
    ),
    "mistral3": lambda: hf.Mistral3Config(
        text_config={**SMALL, "model_type": "mistral", "head_dim": 8},
        vision_config={**TOWER, "model_type": "pixtral"},
        image_token_index=5,
    ),
    "qwen2_5_vl": lambda: hf.Qwen2_5_VLConfig(
        text_config={**SMALL, **ROPE},
        vision_config=SEES,
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=7,
        vision_end_token_id=8,
    ),
    "mamba": lambda: hf.MambaConfig(**MAMBA, state_size=4),
    "falcon_h1": lambda: hf.FalconH1Config(
        **SMALL, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1
    ),
    "rwkv": lambda: hf.RwkvConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=4, attention_hidden_size=32, context_length=256
    ),
    "opt350": lambda: hf.OPTConfig(
        vocab_size=320,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        do_layer_norm_before=False,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        init_std=0.1,
    ),
    "t5": lambda: hf.T5Config(vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4),
}


def make_base(kind: str, tokenizer: Path, folder: Path) -> Path:
    """A random model of an architecture, with the tokenizer of another folder; returns `folder`."""
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    known: Any = hf.AutoModelForSeq2SeqLM if kind == "t5" else auto_class(config)
    known.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder
