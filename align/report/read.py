"""What a run folder says, read with care: files may be missing, half written, or hold anything."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align import stage_table
from align.runtime.manifest import as_manifest
from align.stage_table import STAGES
from align.text import clean


@dataclass(frozen=True)
class Stage:
    """One stage's files; what is missing is empty."""

    name: stage_table.Stage
    manifest: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.manifest.get("finished") is True

    @property
    def lineage(self) -> dict[str, str]:
        """Every hash that it started from, by name; empty where the manifest is not one of a stage."""
        try:
            return as_manifest(self.manifest).lineage
        except (KeyError, ValueError, TypeError, AttributeError):
            return {}

    @property
    def results(self) -> dict[str, float]:
        """The last evaluation."""
        return numbers(self.manifest.get("results"))

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of each line of metrics.jsonl that has the metric."""
        return [(row["step"], row[name]) for row in self.metrics if "step" in row and name in row]


@dataclass(frozen=True)
class RunFiles:
    """A run folder as the page needs it."""

    name: str
    recipe: str
    check: dict[str, Any]
    stages: dict[stage_table.Stage, Stage]

    @property
    def empty(self) -> bool:
        return not self.stages and not self.check


def read_run(folder: Path) -> RunFiles:
    """Read what is there; nothing is required."""
    try:
        recipe = clean((folder / "recipe.yaml").read_text(encoding="utf-8", errors="replace"), 100_000)
    except OSError:
        recipe = ""
    stages = {
        name: _stage(name, folder / name) for name in STAGES if (folder / name / "manifest.json").is_file()
    }
    return RunFiles(clean(folder.resolve().name), recipe, _document(folder / "check.json"), stages)


def _stage(name: stage_table.Stage, folder: Path) -> Stage:
    return Stage(
        name=name,
        manifest=_document(folder / "manifest.json"),
        metrics=[numbers(row) for row in _lines(folder / "metrics.jsonl")],
        samples=[clean(row) for row in _lines(folder / "samples.jsonl")],
        held_out=[clean(row) for row in _lines(folder / "held_out.jsonl")],
        evaluation=_document(folder / "evaluation.json"),
    )


def numbers(row: Any) -> dict[str, float]:
    """The finite numbers of a mapping."""
    if not isinstance(row, dict):
        return {}
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


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
