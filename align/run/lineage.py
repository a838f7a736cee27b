"""What a stage is made of, compared with what it was started with, and what the next one verifies of it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from align import __version__
from align.errors import MissingStage, UserError
from align.recipe.data import Data, Entry
from align.recipe.load import load_recipe
from align.recipe.parts import MayChange, by_new_names, marked, may_change
from align.recipe.ppo import Reward
from align.recipe.sections import SECTIONS, Base, Lora, Recipe
from align.run.files import json_digest, sha256, write_bytes
from align.run.manifest import (
    ADAPTER,
    HEAD,
    VERSION,
    AcceptedChange,
    Kind,
    Manifest,
    ParentRef,
    hashes,
    read_manifest,
)
from align.stage_table import STAGES, Accepted, Stage

TEMPLATE_KEYS = ("template", "template_name", "chat_template_kwargs")  # of data: how text becomes tokens
LABELS = "labels"  # in a stage's folder, what it read of labeling databases
_VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors")


@dataclass(frozen=True)
class Parent:
    """A finished earlier stage: where its adapter lies and what it was trained with."""

    final: Path
    run: str | None  # the run folder, where the recipe names one
    manifest: Manifest

    @property
    def adapter_hash(self) -> str:
        """The SHA-256 of its adapter."""
        return self.manifest.final[ADAPTER]

    def ref(self, kind: Kind, name: str | None = None, base: str | None = None) -> ParentRef:
        """What the manifest of a stage that starts from it says; `base`: its own, where that is another."""
        # Of a reward model's head too: centring it anew changes every score, and the adapter stays.
        head = self.manifest.final[HEAD] if STAGES[self.manifest.stage].has_head else None
        files = {name: value for name, value in self.manifest.final.items() if name.startswith("members/")}
        members = _digest(json.dumps(files, sort_keys=True).encode()) if files else None
        return ParentRef(
            kind=kind,
            name=name or kind,
            run=self.run,
            adapter=self.adapter_hash,
            head=head,
            base=base,
            members=members,
        )


def parent(recipe: Recipe, stage: Stage, run: str | None, lineage: Mapping[str, Any]) -> Parent:
    """The finished `stage` of this run, or of the run folder that the recipe names, verified.

    Raises MissingStage when it has not finished, UserError when its base, tokenizer or template is
    another one, or when its files are not what it wrote.
    """
    folder = (Path(run).expanduser() if run else recipe.run.path) / stage
    path = folder / "manifest.json"
    again = f"restore it, or train {stage} again (`align {stage} … --restart`)"
    manifest = read_manifest(path, again) if path.exists() else None
    if manifest is None or not manifest.finished:
        state = "was started but has not finished" if manifest else "has not run"
        first = f"run `align {stage}` with this recipe first"
        if run:
            first = f"the recipe names that folder as {stage}'s run; name one in which {stage} has finished"
            if (folder.parent / "manifest.json").is_file():
                first = f"name the run's folder, {folder.parent.parent}, not a stage's"
        raise MissingStage(f"{stage} {state} in {folder.parent}: {first}")
    for key, mine in lineage.items():
        theirs: Any = manifest.shared[key]
        if theirs != mine:
            what = key
            if key == "template":
                what, theirs, mine = _template(manifest, theirs, recipe, mine)
            raise UserError(
                f"{folder} was trained with another {what}: {theirs}, and this recipe has {mine}. "
                f"Name the run that belongs to this base, or train {stage} again"
            )
    here = _relevant(recipe, stage)
    theirs, mine = _as_of_now(manifest.recipe, here)["lora"], here["lora"]
    if differing := [k for k in mine if k != "dropout" and theirs.get(k) != mine[k]]:
        what = ", ".join(f"lora.{k} {theirs.get(k)} (here {mine[k]})" for k in differing)
        raise UserError(
            f"{folder} was trained with {what}. Roles start from its adapter: set the same in this recipe"
        )
    for name, expected in manifest.final.items():
        file = folder / "final" / name
        if not file.is_file():
            raise UserError(f"{file} is missing: {again}")
        if sha256(file) != expected:
            raise UserError(
                f"{file} is not what {stage} wrote: its SHA-256 is {sha256(file)}, "
                f"the manifest says {expected}: {again}"
            )
    return Parent(folder / "final", str(folder.parent.absolute()) if run else None, manifest)


def as_trained(
    folder: Path, stage: Stage, base: Path | None = None, finished: bool = True
) -> tuple[Recipe, Manifest]:
    """The recipe and manifest of a run folder's finished `stage`; `base`: where the base lies now.

    Raises MissingStage where it has not finished (with `finished`), UserError where the folder is no run's.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Name a run's folder, such as runs/quickstart")
    if (folder / "manifest.json").is_file():
        raise UserError(f"{folder} is a stage's folder: name the run's, {folder.parent}")
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} holds no recipe.yaml: it is not a run's folder, such as runs/quickstart")
    recipe = load_recipe(folder / "recipe.yaml", of_run=True)
    manifest = _finished_manifest(folder, stage, finished)
    try:
        return _with(recipe, manifest, base), manifest
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"{folder / stage / 'manifest.json'} does not say what this version of align can read: {where}: "
            f"{error.errors()[0]['msg']}. Use the version that trained it (`align lineage {folder}` names it)"
        ) from error


