"""The reward model stage: it learns, comes back the same, and says when it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.errors import AlignError, UserError
from align.recipe_file import load_recipe
from align.stages import rm, sft


@pytest.fixture
def after_sft(tiny_recipe: Callable[..., Path]) -> Path:
    path = tiny_recipe(rm={"steps": 40, "evaluate_every": 20, "checkpoint_every": 20})
    sft.run(load_recipe(path))
    return path


def _results(path: Path) -> dict[str, float]:
    manifest = json.loads((path.parent / "runs" / "tiny" / "rm" / "manifest.json").read_text())
    results: dict[str, float] = manifest["results"]
    return results


def test_it_learns_what_the_rankings_say(after_sft: Path) -> None:
    """ " good…" is best and " dull" or " loud" last everywhere: held-out prompts must be ordered so."""
    rm.run(load_recipe(after_sft))
    assert _results(after_sft)["eval/accuracy"] > 0.9
    metrics = [json.loads(line) for line in (after_sft.parent / "runs/tiny/rm/metrics.jsonl").open()]
    assert [row["step"] for row in metrics if "eval/accuracy" in row] == [20, 40]
    assert metrics[0]["train/loss"] == pytest.approx(0.69, abs=0.35)  # about ln 2: it knows nothing yet


def test_plain_peft_gives_its_scores_and_demonstrations_average_zero(after_sft: Path) -> None:
    recipe = load_recipe(after_sft)
    rm.run(recipe)
    final = after_sft.parent / "runs" / "tiny" / "rm" / "final"
    tokenizer = AutoTokenizer.from_pretrained(final)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(recipe.base.name), str(final)
    ).eval()
    head = load_file(final / "head.safetensors")
    from align.data.load import load
    from align.records import Demonstration

    assert recipe.data.demonstrations is not None
    scores = []
    for record in load(Demonstration, recipe.data.demonstrations, "demonstrations").train:
        ids = tokenizer(record.prompt + record.response, return_tensors="pt").input_ids
        ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        with torch.no_grad():
            last = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        scores.append(float(last @ head["weight"] + head["bias"]))
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-2)  # tokenised whole, so not to the digit


def test_a_reward_model_that_comes_back_different_is_an_error(
    after_sft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(tensors: dict[str, torch.Tensor], path: Path, **options: object) -> None:
        save_file({k: v + 0.01 for k, v in tensors.items()}, path)

    monkeypatch.setattr("align.models.export.save_file", spoiled)
    with pytest.raises(AlignError, match="does not score as the trained one"):
        rm.run(load_recipe(after_sft))
    run = after_sft.parent / "runs" / "tiny" / "rm"
    assert not (run / "final").exists()
    assert list((run / "checkpoints").iterdir())
    monkeypatch.undo()
    rm.run(load_recipe(after_sft))  # goes on from the last checkpoint
    assert (run / "final").is_dir()


def test_rankings_that_decide_nothing_are_refused(after_sft: Path) -> None:
    rows = [{"prompt": f"p{i}", "responses": [" a", " b"], "ranks": [1, 1]} for i in range(40)]
    (after_sft.parent / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="tied"):
        rm.run(load_recipe(after_sft))
