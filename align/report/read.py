"""What a run folder says, read with care: files may be missing, half written, or hold anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.report.documents import Answer, Check, Evaluation, Manifest
from align.run.manifest import as_manifest
from align.run.metrics import numbers
from align.stage_table import STAGES, Stage
from align.text import clean


@dataclass(frozen=True)
class StageFiles:
    """One stage's files; what is missing is empty."""

    name: Stage
    manifest: Manifest
    lineage: dict[str, str]  # every hash that it started from, by name
    metrics: list[dict[str, float]]
    samples: list[dict[str, Any]]
    held_out: list[Answer]
    evaluation: Evaluation

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of each line of metrics.jsonl that has the metric."""
        return [(row["step"], row[name]) for row in self.metrics if "step" in row and name in row]


@dataclass(frozen=True)
class RunFiles:
    """A run folder as the page needs it."""

    name: str
    recipe: str
    check: Check | None
    stages: dict[Stage, StageFiles]
    compared: dict[str, Any]  # what `align evaluate` found
    methods: dict[str, Any]  # what `align compare` found

    @property
    def empty(self) -> bool:
        """Whether there is nothing to report on."""
        return not self.stages and self.check is None


def read_run(folder: Path) -> RunFiles:
    """Read what is there; nothing is required."""
    try:
        recipe = clean((folder / "recipe.yaml").read_text(encoding="utf-8", errors="replace"), 100_000)
    except OSError:
        recipe = ""
    stages = {
        name: _stage(name, folder / name) for name in STAGES if (folder / name / "manifest.json").is_file()
    }
    check = _document(folder / "check.json")
    return RunFiles(
        clean(folder.resolve().name),
        recipe,
        Check.model_validate(check) if check else None,
        stages,
        _document(folder / "evaluation" / "evaluation.json"),
        _document(folder / "compare" / "compare.json"),
    )


def _stage(name: Stage, folder: Path) -> StageFiles:
    manifest = _document(folder / "manifest.json")
    try:
        lineage = as_manifest(manifest).lineage
    except (KeyError, ValueError, TypeError, AttributeError):  # it is not what a stage writes
        lineage = {}
    return StageFiles(
        name=name,
        manifest=Manifest.model_validate(manifest),
        lineage=lineage,
        metrics=[numbers(row) for row in _lines(folder / "metrics.jsonl")],
        samples=[clean(row) for row in _lines(folder / "samples.jsonl")],
        held_out=[Answer.model_validate(clean(row)) for row in _lines(folder / "held_out.jsonl")],
        evaluation=Evaluation.model_validate(_document(folder / "evaluation.json")),
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return clean(found) if isinstance(found, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; a line that is none (half written, say) is passed over."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield row
    except OSError:
        return
