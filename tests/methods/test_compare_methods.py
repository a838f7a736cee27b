"""align compare: every method from one set of rankings, the same bits each time, and at equal compute."""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, make_recipe
from rich.console import Console
from safetensors.torch import load_file

from align.errors import UserError
from align.methods.best_answers import best_of
from align.methods.run import compare
from align.recipe.load import load_recipe
from align.records import Ranking
from align.run.files import sha256
from align.serving.lineage import show
from align.stage_table import STAGES
from align.stats.over_seeds import over_seeds

GOLD = "def gold(prompts, responses):\n    return [float(len(response)) for response in responses]\n"
GOLDS: list[str] = []
METHODS = ["ppo", "rloo", "group", "dpo", "sft-best", "best-of-n"]
# Kills its own process at the n-th update of a policy.
KILLER = """
import os, signal, sys
import align.ppo.update as module
original, calls, last = module.policy_loss, 0, int(sys.argv[2])
def wrapped(*a, **k):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*a, **k)
module.policy_loss = wrapped
sys.argv = ["align", "compare", sys.argv[1], "--set", "compare.seeds=[0]"]
from align.cli.app import main
main()
"""


def written(folder: Path, base: Path, **sections: Any) -> Path:
    """A recipe of a comparison, and what it reads."""
    folder.mkdir(parents=True, exist_ok=True)
    module = f"gold_{len(GOLDS)}.py"  # of its own: a process imports a name once
    GOLDS.append(module)
    (folder / module).write_text(GOLD)
    measures = {"best_of": 3, "measures": {"function": f"{module}:gold", "name": "gold"}}
    compared = {"seeds": [0, 1], "most_epochs": 2}
    short = {"sft": {"steps": 4}, "rm": {"steps": 3}, "ppo": {"iterations": 2}}
    return make_recipe(folder, base, **{**short, "evaluate": measures, "compare": compared, **sections})


def run(path: Path, *overrides: str, restart: bool = False) -> tuple[dict[str, Any], str]:
    """What was found, and what was said."""
    console = Console(record=True, width=1000, file=io.StringIO())

    def train(stage: str, recipe: Path) -> None:
        importlib.import_module(STAGES[stage].module).run(load_recipe(recipe))  # type: ignore[index]

    found = compare(load_recipe(path, overrides), train, restart, False, console)
    return found, console.export_text()


def policies(folder: Path) -> dict[str, str]:
    """The hash of each adapter of the first seed's methods."""
    place = folder / "runs" / "tiny" / "compare"
    finals = sorted(place.glob("*-0/*/final/adapter_model.safetensors"))
    return {path.relative_to(place).as_posix(): sha256(path) for path in finals}


