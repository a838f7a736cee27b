"""The one table of tiny bases: an architecture's configuration with small shapes, by a short name.

`make bases` (benchmarks/bases.py) takes each of them through align and writes docs/bases.md. Tests take some
of them, so the table stands with the tests. A new base is one line here, and its title below. Each has every
part of its architecture: layers of each kind, several experts, a tower where it also sees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from align.models.text_part import auto_class

VOCABULARY = 320  # of the tiny tokenizer
ENDS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
} | ENDS
MAMBA = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "initializer_range": 0.1} | ENDS
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER |= {"image_size": 28, "patch_size": 14}
HEAD = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED = {"shared_expert_intermediate_size": 16}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
ROUTED = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
ALL_HEADS = {"num_key_value_heads": 4}
ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
SEES = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
SEES |= {"patch_size": 14, "window_size": 28, "fullatt_block_indexes": [1]}
GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
GPT |= ENDS | {"initializer_range": 0.1}
OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "init_std": 0.1,
} | ENDS
SSM = {"mamba_n_heads": 4, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 4}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64, "rope_theta": 5e5}
IMAGE = {"image_token_index": 5}
QWEN_IMAGE = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    # dense
    "llama2": lambda: hf.LlamaConfig(**SMALL | ALL_HEADS),
    "llama3": lambda: hf.LlamaConfig(**SMALL, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "mistral": lambda: hf.MistralConfig(**SMALL, sliding_window=32),
    "qwen2": lambda: hf.Qwen2Config(**SMALL),
    "qwen3": lambda: hf.Qwen3Config(**SMALL, **HEAD),
    "gemma": lambda: hf.GemmaConfig(**SMALL, **HEAD),
    "phi": lambda: hf.PhiConfig(**SMALL),
    "phi3": lambda: hf.Phi3Config(**SMALL, sliding_window=32),
    "phi4": lambda: hf.Phi3Config(**SMALL, partial_rotary_factor=0.75, tie_word_embeddings=True),
    "gpt2": lambda: hf.GPT2Config(**GPT),
    "gptj": lambda: hf.GPTJConfig(**GPT, rotary_dim=4),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SMALL),
    "opt": lambda: hf.OPTConfig(**OPT),
    "opt350": lambda: hf.OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=False),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=4, n_head=4, initializer_range=0.1, **ENDS
    ),
    "mpt": lambda: hf.MptConfig(
        vocab_size=VOCABULARY, d_model=32, n_layers=4, n_heads=4, max_seq_len=256, expansion_ratio=2, **ENDS
    ),
    "falcon": lambda: hf.FalconConfig(**SMALL),
    # logits that are scaled or capped
    "gemma2": lambda: hf.Gemma2Config(**SMALL, **HEAD, sliding_window=32, final_logit_softcapping=5.0),
    "granite": lambda: hf.GraniteConfig(**SMALL, logits_scaling=2.0),
    "cohere": lambda: hf.CohereConfig(**SMALL, logit_scale=0.5),
    "minicpm3": lambda: hf.MiniCPM3Config(**SMALL | ALL_HEADS | LATENT, dim_model_base=8),
    # experts
    "mixtral": lambda: hf.MixtralConfig(**SMALL, **LOCAL),
    "olmoe": lambda: hf.OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**SMALL, **EXPERTS, **HEAD),
    "deepseek_v3": lambda: hf.DeepseekV3Config(
        **SMALL | ALL_HEADS, **LATENT, **ROUTED, num_experts_per_tok=2, moe_intermediate_size=16
    ),
    "gpt_oss": lambda: hf.GptOssConfig(**SMALL, **HEAD, **LOCAL, sliding_window=32),
    "granitemoe": lambda: hf.GraniteMoeConfig(**SMALL, **LOCAL),
    "phimoe": lambda: hf.PhimoeConfig(**SMALL, num_local_experts=4),
    "llama4_text": lambda: hf.Llama4TextConfig(
        **SMALL, **HEAD, intermediate_size_mlp=64, num_local_experts=4
    ),
    # state spaces, convolutions, linear attention
    "qwen3_next": lambda: hf.Qwen3NextConfig(**SMALL, **EXPERTS, **SHARED, **HEAD, **DELTA),
    "falcon_h1": lambda: hf.FalconH1Config(**SMALL, **SSM, mamba_d_ssm=32, mamba_d_head=8),
    "jamba": lambda: hf.JambaConfig(
        **SMALL,
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "zamba2": lambda: hf.Zamba2Config(  # its attention layers are one
        **SMALL | ALL_HEADS,
        mamba_d_state=8,
        mamba_ngroups=1,
        chunk_size=4,
        n_mamba_heads=4,
        mamba_headdim=16,
        layers_block_type=["mamba", "hybrid"] * 2,
        hybrid_layer_ids=[1, 3],
        num_mem_blocks=1,
        adapter_rank=4,
        use_mem_rope=True,
    ),
    "lfm2": lambda: hf.Lfm2Config(**SMALL, layer_types=["conv", "full_attention"] * 2),
    "mamba": lambda: hf.MambaConfig(**MAMBA, state_size=4),
    "mamba2": lambda: hf.Mamba2Config(
        **MAMBA, state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=4
    ),
    "rwkv": lambda: hf.RwkvConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=4,
        attention_hidden_size=32,
        context_length=256,
        **ENDS,
    ),
    "recurrent_gemma": lambda: hf.RecurrentGemmaConfig(
        **SMALL | {"num_key_value_heads": 1},
        lru_width=32,
        attention_window_size=64,
        block_types=["recurrent", "attention"],
    ),
    # bases that also see; text alone is trained
    "gemma3_text": lambda: hf.Gemma3TextConfig(**SMALL, **HEAD, sliding_window=32),
    "gemma3": lambda: hf.Gemma3Config(
        text_config={**SMALL, **HEAD, "sliding_window": 32},
        vision_config=TOWER,
        mm_tokens_per_image=4,
        boi_token_index=6,
        eoi_token_index=7,
        eos_token_id=1,
        **IMAGE,
    ),
    "mistral3": lambda: hf.Mistral3Config(
        text_config={**SMALL, **HEAD, "model_type": "mistral"},
        vision_config={**TOWER, "model_type": "pixtral"},
        **IMAGE,
    ),
    "qwen2_5_vl": lambda: hf.Qwen2_5_VLConfig(
        text_config={**SMALL, **ROPE}, vision_config=SEES, **QWEN_IMAGE
    ),
    "mllama": lambda: hf.MllamaConfig(
        text_config={**SMALL, "bos_token_id": 2, "cross_attention_layers": [1, 3]},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
            "vision_output_dim": 32,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1]],
        },
        **IMAGE,
    ),
    # no language model that align can train
    "t5": lambda: hf.T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4),
    "bart": lambda: hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=256,
        **ENDS,
    ),
    "xlnet": lambda: hf.XLNetConfig(
        vocab_size=VOCABULARY, d_model=32, n_layer=4, n_head=4, d_inner=64, **ENDS
    ),
    "paligemma": lambda: hf.PaliGemmaConfig(
        text_config={**SMALL, **HEAD, "model_type": "gemma"},
        vision_config={**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
        projection_dim=32,
        hidden_size=32,
        **IMAGE,
    ),
    "bert": lambda: hf.BertConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
}
# What people call them.
TITLES = {
    "llama2": "Llama 2",
    "llama3": "Llama 3",
    "mistral": "Mistral",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "gemma": "Gemma 1",
    "phi": "Phi 1, 2",
    "phi3": "Phi-3",
    "phi4": "Phi-4",
    "gpt2": "GPT-2",
    "gptj": "GPT-J",
    "gpt_neox": "GPT-NeoX, Pythia",
    "opt": "OPT",
    "opt350": "OPT-350m (narrow ends)",
    "bloom": "BLOOM",
    "mpt": "MPT",
    "falcon": "Falcon",
    "gemma2": "Gemma 2",
    "granite": "Granite",
    "cohere": "Cohere Command R",
    "minicpm3": "MiniCPM3",
    "mixtral": "Mixtral",
    "olmoe": "OLMoE",
    "qwen3_moe": "Qwen3-MoE",
    "deepseek_v3": "DeepSeek-V3, R1",
    "gpt_oss": "gpt-oss",
    "granitemoe": "Granite MoE",
    "phimoe": "Phi-3.5-MoE",
    "llama4_text": "Llama 4 (text part)",
    "qwen3_next": "Qwen3-Next",
    "falcon_h1": "Falcon-H1",
    "jamba": "Jamba",
    "zamba2": "Zamba 2",
    "lfm2": "LFM2",
    "mamba": "Mamba",
    "mamba2": "Mamba 2",
    "rwkv": "RWKV",
    "recurrent_gemma": "RecurrentGemma",
    "gemma3_text": "Gemma 3 (270M, 1B)",
    "gemma3": "Gemma 3 (4B and more, also sees)",
    "mistral3": "Mistral Small 3 (also sees)",
    "qwen2_5_vl": "Qwen2.5-VL (also sees)",
    "mllama": "Llama 3.2 Vision (also sees)",
    "t5": "T5",
    "bart": "BART",
    "xlnet": "XLNet",
    "paligemma": "PaliGemma (also sees)",
    "bert": "BERT",
}
# Whose layers are not all attention, and beside them what their caches and narrow ends are compared with.
HYBRIDS = ("llama3", "mamba", "mamba2", "jamba", "falcon_h1", "lfm2", "qwen3_next", "rwkv", "recurrent_gemma")
HYBRIDS += ("opt350",)


def tiny_model(name: str | PreTrainedConfig, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """A frozen model of an architecture, whose weights are large enough for all its parts to matter."""
    config = CONFIGS[name]() if isinstance(name, str) else name
    config.get_text_config().vocab_size = vocabulary
    torch.manual_seed(0)
    known: Any = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else auto_class(config)
    model: PreTrainedModel = known.from_config(config).eval().requires_grad_(False)
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1 and "A_log" not in key:
            parameter.normal_(std=0.15)
        elif key.endswith("bias"):
            parameter.normal_(std=0.1)
    return model


def make_base(
    name: str | PreTrainedConfig, tokenizer: Path, folder: Path, head_std: float | None = None
) -> Path:
    """A random model of an architecture, with the tokenizer of another folder; returns `folder`.

    head_std: of the output layer's weights, where adapters alone have to make a token likely.
    """
    model = tiny_model(name)
    if head_std and (head := model.get_output_embeddings()) is not None:
        head.weight.normal_(std=head_std)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder
