"""What PPO tells of itself, and what it does about it: guard, best iteration, the engine's gap, samples."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import align, make_recipe
from rich.console import Console
from safetensors.torch import load_file

from align.errors import AlignError
from align.evaluation.policy import Answered, summary
from align.ppo import monitor
from align.ppo import train as ppo
from align.ppo.roles import Context, prepare
from align.recipe.load import load_recipe
from align.run.clock import Clock
from align.run.folder import StageRun, open_stage
from align.stages import rm, sft
from align.stages.frame import set_up


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A recipe whose sft and rm have finished, and a second reward model in runs/guard."""
    path = make_recipe(tmp_path_factory.mktemp("watching"), tiny_base, rm={"steps": 20})
    recipe = load_recipe(path)
    sft.run(recipe)
    rm.run(recipe)
    second = ["run.name=guard", f"rm.sft={recipe.run.path}", "run.seed=1"]
    rm.run(load_recipe(path, second))
    return path


def settings(parents: Path, name: str, **ppo_fields: Any) -> list[str]:
    runs = parents.parent / "runs"
    fields = {"sft": runs / "tiny", "rm": runs / "tiny", **ppo_fields}
    return [f"run.name={name}", *(f"ppo.{key}={value}" for key, value in fields.items())]


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_guard_watches_and_changes_nothing(parents: Path) -> None:
    runs = parents.parent / "runs"
    ppo.run(load_recipe(parents, settings(parents, "without")))
    ppo.run(load_recipe(parents, settings(parents, "with", guard=runs / "guard")))
    for file in ("adapter_model.safetensors", "value/adapter_model.safetensors"):
        final = [runs / name / "ppo" / "final" / file for name in ("with", "without")]
        assert final[0].read_bytes() == final[1].read_bytes()
    with_guard = rows(runs / "with" / "ppo")
    assert all(math.isfinite(row["guard/score"]) for row in with_guard[:-1])
    assert not any(key.startswith("guard/") for row in rows(runs / "without" / "ppo") for key in row)
    last, answers = with_guard[-1], rows(runs / "with" / "ppo", "held_out.jsonl")
    mean = sum(row["policy_guard"] for row in answers) / len(answers)
    assert last["guard/eval_score"] == pytest.approx(mean)
    assert abs(last["guard/eval_score"] - last["eval/score"]) > 1e-6  # another model's opinion
    title = "Reward and guard over the root of the KL"
    assert title in (runs / "with" / "report.html").read_text()
    assert title not in (runs / "without" / "report.html").read_text()
    manifest = json.loads((runs / "with" / "ppo" / "manifest.json").read_text())
    theirs = json.loads((runs / "guard" / "rm" / "manifest.json").read_text())["final"]
    (guard,) = (parent for parent in manifest["parents"] if parent["kind"] == "guard")
    assert guard["head"] == theirs["head.safetensors"]


def test_a_guard_that_is_the_reward_model_gives_its_scores(parents: Path) -> None:
    runs = parents.parent / "runs"
    ppo.run(load_recipe(parents, settings(parents, "same", guard=runs / "tiny", iterations=2)))
    *iterations, last = rows(runs / "same" / "ppo")
    for row in iterations:
        assert row["guard/score"] == pytest.approx(row["reward/score"], abs=1e-5)
    assert last["guard/eval_score"] == pytest.approx(last["eval/score"], abs=1e-5)


def test_a_guard_of_another_base_is_refused(parents: Path, tmp_path: Path) -> None:
    runs = parents.parent / "runs"
    shutil.copytree(runs / "guard", tmp_path / "foreign")
    manifest = tmp_path / "foreign" / "rm" / "manifest.json"
    document = json.loads(manifest.read_text())
    document["base"] = "another"
    manifest.write_text(json.dumps(document))
    done = align(
        "ppo", parents, *[f"--set={s}" for s in settings(parents, "foreign", guard=tmp_path / "foreign")]
    )
    assert done.returncode == 2
    assert "was trained with another base" in done.stderr


def make_context(parents: Path, name: str, **fields: Any) -> tuple[Any, Context]:
    recipe = load_recipe(parents, settings(parents, name, **fields))
    setup = set_up(recipe)
    final = parents.parent / "runs" / "tiny"
    return recipe, prepare(recipe, setup, final / "sft" / "final", final / "rm" / "final")


def whole_iteration(recipe: Any, context: Context) -> ppo.Iteration:
    with open_stage(recipe, "ppo", context.accel, lineage={}, data={}, restart=False) as stage:
        return ppo.iterate(context, stage, [[5, 6, 7], [8, 9]], 0)


def iterate(recipe: Any, context: Context) -> dict[str, float]:
    return whole_iteration(recipe, context).metrics


def test_it_warns_once_when_the_guard_falls_and_the_reward_rises(parents: Path) -> None:
    recipe, context = make_context(parents, "warn")
    said: list[str] = []
    with open_stage(recipe, "ppo", context.accel, lineage={}, data={}, restart=False) as stage:
        stage.say = said.append  # type: ignore[method-assign]
        for i in range(40):
            monitor.warn(context, stage, i + 1, {"reward/score": i, "guard/score": -abs(i - 15)})
    assert len(said) == 1 and "exploit the reward" in said[0]
    fired = int(said[0].split("iteration ")[1].split()[0])
    assert 20 < fired < 40
    assert context.watched.warned == ["guard"] and len(context.watched.guard) == 40


