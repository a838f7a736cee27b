"""The dpo stage: TRL's loss from the SFT policy, its reference frozen, and the same bits after a kill."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, make_recipe
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from align.data.load import load
from align.data.tokenize import encode_rankings
from align.errors import MissingStage, UserError
from align.models.base import find_base
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe
from align.records import Ranking
from align.stages import dpo, sft
from align.stages.dpo import PairIds, pairs_of_ranks
from align.stages.ranking_rows import EncodedRows

DPO = {"steps": 5, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 2, "evaluate_every": 2}
KILLER = """
import os, signal, sys
from align.stages.trainer import ResumableTrainer
original, calls = ResumableTrainer.training_step, 0
def wrapped(*a, **k):
    global calls
    calls += 1
    if calls == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*a, **k)
ResumableTrainer.training_step = wrapped
sys.argv = ["align", "dpo", sys.argv[1]]
from align.cli.app import main
main()
"""


@pytest.fixture(scope="module")
def started(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe whose sft has finished."""
    folder = tmp_path_factory.mktemp("dpo")
    recipe = make_recipe(folder, tiny_base, lora={"dropout": 0.1}, dpo={**DPO, "microbatch_size": 2})
    sft.run(load_recipe(recipe))
    return folder


@pytest.fixture(scope="module")
def trained(started: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a finished dpo."""
    path = copied(started, tmp_path_factory.mktemp("trained"))
    dpo.run(load_recipe(path))
    return path


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target, dirs_exist_ok=True)
    path = target / "recipe.yaml"
    path.write_text(path.read_text().replace(str(folder), str(target)))
    return path


def metrics(path: Path) -> list[dict[str, float]]:
    lines = (path.parent / "runs/tiny/dpo/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def adapter(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path.parent / "runs/tiny/dpo/final/adapter_model.safetensors")


def held_out(recipe: Recipe) -> list[PairIds]:
    """Each two responses of which people put the first above the second: rank 1 is the best."""
    assert recipe.data.rankings is not None
    found = load(Ranking, recipe.data.rankings, "rankings", recipe.data.cache_folder).held_out
    template = find_base(recipe.base).template(recipe.data)
    return [
        PairIds(row.encoded.prompt, better, worse)
        for row in EncodedRows(encode_rankings(template, found, 256, "held out"))
        for high, better in zip(row.ranks, row.encoded.responses, strict=True)
        for low, worse in zip(row.ranks, row.encoded.responses, strict=True)
        if high < low
    ]


def log_likelihoods(recipe: Recipe, stage: str, pairs: list[PairIds]) -> list[tuple[float, float]]:
    """By transformers and PEFT alone: of each pair's responses, log p in nats."""
    base = AutoModelForCausalLM.from_pretrained(recipe.base.name)
    model = PeftModel.from_pretrained(base, recipe.run.path / stage / "final").eval()

    def one(prompt: list[int], response: list[int]) -> float:
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0].double().log_softmax(-1)
        return sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(response))

    return [(one(p.prompt, p.chosen), one(p.prompt, p.rejected)) for p in pairs]


def test_the_loss_is_that_of_the_paper_with_the_sft_policy_as_reference(trained: Path) -> None:
    recipe = load_recipe(trained)
    rows = metrics(trained)
    first = next(row for row in rows if "train/loss" in row)
    assert first["train/loss"] == pytest.approx(math.log(2), abs=1e-6)  # policy and reference are one
    pairs = held_out(recipe)
    policy, reference = (log_likelihoods(recipe, stage, pairs) for stage in ("dpo", "sft"))
    margins = [
        recipe.dpo.beta * ((p[0] - r[0]) - (p[1] - r[1])) for p, r in zip(policy, reference, strict=True)
    ]
    loss = sum(math.log1p(math.exp(-m)) for m in margins) / len(margins)
    last = [row for row in rows if "eval/loss" in row][-1]
    assert len(pairs) > 4 and loss < math.log(2) - 0.01
    assert last["eval/loss"] == pytest.approx(loss, abs=1e-5)
    assert last["eval/accuracy"] == pytest.approx(sum(m > 0 for m in margins) / len(margins))


def test_a_kill_between_checkpoints_changes_no_bit(started: Path, trained: Path, tmp_path: Path) -> None:
    path = copied(started, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert [p.name for p in (tmp_path / "runs/tiny/dpo/checkpoints").glob("step-*")]
    dpo.run(load_recipe(path))
    ours, theirs = adapter(path), adapter(trained)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    deterministic = ("train/loss", "eval/loss", "perf/flops", "train/margin")
    assert [{k: row.get(k) for k in deterministic} for row in metrics(path)] == [
        {k: row.get(k) for k in deterministic} for row in metrics(trained)
    ]


def test_microbatches_change_rounding_alone(started: Path, trained: Path, tmp_path: Path) -> None:
    path = copied(started, tmp_path)
    dpo.run(load_recipe(path, ["dpo.microbatch_size=4"]))
    ours, theirs = adapter(path), adapter(trained)
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-4) for name in ours)
    assert sum(row.get("perf/flops", 0) for row in metrics(path)) == sum(
        row.get("perf/flops", 0) for row in metrics(trained)
    )


@pytest.mark.parametrize(
    ("ranks", "which", "pairs"),
    [
        ((1, 2, 2, 3), "all", {(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)}),
        ((1, 2, 2, 3), "best", {(0, 1), (0, 2), (0, 3)}),
        ((1, 1, 2), "best", {(0, 2), (1, 2)}),
        ((2, None, 1), "all", {(2, 0)}),
        ((1, 1), "all", set()),
        ((None, 3, None), "best", set()),
    ],
)
def test_a_ranking_gives_pairs_and_ties_give_none(
    ranks: Any, which: Any, pairs: set[tuple[int, int]]
) -> None:
    found = pairs_of_ranks(ranks, which)
    assert set(found) == pairs and len(found) == len(pairs)


def test_what_dpo_cannot_do_is_told(started: Path, tiny_base: Path, tmp_path: Path) -> None:
    path = copied(started, tmp_path / "a")
    with pytest.raises(UserError, match="dpo.microbatch_size is 3, which does not divide the 4 pairs"):
        dpo.run(load_recipe(path, ["dpo.microbatch_size=3"]))
    with pytest.raises(UserError, match="names no data.rankings"):
        dpo.run(load_recipe(path, ["data.rankings=null"]))
    with pytest.raises(MissingStage, match="sft has not run"):
        dpo.run(load_recipe(make_recipe(tmp_path / "b", tiny_base, dpo=DPO)))
    tied = tmp_path / "a" / "rankings.jsonl"
    tied.write_text(json.dumps({"prompt": "a", "responses": [" b", " c"], "ranks": [1, 1]}) + "\n")
    with pytest.raises(UserError, match="no ranking puts one response before another"):
        dpo.run(load_recipe(path, ["data.rankings.held_out=0"]))
