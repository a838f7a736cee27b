"""SFT on the best answers: demonstrations made of the best response of each ranking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align.data.load import load
from align.recipe.sections import Recipe
from align.records import Demonstration, Ranking
from align.run.files import whole_file
from align.run.metrics import json_line
from align.stages.frame import source


def best_of(ranking: Ranking) -> Demonstration | None:
    """The prompt with the response that is ranked first; None where several are, or one alone is ranked."""
    known = [rank for rank in ranking.ranks if rank is not None]
    first = [i for i, rank in enumerate(ranking.ranks) if rank == min(known)]
    if len(first) != 1 or len(known) < 2:
        return None
    return Demonstration(ranking.prompt, ranking.responses[first[0]])


def write_best_answers(recipe: Recipe, folder: Path) -> str:
    """Write best-answers/train.jsonl and held_out.jsonl into the folder; a line on what is left out.

    A ranking that weighs twice is there twice, as it is in training of the reward model.
    """
    split = load(Ranking, source(recipe, "rankings", "compare"), "rankings", recipe.data.cache_folder)
    place = folder / "best-answers"
    place.mkdir(parents=True, exist_ok=True)
    train = _write(place / "train.jsonl", split.train)
    held_out = _write(place / "held_out.jsonl", split.held_out)
    tied = len(split.train) + len(split.held_out) - train - held_out
    left = f"; {tied} rankings with several best ones, or one response ranked, give none" if tied else ""
    return f"best answers: {train} that train and {held_out} that are held out, of the rankings{left}"


def _write(path: Path, rankings: Sequence[Ranking]) -> int:
    found = [best for ranking in rankings if (best := best_of(ranking)) is not None]
    with whole_file(path) as file:
        for one in found:
            file.write(json_line(one.to_dict()))
    return len(found)