# The engine


def disagree(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """Let the engine report log probabilities that are lower by this much."""
    original = ppo.score_rollout

    def wrong(*arguments: Any, **options: Any) -> Any:
        rollout = original(*arguments, **options)
        return replace(rollout, engine_logprobs=(rollout.old_logprobs - by) * rollout.response_mask)

    monkeypatch.setattr(ppo, "score_rollout", wrong)


def test_an_engine_far_off_stops_the_stage_before_the_update(
    parents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disagree(monkeypatch, 0.6)
    recipe, context = make_context(parents, "stop")
    before = {n: p.detach().clone() for n, p in context.forward.roles.named_parameters()}
    with pytest.raises(AlignError, match=r"0\.6 nats a token .*ppo\.engine_gap_stop \(0\.5\)"):
        iterate(recipe, context)
    assert all(torch.equal(p, before[n]) for n, p in context.forward.roles.named_parameters())


def test_an_engine_a_little_off_warns_once(parents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disagree(monkeypatch, 0.2)
    said: list[str] = []
    monkeypatch.setattr(StageRun, "say", lambda self, text: said.append(text))
    recipe, context = make_context(parents, "gap")
    for _ in range(2):
        assert iterate(recipe, context)["engine/logprob_gap"] == pytest.approx(0.2, abs=1e-4)
    assert len([text for text in said if "disagree by 0.2" in text and "importance_cap" in text]) == 1


@pytest.mark.parametrize(("cap", "weight", "capped"), [(2.0, math.exp(0.2), 0.0), (1.1, 1.1, 1.0)])
def test_importance_weights_reach_the_policy_and_not_the_value(
    parents: Path, monkeypatch: pytest.MonkeyPatch, cap: float, weight: float, capped: float
) -> None:
    disagree(monkeypatch, 0.2)
    plain = whole_iteration(*make_context(parents, f"plain-{cap}")).estimate
    weighted = whole_iteration(*make_context(parents, f"weighted-{cap}", importance_cap=cap))
    found, metrics = weighted.estimate, weighted.metrics
    torch.testing.assert_close(found.advantages, plain.advantages * weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.returns, plain.returns)
    assert metrics["engine/weight"] == pytest.approx(weight, rel=1e-4)
    assert metrics["engine/capped"] == capped


# The best iteration


BEST = {"keep": "best", "evaluate_every": 1, "iterations": 4, "kl_coef": 0.0}


def judged(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[dict[str, torch.Tensor]]:
    """Let evaluations in turn have these scores (the last one again); gives the policies they were of."""
    policies: list[dict[str, torch.Tensor]] = []
    original = monitor.HeldOut.answered

    def answered(self: monitor.HeldOut) -> list[Answered]:
        roles = self.context.forward.roles
        policies.append({n: p.detach().clone() for n, p in roles.parameters_of("policy").items()})
        return original(self)

    def scored(found: list[Answered]) -> dict[str, float]:
        value = values[min(len(policies), len(values)) - 1]
        return {**summary(found), "eval/score": value}

    monkeypatch.setattr(monitor.HeldOut, "answered", answered)
    monkeypatch.setattr(ppo, "summary", scored)
    monkeypatch.setattr(monitor, "summary", scored)
    return policies


@pytest.mark.parametrize(("values", "kept"), [([0, 5, 1, 2], 2), ([0, 1, 2, 3], 4), ([7, 7, 1, 1], 1)])
def test_final_is_the_iteration_with_the_best_score(
    parents: Path, monkeypatch: pytest.MonkeyPatch, values: list[float], kept: int
) -> None:
    policies = judged(monkeypatch, values)
    name = "best-" + "".join(map(str, values))
    ppo.run(load_recipe(parents, [*settings(parents, name, **BEST), "run.keep=1"]))
    folder = parents.parent / "runs" / name / "ppo"
    final = load_file(folder / "final" / "adapter_model.safetensors")
    best = policies[kept - 1]
    assert sorted(map(tuple, (t.shape for t in final.values()))) == sorted(
        tuple(p.shape) for p in best.values()
    )
    total = sum(float(t.double().sum()) for t in final.values())
    assert total == pytest.approx(sum(float(p.double().sum()) for p in best.values()), abs=1e-9)
    assert len({round(sum(float(p.double().sum()) for p in one.values()), 9) for one in policies[:4]}) == 4
    assert json.loads((folder / "manifest.json").read_text())["results"]["eval/kept_iteration"] == kept


def test_without_it_the_last_iteration_is_kept(parents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = judged(monkeypatch, [0, 5, 1, 2])
    ppo.run(load_recipe(parents, settings(parents, "last", **{**BEST, "keep": "last"})))
    final = load_file(parents.parent / "runs" / "last" / "ppo" / "final" / "adapter_model.safetensors")
    total = sum(float(t.double().sum()) for t in final.values())
    assert total == pytest.approx(sum(float(p.double().sum()) for p in policies[3].values()), abs=1e-9)


def test_the_best_survives_a_stop_and_pruning(parents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after iteration 3 with iteration 1 the best, and one checkpoint kept."""
    chosen = [*settings(parents, "stopped", **BEST), "run.keep=1"]
    policies = judged(monkeypatch, [9, 1, 1, 1])
    original = ppo.iterate

    def stop(context: Any, stage: Any, prompts: Any, iteration: int) -> Any:
        if iteration == 3:
            raise KeyboardInterrupt
        return original(context, stage, prompts, iteration)

    monkeypatch.setattr(ppo, "iterate", stop)
    with pytest.raises(KeyboardInterrupt):
        ppo.run(load_recipe(parents, chosen))
    folder = parents.parent / "runs" / "stopped" / "ppo"
    assert [p.name for p in folder.glob("checkpoints/**/step-*")] != []
    assert [p.name for p in (folder / "checkpoints" / "best").iterdir()] == ["step-000001"]
    monkeypatch.setattr(ppo, "iterate", original)
    ppo.run(load_recipe(parents, chosen))
    final = load_file(folder / "final" / "adapter_model.safetensors")
    total = sum(float(t.double().sum()) for t in final.values())
    assert total == pytest.approx(sum(float(p.double().sum()) for p in policies[0].values()), abs=1e-9)


def test_best_needs_evaluations(parents: Path) -> None:
    done = align("ppo", parents, "--set", "ppo.keep=best")
    assert done.returncode == 2
    assert "set evaluate_every" in done.stderr


# Held-out answers


def test_the_reference_answers_once_a_run(parents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = monitor.respond

    def respond(engine: Any, forward: Any, role: str, *rest: Any, **options: Any) -> Any:
        asked.append(role)
        return original(engine, forward, role, *rest, **options)

    monkeypatch.setattr(monitor, "respond", respond)
    ppo.run(load_recipe(parents, settings(parents, "once", evaluate_every=1)))
    assert asked.count("reference") == 1 and asked.count("policy") == 4
    evaluations = [row for row in rows(parents.parent / "runs" / "once" / "ppo") if "eval/score" in row]
    assert len({row["eval/reference_score"] for row in evaluations}) == 1


def test_standard_errors_by_hand() -> None:
    def one(before: float, after: float) -> Answered:
        return Answered("p", "r", "q", before, after, 1.0, 3, 4, True, False)

    found = summary([one(0, 1), one(2, 5), one(4, 6)])
    assert (found["eval/score"], found["eval/gain"]) == (4, 2)
    assert found["eval/score_se"] == pytest.approx(math.sqrt(7 / 3))  # variance of 1, 5, 6 is 7
    assert found["eval/gain_se"] == pytest.approx(math.sqrt(1 / 3))  # of 1, 3, 2 is 1
    assert found["eval/kl_se"] == 0
    assert math.isnan(summary([one(0, 1)])["eval/score_se"])


# Samples and time


def test_the_references_answer_stands_beside_samples_now_and_then(parents: Path) -> None:
    done = align("ppo", parents, *[f"--set={s}" for s in settings(parents, "shown", samples_every=2)])
    assert done.returncode == 0, done.stderr
    samples = rows(parents.parent / "runs" / "shown" / "ppo", "samples.jsonl")
    assert {row["step"] for row in samples if "reference" in row} == {2, 4}
    assert {row["step"] for row in samples} == {1, 2, 3, 4}
    lines = [line for line in done.stdout.splitlines() if line.startswith("iteration 2  score")]
    assert len(lines) == 4 and all("(SFT: " in line for line in lines)


def test_a_terminal_gets_a_table_whatever_the_texts_hold(
    parents: Path, tiny_recipe: Callable[..., Path]
) -> None:
    recipe, context = make_context(parents, "table")
    with open_stage(recipe, "ppo", context.accel, lineage={}, data={}, restart=False) as stage:
        stage.console = Console(file=StringIO(), force_terminal=True, width=100)
        row = {"prompt": "[red]a\x1b[2J", "response": "b\n" * 900, "reference": "c", "score": 1.5, "kl": 0.25}
        monitor.show_samples(stage, 7, [row])
        text = stage.console.file.getvalue()  # type: ignore[attr-defined]
    assert "iteration 7" in text and "1.500" in text and "0.25" in text
    assert "[red]a" in text and "\x1b[2J" not in text
    assert text.count("\n") < 40


def test_the_parts_of_the_time_add_up(parents: Path) -> None:
    recipe, context = make_context(parents, "clock")
    clock = Clock()
    metrics = iterate(recipe, context)
    parts = metrics | clock.other(metrics)
    assert {"sample", "judge", "update", "other"} == {
        k.removeprefix("seconds/") for k in parts if k.startswith("seconds/")
    }
    assert parts["seconds/other"] > 0
    assert clock.other({})["seconds/other"] < parts["seconds/sample"] + 1
