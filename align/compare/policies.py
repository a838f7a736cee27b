"""Which policies there are to compare: of this run, of its checkpoints, and of other runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from align.errors import AlignError, MissingStage, UserError
from align.loop.policy import origin_of
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe.data import Data
from align.recipe.sections import Lora, Recipe
from align.run import checkpoint
from align.run.checkpoint import load_into
from align.run.files import read_json
from align.run.lineage import TEMPLATE_KEYS, as_trained, parent
from align.run.manifest import Manifest
from align.stage_table import Stage

BASE, SFT, PPO, DPO = "base", "sft", "ppo", "dpo"
_NONE = "no_adapter"  # a name that no adapter has: layers then are the base's own


@dataclass(frozen=True)
class Policy:
    """A policy to compare: `label` as the recipe names it, `origin` as the labeling app knows it.

    final: its adapter's folder; saved: a checkpoint's tensors, with the shape of their adapter; neither: the
    base. digest: of its weights.
    """

    label: str
    origin: str
    digest: str
    final: Path | None = None
    saved: Path | None = None
    lora: Lora | None = None

    @property
    def role(self) -> str:
        """What it is called among the roles; without dots, which PEFT's names cannot have."""
        return f"policy_{hashlib.sha256(self.label.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Found:
    """The policies that are there, the SFT policy where it has finished, and why others are left out."""

    policies: list[Policy]
    sft: Policy | None
    left_out: list[str]


def find_policies(recipe: Recipe, lineage: Mapping[str, str], base_digest: str) -> Found:
    """The recipe's policies; a stage that has not finished is left out, and said.

    Raises MissingStage where none is there, UserError where a run has another base, template or tokenizer,
    or a checkpoint is not whole.
    """
    names = recipe.evaluate.policies or [BASE, SFT, PPO]
    if double := [name for i, name in enumerate(names) if name in names[:i]]:
        raise UserError(f"evaluate.policies names {double[0]} twice")
    found: list[Policy] = []
    left_out: list[str] = []
    for name in names:
        try:
            found.append(_find(recipe, name, lineage, base_digest))
        except MissingStage as error:
            left_out.append(f"{name} is left out: {error}")
    if not any(policy.final or policy.saved for policy in found):
        raise MissingStage("\n  ".join(["there is no trained policy to evaluate", *left_out]))
    try:
        sft = next((p for p in found if p.label == SFT), None) or _find(recipe, SFT, lineage, base_digest)
    except MissingStage as error:
        sft = None
        left_out.append(f"without the SFT policy there are no KL, best-of-n and win rates: {error}")
    return Found(found, sft, left_out)


def _find(recipe: Recipe, name: str, lineage: Mapping[str, str], base_digest: str) -> Policy:
    if name == BASE:
        return Policy(BASE, origin_of(recipe.run.name, BASE, base_digest), base_digest)
    place, at, step = name.partition("@")
    run, stage = _place(recipe, place)
    mine = run is None
    if at:
        return _checkpoint(recipe, name, run or recipe.run.path, stage, int(step), lineage)
    if run is None:
        where = recipe.ppo.sft if stage == SFT else None
        found = parent(recipe, stage, where, lineage)
        run = Path(where) if where else recipe.run.path
    else:
        theirs, manifest = as_trained(run, stage)
        _refuse_other(name, recipe, manifest, lineage)
        found = parent(theirs, stage, str(run), lineage)
    origin = origin_of(recipe.run.name if mine else run.absolute().name, stage, found.adapter_hash)
    return Policy(name, origin, found.adapter_hash, final=found.final)


def _place(recipe: Recipe, place: str) -> tuple[Path | None, Stage]:
    """The run folder that a name means, None for this recipe's, and the stage."""
    named: dict[str, Stage] = {SFT: "sft", PPO: "ppo", DPO: "dpo"}
    if place in named:
        return None, named[place]
    path = Path(place).expanduser()
    if path.name in named:
        return path.parent, named[path.name]
    if path.name == "rm":
        raise UserError(
            f"evaluate.policies: {place} is a reward model, which answers nothing: name ppo or sft"
        )
    if not path.is_dir():
        raise UserError(
            f"evaluate.policies: {place} is none of base, sft, ppo, dpo, and no folder: name another run's "
            "as RUN/ppo or RUN/sft, a checkpoint as ppo@120"
        )
    return path, "ppo" if (path / PPO / "final").is_dir() else "sft"


def _refuse_other(name: str, recipe: Recipe, manifest: Manifest, lineage: Mapping[str, str]) -> None:
    """Raise UserError where a run cannot answer the same prompts on the same base."""
    for part, mine in lineage.items():
        if manifest.shared[part] == mine:
            continue
        what = f"{part} ({manifest.base_name}; here {recipe.base.name})" if part == "base" else part
        if part == "template":
            said = manifest.recipe["data"]
            keys = [
                f"data.{key}: {was} (here {getattr(recipe.data, key)})"
                for key in TEMPLATE_KEYS
                if (was := said.get(key, Data.model_fields[key].default)) != getattr(recipe.data, key)
            ]
            what = ", ".join(keys) or "tokenizer or chat template"
        raise UserError(
            f"evaluate.policies: {name} was trained with another {what}. It reads the same prompts as other "
            "tokens, so its answers are no comparison: evaluate it with its own recipe"
        )


def _checkpoint(
    recipe: Recipe, name: str, run: Path, stage: Stage, step: int, lineage: Mapping[str, str]
) -> Policy:
    folder = run / stage / "checkpoints"
    path = folder / checkpoint.name(step)
    if not path.is_dir():
        there = sorted(int(p.name[5:]) for p in folder.glob("step-*")) if folder.is_dir() else []
        held = (
            f"there are {', '.join(map(str, there))}"
            if there
            else "there is none, as in a stage that finished"
        )
        raise MissingStage(f"no checkpoint of step {step} in {folder}: {held}")
    theirs, manifest = as_trained(run, stage, finished=False)
    _refuse_other(name, recipe, manifest, lineage)
    try:
        of = read_json(path / "hashes.json")["of"]
    except (OSError, ValueError, KeyError, TypeError):
        of = {}
    try:
        checkpoint.at(folder, step, of)
    except AlignError as error:
        raise UserError(f"evaluate.policies: {error}") from error
    if theirs.lora.modules_to_save:
        raise UserError(
            f"evaluate.policies: {name} is a checkpoint of a run with lora.modules_to_save, whose embeddings "
            "are another base: compare what finished"
        )
    saved = path / ("policy.safetensors" if stage == PPO else "adapter.safetensors")
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    return Policy(
        name, origin_of(run.absolute().name, f"{stage}@{step}", digest), digest, None, saved, theirs.lora
    )


def add_role(roles: Roles, policy: Policy) -> None:
    """Give a policy its role; raises AlignError where a checkpoint does not fit the base."""
    if policy.final is not None:
        roles.add(policy.role, policy.final, trains=False)
    elif policy.saved is not None and policy.lora is not None:
        roles.add(policy.role, lora_config(policy.lora, roles.base), trains=False)
        tensors = {_plain(name): x for name, x in checkpoint.read_tensors(policy.saved).items()}
        load_into(roles.parameters_of(policy.role), tensors, str(policy.saved))
    else:
        roles.share(policy.role, _NONE, trains=False)


def _plain(name: str) -> str:
    """A tensor's name as ours, where TRL's trainer wrote it with PEFT's."""
    return name.removeprefix("base_model.model.").replace(".default.", ".")
