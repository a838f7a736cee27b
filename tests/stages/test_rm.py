"""The reward model stage: it learns, comes back the same, and says when it does not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.data.load import load
from align.errors import AlignError, UserError
from align.models.adapters import read_score_std
from align.recipe.load import load_recipe
from align.records import Demonstration, Ranking
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


def test_a_head_that_starts_at_zero_starts_without_an_opinion(after_sft: Path) -> None:
    rm.run(load_recipe(after_sft, ["rm.head_std=0"]))
    metrics = [json.loads(line) for line in (after_sft.parent / "runs/tiny/rm/metrics.jsonl").open()]
    assert metrics[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert _results(after_sft)["eval/accuracy"] > 0.9


def _plain_scores(path: Path, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """Scores by transformers, peft and the head's weight alone."""
    final = path.parent / "runs" / "tiny" / "rm" / "final"
    tokenizer = AutoTokenizer.from_pretrained(final)
    base = AutoModelForCausalLM.from_pretrained(load_recipe(path).base.name)
    model = PeftModel.from_pretrained(base, str(final)).eval()
    head = load_file(final / "head.safetensors")
    assert head.keys() == {"weight"}  # no bias: a plain sequence-classification head has none
    scores = []
    for prompt, response in pairs:
        ids = [*tokenizer(prompt).input_ids, *tokenizer(response).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        scores.append(float(states[-1][0, -1] @ head["weight"]))
    return torch.tensor(scores, dtype=torch.float64)


def _evaluation(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path.parent / "runs/tiny/rm/evaluation.json").read_text())
    return found


def test_demonstrations_average_exactly_zero_and_their_spread_is_stored(after_sft: Path) -> None:
    recipe = load_recipe(after_sft)
    rm.run(recipe)
    assert recipe.data.demonstrations is not None
    records = load(Demonstration, recipe.data.demonstrations, "demonstrations").train
    scores = _plain_scores(after_sft, [(str(r.prompt), r.response) for r in records])
    assert abs(float(scores.mean())) < 1e-5
    stored = json.loads((after_sft.parent / "runs/tiny/rm/final/score.json").read_text())
    assert stored["std"] == pytest.approx(float(scores.std(unbiased=False)), rel=1e-4)
    assert stored["centred_on"] == "demonstrations" and stored["rows"] == len(records)
    assert read_score_std(after_sft.parent / "runs/tiny/rm/final") == stored["std"]
    results = _results(after_sft)
    assert results["score/std"] == stored["std"]
    assert abs(results["score/shift"]) > 0.01
    assert 0 < results["score/centring_error"] < 1


def test_without_demonstrations_the_best_ranked_responses_average_zero(after_sft: Path) -> None:
    recipe = json.loads(after_sft.read_text())
    del recipe["data"]["demonstrations"]
    after_sft.write_text(json.dumps(recipe))
    rm.run(load_recipe(after_sft))
    source = load_recipe(after_sft).data.rankings
    assert source is not None
    records = load(Ranking, source, "rankings").train
    best = [(str(r.prompt), r.responses[r.ranks.index(1)]) for r in records]
    scores = _plain_scores(after_sft, best)
    assert abs(float(scores.mean())) < 1e-5
    score = _evaluation(after_sft)["score"]
    assert score["std"] == pytest.approx(float(scores.std(unbiased=False)), rel=1e-4)
    assert score["centred_on"] == "best-ranked responses"


def test_the_evaluation_is_made_on_the_scores_that_are_saved(after_sft: Path) -> None:
    """Recount the held-out comparisons with plain peft's scores."""
    rm.run(load_recipe(after_sft))
    source = load_recipe(after_sft).data.rankings
    assert source is not None
    margins = []
    for record in load(Ranking, source, "rankings").held_out:
        scores = _plain_scores(after_sft, [(str(record.prompt), text) for text in record.responses])
        for i, better in enumerate(record.ranks):
            margins += [
                float(scores[i] - scores[j])
                for j, worse in enumerate(record.ranks)
                if better is not None and worse is not None and better < worse
            ]
    found = _evaluation(after_sft)
    assert found["comparisons"] == len(margins)
    assert found["accuracy"]["value"] == pytest.approx(sum(m > 0 for m in margins) / len(margins))
    losses = [math.log1p(math.exp(-m)) for m in margins]
    assert found["calibration"]["raw"]["log_loss"]["value"] == pytest.approx(
        sum(losses) / len(losses), rel=1e-3, abs=1e-6
    )
    results = _results(after_sft)
    assert results["eval/accuracy"] == found["accuracy"]["value"]
    assert results["eval/log_loss"] == found["calibration"]["raw"]["log_loss"]["value"]


def test_the_last_line_has_accuracy_beside_length_and_people(
    after_sft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = after_sft.parent / "rankings.jsonl"
    rows = [json.loads(line) for line in file.open()]
    file.write_text("".join(json.dumps(row | {"labeler": name}) + "\n" for row in rows for name in "ab"))
    rm.run(load_recipe(after_sft))
    found, line = _evaluation(after_sft), " ".join(capsys.readouterr().out.split())
    accuracy = found["accuracy"]
    assert f"on {accuracy['value']:.3f} (95% {accuracy['low']:.3f} to {accuracy['high']:.3f})" in line
    wins = "longer" if found["length_only"]["longer_wins"] else "shorter"
    assert f"“the {wins} one wins” would on {found['length_only']['value']:.3f}" in line
    assert found["people"]["agreement"]["value"] == 1.0  # b says what a says
    assert "people agree with each other on 1.000, and it with them on" in line


def test_what_is_saved_is_proved_without_a_second_base(
    after_sft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    load = rm.Setup.load_model
    monkeypatch.setattr(rm.Setup, "load_model", lambda self: (loaded.append(1), load(self))[1])
    rm.run(load_recipe(after_sft))
    assert len(loaded) == 1


def test_a_reward_model_that_comes_back_different_is_an_error(
    after_sft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(tensors: dict[str, torch.Tensor], path: Path, **options: object) -> None:
        save_file({k: v + 0.01 for k, v in tensors.items()}, path)

    monkeypatch.setattr("align.models.adapters.save_file", spoiled)
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


def test_demonstrations_that_are_too_long_are_told_before_training_or_left_out(after_sft: Path) -> None:
    """With one recipe sft has seen them; the sft adapter may come from another one."""
    recipe = json.loads(after_sft.read_text())
    recipe["sft"]["max_length"] = 2
    recipe["rm"]["sft"] = str(after_sft.parent / "runs" / "tiny")
    recipe["run"]["name"] = "second"
    after_sft.write_text(json.dumps(recipe))
    with pytest.raises(UserError, match=r"sft\.max_length"):
        rm.run(load_recipe(after_sft))
    assert not (after_sft.parent / "runs/second/rm/checkpoints").exists()
    recipe["data"]["demonstrations"]["on_bad_record"] = "skip"
    after_sft.write_text(json.dumps(recipe))
    with pytest.raises(UserError, match="no record is left"):
        rm.run(load_recipe(after_sft))
