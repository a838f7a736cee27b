"""`align generate`: responses become tasks, once each, whatever is killed in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny_base
from rich.console import Console
from stack import has_paged
from typer.testing import CliRunner
from vllm_server import Fake, serving

from align.cli.app import app
from align.errors import AlignError, MissingStage, UserError
from align.loop import generate as module
from align.loop.generate import Done, Wanted, generate
from align.loop.policy import Drawing, open_policy
from align.loop.priorities import margin, open_reward_models
from align.recipe import EngineName
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe
from align.sampling.params import Draws, Sampled
from align.serving.score import score

QUIET = Console(quiet=True)


@pytest.fixture
def recipe(finished_run: Path) -> Recipe:
    """Whose three stages have finished."""
    return load_recipe(finished_run / "recipe.yaml")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(recipe: Recipe, to: Path, **wanted: Any) -> Done:
    return generate(recipe, Wanted(to=to, **wanted), QUIET)


def test_each_prompt_gets_different_responses(recipe: Recipe, tmp_path: Path) -> None:
    done = run(recipe, tmp_path / "t.jsonl", k=3)
    rows = rows_of(tmp_path / "t.jsonl")
    assert done.added == len(rows) and done.added + done.alike == 24
    assert len({row["prompt"] for row in rows}) == len(rows) > 12
    manifest = json.loads((recipe.run.path / "sft" / "manifest.json").read_text())
    digest = manifest["final"]["adapter_model.safetensors"]
    for row in rows:
        texts = [part["text"] for part in row["responses"]]
        assert 2 <= len(texts) == len(set(texts)) <= 3 and all(text.strip() for text in texts)
        assert {part["origin"] for part in row["responses"]} == {f"tiny/sft {digest[:16]}"}
        assert row["kind"] == "rank"


def test_a_command_that_was_killed_goes_on_to_the_same_tasks(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_chunks: None
) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run(recipe, whole, count=8)
    calls = []
    tasks = module._tasks

    def dying(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return tasks(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_tasks", dying)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, killed, count=8)
    assert 0 < len(rows_of(killed)) < 8
    with killed.open("a") as file:
        file.write('{"prompt": "torn')  # in the middle of a line
    done = run(recipe, killed, count=8)
    assert killed.read_text() == whole.read_text() and done.added + done.known == 8
    again = run(recipe, killed, count=8)
    assert (again.added, again.known) == (0, 8)
    more = run(recipe, killed, count=9)
    assert (more.added, more.known) == (1, 8)


def test_what_is_drawn_depends_on_prompt_and_seed_alone(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe, tmp_path / "a.jsonl", count=6)
    monkeypatch.setattr(module, "_CHUNK", 1)
    run(recipe, tmp_path / "b.jsonl", count=6)
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    run(recipe, tmp_path / "c.jsonl", drawing=Drawing(seed=5))
    before = {row["prompt"]: row["responses"] for row in rows_of(tmp_path / "a.jsonl")}
    after = {row["prompt"]: row["responses"] for row in rows_of(tmp_path / "c.jsonl")}
    assert all(after[prompt] != responses for prompt, responses in before.items() if prompt in after)


def test_prompts_without_two_different_responses_are_counted(recipe: Recipe, tmp_path: Path) -> None:
    done = run(recipe, tmp_path / "t.jsonl", drawing=Drawing(top_k=1))  # greedy: always the same
    assert (done.added, done.alike) == (0, 24)
    assert "24 prompts were skipped" in " ".join(done.told(4, "x"))
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.parametrize("stage", ["base", "ppo"])
def test_other_policies_have_tasks_of_their_own(recipe: Recipe, tmp_path: Path, stage: Any) -> None:
    path = tmp_path / "t.jsonl"
    run(recipe, path, count=3)
    done = run(recipe, path, count=3, stage=stage, priority="margin")
    assert (done.added, done.known) == (3, 0)
    rows = rows_of(path)
    assert {row["prompt"] for row in rows[:3]} & {row["prompt"] for row in rows[3:]}
    assert all(f"/{stage} " in part["origin"] for row in rows[3:] for part in row["responses"])
    assert all(0 < row["priority"] <= 1 for row in rows[3:])


def test_priorities_come_from_the_scores_of_align_score(
    recipe: Recipe, finished_run: Path, tmp_path: Path
) -> None:
    task = {"prompt": "the film is", "responses": [" good and bright", " dull", " old and tired"]}
    (tmp_path / "plain.jsonl").write_text(json.dumps(task) + "\n")
    score(finished_run, tmp_path / "plain.jsonl", tmp_path / "scored.jsonl", console=QUIET)
    policy = open_policy(recipe, "base", Drawing())
    template = policy.setup.template
    prompt = template.prompt_ids(task["prompt"])
    sampled = [Sampled(prompt, template.response_ids(text), []) for text in task["responses"]]
    judges = open_reward_models(recipe, policy, "margin", ())
    (scored,) = rows_of(tmp_path / "scored.jsonl")
    expected = margin(scored["scores"])
    assert judges.priorities([sampled, sampled[::-1]]) == pytest.approx([expected] * 2, abs=1e-4)
    assert expected < 0.999
    twice = open_reward_models(
        recipe, open_policy(recipe, "base", Drawing()), "disagreement", [finished_run] * 2
    )
    assert twice.priorities([sampled]) == pytest.approx([0.0])


def test_tasks_go_into_the_labeling_database(
    recipe: Recipe, make_site: Callable[..., Any], tmp_path: Path
) -> None:
    database = str(tmp_path / "labeling.db")
    site = make_site(database)
    placed = recipe.model_copy(update={"labeling": recipe.labeling.model_copy(update={"database": database})})
    done = generate(placed, Wanted(count=3, priority="margin"), QUIET)
    assert done.added == 3
    again = generate(placed, Wanted(count=4), QUIET)
    assert (again.added, again.known) == (1, 3)
    client = site.signed_in()
    task = site.taken(client)
    with site.config.store.read() as session:
        from labeling.store.models import Item

        items = session.query(Item).all()
        best = max(items, key=lambda item: (item.priority, -item.id))
        assert task["item"] == best.id and task["kind"] == "rank"
        assert all(response.origin.startswith("tiny/sft ") for response in best.responses)


def test_tasks_go_to_a_running_app(
    recipe: Recipe,
    site: Any,
    served: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from labeling.store.people import new_token

    address = served(site)
    machine = site.person("sampler", "machine")
    with pytest.raises(UserError, match="ALIGN_LABELING_TOKEN"):
        generate(recipe, Wanted(count=2, url=address), QUIET)
    monkeypatch.setenv("ALIGN_LABELING_TOKEN", "wrong")
    with pytest.raises(UserError, match="does not know this token"):
        generate(recipe, Wanted(count=2, url=address), QUIET)
    with site.config.store.write() as session:
        monkeypatch.setenv("ALIGN_LABELING_TOKEN", new_token(session, "api", person=machine))
    assert generate(recipe, Wanted(count=2, url=address), QUIET).added == 2
    again = generate(recipe, Wanted(count=3, url=address), QUIET)
    assert (again.added, again.known) == (1, 2)
    assert site.taken(site.signed_in())["kind"] == "rank"


@pytest.mark.parametrize("stage", ["base", "ppo"])
def test_other_engines_sample_the_same_policy(
    recipe: Recipe, tiny_base: Path, tmp_path: Path, stage: Any
) -> None:
    """Greedy responses, of which a prompt has one, beside those of the default engine."""
    engines: tuple[EngineName, ...] = ("hf", "paged", "vllm") if has_paged() else ("hf", "vllm")
    seen: dict[str, list[list[int]]] = {}
    fake = Fake(tiny_base)
    with serving(fake) as url:
        for engine in engines:
            drawing = Drawing(top_k=1, engine=engine, engine_url=[url] if engine == "vllm" else None)
            policy = open_policy(recipe, stage, drawing)
            ids = [policy.setup.template.prompt_ids(text) for text in ("the film is", "the plot was")]
            draws = Draws(policy.seed, "generate", policy.origin, [("a", 0), ("b", 0)])
            sampled = policy.engine.sample(ids, draws, policy.params)
            seen[engine] = [one.response for one in sampled]
            policy.engine.close()
    assert all(seen[engine] == seen["hf"] for engine in engines)


def test_tasks_are_sampled_on_a_vllm_server(recipe: Recipe, tiny_base: Path, tmp_path: Path) -> None:
    fake, path = Fake(tiny_base), tmp_path / "t.jsonl"
    with serving(fake) as url:
        drawing = Drawing(0.8, 50, 0.9, engine="vllm", engine_url=[url])
        done = run(recipe, path, k=3, count=4, drawing=drawing, priority="margin")
        again = run(recipe, path, k=3, count=5, drawing=drawing, priority="margin")
    assert (done.added, again.added, again.known) == (4, 1, 4)
    tasks = [one for one in fake.asked if one["top_k"]]  # before them, one response to compare
    assert {(one["temperature"], one["top_k"], one["top_p"]) for one in tasks} == {(0.8, 50, 0.9)}
    assert len({one["seed"] for one in tasks}) == len(tasks) == len(fake.asked) - 2
    assert len(fake.loaded) == 2 and not fake.adapters
    assert not list(recipe.run.path.glob("engine-*"))
    assert all(0 < row["priority"] <= 1 for row in rows_of(path))


def test_a_server_with_another_base_samples_nothing(finished_run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(finished_run / "recipe.yaml", ["ppo.engine_gap_stop=0.01"])  # both are near uniform
    make_tiny_base(tmp_path / "other", seed=1)
    said = "nats a token from those of this policy: another base"
    with serving(Fake(tmp_path / "other")) as url, pytest.raises(AlignError, match=said):
        run(recipe, tmp_path / "t.jsonl", drawing=Drawing(engine="vllm", engine_url=[url]))
    assert not (tmp_path / "t.jsonl").exists() and not list(recipe.run.path.glob("engine-*"))


def test_options_that_do_not_go_together_are_told(tiny_recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_recipe()
    runner = CliRunner()

    def told(*arguments: str) -> tuple[int, str]:
        result = runner.invoke(app, ["generate", str(path), *arguments])
        return result.exit_code, result.stderr

    assert told("--to", str(tmp_path / "t.jsonl"))[0] == 3
    assert "align sft" in told("--to", str(tmp_path / "t.jsonl"))[1]
    assert "needs several" in told("--priority", "disagreement")[1]
    assert "is for --priority" in told("--reward-model", "x")[1]
    assert "--priority gap reads one" in told("--priority", "gap", *["--reward-model", "x"] * 2)[1]
    assert told("--priority", "widest")[0] == 2
    assert "'widest' is not one of" in told("--priority", "widest")[1]
    several = ("--set", "labeling.priority=disagreement")
    assert told(*several)[0] == 2 and "labeling.priority: disagreement needs several" in told(*several)[1]
    code, said = told("--set", "labeling.priority=widest")
    assert code == 2 and "labeling.priority" in said and "gap" in said
    assert "keep one" in told("--to", "x", "--url", "http://x")[1]
    assert told("--to", str(tmp_path))[0] == 2
    assert "say with --engine-url" in told("--engine", "vllm")[1]
    assert "--engine-url is for --engine vllm" in told("--engine-url", "http://x")[1]


def test_the_recipe_says_what_people_do_first(recipe: Recipe, tmp_path: Path) -> None:
    """Where no reward model is there yet, tasks come in their order, and that is said."""
    by_gap = recipe.model_copy(update={"labeling": recipe.labeling.model_copy(update={"priority": "gap"})})
    run(by_gap, tmp_path / "gap.jsonl", count=3)
    run(recipe, tmp_path / "margin.jsonl", count=3, priority="margin")
    run(by_gap, tmp_path / "none.jsonl", count=3, priority="none")
    gaps, margins = (
        [row["priority"] for row in rows_of(tmp_path / f"{name}.jsonl")] for name in ("gap", "margin")
    )
    assert gaps == pytest.approx([1 - value for value in margins]) and any(gaps)
    assert {row["priority"] for row in rows_of(tmp_path / "none.jsonl")} == {0.0}
    rm, later = recipe.run.path / "rm", recipe.run.path / "rm-of-later"
    rm.rename(later)  # of a run that other tests read
    console = Console(record=True, width=200)
    try:
        generate(by_gap, Wanted(to=tmp_path / "early.jsonl", count=3), console)
    finally:
        later.rename(rm)
    assert "labeling.priority is gap, but rm has not finished: tasks come in" in console.export_text()
    assert {row["priority"] for row in rows_of(tmp_path / "early.jsonl")} == {0.0}


def test_a_reward_model_that_has_not_run_is_told(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(MissingStage, match="rm has not run"):
        run(recipe, tmp_path / "t.jsonl", priority="margin", reward_models=[tmp_path])
