"""What a stage was made of, written into its manifest, and what the next one verifies of it."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from align.errors import MissingStage, UserError
from align.recipe import SECTIONS, Recipe, Stage
from align.recipe_parts import MayChange, by_new_names, marked, may_change
from align.recipe_ppo import Reward
from align.runtime.files import read_json, sha256, write_bytes

LABELS = "labels"  # in a stage's folder, what it read of labeling databases
ADAPTER = "adapter_model.safetensors"  # PEFT's name
_VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors")


@dataclass(frozen=True)
class Parent:
    """A finished earlier stage: where its adapter lies and what it was trained with."""

    stage: Stage
    final: Path
    manifest: dict[str, Any]

    @property
    def adapter_hash(self) -> str:
        """The sha256 of its adapter's weights, as its manifest has it."""
        return str(self.manifest["final"][ADAPTER])

    @property
    def head_hash(self) -> str:
        """Of the reward model's head; centring it anew changes every score, and the adapter stays."""
        return str(self.manifest["final"]["head.safetensors"])


def parent(recipe: Recipe, stage: Stage, run: str | None, lineage: Mapping[str, Any]) -> Parent:
    """The finished `stage` of this run, or of the run folder that the recipe names, verified.

    Raises MissingStage when it has not finished, UserError when its base, tokenizer or template is
    another one, or when its files are not what it wrote.
    """
    folder = (Path(run).expanduser() if run else recipe.run.path) / stage
    path = folder / "manifest.json"
    again = f"restore it, or train {stage} again (`align {stage} … --restart`)"
    manifest = read_manifest(path, again) if path.exists() else {}
    if not manifest.get("finished"):
        state = "was started but has not finished" if manifest else "has not run"
        first = f"run `align {stage}` with this recipe first"
        if run:
            first = f"the recipe names that folder as {stage}'s run; name one in which {stage} has finished"
            if (folder.parent / "manifest.json").is_file():
                first = f"name the run's folder, {folder.parent.parent}, not a stage's"
        raise MissingStage(f"{stage} {state} in {folder.parent}: {first}")
    for key, mine in lineage.items():
        theirs = manifest["lineage"].get(key)
        if theirs != mine:
            what = key
            if key == "template":
                what, theirs, mine = _template(manifest, theirs, recipe, mine)
            raise UserError(
                f"{folder} was trained with another {what}: {theirs}, and this recipe has {mine}. "
                f"Name the run that belongs to this base, or train {stage} again"
            )
    here = _relevant(recipe, stage)
    theirs, mine = _as_of_now(manifest["recipe"], here)["lora"], here["lora"]
    if differing := [k for k in mine if k != "dropout" and theirs.get(k) != mine[k]]:
        what = ", ".join(f"lora.{k} {theirs.get(k)} (here {mine[k]})" for k in differing)
        raise UserError(
            f"{folder} was trained with {what}. Roles start from its adapter: set the same in this recipe"
        )
    for name, expected in manifest["final"].items():
        file = folder / "final" / name
        if not file.is_file():
            raise UserError(f"{file} is missing: {again}")
        if sha256(file) != expected:
            raise UserError(
                f"{file} is not what {stage} wrote: its SHA-256 is {sha256(file)}, "
                f"the manifest says {expected}: {again}"
            )
    return Parent(stage, folder / "final", manifest)


def _template(manifest: Mapping[str, Any], theirs: Any, recipe: Recipe, mine: str) -> tuple[str, Any, str]:
    """What differs where the template's hash does, and both values of it."""
    old, new = manifest["recipe"]["data"]["template"], recipe.data.template
    return ("data.template", old, new) if old != new else ("tokenizer or chat template", theirs, mine)


