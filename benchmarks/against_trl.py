"""A recipe's SFT and reward model beside TRL's own trainers.

    python benchmarks/against_trl.py sft|rm [--recipe FILE] [--seed N] [--set KEY=VALUE] [--side align|trl]

Same base, LoRA, token ids, seed and budget (SFT: the same number of demonstrations; reward model: the
same rankings, which TRL gets expanded into pairs), float32 on the CPU. Both sides are measured by the
same code on the same held-out records. Prints one line of JSON a side.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from align.data.load import load
from align.data.template import Template
from align.data.tokenize import Encodings, encode_demonstrations, encode_rankings
from align.models.base import find_base
from align.objectives.bradley_terry import pair_accuracy
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe
from align.records import Demonstration, Ranking
from align.seeds import step_rows
from align.stages import rm, sft
from align.stats.rankings import comparisons

ROOT = Path(__file__).resolve().parents[1]
_TRL_PAIRS = 4  # that go through TRL's model together: less padding and less memory than all of an update


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["sft", "rm"])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "quickstart.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--side", choices=["align", "trl"], help="only this one; without it: both")
    arguments = parser.parse_args()
    sides = [arguments.side] if arguments.side else ["align", "trl"]
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"run.folder={folder}", f"run.seed={arguments.seed}", *arguments.set]
        recipe = load_recipe(arguments.recipe, overrides)
        torch.set_num_threads(recipe.run.threads or torch.get_num_threads())
        for side in sides:
            _RUNS[arguments.stage, side](recipe, Path(folder))


def align_sft(recipe: Recipe, folder: Path) -> None:
    """Held-out nats a response token."""
    started = time.monotonic()
    sft.run(recipe)
    seconds = time.monotonic() - started
    _, held_out = _demonstrations(recipe)
    report("align sft", seconds=seconds, loss=_nats(recipe, recipe.run.path / "sft" / "final", held_out))


def trl_sft(recipe: Recipe, folder: Path) -> None:
    """The same after the same number of steps, in TRL's own order of the rows."""
    encoded, held_out = _demonstrations(recipe)
    rows = [
        {"input_ids": e.prompt + e.responses[0], "labels": [-100] * len(e.prompt) + e.responses[0]}
        for e in encoded
    ]
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=recipe.sft.steps or -1,
        per_device_train_batch_size=recipe.sft.batch_size,
        learning_rate=recipe.sft.learning_rate,
        lr_scheduler_type=recipe.sft.schedule,
        warmup_steps=math.ceil(recipe.sft.warmup * (recipe.sft.steps or 0)),
        max_grad_norm=recipe.sft.max_grad_norm,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        seed=recipe.run.seed,
        **_plain(),
    )
    model = find_base(recipe.base).load_model(torch.device("cpu"))
    started = time.monotonic()
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=find_base(recipe.base).tokenizer,
        peft_config=_lora(recipe, "CAUSAL_LM"),
    )
    trainer.train()
    seconds = time.monotonic() - started
    trainer.save_model(str(folder / "trl"))
    report("trl SFTTrainer", seconds=seconds, loss=_nats(recipe, folder / "trl", held_out))


def align_rm(recipe: Recipe, folder: Path) -> None:
    """Held-out pair accuracy after SFT and the reward model."""
    sft.run(recipe)
    started = time.monotonic()
    rm.run(recipe)
    seconds = time.monotonic() - started
    manifest = json.loads((recipe.run.path / "rm" / "manifest.json").read_text())
    report("align rm", seconds=seconds, accuracy=manifest["results"]["eval/accuracy"])