def refuse_code(recipe: Recipe, folder: Path, trusted: bool) -> None:
    """Raise UserError where loading the base of a run runs other people's code, unless it is trusted.

    Whoever has the folder need not be who wrote its recipe.
    """
    if not trusted and (code := recipe.base.foreign_code):
        raise UserError(
            f"loading the base of {folder} runs {' and '.join(code)}, as its recipe says. Where you trust "
            "that code, add --trust-remote-code"
        )


def _finished_manifest(folder: Path, stage: Stage, finished: bool) -> Manifest:
    path, state = folder / stage / "manifest.json", "has not run"
    if path.exists():
        manifest = read_manifest(path, f"restore it, or train {stage} again")
        if manifest.finished or not finished:
            return manifest
        state = "has not finished"
    raise MissingStage(f"{stage} {state} in {folder}: run `align {stage} {folder / 'recipe.yaml'}` first")


def _with(recipe: Recipe, manifest: Manifest, base: Path | None) -> Recipe:
    """The recipe with what the stage's own manifest says; recipe.yaml is that of the run's last command."""
    theirs = manifest.recipe
    spec: dict[str, Any] = {**recipe.base.model_dump(), **theirs["base"]}
    if base is not None:
        spec |= {"name": str(base), "revision": None}
    said = Data(**{key: theirs["data"][key] for key in TEMPLATE_KEYS if key in theirs["data"]})
    data = recipe.data.model_copy(update={key: getattr(said, key) for key in TEMPLATE_KEYS})
    return recipe.model_copy(update={"base": Base(**spec), "lora": Lora(**theirs["lora"]), "data": data})


def _template(manifest: Manifest, theirs: Any, recipe: Recipe, mine: str) -> tuple[str, Any, str]:
    """What differs where the template's hash does, and both values of it."""
    for key in TEMPLATE_KEYS:
        old = manifest.recipe["data"].get(key, Data.model_fields[key].default)
        new = getattr(recipe.data, key)
        if old != new:
            return f"data.{key}", old, new
    return "tokenizer or chat template", theirs, mine


def stage_manifest(
    recipe: Recipe,
    stage: Stage,
    lineage: Mapping[str, str],
    data: Mapping[str, str],
    folder: Path,
    parents: Sequence[ParentRef] = (),
    labels: Mapping[str, bytes] | None = None,
    accepted: Sequence[Accepted] = (),
) -> Manifest:
    """The stage's manifest: a new one, or the one that is there, if it says the same.

    lineage: hashes of base and template. data: fingerprints of the records, by kind. labels: what was
    read of labeling databases, by entry of the recipe. accepted: what may have changed since it began; such a
    change is noted in the manifest.
    Raises UserError with each difference when the stage began with another recipe, lineage or data.
    """
    revision = f"@{recipe.base.revision}" if recipe.base.revision else ""
    new = Manifest(
        version=VERSION,
        stage=stage,
        recipe=_relevant(recipe, stage),
        base=lineage.get("base", ""),
        base_name=f"{recipe.base.name}{revision}",
        template=lineage.get("template", ""),
        parents=list(parents),
        data=dict(data),
        without=_without(recipe, data),
        labels={entry: _digest(content) for entry, content in (labels or {}).items()},
        versions=_versions(),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        started_at=now(),
        finished=False,
    )
    path = folder / "manifest.json"
    if not path.exists() and not begun(folder):
        return new
    old = read_manifest(path, "set the folder aside with --restart")
    changed = [] if old.finished else _changed_functions(old, new)
    taken = changed if "reward" in accepted else []
    differences = _all_differences(old, _as_before(new, taken))
    if differences and not begun(folder):
        return new  # it ended before its first checkpoint: there is nothing to go on from, nothing to lose
    if differences:
        mended = bool({change.name for change in changed} - {change.name for change in taken})
        grown = bool(new.labels) and old.data != new.data
        apart = _own_run(recipe, stage) if old.without != new.without else ""
        raise UserError(_refusal(folder, differences, grown, mended, apart))
    resumed_with = old.resumed_with + ([new.versions] if old.versions != new.versions else [])
    now_known = {"version": VERSION, "parents": new.parents, "base_name": new.base_name}
    now_known["without"] = new.without
    return old.model_copy(
        update={
            **now_known,
            "labels": old.labels | new.labels,
            "resumed_with": resumed_with,
            "accepted": old.accepted + taken,
        }
    )


