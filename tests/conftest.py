"""A tiny Llama and recipes around it: every test runs offline, on a CPU, in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from ranks import Ranks, started

pytest_plugins = ["labeling_app", "pseudo_language", "talking_app"]
# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]

TEXT = [
    "the film is a warm and funny story about a family",
    "a dull plot with wooden acting and no heart at all",
    "what makes it work is the honest play of two friends",
    "the music is loud and the jokes are old and tired",
    "one of the best surprises of the year , bright and moving",
]


# What metrics begin with that say how fast it was: no two runs have the same.
TIMED = ("seconds/", "perf/", "memory/", "energy/")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: 4-layer Llama of width 32, byte-level BPE, `<eos>`, `<pad>`, a chat template."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    make_tiny_base(folder)
    return folder


def make_tiny_base(folder: Path, seed: int = 0, head_dim: int = 8) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<pad>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}"
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=head_dim,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
            initializer_range=0.1,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(count: int) -> list[str]:
    return [word for text in TEXT for word in text.split()][:count]


@pytest.fixture
def tiny_recipe(tiny_base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe and its data into the test's folder; keywords are merged into the recipe's sections."""

    def make(folder: Path = tmp_path, **sections: dict[str, Any]) -> Path:
        return make_recipe(folder, tiny_base, **sections)

    return make


def make_recipe(folder: Path, base: Path, **sections: dict[str, Any]) -> Path:
    """A recipe in JSON (which is YAML) with its data beside it; sections are merged into the recipe's."""
    folder.mkdir(parents=True, exist_ok=True)
    openings = [f"the {a} {b}" for a in words(8) for b in ("is", "was", "and")]
    write_jsonl(
        folder / "demonstrations.jsonl",
        [{"prompt": p, "response": f" {TEXT[i % 5]}"} for i, p in enumerate(openings)],
    )
    write_jsonl(
        folder / "rankings.jsonl",
        [
            {
                "prompt": p,
                "responses": [" good" + " and bright" * (i % 2), " old and tired", " dull", " loud"][
                    : 2 + i % 3
                ],
                "ranks": [1, 2, 2, 3][: 2 + i % 3],
            }
            for i, p in enumerate(openings)
        ],
    )
    write_jsonl(folder / "prompts.jsonl", [{"prompt": p} for p in openings])
    recipe: dict[str, dict[str, Any]] = {
        "base": {"name": str(base)},
        "run": {"name": "tiny", "folder": str(folder / "runs"), "threads": 1},
        "data": {
            "template": "plain",
            "cache": str(folder / "cache"),
            "demonstrations": {"train": "demonstrations.jsonl", "held_out": 0.2},
            "rankings": {"train": "rankings.jsonl", "held_out": 0.2},
            "prompts": {"train": "prompts.jsonl", "held_out": 0.2},
        },
        "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj", "down_proj"], "layers": 2},
        "sft": {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 2},
        "rm": {
            "steps": 6,
            "batch_size": 4,
            "microbatch_tokens": 128,
            "learning_rate": 1e-2,
            "checkpoint_every": 2,
        },
        "ppo": {
            "iterations": 4,
            "rollout_batch_size": 8,
            "minibatch_size": 4,
            "microbatch_tokens": 128,
            "learning_rate": 1e-2,
            "max_prompt_tokens": 32,
            "max_response_tokens": 8,
        },
    }
    for name, fields in sections.items():
        recipe[name] = {**recipe.get(name, {}), **fields}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe, indent=1))  # JSON is YAML
    return path


def align(
    *arguments: str | Path, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `align ARGUMENTS` as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "align", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="session")
def group() -> Iterator[Ranks]:
    """Starts several processes that work together, without the seconds that imports take."""
    with started() as ranks:
        yield ranks


@pytest.fixture(scope="session")
def finished_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose three stages have finished; copy it before you write into it."""
    from align.ppo import train as ppo
    from align.recipe.load import load_recipe
    from align.stages import rm, sft

    recipe = load_recipe(make_recipe(tmp_path_factory.mktemp("finished"), tiny_base))
    for stage in (sft, rm, ppo):
        stage.run(recipe)
    return recipe.run.path
