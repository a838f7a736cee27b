"""rm.length_debias: what length adds is taken off, wherever the reward is read, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import align
from safetensors.torch import load_file

from align.data.tokenize import Encoded
from align.errors import UserError
from align.evaluation.length_bias import average_ranks, length_report, shown
from align.evaluation.reward import ScoredRanking
from align.models.scoring import ranking_scores, score_pairs
from align.objectives.bradley_terry import batch_loss
from align.objectives.length_bias import cosine_size, disentangled, piecewise
from align.ppo.roles import prepare
from align.recipe.load import load_recipe
from align.serving.run import open_run, reward_model
from align.stages import rm, sft
from align.stages.frame import set_up
from align.stages.length_debias import LENGTH, odin_gradients
from align.stages.members import trained
from align.stages.ranking_rows import RankingRow


@pytest.fixture(scope="module")
def after_sft(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rankings whose longer response is mostly the better one, and a word that always tells."""
    from conftest import make_recipe, write_jsonl

    folder = tmp_path_factory.mktemp("lengths")
    path = make_recipe(folder, tiny_base, rm={"steps": 40, "batch_size": 8, "checkpoint_every": 20})
    random, rows = np.random.default_rng(0), []
    fillers = [" film", " story", " music", " plot", " family"]
    for i in range(96):
        good = int(random.integers(5, 9)) if i % 4 else int(random.integers(1, 3))
        lengths = [good, int(random.integers(3, 6)), int(random.integers(1, 5))]
        words = [" bright", " old", " dull"]
        responses = [w + "".join(random.choice(fillers, n)) for w, n in zip(words, lengths, strict=True)]
        rows.append({"prompt": f"the film {i} is", "responses": responses, "ranks": [1, 2, 3]})
    write_jsonl(folder / "rankings.jsonl", rows)
    sft.run(load_recipe(path))
    return path


def trained_with(after_sft: Path, tmp_path: Path, *fields: str) -> tuple[Path, list[str]]:
    """The finished rm of a folder of its own, and what chooses it."""
    chosen = [f"run.folder={tmp_path}", f"rm.sft={after_sft.parent / 'runs' / 'tiny'}", *fields]
    rm.run(load_recipe(after_sft, chosen))
    return tmp_path / "tiny", chosen


def evaluation(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "rm" / "evaluation.json").read_text())
    return found


PAIRS = [([5, 6, 7], [8] * 3 + [1]), ([5, 6], [9] * 7 + [1]), ([7], [10, 11, 1])]


@pytest.mark.parametrize("kind", ["linear", "lowess"])
def test_a_curve_is_taken_off_wherever_the_reward_is_read(after_sft: Path, tmp_path: Path, kind: str) -> None:
    plain, _ = trained_with(after_sft, tmp_path / "plain")
    run, chosen = trained_with(after_sft, tmp_path / kind, f"rm.length_debias={kind}")
    heads = [load_file(folder / "rm/final/head.safetensors") for folder in (plain, run)]
    assert list(heads[0]) == ["weight"] and torch.equal(heads[0]["weight"], heads[1]["weight"])
    assert (plain / "rm/final/adapter_model.safetensors").read_bytes() == (
        run / "rm/final/adapter_model.safetensors"
    ).read_bytes()
    places, curve = heads[1]["length_places"], heads[1]["length_curve"]
    assert curve.max() - curve.min() > 0.1
    raw, debiased = (
        score_pairs(reward_model(open_run(folder, "rm")), "reward", PAIRS, 512) for folder in (plain, run)
    )
    expected = raw - piecewise(torch.tensor([4, 8, 3]), places, curve)
    torch.testing.assert_close(debiased, expected.float(), rtol=1e-5, atol=1e-5)

    found = evaluation(run)
    length, before = found["length_bias"]["scores"], found["length_bias"]["raw"]
    for name, value in evaluation(plain)["length_bias"]["scores"].items():
        assert before[name] == (value if isinstance(value, dict) else pytest.approx(value, abs=1e-6))
    assert abs(length["pearson"]) < abs(before["pearson"]) - 0.1
    assert abs(found["score"]["mean"]) < 1e-5 and found["score"]["std"] > 0
    results = json.loads((run / "rm/manifest.json").read_text())["results"]
    assert results["eval/length_pearson_raw"] == pytest.approx(before["pearson"])

    context = prepare(
        load_recipe(after_sft, chosen),
        set_up(load_recipe(after_sft, chosen)),
        after_sft.parent / "runs/tiny/sft/final",
        run / "rm/final",
    )
    torch.testing.assert_close(score_pairs(context.forward, "reward", PAIRS, 512), debiased)
    assert context.forward.roles.heads["value"].length_curve is None


