"""SFT against plain TRL, plain transformers and itself: what is learned, what is measured, what resumes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TIMED, align, make_tiny_base, write_jsonl
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, masking_utils
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from align.data.load import load
from align.data.template import Template
from align.data.tokenize import encode_demonstrations
from align.errors import AlignError, UserError
from align.models.adapter_products import product_dtype
from align.models.lora import lora_config
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe
from align.records import Demonstration
from align.seeds import step_rows
from align.stages import sft

MakeRecipe = Callable[..., Path]
Pairs = list[tuple[list[int], list[int]]]  # prompt ids, response ids


def train(path: Path, *overrides: str) -> Path:
    """Run the stage in this process; its folder."""
    recipe = load_recipe(path, overrides)
    sft.run(recipe)
    return recipe.run.path / "sft"


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "adapter_model.safetensors")


def difference(a: Path, b: Path) -> float:
    one, other = adapter(a), adapter(b)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def metrics(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def encoded(recipe: Recipe) -> tuple[PreTrainedTokenizerFast, Pairs, Pairs]:
    """The tokenizer, what trains, and what is held out."""
    assert recipe.data.demonstrations is not None
    tokenizer = AutoTokenizer.from_pretrained(recipe.base.name)
    template = Template(tokenizer, recipe.data.template)
    split = load(Demonstration, recipe.data.demonstrations, "demonstrations")
    sides = [
        [(part.prompt, part.responses[0]) for part in encode_demonstrations(template, side, 999, "here")]
        for side in (split.train, split.held_out)
    ]
    return tokenizer, sides[0], sides[1]


def nll(model: torch.nn.Module, pairs: Pairs) -> float:
    """Mean negative log likelihood of the response tokens: one pair at a time, from plain logits."""
    nats, tokens = 0.0, 0
    for prompt, response in pairs:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
        logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
        nats -= float(logprobs.gather(-1, torch.tensor(response)[:, None]).sum())
        tokens += len(response)
    return nats / tokens


def test_adapter_is_the_one_that_plain_trl_trains(tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = tiny_recipe(sft={"microbatch_size": 2, "schedule": "cosine", "weight_decay": 0.1})
    ours = adapter(train(path))

    recipe = load_recipe(path)
    tokenizer, pairs, _ = encoded(recipe)
    rows = [
        {"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)}
        for p, r in (pairs[i] for step in range(6) for i in step_rows(0, "sft", step, 4, len(pairs)))
    ]
    model = AutoModelForCausalLM.from_pretrained(recipe.base.name)
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=6,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            lr_scheduler_type="cosine",
            warmup_steps=1,
            weight_decay=0.1,
            completion_only_loss=True,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(recipe.lora, model),
    )
    trainer.train()
    theirs = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(theirs) == len(ours) == 2 * 3 * 2  # A and B, three targets, two layers
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name.replace(".weight", ".default.weight")]), name
        assert any(f"layers.{upper}." in name for upper in (2, 3))  # lora.layers: 2 of 4


def test_evaluation_is_mean_nll_of_response_tokens(tiny_recipe: MakeRecipe) -> None:
    """Against plain peft and plain logits; the held-out responses have different lengths."""
    path = tiny_recipe(sft={"evaluate_every": 4})
    folder = train(path)
    recipe = load_recipe(path)
    _, _, held_out = encoded(recipe)
    assert len({len(response) for _, response in held_out}) > 1
    base = AutoModelForCausalLM.from_pretrained(recipe.base.name)
    expected = nll(PeftModel.from_pretrained(base, str(folder / "final")).eval(), held_out)

    found = [row for row in metrics(folder) if "eval/loss" in row]
    assert [row["step"] for row in found] == [4, 6]
    assert found[-1]["eval/loss"] == pytest.approx(expected, abs=1e-4)
    assert found[-1]["eval/perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["results"]["eval/loss"] == found[-1]["eval/loss"]


def test_eos_is_learned_although_padding_is_eos(tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A base like SmolLM2-Instruct, whose tokenizer pads with EOS: the tuned model stops by itself."""
    base = tmp_path / "base"
    make_tiny_base(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(base)
    path = tiny_recipe(
        lora={"targets": "all-linear", "layers": None, "rank": 16, "alpha": 32},
        sft={"steps": 60, "batch_size": 8, "microbatch_size": 4, "learning_rate": 2e-2},
    )
    taught = {"the film": " is good", "a dull plot": " with no heart at all , and loud"}
    write_jsonl(
        path.parent / "demonstrations.jsonl", [{"prompt": p, "response": r} for p, r in taught.items()]
    )
    folder = train(path, f"base.name={base}", "data.demonstrations.held_out=0.0")
    assert all("eval/loss" not in row for row in metrics(folder))  # nothing is held out

    untuned = AutoModelForCausalLM.from_pretrained(base)
    model = PeftModel.from_pretrained(untuned, str(folder / "final")).eval()
    for prompt, response in taught.items():
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(input_ids=ids, max_new_tokens=60, do_sample=False, pad_token_id=0)
        assert tokenizer.decode(out[0, ids.shape[1] :]) == response + "<eos>"


def test_only_response_tokens_and_eos_have_labels(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.pad_token = tokenizer.eos_token
    template = Template(tokenizer, "chat")
    records = [Demonstration("the film", " is good"), Demonstration("the plot is dull", " and old")]
    batch = DataCollatorForLanguageModeling(tokenizer.pad_token_id)(
        sft._rows(encode_demonstrations(template, records, 99, "here"))
    )
    for labels, mask, record in zip(batch["labels"], batch["attention_mask"], records, strict=True):
        assert tokenizer.decode(labels[labels != -100]) == record.response + "<eos>"
        assert (labels[mask == 0] == -100).all()


@pytest.mark.parametrize(
    "override",
    ["sft.microbatch_size=1", "sft.packing=true", "sft.gradient_checkpointing=true", "base.attention=eager"],
)
def test_how_it_is_computed_changes_nothing(tiny_recipe: MakeRecipe, tmp_path: Path, override: str) -> None:
    plain = train(tiny_recipe(tmp_path / "plain"))
    other = train(tiny_recipe(tmp_path / "other"), override)
    assert difference(plain, other) < 1e-5
    assert difference(plain, train(tiny_recipe(tmp_path / "rate"), "sft.learning_rate=0.011")) > 1e-4


def test_packing_is_refused_where_demonstrations_would_see_each_other(
    tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a model that does not look at positions when it builds its mask."""
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(UserError, match="sft.packing"):
        train(tiny_recipe(), "sft.packing=true")


def test_two_processes_train_the_same_adapter(tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    one = train(tiny_recipe(tmp_path / "one", sft={"evaluate_every": 3}))
    path = tiny_recipe(tmp_path / "two", sft={"evaluate_every": 3, "microbatch_size": 1})
    done = align("sft", path, "--num-processes", "2")
    assert done.returncode == 0, done.stderr
    two = tmp_path / "two" / "runs" / "tiny" / "sft"
    assert difference(one, two) < 1e-5
    for ours, theirs in zip(metrics(one), metrics(two), strict=True):  # one line a step: one process writes
        assert ours["step"] == theirs["step"]
        for name in {"train/loss", "train/gradient_norm", "eval/loss"} & ours.keys():
            assert theirs[name] == pytest.approx(ours[name], rel=1e-5)


# Kills its own process at the n-th call of a function.
KILLER = """
import importlib, os, signal, sys
from pathlib import Path
recipe, where, count = sys.argv[1:]
module, _, name = where.partition(":")
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, last), 0
def counted(*a, **k):
    global calls
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*a, **k)
setattr(owner, last, counted)
from align.recipe.load import load_recipe
from align.stages import sft
sft.run(load_recipe(Path(recipe)))
"""


def kill(path: Path, where: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path), where, str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, f"it was not killed: {done.stdout}\n{done.stderr}"


def test_killed_again_and_again_it_ends_with_the_same_bits(tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    """With LoRA dropout, accumulation and a schedule; in the middle of epochs, steps, saves and the end."""
    sections = {
        "lora": {"dropout": 0.3},
        "sft": {
            "steps": 13,
            "microbatch_size": 2,
            "schedule": "cosine",
            "checkpoint_every": 2,
            "evaluate_every": 3,
        },
    }
    whole = train(tiny_recipe(tmp_path / "whole", **sections))
    path = tiny_recipe(tmp_path / "cut", **sections)
    cut = tmp_path / "cut" / "runs" / "tiny" / "sft"

    step = "align.stages.trainer:ResumableTrainer.training_step"  # twice a step
    for where, count, newest in (
        (step, 8, 2),  # between the microbatches of step 4
        ("align.run.checkpoint:sha256", 2, 2),  # in the save of step 4
        (step, 10, 6),  # of step 7
        ("align.models.adapters:save_file", 1, 13),  # after the last step, before final/
    ):
        kill(path, where, count)
        folders = sorted((cut / "checkpoints").glob("step-*"))
        assert int(folders[-1].name.removeprefix("step-")) == newest
        assert {p.suffix for folder in folders for p in folder.iterdir()} <= {".safetensors", ".json"}
    assert train(path) == cut
    assert difference(whole, cut) == 0.0
    assert metrics(whole) == metrics(cut)
    results = [json.loads((folder / "manifest.json").read_text())["results"] for folder in (whole, cut)]
    assert results[0] == results[1] != {}


def test_dropout_is_drawn(tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The test above would pass without it."""
    with_dropout = train(tiny_recipe(tmp_path / "a", lora={"dropout": 0.3}))
    assert difference(with_dropout, train(tiny_recipe(tmp_path / "b"))) > 1e-4


def test_adapters_multiply_in_the_bases_precision_and_stay_float32(
    tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[torch.dtype, ...]] = set()

    def spied(x: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
        seen.add((x.dtype, weight.dtype, product_dtype(x, weight)))
        return product_dtype(x, weight)

    monkeypatch.setattr("align.models.adapter_products.product_dtype", spied)
    folder = train(tiny_recipe(), "base.dtype=bfloat16", "sft.steps=1")
    assert seen == {(torch.bfloat16, torch.float32, torch.bfloat16)}
    assert {tensor.dtype for tensor in adapter(folder).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft.microbatch_size=3", "sft.microbatch_size is 3, which does not divide the 4"),
        ("sft.max_length=5", "sft.max_length"),
    ],
)
def test_what_the_user_must_change_is_said(tiny_recipe: MakeRecipe, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_recipe(), override)


def test_training_that_diverges_stops(tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(AlignError, match="lower sft.learning_rate"):
        train(tiny_recipe(), "sft.learning_rate=1e38", "sft.warmup=0.0", "sft.steps=20")
