"""What an evaluation has at hand: policies found and verified, models loaded where something is not kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from align.compare.policies import BASE, Found, Policy, add_role, find_policies
from align.errors import AlignError, MissingStage
from align.evaluation.answers import (
    Answering,
    find_measures,
    load_scoring,
)
from align.loop.policy import Drawing, OpenPolicy, check_gap
from align.models.forward import Forward
from align.models.roles import Roles
from align.recipe.sections import Recipe
from align.rewards.rewards import RewardSource, find_sources
from align.run.files import json_digest
from align.run.lineage import parent
from align.run.manifest import ParentRef
from align.run.progress import say
from align.sampling.engines import open_engine, sampling_params
from align.stages.frame import Setup, set_up

FOLDER = "evaluation"
OWN = Drawing()  # by transformers' forward pass, as the recipe says
_LABEL = 60  # characters of a policy's label in a file's name, which may have 255 bytes


@dataclass
class Evaluating:
    """What is compared, found and verified; models are loaded when something is not kept yet."""

    recipe: Recipe
    setup: Setup
    found: Found
    console: Console
    drawing: Drawing  # by what engine answers are drawn
    sources: list[RewardSource] = field(default_factory=list)
    guard: Path | None = None
    measures: list[RewardSource] = field(default_factory=list)
    parents: list[ParentRef] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.recipe.run.path / FOLDER

    def note(self, text: str) -> None:
        """Say it, and write it into the document."""
        if text not in self.notes:
            self.notes.append(text)
            say(self.console, text)

    @cached_property
    def answering(self) -> Answering:
        """The base with all policies and what scores them."""
        recipe, setup, sft = self.recipe, self.setup, self.found.sft
        roles = Roles(setup.base.load_model(setup.accel.device))
        policies = {policy.label: policy for policy in [*self.found.policies, *([sft] if sft else [])]}
        for policy in sorted(policies.values(), key=lambda one: one.label == BASE):
            add_role(roles, policy)
        scoring = load_scoring(recipe, roles, self.sources, self.guard, self.measures, setup.accel.device)
        forward = Forward(roles, setup.template.eos_id, recipe.ppo.min_response_tokens)
        folder = self.folder.resolve() / "engine"  # servers read adapters there
        drawing = self.drawing
        params = sampling_params(recipe.ppo, setup.base)
        urls = drawing.engine_url or ()
        engine = open_engine(drawing.engine, roles, setup.accel, urls=urls, folder=folder)
        for policy in policies.values() if drawing.engine == "vllm" else ():
            opened = OpenPolicy(policy.origin, setup, roles, engine, params, recipe.run.seed, policy.role)
            try:
                check_gap(opened, setup.template.prompt_ids("Hello"), recipe.ppo, self.console)
            except AlignError:
                engine.close()
                raise
        return Answering(
            forward,
            engine,
            params,
            setup.template,
            scoring,
            recipe.run.seed,
            recipe.ppo.microbatch_tokens,
            sft.role if sft else None,
        )

    def close(self) -> None:
        """Let the engine go, where one was opened."""
        if "answering" in self.__dict__:  # the property has been read
            self.answering.engine.close()

    @cached_property
    def judged_as(self) -> dict[str, Any]:
        """What decides scores, for names of files."""
        ppo, evaluate = self.recipe.ppo, self.recipe.evaluate
        spoken = [*(ppo.rewards or ()), *(evaluate.measures or ())]
        return {
            "lineage": self.setup.lineage,
            "parents": [parent.hashes | {"name": parent.name} for parent in self.parents],
            "sources": [one.model_dump(exclude={"function", "run"}) for one in spoken],
            "guard": self.guard is not None,
            "scale_scores": ppo.scale_scores,
            "reward_reduce": ppo.reward_reduce,
            "device": self.setup.accel.device.type,
            "dtype": self.recipe.base.dtype,
            "torch": torch.__version__,
            "microbatch_tokens": ppo.microbatch_tokens,
        }

    def name_of(self, policy: Policy, of: Mapping[str, Any]) -> Path:
        """The file of a policy's rows, by its label and a hash of all that they depend on."""
        label = policy.label.replace("/", "-").replace("@", "-").strip(".-")[-_LABEL:]
        decided = self.judged_as | {"policy": policy.digest} | dict(of)
        return self.folder / "answers" / f"{label}-{json_digest(decided)[:16]}.jsonl"


def opened(recipe: Recipe, console: Console, own: Path | None = None, drawing: Drawing = OWN) -> Evaluating:
    """Find and verify what the recipe evaluates; what is not there is noted. own: as `measure` has it."""
    setup = set_up(recipe)
    found = find_policies(recipe, setup.lineage, setup.base.fingerprint)
    if recipe.lora.modules_to_save and any(policy.label == BASE for policy in found.policies):
        kept = [policy for policy in found.policies if policy.label != BASE]
        why = "base is left out: sft trained its embeddings (lora.modules_to_save), which all policies share"
        found = Found(kept, found.sft, [*found.left_out, why])
    state = Evaluating(recipe, setup, found, console, drawing)
    for line in found.left_out:
        state.note(line)
    own = (own or recipe.run.path).resolve()
    places = {policy.label: policy.final or policy.saved for policy in found.policies}
    for label, place in places.items():
        if place is not None and not place.resolve().is_relative_to(own):
            state.note(f"{label} is of another run: whether it trained on these prompts is not known")
    try:
        state.sources = find_sources(recipe, setup.lineage)
    except MissingStage as error:
        state.note(f"answers get no score: {error}")
    state.parents += [one.parent for one in state.sources if one.parent]
    if recipe.ppo.guard:
        try:
            guard = parent(recipe, "rm", recipe.ppo.guard, setup.lineage)
            state.guard = guard.final
            state.parents.append(guard.ref("guard"))
        except MissingStage as error:
            state.note(f"there is no guard: {error}")
    state.measures = find_measures(recipe, setup.lineage)
    state.parents += [one.parent for one in state.measures if one.parent]
    return state
