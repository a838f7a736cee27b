"""manifest.json: what a stage was made of and what it left, written into its folder and read with care."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from align import __version__
from align.errors import UserError
from align.recipe.ppo import Reward
from align.run.files import read_json
from align.stage_table import Stage

VERSION = 1  # of the form below; 0 stands for the one without a version, whose parents were flat keys
ADAPTER = "adapter_model.safetensors"  # PEFT's name
HEAD = "head.safetensors"

Kind = Literal["sft", "rm", "guard", "reward", "function"]
_STAGE: dict[Kind, Stage] = {"sft": "sft", "rm": "rm", "guard": "rm", "reward": "rm"}


class ParentRef(BaseModel):
    """What a stage started from: a finished stage, or a function of the person's. Hashes are hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    name: str  # in messages: sft, rm, guard, or reward/LABEL
    run: str | None = None  # the run folder where it lay; None: the stage's own. Not compared
    adapter: str | None = None
    head: str | None = None  # of a reward model
    base: str | None = None  # its base's fingerprint, where it is another one than the stage's
    digest: str | None = None  # of a function's code
    members: str | None = None  # of all files of a reward model's other members, where it has several

    @property
    def stage(self) -> Stage | None:
        """The stage that made it; None for a function."""
        return _STAGE.get(self.kind)

    @property
    def hashes(self) -> dict[str, str]:
        """What is compared of it, by the name that messages use."""
        named = {"": self.adapter or self.digest, "_head": self.head, "_base": self.base}
        named["_members"] = self.members
        return {self.name + part: value for part, value in named.items() if value is not None}


