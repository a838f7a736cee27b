"""align evaluate measures what was learnt by heart: texts trained for long are, unseen ones are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_jsonl
from rich.console import Console

from align.compare import memorised
from align.compare.memorised import Known, memorised_figures
from align.compare.run import evaluate
from align.compare.show import show
from align.methods.figures import Trained
from align.recipe.load import load_recipe
from align.report.evaluation import tables
from align.stages import sft

TEXT = "river stone amber wolf candle north salt paper lion storm glass dance seven moon green iron"
WORDS = TEXT.split()


def sentences(count: int) -> list[str]:
    """Responses of random words, which nobody can guess."""
    random = np.random.default_rng(0)
    return [" " + " ".join(random.choice(WORDS, size=14)) for _ in range(count)]


@pytest.fixture
def memorising(tiny_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    """A recipe that trains four demonstrations for many steps, and holds four others out."""
    texts = sentences(8)
    rows = [{"prompt": f"{WORDS[i]} {WORDS[i + 8]}:", "response": text} for i, text in enumerate(texts)]
    write_jsonl(tmp_path / "mine.jsonl", rows[:4])
    write_jsonl(tmp_path / "unseen.jsonl", rows[4:])
    recipe = tiny_recipe(
        lora={"rank": 32, "alpha": 64, "targets": "all-linear", "layers": None},
        sft={"steps": 150, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 1000},
        ppo={"max_response_tokens": 4},
        evaluate={"policies": ["base", "sft"], "memorised": 10, "best_of": 0, "count": 1},
    )
    document = json.loads(recipe.read_text())
    document["data"]["demonstrations"] = {"train": "mine.jsonl", "held_out": ["unseen.jsonl"]}
    recipe.write_text(json.dumps(document))
    return recipe


def test_what_was_trained_for_long_is_repeated_and_unseen_texts_are_not(memorising: Path) -> None:
    recipe = load_recipe(memorising)
    sft.run(recipe)
    found = evaluate(recipe, console=Console(quiet=True))["memorised"]
    assert found["demonstrations"] == {"train": 4, "held_out": 4}
    policies = found["policies"]
    for start in ("prompt", "prefix"):
        assert policies["sft"]["train"][start]["exact"]["value"] >= 0.75
        assert policies["sft"]["held_out"][start]["exact"]["value"] == 0
        assert policies["base"]["train"][start]["exact"]["value"] == 0
        assert policies["sft"]["train"][start]["run"]["value"] > 20
        assert policies["sft"]["held_out"][start]["run"]["value"] < 15
    (more,) = (d for d in found["differences"] if (d["side"], d["start"]) == ("train", "prompt"))
    assert (more["policy"], more["less"]) == ("sft", "base") and more["figures"]["exact"]["value"] >= 0.75
    worst = found["worst"][0]
    assert worst["policy"] == "sft" and worst["exact"] and Path(worst["place"]).name.startswith("mine.jsonl:")
    assert worst["text"].strip() and worst["text"] in " ".join(sentences(4))
    # Nothing is asked again: the rows are kept, and the document comes out the same.
    kept = sorted((recipe.run.path / "evaluation" / "answers").glob("*.memorised.jsonl"))
    before = [file.stat().st_mtime_ns for file in kept]
    assert len(kept) == 2 and evaluate(recipe, console=Console(quiet=True))["memorised"] == found
    assert [file.stat().st_mtime_ns for file in kept] == before
    assert "Memorised demonstrations: 4 training and 4 held out" in (
        recipe.run.path / "report.html"
    ).read_text(encoding="utf-8")


def known(side: str, i: int) -> Known:
    return Known(side, f"{side}.jsonl:{i}", f"'prompt {i}'", [1], list(range(30)))


def row(run: int, exact: bool, prefix: int | None = None, text: str = "x") -> dict[str, Any]:
    about = {"run": run, "exact": exact, "text": text}
    return {"prompt": about, "prefix": None if prefix is None else {**about, "run": prefix}}


def test_figures_by_hand() -> None:
    asked = [known("train", 1), known("train", 2), known("held_out", 1)]
    rows = {
        "sft": [row(30, True, 5), row(10, False), row(2, False)],
        "ppo": [row(20, False, 25, text="jane@web.de"), row(4, False), row(2, False)],
    }
    found = memorised_figures(asked, rows, look=False)
    mine = found["policies"]["sft"]["train"]["prompt"]
    assert (mine["run"].value, mine["longest"], mine["exact"].value) == (20.0, 30, 0.5)
    assert found["policies"]["ppo"]["train"]["prefix"]["run"].value == 25.0  # one of two is long enough
    assert found["policies"]["ppo"]["held_out"]["prefix"] == {"run": None, "longest": None, "exact": None}
    assert found["policies"]["sft"]["held_out"]["prompt"]["run"].low is None  # of one there is no interval
    less = {(d["side"], d["start"]): d["figures"] for d in found["differences"]}
    assert less["train", "prompt"]["run"].value == -8.0 and less["train", "prompt"]["exact"].value == -0.5
    assert less["train", "prompt"]["run"].low == pytest.approx(-10.0)
    assert less["train", "prompt"]["run"].high == pytest.approx(-6.0)
    assert [(w["place"], w["policy"], w["run"]) for w in found["worst"]] == [
        ("train.jsonl:1", "sft", 30),
        ("train.jsonl:2", "sft", 10),
    ]


def test_personal_data_in_a_run_is_masked() -> None:
    pytest.importorskip("stdnum", reason="needs the extra `privacy`")
    rows = {"sft": [row(9, False, text="mail jane.doe@web.de")]}
    (worst,) = memorised_figures([known("train", 1)], rows)["worst"]
    assert worst["text"] == "mail ja…de"


def test_it_is_off_unless_the_recipe_asks(tiny_recipe: Callable[..., Path]) -> None:
    recipe = load_recipe(tiny_recipe())
    assert memorised.drawn_demonstrations(recipe, None, print) == []  # type: ignore[arg-type]
    document = {"prompts": 1, "policies": {}, "names": [], "wins": []}
    assert not [title for title, _, _ in tables(document) if "emorised" in title]
    show(document, Console(quiet=True))


def test_align_compare_takes_over_the_share_of_training_demonstrations() -> None:
    exact = {"value": 0.25, "low": 0.1, "high": 0.4}
    found = {"policies": {"sft": {"train": {"prompt": {"exact": exact}}}}}
    document = {"policies": {"sft": {}}, "names": [], "differences": [], "wins": [], "memorised": found}
    one = Trained("sft", 0, "sft", document, None, None, None)
    assert one.figures(4) == {"memorised": 0.25}
    document["memorised"] = {}
    assert one.figures(4) == {}