def trl_rm(recipe: Recipe, folder: Path) -> None:
    """Held-out pair accuracy from the same rankings, expanded into all their pairs."""
    assert recipe.data.rankings is not None and recipe.rm.steps is not None
    split = load(Ranking, recipe.data.rankings, "rankings")
    base = find_base(recipe.base)
    template = Template(base.tokenizer, recipe.data.template, base.positions)
    skip = recipe.data.rankings.on_bad_record == "skip"
    train, held_out = (
        encode_rankings(template, side, recipe.rm.max_length, "data.rankings", skip=skip)
        for side in (split.train, split.held_out)
    )
    wanted = step_rows(recipe.run.seed, "rm", 0, recipe.rm.steps * recipe.rm.batch_size, len(train))
    pairs = [
        {
            "chosen_ids": train[row].prompt + train[row].responses[i],
            "rejected_ids": train[row].prompt + train[row].responses[j],
        }
        for row in wanted
        for i, j in comparisons(train.records[row].ranks)
    ]
    batch = _TRL_PAIRS * math.ceil(len(pairs) / recipe.rm.steps / _TRL_PAIRS)  # so many pairs an update
    model = AutoModelForSequenceClassification.from_pretrained(base.folder, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = base.tokenizer.pad_token_id
    arguments = RewardConfig(
        output_dir=str(folder / "trl"),
        num_train_epochs=1,
        per_device_train_batch_size=_TRL_PAIRS,
        gradient_accumulation_steps=round(batch / _TRL_PAIRS),
        learning_rate=recipe.rm.learning_rate,
        lr_scheduler_type=recipe.rm.schedule,
        warmup_steps=math.ceil(recipe.rm.warmup * recipe.rm.steps),
        max_grad_norm=recipe.rm.max_grad_norm,
        max_length=None,
        seed=recipe.run.seed,
        **_plain(),
    )
    started = time.monotonic()
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(pairs),
        processing_class=base.tokenizer,
        peft_config=_lora(recipe, "SEQ_CLS"),
    )
    trainer.train()
    seconds = time.monotonic() - started
    trainer.model.eval()
    correct = total = 0.0
    for ranking, record in zip(held_out, held_out.records, strict=True):
        rows = [torch.tensor([ranking.prompt + response]) for response in ranking.responses]
        with torch.no_grad():
            scores = torch.cat([trainer.model(input_ids=row).logits[:, 0] for row in rows])
        right, pairs_of_one = pair_accuracy(scores, record.ranks)
        correct, total = correct + right, total + pairs_of_one
    report("trl RewardTrainer", seconds=seconds, accuracy=correct / total, pairs=len(pairs), batch=batch)


def report(side: str, **figures: float) -> None:
    print(
        json.dumps({"side": side, **{name: round(value, 4) for name, value in figures.items()}}), flush=True
    )


def _plain() -> dict[str, Any]:
    """TRL's defaults that would make it slower or noisier on a CPU, switched off."""
    return {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _lora(recipe: Recipe, task: str) -> LoraConfig:
    layers = find_base(recipe.base).load_model(torch.device("cpu")).config.num_hidden_layers
    adapted = None if recipe.lora.layers is None else list(range(layers - recipe.lora.layers, layers))
    return LoraConfig(
        task_type=task,
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        target_modules=recipe.lora.targets,
        layers_to_transform=adapted,
    )


def _demonstrations(recipe: Recipe) -> list[Encodings[Any]]:
    """The encoded demonstrations that train, and those that are held out."""
    source = recipe.data.demonstrations
    assert source is not None
    split = load(Demonstration, source, "demonstrations")
    base = find_base(recipe.base)
    template = Template(base.tokenizer, recipe.data.template, base.positions)
    skip = source.on_bad_record == "skip"
    return [
        encode_demonstrations(template, side, recipe.sft.max_length, "data.demonstrations", skip=skip)
        for side in (split.train, split.held_out)
    ]


def _nats(recipe: Recipe, adapter: Path, held_out: Encodings[Any]) -> float:
    """Mean negative log likelihood of a held-out response token, by plain transformers and peft."""
    base = AutoModelForCausalLM.from_pretrained(find_base(recipe.base).folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for e in held_out:
            ids = torch.tensor([e.prompt + e.responses[0]])
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            taken = logprobs.gather(-1, ids[0, 1:, None])[len(e.prompt) - 1 :]
            nats, tokens = nats - float(taken.sum()), tokens + len(taken)
    return nats / tokens


_RUNS = {
    ("sft", "align"): align_sft,
    ("sft", "trl"): trl_sft,
    ("rm", "align"): align_rm,
    ("rm", "trl"): trl_rm,
}


if __name__ == "__main__":
    main()