def stage_manifest(
    recipe: Recipe,
    stage: Stage,
    lineage: Mapping[str, Any],
    data: Mapping[str, str],
    folder: Path,
    labels: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """The stage's manifest: a new one, or the one that is there, if it says the same.

    labels: what was read of labeling databases, by entry of the recipe.
    Raises UserError with each difference when the stage began with another recipe, lineage or data.
    """
    new: dict[str, Any] = {
        "stage": stage,
        "recipe": _relevant(recipe, stage),
        "lineage": dict(lineage),
        "places": _places(recipe, stage),
        "data": dict(data),
        "labels": {entry: _digest(content) for entry, content in (labels or {}).items()},
        "versions": _versions(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started_at": now(),
        "finished": False,
    }
    path = folder / "manifest.json"
    if not path.exists() and not begun(folder):
        return new
    old = read_manifest(path, "set the folder aside with --restart")
    then = {**old, "recipe": _as_of_now(old["recipe"], new["recipe"])}
    differences = [
        line for part in ("recipe", "lineage", "data") for line in _differences(then[part], new[part], part)
    ]
    if differences and not begun(folder):
        return new  # it ended before its first checkpoint: there is nothing to go on from, nothing to lose
    grown = new["labels"] and old["data"] != new["data"]
    if differences:
        raise UserError(
            f"{folder} was started with something else:\n  "
            + "\n  ".join(differences)
            + ("\nA labeling database has other labels by now" if grown else "")
            + "\nPut it back, give the run another name (run.name), or start anew with --restart, "
            "which sets the old folder aside"
        )
    old["places"], old["labels"] = new["places"], {**old.get("labels", {}), **new["labels"]}
    if old["versions"] != new["versions"]:
        old.setdefault("resumed_with", []).append(new["versions"])
    return old


def _places(recipe: Recipe, stage: Stage) -> dict[str, str]:
    """Where base and earlier stages lie, by their key in the lineage; those of the same run are left out."""
    runs: dict[str, str | None] = {}
    if stage == "rm":
        runs = {"sft": recipe.rm.sft}
    elif stage == "ppo":
        runs = {"sft": recipe.ppo.sft, "rm": recipe.ppo.rm, "guard": recipe.ppo.guard}
        runs |= {f"reward/{one.label}": one.run for one in recipe.ppo.rewards or () if one.run != "this"}
    found = {key: str(Path(run).expanduser().absolute()) for key, run in runs.items() if run}
    revision = f"@{recipe.base.revision}" if recipe.base.revision else ""
    return {"base": f"{recipe.base.name}{revision}", **found}


def begun(folder: Path) -> bool:
    """Whether a stage has left anything in its folder that could be resumed or used."""
    return any((folder / "checkpoints").glob("step-*")) or (folder / "final").exists()


def kept_labels(folder: Path) -> dict[str, bytes]:
    """What a stage that has begun read of labeling databases, by entry of its recipe."""
    if not begun(folder) or not (folder / "manifest.json").exists():
        return {}
    found = {}
    manifest = read_manifest(folder / "manifest.json", "set the folder aside with --restart")
    for entry, digest in manifest.get("labels", {}).items():
        path = folder / LABELS / f"{digest}.jsonl"
        if re.fullmatch("[0-9a-f]{64}", str(digest)) and path.is_file() and sha256(path) == digest:
            found[entry] = path.read_bytes()
    return found


def keep_labels(folder: Path, labels: Mapping[str, bytes]) -> None:
    """Write what was read of labeling databases into a stage's folder."""
    for content in labels.values():
        path = folder / LABELS / f"{_digest(content)}.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_manifest(path: Path, remedy: str) -> dict[str, Any]:
    """A stage's manifest; UserError with the remedy where it is not one that a stage wrote."""
    try:
        manifest = read_json(path)
        parts = [manifest["lineage"], manifest["data"], manifest["versions"]]
        parts += [manifest["recipe"], *manifest["recipe"].values()]
        manifest["recipe"]["base"], manifest["recipe"]["lora"], manifest["recipe"]["data"]["template"]
        if manifest["finished"]:
            parts.append(manifest["final"])
            manifest["final"][ADAPTER]
            if outside := [name for name in manifest["final"] if _leaves(name)]:
                raise ValueError(f"it names {outside[0]}, which is outside its folder")
        texts = [manifest["lineage"], manifest["data"]]
        texts += [manifest.get(part, {}) for part in ("places", "labels", "final")]
        if not (
            all(isinstance(part, dict) for part in parts)
            and all(isinstance(text, str) for part in texts for text in part.values())
            and isinstance(manifest.get("command", []), list)
        ):
            raise ValueError("it is not what a stage writes")
    except KeyError as error:
        raise UserError(f"{path} has no entry {error}: {remedy}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}") from error
    return dict(manifest)


def _leaves(name: str) -> bool:
    """Whether a path leaves the folder that it is relative to."""
    path = PurePath(name)
    return path.is_absolute() or ".." in path.parts


def _relevant(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """What decides the stage's result; files of records count by content, not by name."""
    whole = recipe.model_dump(mode="json")
    for reward in whole["ppo"]["rewards"] or ():
        if reward["function"]:  # which code it is, the lineage says, wherever it lies
            reward["function"] = re.sub(r"^.*[/\\]", "", reward["function"])
    sections = {
        # Which checkpoint it is, the lineage's fingerprint says, wherever it lies.
        "base": {k: v for k, v in whole["base"].items() if k not in ("name", "revision")},
        "lora": whole["lora"],
        stage: whole[stage],
        "data": {"template": recipe.data.template},
        "run": {"seed": recipe.run.seed},
    }
    return {
        section: {k: v for k, v in fields.items() if k not in may_change(getattr(recipe, section))}
        for section, fields in sections.items()
    }


def _as_of_now(stored: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's recipe as this version would have written it.

    What an older version did not know stands at its default, which leaves results as they were; what it
    compared and this one does not is left out.
    """
    found = {}
    harmless = {key for section in SECTIONS.values() for key in marked(section, MayChange)}
    for name, fields in stored.items():
        section = SECTIONS.get(name)
        fields = by_new_names(section, fields) if section else fields
        defaults = {k: v for k, v in _defaults(section).items() if k in new.get(name, ())}
        known = {k: v for k, v in fields.items() if k in new.get(name, ()) or k not in harmless}
        found[name] = {**defaults, **known}
    rewards = found.get("ppo", {}).get("rewards")
    if isinstance(rewards, list) and all(isinstance(one, dict) for one in rewards):
        found["ppo"]["rewards"] = [{**_defaults(Reward), **one} for one in rewards]
    return found


def _defaults(section: Any) -> dict[str, Any]:
    """What a section's optional fields are where nobody sets them."""
    found: dict[str, Any] = section.model_construct().model_dump(mode="json") if section else {}
    return found


_NOTHING = object()


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for k in sorted({*old, *new})
            for line in _differences(old.get(k, _NOTHING), new.get(k, _NOTHING), f"{key}.{k}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in _differences(a, b, f"{key}[{i}]")]
    if old == new:
        return []
    was, now_is = ("not there" if x is _NOTHING else json.dumps(x, ensure_ascii=False) for x in (old, new))
    return [f"{key.removeprefix('recipe.')}: was {was}, is {now_is}"]


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
