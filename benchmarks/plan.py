"""What `align plan` says of memory beside what the stages really allocate: small random bases on a CPU.

    python benchmarks/plan.py [--only TEXT] [--stage sft rm ppo]

Every case makes a base, data and a recipe, runs a stage of it for a step or an iteration under torch's
profiler, which sees each block that the CPU's allocator gives and takes (and each mapped file, so the base's
weights), and asks the plan for rows as long as the data's. Margins are left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteMoeConfig,
    LlamaConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from align.models.base import find_base
from align.plan.base import plan_base
from align.plan.lengths import Lengths, PpoRows, RmRows, SftRows
from align.plan.machine import Machine
from align.plan.memory import Question, StageMemory, stage_memory
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe
from align.stage_table import Stage

CPU = Machine("this CPU", "cpu", 2**40, 1e11, 1e10, 0.6, 0.5, "said")


SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}
MIXED = SIZES | {"intermediate_size": 192, "num_key_value_heads": 2}  # in experts


def llama(**more: Any) -> PreTrainedConfig:
    config: PreTrainedConfig = LlamaConfig(**SIZES | more)
    return config


BASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": llama,
    "llama, few keys, 12 layers": lambda: llama(
        hidden_size=96, num_hidden_layers=12, num_attention_heads=6, num_key_value_heads=2
    ),
    "llama, 50,000 words, tied": lambda: llama(
        vocab_size=50000, tie_word_embeddings=True, num_hidden_layers=4
    ),
    "llama, odd widths": lambda: llama(
        hidden_size=120, intermediate_size=333, num_attention_heads=5, num_key_value_heads=1
    ),
    "gpt2": lambda: GPT2Config(n_embd=128, n_layer=6, n_head=4, vocab_size=1000, n_positions=2048),
    "gpt-neox": lambda: GPTNeoXConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        vocab_size=1000,
        max_position_embeddings=2048,
    ),
    "gemma3, 20,000 words": lambda: Gemma3TextConfig(
        **SIZES | {"vocab_size": 20000, "num_key_value_heads": 2}, head_dim=32, sliding_window=64
    ),
    "qwen3, tied": lambda: Qwen3Config(
        **SIZES | {"num_key_value_heads": 2}, head_dim=32, tie_word_embeddings=True
    ),
    "phi3": lambda: Phi3Config(**SIZES),
    "olmo2": lambda: Olmo2Config(**SIZES),
    "mixtral": lambda: MixtralConfig(**MIXED, num_local_experts=6, num_experts_per_tok=2),
    "qwen3-moe": lambda: Qwen3MoeConfig(
        **MIXED, head_dim=32, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=64
    ),
    "olmoe": lambda: OlmoeConfig(**MIXED, num_experts=8, num_experts_per_tok=2),
    "granite-moe": lambda: GraniteMoeConfig(**MIXED, num_local_experts=6, num_experts_per_tok=2),
    "deepseek-v3": lambda: DeepseekV3Config(
        **MIXED | {"num_key_value_heads": 8},
        q_lora_rank=48,
        kv_lora_rank=32,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=16,
        n_routed_experts=8,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        first_k_dense_replace=1,
    ),
}
Sections = dict[str, dict[str, Any]]
AGAIN = {stage: {"gradient_checkpointing": True} for stage in ("sft", "rm", "ppo")}
VARIANTS: dict[str, Sections] = {
    "": {},
    "checkpointing": AGAIN,
    "lora.layers 3": {"lora": {"layers": 3}},
    "packed": {"sft": {"packing": True}, "rm": {"share_prompt": False}},
}
PACKED = ("llama", "gpt2")
CASES = [(base, variant) for base in BASES for variant in VARIANTS if variant != "packed" or base in PACKED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--stage", nargs="+", default=["sft", "rm", "ppo"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| base | recipe | stage | planned MiB | measured MiB | planned / measured | largest pass |")
    print("|---|---|---|---|---|---|---|")
    for base, variant in CASES:
        if arguments.only not in f"{base} {variant}":
            continue
        with tempfile.TemporaryDirectory() as folder:
            recipe = make(Path(folder), BASES[base](), VARIANTS[variant])
            for stage in ("sft", "rm", "ppo"):
                measured = allocated(recipe, stage) / 2**20
                planned = planned_peak(recipe, stage)
                ours = (planned.peak - planned.margin) / 2**20
                if stage in arguments.stage:
                    shown = f"{ours:.1f} | {measured:.1f} | {ours / measured:.2f} | {planned.largest.who}"
                    print(f"| {base} | {variant} | {stage} | {shown} |", flush=True)


def make(folder: Path, config: PreTrainedConfig, sections: Sections) -> Recipe:
    """A base whose tokens are single words, data with rows of a length or a token less, and a recipe.

    As in all data rows differ, so passes have padding, and masks.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<eos>": 0, "<pad>": 1, **{f"w{i}": i + 2 for i in range(98)}}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")
    config.eos_token_id, config.pad_token_id, config.bos_token_id = 0, 1, None
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")

    def text(start: int, count: int) -> str:
        return " " + " ".join(f"w{(start + i * 7) % 98}" for i in range(count))

    rows = [
        {
            "prompt": text(n, 40 if n % 4 == 0 else 39).strip(),
            "response": text(n + 1, 87),
            "responses": [text(n + k, 59) for k in range(4)],
            "ranks": [1, 2, 3, 4],
        }
        for n in range(40)
    ]
    for name, keys in {
        "demonstrations": ["prompt", "response"],
        "rankings": ["prompt", "responses", "ranks"],
        "prompts": ["prompt"],
    }.items():
        lines = (json.dumps({key: row[key] for key in keys}) for row in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    written: dict[str, Any] = {
        "base": {"name": str(folder / "base")},
        "run": {"name": "r", "folder": str(folder / "runs"), "threads": 1},
        "data": {
            "template": "plain",
            "cache": str(folder / "cache"),
            **{
                kind: {"train": f"{kind}.jsonl", "held_out": 0}
                for kind in ("demonstrations", "rankings", "prompts")
            },
        },
        "lora": {"rank": 8},
        "sft": {"steps": 2, "batch_size": 8, "max_length": 128},
        "rm": {"steps": 2, "batch_size": 8, "microbatch_tokens": 1200},
        "ppo": {
            "iterations": 1,
            "rollout_batch_size": 16,
            "minibatch_size": 16,
            "microbatch_tokens": 1000,
            "max_prompt_tokens": 40,
            "max_response_tokens": 60,
            "min_response_tokens": 59,
        },
    }
    for name, fields in sections.items():
        written[name] = {**written[name], **fields}
    (folder / "recipe.yaml").write_text(json.dumps(written))
    return load_recipe(folder / "recipe.yaml")


def planned_peak(recipe: Recipe, stage: Stage) -> StageMemory:
    """The plan for rows as long as the data's."""
    lengths = Lengths(SftRows(128, 128), RmRows(40, 60, 4, 280), PpoRows(40, 60), known=True)
    asked = Question(recipe, plan_base(recipe.base), lengths, CPU)
    return stage_memory(asked, stage, getattr(recipe, stage).gradient_checkpointing is True)


def allocated(recipe: Recipe, stage: Stage) -> int:
    """The most bytes that the CPU's allocator had given out while the stage ran, above those at its start."""
    import importlib

    from align.stage_table import STAGES

    module = importlib.import_module(STAGES[stage].module)
    return blocks(lambda: module.run(recipe))[0] - unread(recipe)


def unread(recipe: Recipe) -> int:
    """Bytes of the base's files that stay mapped though nothing reads them: experts, which are stacked anew.

    The kernel gives such pages up, so they are no memory that a stage needs.
    """
    kept: list[torch.nn.Module] = []
    base = find_base(recipe.base)
    _, held = blocks(lambda: kept.append(base.load_model(torch.device("cpu"))))
    return held - sum(p.numel() * p.element_size() for p in kept[0].parameters())


def blocks(work: Callable[[], object]) -> tuple[int, int]:
    """The most bytes that the allocator had given out while it ran, and at its end, above the start's.

    What ran before leaves models in cycles of references. They go first: given back while this runs, they
    would be taken off its peak.
    """
    gc.collect()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as prof:
        work()
    assert prof.profiler is not None and prof.profiler.kineto_results is not None
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most, now


if __name__ == "__main__":
    main()
