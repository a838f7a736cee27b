"""The recipes for GPU nodes: each loads and runs two steps of all stages, on a tiny base and tiny data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_templates
import pytest
import yaml
from conftest import ROOT, TEXT, write_jsonl
from tiny_bases import make_base
from transformers import AutoTokenizer

from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.stages import rm, sft

NODES = ROOT / "recipes/nodes"
RECIPES = sorted(path.name for path in NODES.glob("*.yaml"))
SMALL = [  # sizes only: what is trained, and how, stays the recipe's
    *("sft.epochs=1", "sft.steps=2", "sft.batch_size=4", "sft.microbatch_size=2", "sft.max_length=240"),
    *("rm.steps=2", "rm.batch_size=4", "rm.max_length=240", "run.threads=1"),
    *("ppo.iterations=2", "ppo.rollout_batch_size=4", "ppo.minibatch_size=4", "ppo.max_prompt_tokens=220"),
    *("ppo.max_response_tokens=6", "ppo.evaluate_every=1", "data.prompts.held_out=0.2"),
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_for_nodes_trains(
    name: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_text(replaced((NODES / name).read_text(), tiny_base, tmp_path))
    recipe = load_recipe(path, [*SMALL, f"data.cache={tmp_path / 'cache'}"])
    for stage in (sft, rm, ppo):
        stage.run(recipe)
    rows = [json.loads(row) for row in (recipe.run.path / "ppo/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows][:2] == [1, 2]
    assert rows[0]["savings/lean"] == (0 if "pythia" in name else 1)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_for_nodes_says_what_it_is(name: str) -> None:
    text = (NODES / name).read_text()
    head = text[: text.index("\nbase:")]
    assert f"align run recipes/nodes/{name}" in head
    assert "# Settings" in head
    assert "# State" in head
    assert yaml.safe_load(text)["run"]["name"] == name.removesuffix(".yaml")


def replaced(recipe: str, tiny_base: Path, folder: Path) -> str:
    """The recipe with folders in place of what it names on the Hub, that look like it."""
    name = yaml.safe_load(recipe)["base"]
    kind, template = {
        "meta-llama": ("llama3", chat_templates.QWEN25),
        "Qwen": ("qwen3", chat_templates.QWEN3),
        "EleutherAI": ("gpt_neox", None),
    }[name.partition("/")[0]]
    base = make_base(kind, tiny_base, folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(base)
    recipe = recipe.replace(f"base: {name}", f"base: {base}")
    for hub_id, files in hub().items():
        for file, rows in files.items():
            target = folder / hub_id / file
            target.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(target, rows)
        recipe = recipe.replace(f"path: {hub_id},", f"path: {folder / hub_id},")
    return recipe


def hub() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Files of the data sets' names, columns and kinds of values; the rows are made up."""

    def told(i: int) -> dict[str, Any]:
        prompt, answer = f"say {i} {TEXT[i % 5]}", f"{TEXT[(i + 1) % 5]}"
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return {"prompt": prompt, "prompt_id": f"{i:064x}", "messages": messages, "category": "Open QA"}

    def compared(i: int) -> dict[str, Any]:
        return {
            "domain": "general",
            "language": "english",
            "context": [{"role": "user", "content": f"ask {i} {TEXT[i % 5]}"}],
            "response1": f"{TEXT[(i + 1) % 5]} {i}",
            "response2": f"{TEXT[(i + 2) % 5]} {i}",
            "overall_preference": i % 7 - 3,
            "individual_preference": [
                {"score": i % 7 - 3, "reasoning": "It is.", "feedback1": "a", "feedback2": "b"}
            ],
        }

    def post(i: int) -> str:
        return f"SUBREDDIT: r/{i}\n\nTITLE: {TEXT[i % 5]}\n\nPOST: {TEXT[(i + 3) % 5]}\n\nTL;DR:"

    def summed(i: int) -> dict[str, Any]:
        return {"prompt": post(i), "completion": f" {TEXT[(i + 1) % 5]}"}

    def preferred(i: int) -> dict[str, Any]:
        return {"prompt": post(i), "chosen": f" {TEXT[(i + 1) % 5]}", "rejected": f" {TEXT[(i + 2) % 5]} {i}"}

    many, few = range(40), range(40, 46)
    return {
        "HuggingFaceH4/no_robots": {
            "train.jsonl": [told(i) for i in many],
            "test.jsonl": [told(i) for i in few],
        },
        "nvidia/HelpSteer3": {
            "preference/train.jsonl": [compared(i) for i in many],
            "preference/validation.jsonl": [compared(i) for i in few],
            "edit/train.jsonl": [{"edited": "is another subset, which is not read"}],
        },
        "trl-lib/tldr": {
            "train.jsonl": [summed(i) for i in many],
            "validation.jsonl": [summed(i) for i in few],
        },
        "trl-lib/tldr-preference": {
            "train.jsonl": [preferred(i) for i in many],
            "validation.jsonl": [preferred(i) for i in few],
        },
    }