class AcceptedChange(BaseModel):
    """A parent that was changed while the stage was under way, and with which the person let it go on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # the parent's
    was: str  # its hash before
    now: str  # and after
    at: str  # when


class Manifest(BaseModel):
    """A stage's manifest."""

    model_config = ConfigDict(extra="allow")  # a person's own entries stay

    version: Annotated[int, Field(strict=True, ge=0, le=VERSION)]
    stage: Stage
    recipe: dict[str, dict[str, Any]]  # what of the recipe decides the stage's result
    base: str  # fingerprint; all stages of a run share it and the template
    base_name: str  # name@revision, or where it lay; not compared
    template: str  # hash of tokenizer and template
    parents: list[ParentRef]
    data: dict[str, str]  # fingerprints of the records, by kind
    without: dict[str, list[str]] = {}  # the recipe's data.KIND.without, by kind; the fingerprints decide
    labels: dict[str, str] = {}  # hashes of what was read of labeling databases, by entry of the recipe
    versions: dict[str, str]  # of align, Python and libraries
    command: list[str] = []
    started_at: str = ""
    accepted: list[AcceptedChange] = []  # the oldest first
    resumed_with: list[dict[str, str]] = []  # other versions that it went on with
    finished: bool
    finished_at: str | None = None
    results: dict[str, float] = {}  # the last evaluation
    final: dict[str, str] = {}  # the SHA-256 of each file in final/

    @field_validator("recipe")
    @classmethod
    def _has_sections(cls, recipe: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if missing := [name for name in ("base", "lora", "data") if name not in recipe]:
            raise ValueError(f"it has no entry {missing[0]}")
        if "template" not in recipe["data"]:
            raise ValueError("it has no entry data.template")
        return recipe

    @field_validator("final")
    @classmethod
    def _stays_inside(cls, final: dict[str, str]) -> dict[str, str]:
        if outside := [name for name in final if _leaves(name)]:
            raise ValueError(f"it names {outside[0]}, which is outside its folder")
        return final

    @model_validator(mode="after")
    def _left_an_adapter(self) -> Manifest:
        if self.finished and ADAPTER not in self.final:
            raise ValueError(f"final has no {ADAPTER}")
        return self

    @property
    def shared(self) -> dict[str, str]:
        """What all stages of a run must share."""
        return {"base": self.base, "template": self.template}

    @property
    def lineage(self) -> dict[str, str]:
        """Every hash that the stage started from, by its name in messages; checkpoints are known by them.

        (Of two names that are the same, such as a head's and a label's, the later one's is here.)
        """
        return self.shared | hashes(self.parents)

    @property
    def began_with(self) -> dict[str, str]:
        """`lineage` as it was when the stage began, before changes that were accepted."""
        first = {change.name: change.was for change in reversed(self.accepted)}
        return self.lineage | first

    def json_ready(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json")


def hashes(parents: Iterable[ParentRef]) -> dict[str, str]:
    """The parents' hashes by their names in messages."""
    return {name: value for parent in parents for name, value in parent.hashes.items()}


def read_manifest(path: Path, remedy: str) -> Manifest:
    """A stage's manifest; UserError with the remedy where it is not one that a stage wrote."""
    try:
        raw = read_json(path)
        if isinstance(raw, dict):
            _refuse_newer(path, raw, remedy)
        return as_manifest(raw)
    except ValidationError as error:
        raise UserError(f"{path} {_first_fault(error)}: {remedy}") from error
    except KeyError as error:
        raise UserError(f"{path} has no entry {error}: {remedy}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}") from error


def as_manifest(raw: Any) -> Manifest:
    """The JSON of a manifest of this version or an older one.

    Raises KeyError, ValueError (pydantic's ValidationError is one), TypeError or AttributeError.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is not what a stage writes")
    return Manifest.model_validate(raw if "version" in raw else _first_form(raw))


def _refuse_newer(path: Path, raw: Mapping[str, Any], remedy: str) -> None:
    version, versions = raw.get("version"), raw.get("versions")
    if isinstance(version, int) and version > VERSION:
        writer = versions.get("align", "of another version") if isinstance(versions, dict) else "of another"
        raise UserError(
            f"{path} was written by align {writer}, in version {version} of its form; this is align "
            f"{__version__}, which reads up to version {VERSION}: use the align that wrote it, or {remedy}"
        )


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"has no entry {where!r}"
    says = fault["msg"].removeprefix("Value error, ")
    return f"cannot be read ({where}: {says})" if where else f"cannot be read ({says})"


def _leaves(name: str) -> bool:
    """Whether a path leaves the folder that it is relative to."""
    path = PurePath(name)
    return path.is_absolute() or ".." in path.parts


def _first_form(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without a version, as version 0 of the form above.

    There, `lineage` held base, template and the parents' hashes by flat keys, and `places` their runs.
    """
    lineage, places = dict(raw["lineage"]), raw.get("places", {})
    rest = {key: value for key, value in raw.items() if key not in ("lineage", "places")}
    shared = {key: lineage.pop(key) for key in ("base", "template") if key in lineage}
    rewards = raw["recipe"].get("ppo", {}).get("rewards") or ()
    return {
        **rest,
        **shared,
        "version": 0,
        "base_name": places.get("base", ""),
        "parents": _parents_of_keys(lineage, places, [Reward.model_construct(**one) for one in rewards]),
    }


def _parents_of_keys(
    keys: Mapping[str, str], places: Mapping[str, str], rewards: Iterable[Reward]
) -> list[dict[str, Any]]:
    """The parents that flat keys speak of: NAME (adapter, or a function's digest), NAME_head, NAME_base.

    Which labels there were, the recipe says. Where a key is that of two sources, the later one had written
    it last: the earlier one's hash is not known. Raises ValueError for a key that is nobody's.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"kind": name, "name": name} for name in ("sft", "rm", "guard") if name in keys
    }
    for reward in rewards:
        if f"reward/{reward.label}" in keys and reward.run != "this":
            name = f"reward/{reward.label}"
            found[name] = {"kind": "reward" if reward.run else "function", "name": name}
    owners: dict[str, tuple[dict[str, Any], str]] = {}
    for name, parent in found.items():
        if parent["kind"] == "function":
            owners[name] = parent, "digest"
            continue
        parent["run"] = places.get(name)
        owners[name] = parent, "adapter"
        if parent["kind"] != "sft":
            owners[f"{name}_head"] = parent, "head"
        if parent["kind"] == "reward" and f"{name}_base" not in found:
            owners[f"{name}_base"] = parent, "base"
    if unknown := sorted(keys.keys() - owners.keys()):
        raise ValueError(f"lineage.{unknown[0]} is not what a stage writes")
    for key, value in keys.items():
        parent, part = owners[key]
        parent[part] = value
    return list(found.values())
