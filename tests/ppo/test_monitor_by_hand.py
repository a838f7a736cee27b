"""What PPO watches, by hand, without a model: the engine's gap, the best iteration, samples."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from align.ppo import monitor
from align.ppo.roles import Watched
from align.recipe.ppo import PPO
from align.sampling.params import Draws, Sampled, SamplingParams

NAN = math.nan


def context(**fields: Any) -> Any:
    return SimpleNamespace(
        cfg=PPO(**fields),
        seed=7,
        watched=Watched(),
        trained=("policy", "value"),
        accel=SimpleNamespace(num_processes=1, process_index=0),
    )


def stage(folder: Path) -> Any:
    said: list[str] = []
    appended: list[Any] = []
    return SimpleNamespace(
        checkpoints=folder,
        main=True,
        identity={},
        said=said,
        say=said.append,
        appended=appended,
        samples=SimpleNamespace(append=lambda step, row: appended.append((step, row))),
        metrics=SimpleNamespace(append=lambda step, row: appended.append((step, row))),
        console=Console(quiet=True, force_terminal=False),
        shown=(shown := []),
        show=lambda step, rows: shown.append((step, list(rows))),
    )


def rollout() -> Any:
    return SimpleNamespace(
        response_mask=torch.tensor([[True, True, True], [True, False, False]]),
        old_logprobs=torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 0.0, 0.0]]),
        ref_logprobs=torch.tensor([[-2.0, -1.5, -1.0], [-0.25, 0.0, 0.0]]),
        engine_logprobs=torch.tensor([[-1.2, -0.8, -1.0], [-2.0, 0.0, 0.0]]),
        disagreement=None,
    )


def test_the_engines_gap_and_weights_by_hand(tmp_path: Path) -> None:
    """Apart by 0.2, 0.2, 0 and 1 nats; weights e^0.2, e^-0.2, 1 and e, which is cut to 1.5."""
    here = stage(tmp_path)
    found = monitor.engine_metrics(context(importance_cap=1.5), here, rollout())
    weights = math.exp(0.2) + math.exp(-0.2) + 1 + 1.5
    by_hand = {"engine/logprob_gap": 1.4 / 4, "engine/weight": weights / 4, "engine/capped": 0.25}
    assert found == pytest.approx(by_hand)
    assert len(here.said) == 1 and "importance_cap: 2" not in here.said[0]
    plain = stage(tmp_path)
    assert monitor.engine_metrics(context(), plain, rollout()).keys() == {"engine/logprob_gap"}
    assert len(plain.said) == 1 and "importance_cap: 2 corrects" in plain.said[0]


def test_a_policy_that_never_ends_is_told_once(tmp_path: Path) -> None:
    given, here = context(max_response_tokens=8), stage(tmp_path)
    for iteration, share in enumerate((0.125, 0.0, 0.0), start=1):
        monitor.warn(given, here, iteration, {"response/eos": share, "reward/score": 1.0})
    (said,) = here.said
    assert "no response of iteration 2 ended within ppo.max_response_tokens (8)" in said


def test_the_best_is_the_first_highest_of_the_guard_with_a_whole_policy(tmp_path: Path) -> None:
    given, here = context(keep="best", evaluate_every=1, iterations=9), stage(tmp_path)
    here.main = False
    seen = []
    for iteration, (score, guard, kl) in enumerate(
        [(5, 1, 1), (4, 1, 1), (9, 0.5, 1), (3, 7, NAN), (2, 2, 1)], start=1
    ):
        results = {"eval/score": score, "guard/eval_score": guard, "eval/kl": kl}
        monitor.consider(given, here, iteration, results)
        seen.append(given.watched.best)
    assert seen == [(1, 1), (1, 1), (1, 1), (1, 1), (5, 2)]
    monitor.consider(given, here, 6, {"eval/score": 3, "eval/kl": 1})
    assert given.watched.best == (6, 3)


def test_what_is_final_is_what_results_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy and value of iteration 2 come back and answer again; the last one's answers go to metrics."""
    given, here = context(keep="best", evaluate_every=1, iterations=4), stage(tmp_path)
    given.watched.best = (2, 3.0)
    own = {role: {"w": torch.nn.Parameter(torch.zeros(2))} for role in ("policy", "value")}
    given.forward = SimpleNamespace(roles=SimpleNamespace(parameters_of=own.get))
    saved = {role: {"w": torch.full((2,), x)} for role, x in (("policy", 1.0), ("value", 2.0))}
    found = SimpleNamespace(tensors=saved.get, path=tmp_path)
    monkeypatch.setattr(monitor.checkpoint, "at", lambda folder, step, of: found if step == 2 else None)
    monkeypatch.setattr(monitor, "summary", lambda answers: {"eval/score": answers[0], "eval/kl": 0.0})
    answers = SimpleNamespace(answered=lambda: [1.0 + 2 * own["policy"]["w"][0].item()])

    def refused() -> dict[str, float]:
        return {"eval/refusals": own["policy"]["w"][0].item() / 10}

    answered, results = monitor.outcome(given, here, answers, refused)  # type: ignore[arg-type]
    assert [own[role]["w"].tolist() for role in own] == [[1, 1], [2, 2]]
    assert answered == [3.0]
    assert results == {"eval/score": 3.0, "eval/kl": 0.0, "eval/refusals": 0.1, "eval/kept_iteration": 2}
    assert here.appended == [(4, {"eval/score": 1.0, "eval/kl": 0.0, "eval/refusals": 0.0})]