def values(found: dict[str, Any], seed: int) -> dict[str, dict[str, float]]:
    """Each method's figures of a seed, but for what a clock or a meter says."""
    return {
        row["method"]: {
            name: one["by_seed"][str(seed)]
            for name, one in row["figures"].items()
            if name not in ("seconds", "joules")
        }
        for row in found["rows"]
    }


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A finished comparison: its recipe, what was found and what was said."""
    path = written(tmp_path_factory.mktemp("compared"), tiny_base)
    return path, *run(path)


def test_every_method_is_measured_beside_the_policy_that_all_start_from(whole: Any) -> None:
    path, found, said = whole
    assert "is of another run" not in said
    assert [row["method"] for row in found["rows"]] == ["sft", *METHODS]
    rows = {row["method"]: row["figures"] for row in found["rows"]}
    for method in METHODS:
        figures = rows[method]
        assert {"score", "gain/score", "measure/gold", "win/score", "win/measure/gold"} <= set(figures)
        assert {"kl_exact", "tokens", "seconds", "flops", "share"} <= set(figures)
        low, mean, high = (figures["score"][key] for key in ("low", "value", "high"))
        assert low < mean < high and set(figures["score"]["by_seed"]) == {"0", "1"}
        gain = figures["score"]["value"] - rows["sft"]["score"]["value"]
        assert figures["gain/score"]["value"] == pytest.approx(gain)
    assert rows["best-of-n"]["gain/score"]["value"] > 0  # it takes the best of three by this score
    assert "mean of 2 seeds with a 95% interval" in said
    page = (path.parent / "runs/tiny/report.html").read_text(encoding="utf-8")
    assert "Methods compared" in page and "best-of-n (n = 3)" in page and 'href="#dpo"' not in page
    assert json.loads((path.parent / "runs/tiny/compare/compare.json").read_text()) == found


def test_the_operations_are_equal_or_it_is_said_that_they_are_not(whole: Any) -> None:
    _, found, said = whole
    share = {row["method"]: row["figures"].get("share", {}).get("value") for row in found["rows"]}
    assert share["ppo"] == 1 and share["rloo"] == pytest.approx(1, abs=0.1)
    assert share["group"] == pytest.approx(share["rloo"], abs=0.05)
    assert share["sft-best"] < share["dpo"] < 0.95  # most_epochs ends them; a pair has two responses
    assert "2.0 passes over" in said


def test_the_seeds_of_a_recipe_share_no_policy_and_its_own_run_is_the_first(whole: Any) -> None:
    path, found, _ = whole
    runs = path.parent / "runs" / "tiny"
    assert (runs / "sft/final").is_dir() and (runs / "compare/shared-1/sft/final").is_dir()
    assert not (runs / "compare/shared-0").exists()
    one, other = values(found, 0), values(found, 1)
    assert all(one[method] != other[method] for method in ("ppo", "rloo", "sft-best"))
    manifest = json.loads((runs / "compare/rloo-1/ppo/manifest.json").read_text())
    assert {ref["run"] for ref in manifest["parents"]} == {str(runs / "compare/shared-1")}


def test_what_was_killed_goes_on_and_ends_with_the_same_bits(
    whole: Any, tiny_base: Path, tmp_path: Path
) -> None:
    first, found, _ = whole
    path = written(tmp_path, tiny_base)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path), "14"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    place = tmp_path / "runs/tiny/compare"
    assert (place / "ppo-0/ppo/final").is_dir() and any(place.glob("rloo-0/ppo/checkpoints/step-*"))
    again, _ = run(path, "compare.seeds=[0]")
    assert policies(tmp_path) == policies(first.parent)
    assert len(policies(tmp_path)) == 5
    assert values(again, 0) == values(found, 0)


def test_a_recipe_that_was_changed_is_refused_by_name_and_what_is_measured_may_change(
    whole: Any, tmp_path: Path
) -> None:
    shutil.copytree(whole[0].parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "recipe.yaml"
    path.write_text(path.read_text().replace(str(whole[0].parent), str(tmp_path)))
    with pytest.raises(UserError, match="ppo.kl_coef: was 0.05, is 0.3") as caught:
        run(path, "ppo.kl_coef=0.3")
    assert "--restart" in str(caught.value)
    with pytest.raises(UserError, match="run.seed: was 0, is 5"):
        run(path, "run.seed=5")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("compare.methods=[ppo, rlo]", "did you mean rloo?"),
        ("compare.seeds=[0, 1, 0]", "seeds has 0 twice"),
        ("compare.methods=[ppo, ppo]", "methods has ppo twice"),
        ("data.rankings=null", "names no data.rankings"),
        ("ppo.kl_coeff=1", "kl_coef"),
        ("data.prompts.held_out=0", "there is no prompt"),
        ("evaluate.prompts=demonstrations.jsonl", "also train, in data.demonstrations"),
        ("compare.responses_per_prompt=3", "rollout_batch_size (8) must be a multiple"),
    ],
)
def test_what_is_wrong_is_told_before_anything_trains(
    tiny_base: Path, tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(written(tmp_path, tiny_base), override)
    assert told in str(caught.value)
    assert not (tmp_path / "runs/tiny/sft").exists()


def test_sft_goes_on_from_another_runs_adapter(whole: Any, tiny_base: Path, tmp_path: Path) -> None:
    start = whole[0].parent / "runs" / "tiny"
    sft = {"start": str(start), "steps": 1, "learning_rate": 1e-12}
    recipe = load_recipe(make_recipe(tmp_path, tiny_base, sft=sft))
    importlib.import_module("align.stages.sft").run(recipe)
    ours, theirs = (
        load_file(place / "sft/final/adapter_model.safetensors") for place in (tmp_path / "runs/tiny", start)
    )
    assert all((ours[name] - theirs[name]).abs().max() < 1e-9 for name in theirs)
    assert any(x.abs().max() > 0.01 for name, x in ours.items() if "lora_B" in name)
    assert show(tmp_path / "runs" / "tiny") == 0


@pytest.mark.parametrize(
    ("ranks", "best"),
    [((2, 1, 3), " b"), ((1, 1, 2), None), ((None, 2, 1), " c"), ((1, None, None), None), ((3, 5, 5), " a")],
)
def test_the_best_answer_of_a_ranking(ranks: tuple[int | None, ...], best: str | None) -> None:
    found = best_of(Ranking("p", (" a", " b", " c"), ranks))
    assert (found.response if found else None) == best


def test_means_over_seeds_have_students_interval() -> None:
    found = over_seeds({0: 1.0, 1: 2.0, 2: 3.0})
    assert found.value == 2 and found.se == pytest.approx(3**-0.5)
    reach = 4.303 / 3**0.5
    assert found.high == pytest.approx(2 + reach) and found.low == pytest.approx(2 - reach)
    assert over_seeds({7: 0.5}).low is None
    assert over_seeds({0: 0.9, 1: 1.0}, 0, 1).high == 1
