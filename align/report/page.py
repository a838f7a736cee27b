"""runs/<name>/report.html: one page that shows what a run is and what came out.

Every text of the run folder is a stranger's: the template escapes all of it, `align.text.clean` makes
control characters visible, and the page forbids itself to load anything, or to run anything but its own
few lines (page.js), which it names by their hash.
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from align import __version__
from align.errors import UserError
from align.report.comparison import comparison_tables
from align.report.costs import costs, peaks, people
from align.report.data import data_view
from align.report.evaluation import tables, view
from align.report.headline import headline
from align.report.policy import ppo_view, sft_view
from align.report.read import RunFiles, StageFiles, read_run
from align.report.reward import rm_view
from align.report.safety import safety_card
from align.report.summary import figures, warnings
from align.run.files import write_text
from align.stage_table import STAGES
from align.text import clean, number, span, two

PAGE = "report.html"
_HASH = 12  # characters of a hash that are shown
_AGAIN = 60.0  # seconds between two pages of a stage that is at work, and of a browser that shows one


def write_report(folder: Path) -> Path:
    """Write the page of a run folder; UserError where there is no run to show."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Name a run's folder, such as runs/quickstart")
    run = read_run(folder)
    if run.empty:
        raise UserError(
            f"{folder} holds no stage's manifest.json: it is not a run's folder, or nothing ran yet"
        )
    path = folder / PAGE
    write_text(path, render(run))
    return path


def refresh(folder: Path, say: Callable[[str], None]) -> None:
    """Write the page at the end of a stage; what goes wrong is told, and never fails the stage."""
    try:
        say(f"report: {write_report(folder)}")
    except Exception as error:  # the stage's result matters, the page can be made again
        say(f"the report could not be written ({type(error).__name__}: {error}): `align report {folder}`")


class LivePage:
    """Follows metrics.jsonl and writes the page anew once a minute, while a stage is at work."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say, self._next = folder, say, 0.0

    def __call__(self, step: int, row: Mapping[str, object]) -> None:
        if time.monotonic() < self._next:
            return
        try:
            write_report(self._folder)
        except Exception as error:  # as in `refresh`; told once
            self._say(
                f"the report is not written while this stage is at work ({type(error).__name__}: {error})"
            )
            self._next = math.inf
        else:
            self._next = time.monotonic() + _AGAIN


def render(run: RunFiles) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["two"] = two
    style, script = (
        Markup((Path(__file__).parent / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")
    )
    compared, notes = view(run.compared, tables, "evaluation/evaluation.json", "align evaluate")
    methods, methods_notes = view(run.methods, comparison_tables, "compare/compare.json", "align compare")
    views = {"sft": sft_view, "rm": rm_view, "ppo": ppo_view}
    return environment.get_template("page.html").render(
        run=run,
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        again=0 if all(stage.manifest.finished for stage in run.stages.values()) else round(_AGAIN),
        headline=headline(run),
        facts=_facts(run),
        figures=figures(run),
        warnings=warnings(run),
        stages=[_stage_row(stage) for stage in run.stages.values()],
        titles={name: about.title for name, about in STAGES.items()},
        data=data_view(run.check),
        compared=compared,
        compared_notes=notes,
        card=_card(run.compared),
        methods=methods,
        methods_notes=methods_notes,
        costs=costs(run),
        peaks=peaks(run),
        people=people(run),
        lineage=_lineage(run),
        versions=_versions(run),
        align_version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **{name: view(run.stages[name]) if name in run.stages else None for name, view in views.items()},
    )


def _facts(run: RunFiles) -> dict[str, str]:
    """What the recipe says that a reader of the page asks for."""
    try:
        recipe = YAML(typ="safe", pure=True).load(run.recipe)
    except (YAMLError, ValueError, RecursionError):
        recipe = None

    def value(section: str, key: str) -> Any:
        part = recipe.get(section) if isinstance(recipe, dict) else None
        return part.get(key) if isinstance(part, dict) else part if isinstance(part, str) else None

    base = value("base", "name")
    facts = {
        "base": "/".join(str(base).rstrip("/").split("/")[-2:]) if base else "",
        "template": value("data", "template"),
        "seed": value("run", "seed"),
        "LoRA rank": value("lora", "rank"),
    }
    return {key: clean(str(found)) for key, found in facts.items() if found not in (None, "")}


def _card(document: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What the safety figures rest on; none where they are not there or of another shape."""
    try:
        return safety_card(document)
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _stage_row(stage: StageFiles) -> dict[str, str]:
    started, finished = stage.manifest.started_at, stage.manifest.finished_at
    took = span((finished - started).total_seconds()) if started and finished and finished >= started else ""
    steps = max((row["step"] for row in stage.metrics if "step" in row), default=0)
    return {
        "name": stage.name,
        "title": STAGES[stage.name].title,
        "state": "finished" if stage.manifest.finished else "not finished",
        "steps": number(steps),
        "when": finished.strftime("%Y-%m-%d %H:%M") if finished else "",
        "took": took,
    }


def _lineage(run: RunFiles) -> list[tuple[str, str, str]]:
    """(stage, what, hash): what each stage started from, read and wrote."""
    return [
        (stage.name, f"{words} {name}", digest[:_HASH])
        for stage in run.stages.values()
        for words, found in (
            ("from", stage.lineage),
            ("read", stage.manifest.data),
            ("wrote", stage.manifest.final),
        )
        for name, digest in sorted(found.items())
        if words != "wrote" or name.endswith(".safetensors")
    ]


def _versions(run: RunFiles) -> str:
    """Of the libraries, as the last stage noted them."""
    found = next((s.manifest.versions for s in reversed(run.stages.values()) if s.manifest.versions), {})
    return ", ".join(f"{name} {version}" for name, version in found.items())