def test_a_sequence_classifier_cannot_have_the_curve(after_sft: Path, tmp_path: Path) -> None:
    run, _ = trained_with(after_sft, tmp_path, "rm.length_debias=linear")
    done = align("export", run, "--to", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "length_debias" in done.stderr and "Traceback" not in done.stderr


def test_odin_keeps_length_out_of_the_head_that_stays(after_sft: Path, tmp_path: Path) -> None:
    plain, _ = trained_with(after_sft, tmp_path / "plain")
    run, _ = trained_with(after_sft, tmp_path / "odin", "rm.length_debias=odin")
    without, found = (evaluation(folder)["length_bias"] for folder in (plain, run))
    assert without["scores"]["pearson"] > 0.4
    assert abs(found["scores"]["pearson"]) < without["scores"]["pearson"] - 0.2
    assert found["raw"]["pearson"] > found["scores"]["pearson"]
    assert list(load_file(run / "rm/final/head.safetensors")) == ["weight"]
    rows = [json.loads(line) for line in (run / "rm/metrics.jsonl").open()]
    assert abs(rows[39]["train/length_in_quality"]) < 0.5 < rows[39]["train/length_in_length"]
    assert rows[39]["train/heads_cosine"] < rows[0]["train/heads_cosine"] + 0.05


ROWS = [
    RankingRow(Encoded([5, 6], [[7, 8, 9, 1], [9, 1], [10, 11, 12, 13, 1]]), (1, 2, 3)),
    RankingRow(Encoded([5, 7, 8], [[9, 10, 1], [11, 12, 13, 14, 15, 16, 1]]), (2, 1), 0.0, 2.0),
]


def test_odins_gradients_are_those_of_the_whole_loss(after_sft: Path) -> None:
    found = {}
    fields = ["rm.length_debias=odin", "rm.length_coef=0.7", "rm.orthogonal_coef=0.3"]
    for tokens in (8, 512):  # parts of a ranking, and all in one pass
        recipe = load_recipe(after_sft, [*fields, f"rm.microbatch_tokens={tokens}"])
        setup, folder = set_up(recipe), after_sft.parent / "runs/tiny/sft/final"
        forward = rm._model(setup, folder, 0, recipe.rm, False)
        (sums,), _ = odin_gradients(forward, ROWS, recipe.rm, setup.accel)
        found[tokens] = {name: p.grad.clone() for name, p in trained(forward.roles).items()}
    for p in trained(forward.roles).values():
        p.grad = None
    encoded = [row.encoded for row in ROWS]
    quality, length = ([*ranking_scores(forward, role, encoded)] for role in ("reward", LENGTH))
    total = [q + n for q, n in zip(quality, length, strict=True)]
    loss = batch_loss(total, [r.ranks for r in ROWS], weights=[r.weight for r in ROWS])
    tokens_of = torch.tensor([4, 2, 5, 3, 7])
    loss = loss + disentangled(torch.cat(quality), torch.cat(length), tokens_of, 0.7)
    heads = forward.roles.heads
    whole = loss + 0.3 * cosine_size(heads["reward"].weight, heads[LENGTH].weight)
    whole.backward()
    assert float(sums[0]) == pytest.approx(loss.item(), abs=1e-6)
    for name, p in trained(forward.roles).items():
        assert p.grad is not None
        for grads in found.values():
            torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-6)
    assert sums[2] == 4


def test_odin_goes_on_with_the_same_bits(
    after_sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = ["rm.length_debias=odin", "rm.steps=6", "rm.checkpoint_every=2"]
    whole, _ = trained_with(after_sft, tmp_path / "whole", *fields)
    original, calls = rm.odin_gradients, []

    def dies(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rm, "odin_gradients", dies)
        with pytest.raises(KeyboardInterrupt):
            trained_with(after_sft, tmp_path / "again", *fields)
    again, _ = trained_with(after_sft, tmp_path / "again", *fields)
    for name in ("head.safetensors", "adapter_model.safetensors"):
        assert (whole / "rm/final" / name).read_bytes() == (again / "rm/final" / name).read_bytes()


def test_correlations_within_rankings_by_numpy() -> None:
    scored = [
        ScoredRanking("a", ("x", "y", "z"), (4, 10, 7), (1, 2, 3), (1.0, 5.0, 2.0)),
        ScoredRanking("b", ("x", "y"), (100, 90), (1, 2), (-50.0, -49.0)),
    ]
    scores = np.array([1 - 8 / 3, 5 - 8 / 3, 2 - 8 / 3, -0.5, 0.5])
    lengths = np.array([-3, 3, 0, 5, -5])
    found = length_report(scored, 0)
    assert found.pearson == pytest.approx(np.corrcoef(scores, lengths)[0, 1])
    ranks = np.corrcoef([-1, 1, 0, -0.5, 0.5], [-1, 1, 0, 0.5, -0.5])[0, 1]
    assert found.spearman == pytest.approx(ranks)
    assert found.matched.count == 1 and found.matched.value == 0.0  # 100 and 90 are alike
    assert average_ranks(torch.tensor([2.0, 1.0, 2.0, 5.0])).tolist() == [2.5, 1, 2.5, 4]


def test_answers_of_one_length_are_said_to_be_so() -> None:
    alike = length_report([ScoredRanking("a", ("x", "y"), (7, 7), (1, 2), (1.0, 2.0))], 0)
    assert "nan" not in shown(alike, None) and "all the same" in shown(alike, None)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("length_debias=lenght", "length_debias"),
        ("length_coef=2.0", "length_coef does nothing with length_debias: none"),
        ("orthogonal_coef=-1", "orthogonal_coef"),
    ],
)
def test_wrong_fields_are_refused(tiny_recipe: Callable[..., Path], field: str, message: str) -> None:
    with pytest.raises(UserError, match="rm") as caught:
        load_recipe(tiny_recipe(), [f"rm.{field}"])
    assert message in str(caught.value)