def _without(recipe: Recipe, kinds: Iterable[str]) -> dict[str, list[str]]:
    """What the recipe leaves out of the kinds of records that a stage reads."""
    sources = {kind: getattr(recipe.data, kind, None) for kind in kinds}
    return {kind: list(source.without) for kind, source in sources.items() if source and source.without}


def _own_run(recipe: Recipe, stage: Stage) -> str:
    """The options that give a stage a run of its own, which starts from this run's earlier stages."""
    here, section = shlex.quote(str(recipe.run.path)), getattr(recipe, stage)
    parents = [f" --set {stage}.{one}={here}" for one in STAGES[stage].parents if not getattr(section, one)]
    return f"--set run.name={recipe.run.name}-without{''.join(parents)}"


def _refusal(folder: Path, differences: Sequence[str], grown: bool, mended: bool, own_run: str = "") -> str:
    """Why a stage does not go on. grown: a labeling database has; mended: a reward function was changed.

    own_run: the options by which it trains beside this run, where it leaves out other records.
    """
    lines = [f"{folder} was started with something else:", *(f"  {each}" for each in differences)]
    if grown:
        lines.append("A labeling database has other labels now")
    if mended:
        lines.append("A reward function that was mended may go on from here: add --accept-changed reward")
    if own_run:
        lines.append(f"To have both, add {own_run}")
    lines.append(
        "Put it back, give the run another name (run.name), or start anew with --restart, which sets the old "
        "folder aside"
    )
    return "\n".join(lines)


def _changed_functions(old: Manifest, new: Manifest) -> list[AcceptedChange]:
    """The functions of both whose code is not the same."""
    were = {parent.name: parent.digest for parent in old.parents if parent.kind == "function"}
    return [
        AcceptedChange(name=parent.name, was=was, now=parent.digest, at=now())
        for parent in new.parents
        if parent.kind == "function" and parent.digest and (was := were.get(parent.name))
        if was != parent.digest
    ]


def _as_before(manifest: Manifest, changes: Sequence[AcceptedChange]) -> Manifest:
    """The manifest as if these changes had not been."""
    were = {change.name: change.was for change in changes}
    parents = [
        parent.model_copy(update={"digest": were[parent.name]}) if parent.name in were else parent
        for parent in manifest.parents
    ]
    return manifest.model_copy(update={"parents": parents})


def _all_differences(old: Manifest, new: Manifest) -> list[str]:
    """What decides the result and is not the same, a line each."""
    lines = _differences(_as_of_now(old.recipe, new.recipe), new.recipe, "recipe")
    lines += _differences(old.shared, new.shared, "lineage")
    if old.version == 0:  # its flat keys cannot always be told apart, so they are compared as they were
        lines += _differences(hashes(old.parents), hashes(new.parents), "lineage")
    else:
        were, are = ({parent.name: parent.hashes for parent in one.parents} for one in (old, new))
        for name in sorted({*were, *are}):
            lines += _differences(were.get(name, {}), are.get(name, {}), "lineage")
    data = _differences(old.data, new.data, "data")
    # Where the data are the same, the terms leave out the same records.
    for kind in sorted({*old.without, *new.without}) if data else ():
        lines += _differences(old.without.get(kind, []), new.without.get(kind, []), f"data.{kind}.without")
    return lines + data


def begun(folder: Path) -> bool:
    """Whether a stage has left anything in its folder that could be resumed or used."""
    return any((folder / "checkpoints").glob("step-*")) or (folder / "final").exists()


def label_key(what: str, entry: Entry) -> str:
    """What a manifest calls that which was read of a labeling database: `what`, and by which entry."""
    return f"{what} {json_digest(entry.model_dump(exclude_defaults=True, exclude={'weight'}))}"


def kept_labels(folder: Path) -> dict[str, bytes]:
    """What a stage that has begun read of labeling databases, by entry of its recipe."""
    if not begun(folder) or not (folder / "manifest.json").exists():
        return {}
    found = {}
    manifest = read_manifest(folder / "manifest.json", "set the folder aside with --restart")
    for entry, digest in manifest.labels.items():
        path = folder / LABELS / f"{digest}.jsonl"
        if re.fullmatch("[0-9a-f]{64}", digest) and path.is_file() and sha256(path) == digest:
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
        "data": {key: whole["data"][key] for key in TEMPLATE_KEYS},
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
    found = {"align": __version__, "python": sys.version.split()[0]}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
