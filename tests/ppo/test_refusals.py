"""Refusals that training makes are measured at every evaluation, and stop the stage beyond the limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from pydantic import ValidationError

from align.errors import AlignError, UserError
from align.ppo import refusals
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.recipe.ppo import PPO
from align.safety.scoring import Scored


@pytest.fixture(scope="module")
def recipe_path(finished_run: Path) -> Path:
    return finished_run.parents[1] / "recipe.yaml"


def fields(recipe_path: Path, folder: Path) -> list[str]:
    run = recipe_path.parent / "runs" / "tiny"
    starts = [f"ppo.sft={run}", f"ppo.rm={run}", f"run.folder={folder}"]
    return [*starts, "ppo.evaluate_every=1", "ppo.checkpoint_every=100", "ppo.max_prompt_tokens=200"]


def asked(harmless: int) -> Callable[[str], Scored]:
    """A judge to whom the SFT policy, which is asked first, refuses nothing, and the policy every fourth."""
    calls = count()

    def refused(answer: str) -> Scored:
        call = next(calls)
        return Scored("refused" if call >= harmless and call % 4 == 0 else "answered", "")

    return refused


def test_ppo_stops_where_it_refuses_more_than_the_sft_policy_by_more_than_the_limit(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_, twins = fields(recipe_path, tmp_path), refusals.harmless_twins()
    monkeypatch.setattr(refusals, "harmless_twins", lambda: twins[:40])
    monkeypatch.setattr(refusals, "refused", asked(40))
    with pytest.raises(
        AlignError,
        match=r"after 1 iterations: of 40 harmless requests the policy refuses 25%, the SFT policy 0%",
    ) as caught:
        ppo.run(load_recipe(recipe_path, [*set_, "ppo.refusal_limit=0.2"]))
    assert caught.value.exit_code == 1
    assert "40 harmless requests of the safety suite watch over refusals" in capsys.readouterr().out
    folder = tmp_path / "tiny" / "ppo"
    (kept,) = (folder / "checkpoints").glob("step-*")
    assert kept.name.endswith("1")
    (row,) = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert (row["eval/refusals"], row["eval/reference_refusals"]) == (0.25, 0.0)
    # the same again stops before it trains; with a higher limit, which needs no --restart, it goes on
    monkeypatch.setattr(refusals, "refused", asked(40))
    with pytest.raises(AlignError, match="refusal_limit"):
        ppo.run(load_recipe(recipe_path, [*set_, "ppo.refusal_limit=0.2"]))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    monkeypatch.setattr(refusals, "refused", asked(40))
    ppo.run(load_recipe(recipe_path, [*set_, "ppo.refusal_limit=0.3"]))
    assert json.loads((folder / "manifest.json").read_text())["results"]["eval/refusals"] == 0.25


def test_the_twins_of_harmful_requests_are_asked_and_nothing_else() -> None:
    twins = refusals.harmless_twins()
    assert len(twins) == len({case.pair for case in twins}) == 70
    assert all(case.expected == "comply" and isinstance(case.prompt, str) for case in twins)


def test_harmless_requests_that_are_too_long_are_left_out_and_none_is_an_error(
    recipe_path: Path, tmp_path: Path
) -> None:
    set_ = [*fields(recipe_path, tmp_path), "ppo.refusal_limit=0.2", "ppo.max_prompt_tokens=16"]
    with pytest.raises(UserError, match=r"refusal_limit: none of the \d+ harmless requests .*raise it"):
        ppo.run(load_recipe(recipe_path, set_))


def test_a_limit_needs_evaluations() -> None:
    with pytest.raises(ValidationError, match="set evaluate_every"):
        PPO(refusal_limit=0.1)
