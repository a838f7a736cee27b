"""Bases with random weights in the shapes of real ones, data of exact lengths, and recipes for them."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes, and how much of everything a part of the benchmark takes."""

    width: int
    mlp: int
    layers: int
    heads: int
    groups: int  # heads of keys and values
    vocabulary: int
    tied: bool
    sft_tokens: int = 2048  # a demonstration
    sft_rows: int = 16  # a step
    prompt: int = 512  # of a ranking
    response: int = 256  # each of K
    rankings: int = 16  # a step
    rollout: int = 128  # responses an iteration, prompts of 256 tokens
    answer: int = 256
    budget: int = 16384  # tokens in a pass

    @property
    def weights(self) -> int:
        """Of the whole model."""
        head_dim = self.width // self.heads
        attention = self.width * head_dim * (2 * self.heads + 2 * self.groups)
        layer = attention + 3 * self.width * self.mlp
        return self.layers * layer + self.vocabulary * self.width * (1 if self.tied else 2)


SHAPES = {
    "tiny": Shape(
        *(64, 192, 4, 4, 2, 512, True),
        **{"sft_tokens": 32, "sft_rows": 4, "prompt": 16, "response": 8, "rankings": 4},
        **{"rollout": 8, "answer": 8, "budget": 512},
    ),
    "135m": Shape(576, 1536, 30, 9, 3, 49152, True),  # SmolLM2-135M
    "1b": Shape(2048, 8192, 16, 32, 8, 128256, True),  # Llama 3.2 1B
    "8b": Shape(4096, 14336, 32, 32, 8, 128256, False, rollout=64, budget=8192),  # Llama 3.1 8B
}


def work_folder(shapes: list[str]) -> Path:
    """Where bases are written: in memory where the largest fits there twice, else on the disk."""
    needed = 4 * max(SHAPES[name].weights for name in shapes)
    memory = Path("/dev/shm")
    fast = memory.is_dir() and shutil.disk_usage(memory).free > needed
    return (memory if fast else Path("/var/tmp")) / "align-gpu"


def make_base(name: str, folder: Path) -> Path:
    """The shape's checkpoint: initial weights, a tokenizer whose tokens are words w0, w1, …"""
    if (folder / "tokenizer_config.json").is_file():  # what is written last
        return folder
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    shape = SHAPES[name]
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, shape.vocabulary)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = LlamaConfig(
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    cuda = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if cuda else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16 if cuda else torch.float32)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return folder


def make_recipe(name: str, work: Path, run: str, **sections: dict[str, Any]) -> Path:
    """A recipe of one part, with its data beside it; sections are merged into those that all parts have."""
    shape, folder = SHAPES[name], work / name
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)

    def text(tokens: int) -> str:
        return " ".join(f"w{draw.randrange(3, shape.vocabulary)}" for _ in range(tokens))

    def write(kind: str, rows: list[dict[str, Any]]) -> str:
        (folder / kind).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return kind

    half = shape.sft_tokens // 2
    demonstrations = [{"prompt": text(half), "response": " " + text(half - 1)} for _ in range(64)]
    files = {"demonstrations": write("demonstrations.jsonl", demonstrations)}
    responses = sections.pop("rankings", {}).get("responses", 4)
    ranked = [
        {
            "prompt": text(shape.prompt),
            "responses": [" " + text(shape.response - 1) for _ in range(responses)],
            "ranks": list(range(1, responses + 1)),
        }
        for _ in range(64)
    ]
    files["rankings"] = write(f"rankings-{responses}.jsonl", ranked)
    files["prompts"] = write("prompts.jsonl", [{"prompt": text(shape.answer)} for _ in range(256)])
    recipe: dict[str, dict[str, Any]] = {
        "base": {"name": str(folder / "base")},
        "run": {"name": run, "folder": str(folder / "runs")},
        "data": {
            "template": "plain",
            "cache": str(folder / "cache"),
            **{kind: {"train": file, "held_out": 0.0} for kind, file in files.items()},
        },
        "sft": {
            "steps": 4,
            "batch_size": shape.sft_rows,
            "microbatch_size": max(1, shape.budget // shape.sft_tokens),
            "max_length": shape.sft_tokens,
        },
        "rm": {
            "steps": 4,
            "batch_size": shape.rankings,
            "microbatch_tokens": shape.budget,
            "max_length": shape.prompt + shape.response,
        },
        "ppo": {
            "iterations": 3,
            "rollout_batch_size": shape.rollout,
            "minibatch_size": shape.rollout // 2,
            "ppo_epochs": 2,
            "microbatch_tokens": shape.budget,
            "max_prompt_tokens": shape.answer,
            "max_response_tokens": shape.answer,
        },
    }
    for key, fields in sections.items():
        recipe[key] = {**recipe.get(key, {}), **fields}
    path = folder / f"{run}.yaml"
    path.write_text(json.dumps(recipe, indent=1))  # JSON is YAML
    return path
