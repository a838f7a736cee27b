"""What every stage starts with: processes, base, template, and the lineage that they give."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.utils.deterministic as deterministic
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from align.data.scan import Problem
from align.data.tokenize import Template
from align.errors import UserError
from align.models.base import Base, find_base
from align.recipe import Recipe, Source
from align.runtime import distributed, sharding
from align.runtime.files import write_text
from align.runtime.metrics import json_line
from align.runtime.run import StageRun


@dataclass(frozen=True)
class Setup:
    """The processes, the base (weights not yet loaded), and how text becomes tokens."""

    accel: Accelerator
    base: Base
    template: Template

    @property
    def lineage(self) -> dict[str, str]:
        """What all stages of a run must share."""
        return {"base": self.base.fingerprint, "template": self.template.hash}

    @property
    def together(self) -> Accelerator | None:
        """The processes that share one copy of the base; None where each has its own."""
        return sharding.together(self.accel)

    def load_model(self) -> PreTrainedModel:
        """The base on this process's device, or its part of it; raises UserError as Base.load_model does."""
        if self.together is None:
            return self.base.load_model(self.accel.device)
        if self.base.spec.quantize:
            raise UserError(
                "base.quantize: a base in four bits is not sharded: give each process a copy "
                "(distributed_type MULTI_GPU), or take quantize out"
            )
        model = self.base.load_model(torch.device("cpu"))
        layers = getattr(model.base_model, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise UserError(
                f"base: {type(model).__name__} has no list of layers that could be sharded: use "
                "distributed_type MULTI_GPU, or another base"
            )
        sharding.shard(layers, self.accel)
        return model.to(self.accel.device)


def set_up(recipe: Recipe) -> Setup:
    """Raises UserError where the base is not there or does not go with the recipe's template."""
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory would cost time and change no result. (The stubs do not know the switch.)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    base = find_base(recipe.base)
    accel = distributed.accelerator(recipe.run.timeout)
    return Setup(accel, base, base.template(recipe.data.template))


def source(recipe: Recipe, kind: str, stage: str) -> Source:
    """The recipe's source of one kind of records; UserError where `stage` needs it and it is not named."""
    found: Source | None = getattr(recipe.data, kind)
    if found is None:
        raise UserError(
            f"the recipe names no data.{kind}, and {stage} needs them: add `data: {{{kind}: FILE}}`"
        )
    return found


def write_skipped(stage: StageRun, *problems: Sequence[Problem]) -> None:
    """Say how many records were left out, and list them in the stage's skipped.jsonl."""
    found = [problem for several in problems for problem in several]
    if found and stage.main:
        path = stage.folder / "skipped.jsonl"
        write_text(path, "".join(json_line(problem.to_dict()) for problem in found))
        stage.say(f"{len(found)} records are left out; {path} lists them with what is wrong")