def test_only_the_best_is_kept(tmp_path: Path) -> None:
    given = context()
    for step in (1, 3, 5):
        (tmp_path / "best" / f"step-{step:06d}").mkdir(parents=True)
    monitor.prune_best(given, stage(tmp_path))
    assert len(list((tmp_path / "best").iterdir())) == 3
    given.watched.best = (3, 1.0)
    monitor.prune_best(given, stage(tmp_path))
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-000003"]


def test_samples_by_hand(tmp_path: Path) -> None:
    """Each row has its own score and KL; after every second iteration the reference's answer too."""
    given, here = context(samples_every=2, max_response_tokens=3), stage(tmp_path)
    tokenizer = SimpleNamespace(eos_token_id=1)
    template = SimpleNamespace(text=str, prompt_text=str)
    given.setup = SimpleNamespace(
        base=SimpleNamespace(tokenizer=tokenizer, pad_id=0, cache_bytes=lambda _: None), template=template
    )
    drawn: list[Any] = []

    def answer(prompts: list[list[int]], draws: Draws, params: SamplingParams, role: str) -> list[Sampled]:
        drawn.append((draws, params.max_tokens, role))
        return [Sampled(prompt, [*prompt, 99], []) for prompt in prompts]

    given.engine = SimpleNamespace(sample=answer)
    sampled = [Sampled([1], [2, 3, 4], []), Sampled([5], [6], [])]
    asked_of = rollout()
    asked_of.sampled, asked_of.scores = sampled, torch.tensor([0.5, -2.0])
    for iteration in (0, 1):
        monitor.write_samples(given, here, asked_of, iteration)
    plain = [
        {"prompt": "[1]", "response": "[2, 3, 4]", "score": 0.5, "kl": 1.5},
        {"prompt": "[5]", "response": "[6]", "score": -2.0, "kl": -0.75},
    ]
    asked = [{**plain[0], "reference": "[1, 99]"}, {**plain[1], "reference": "[5, 99]"}]
    assert here.appended == [(1, plain[0]), (1, plain[1]), (2, asked[0]), (2, asked[1])]
    assert here.shown == [(2, asked)] and len(here.said) == 2
    assert drawn == [(Draws(7, "ppo samples", 1, [0, 1]), 3, "reference")]
