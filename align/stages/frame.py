"""What every stage starts with: processes, base, template, earlier stages, records, and its part of the run.

A labeling database is read while people work in it, so two readings may differ. The main process reads
once, for all; what it read goes into the run folder (see align.run.folder), and is what a stage that
has begun goes on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from align.data.formats.base import T
from align.data.labels import EVIDENCE, read_evidence, read_labels
from align.data.load import Split, load
from align.data.reading import by_understanding, shown_names
from align.data.rows import FileError
from align.data.template import Template
from align.data.tokenize import Encodings
from align.errors import UserError
from align.models.base import BaseCheckpoint, find_base
from align.models.slices import NotInSlices, check_slices
from align.models.text_part import name_decoder, text_decoder
from align.plan.guard import check_base_alone, settled
from align.plan.lengths import Lengths
from align.processes import distributed, sharding
from align.processes.determinism import choose_kernels
from align.recipe.data import Entry, Source
from align.recipe.sections import Recipe
from align.records import RecordKind, RecordType
from align.report.page import LivePage, refresh
from align.run import lineage, manifest
from align.run.agreement import agree_on_recipe
from align.run.files import write_text
from align.run.folder import StageRun, open_stage, share_object
from align.run.metrics import json_line
from align.stage_table import Accepted, Stage

E = TypeVar("E")


@dataclass(frozen=True)
class Setup:
    """The processes, the base (weights not yet loaded), and how text becomes tokens."""

    accel: Accelerator
    base: BaseCheckpoint
    template: Template

    @property
    def lineage(self) -> dict[str, str]:
        """What all stages of a run must share."""
        return {"base": self.base.fingerprint, "template": self.template.hash}

    @property
    def shard_group(self) -> Accelerator | None:
        """The processes that share one copy of the base; None where each has its own."""
        return sharding.shard_group(self.accel)

    def load_model(self) -> PreTrainedModel:
        """The base on this process's device, or its part of it; raises UserError as Base.load_model does."""
        if self.shard_group is None:
            return self.base.load_model(self.accel.device)
        if self.base.spec.quantize:
            raise UserError(
                "base.quantize: a base in four bits is not sharded: give each process a copy "
                "(distributed_type MULTI_GPU), or take quantize out"
            )
        try:
            model = self.base.load_model(self.accel.device, self._cut)
        except NotInSlices:
            model = self._load_in_turns()
        sharding.assemble(_layers(model), self.accel)
        return model

    def _cut(self, model: PreTrainedModel) -> None:
        layers = _layers(model)
        check_slices(model, layers, self.accel.num_processes)
        sharding.cut(layers, self.accel)

    def _load_in_turns(self) -> PreTrainedModel:
        """Each process reads the whole base and keeps its part, before the next one does."""
        if self.accel.is_main_process:
            print(
                "base: its layers lie in its files in another form than the model's, so each process in turn "
                "reads all of it into the machine's memory"
            )
        for turn in range(self.accel.num_processes):
            if turn == self.accel.process_index:
                model = self.base.load_model(torch.device("cpu"))
                sharding.cut(_layers(model), self.accel)
                model.to(self.accel.device)
            self.accel.wait_for_everyone()
        return model


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    """What is sharded of a base; raises UserError where it has no such list."""
    layers = getattr(text_decoder(name_decoder(model)), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(
            f"base: {type(model).__name__} has no list of layers that could be sharded: use "
            "distributed_type MULTI_GPU, or another base"
        )
    return layers


def set_up(recipe: Recipe) -> Setup:
    """Raises UserError where the base is not there or does not go with the recipe's template."""
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    choose_kernels(recipe.run.deterministic)
    base = find_base(recipe.base)
    accel = distributed.accelerator(recipe.run.timeout)
    if recipe.lora.use_dora and sharding.shard_group(accel):
        raise UserError(
            "lora.use_dora: DoRA reads whole matrices, and this base is sharded: use distributed_type "
            "MULTI_GPU, or take use_dora out"
        )
    return Setup(accel, base, base.template(recipe.data))


def source(recipe: Recipe, kind: RecordKind, stage: str) -> Source:
    """The recipe's source of one kind of records; UserError where `stage` needs it and it is not named."""
    found: Source | None = getattr(recipe.data, kind)
    if found is None:
        raise UserError(
            f"the recipe names no data.{kind}, and {stage} needs them: add `data: {{{kind}: FILE}}`"
        )
    return found


class Inputs:
    """What a stage is made of, read and verified before anything trains."""

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        restart: bool,
        accepted: Sequence[Accepted] = (),
        anyway: bool = False,
    ) -> None:
        """accepted: what may have changed since the stage began. anyway: also where memory will not do.

        Raises UserError as `set_up` and `agree_on_recipe` do, and where the base alone does not fit.
        """
        self.recipe, self.stage, self.restart, self.accepted = recipe, stage, restart, accepted
        self.anyway, self.setup = anyway, set_up(recipe)
        agree_on_recipe(recipe, stage, self.setup.accel)
        if not anyway and (restart or not (recipe.run.path / stage / "final").is_dir()):
            accel = self.setup.accel
            say = partial(print, flush=True) if accel.is_main_process else str
            check_base_alone(recipe, stage, self.setup.base.config, accel, say)
        self.parents: list[manifest.ParentRef] = []
        self._splits: dict[RecordType, Split[Any]] = {}
        self._labels: dict[str, bytes] = {}  # what was read of labeling databases, by entry of the recipe
        self._also: dict[str, str] = {}  # what else decides the result, beside the records

    def parent(self, kind: manifest.Kind, stage: Stage, run: str | None) -> Path:
        """The final/ of a finished stage that this one starts from; raises as `lineage.parent` does."""
        found = lineage.parent(self.recipe, stage, run, self.setup.lineage)
        self.parents.append(found.ref(kind))
        return found.final

    def read(self, record: type[T]) -> Split[T]:
        """The recipe's records of this type; raises UserError as `source` and `load` do."""
        spec = source(self.recipe, record.kind, self.stage)
        found = load(record, spec, record.kind, self.recipe.data.cache_folder, self._read_labels)
        self._splits[record] = found
        return found

    def encode(
        self, stage: StageRun, record: RecordType, encode: Callable[..., Encodings[E]], limit: int
    ) -> tuple[Encodings[E], Encodings[E]]:
        """The tokens of what trains and of what is held out; what is left out is told.

        encode: encode_demonstrations or one of its kin. limit: the most tokens of a record.
        """
        name, split = record.kind, self._splits[record]
        for files, reading in by_understanding(split.readings):
            stage.say(f"data.{name}: {shown_names(files)}, read as {reading.format}: {reading.counted()}")
        for line in split.left_out.lines(name) if split.left_out else ():
            stage.say(line)
        skip = source(self.recipe, name, self.stage).on_bad_record == "skip"
        cache = self.recipe.data.cache_folder
        train, held_out = (
            encode(self.setup.template, side, limit, where, cache=cache, skip=skip)
            for side, where in (
                (split.train, f"data.{name}"),
                (split.held_out, f"data.{name} (held out)"),
            )
        )
        if (found := [*split.skipped, *train.skipped, *held_out.skipped]) and stage.main:
            path = stage.folder / "skipped.jsonl"
            write_text(path, "".join(json_line(problem.to_dict()) for problem in found))
            stage.say(f"{len(found)} records are left out; {path} lists them with what is wrong")
        return train, held_out

    def settled(self, stage: StageRun, lengths: Lengths) -> Recipe:
        """The recipe as the stage will run, see `align.plan.guard.settled`; UserError where it cannot fit."""
        config, accel = self.setup.base.config, self.setup.accel
        return settled(self.recipe, self.stage, config, accel, lengths, stage.say, self.anyway)

    @contextmanager
    def open(self) -> Iterator[StageRun]:
        """The stage's part of the run folder, as `open_stage` gives it; afterwards the run's page is made."""
        with open_stage(
            self.recipe,
            self.stage,
            self.setup.accel,
            lineage=self.setup.lineage,
            data={record.kind: split.fingerprint for record, split in self._splits.items()} | self._also,
            parents=list(dict.fromkeys(self.parents)),
            labels=self._labels,
            restart=self.restart,
            accepted=self.accepted,
        ) as stage:
            before = stage.finished
            if not before:
                base, template = self.setup.base, self.setup.template
                for told in (base.told_end(), template.told_rowless, *template.remarks()):
                    if told:
                        stage.say(f"{self.stage}: {told}")
            stage.metrics.followers.append(LivePage(self.recipe.run.path, stage.say))
            yield stage
            if stage.main and not before:
                refresh(self.recipe.run.path, stage.say)

    @cached_property
    def _kept(self) -> dict[str, bytes]:
        """What a stage that has begun had read of labeling databases."""
        return {} if self.restart else lineage.kept_labels(self.recipe.run.path / self.stage)

    def also(self, name: str, value: str) -> None:
        """Note what decides the stage's result as its records do: with another value it does not go on."""
        self._also[name] = value

    def read_evidence(self, entry: Entry) -> bytes:
        """What a labeling database says of its labelers; raises as `read_evidence` does, on every process."""
        return self._read(EVIDENCE, entry, lambda: read_evidence(entry))

    def _read_labels(self, record: RecordType, entry: Entry) -> bytes:
        """Records as JSON Lines; raises FileError, on every process, where the database gives none."""
        return self._read(record.__name__, entry, lambda: read_labels(record, entry))

    def _read(self, what: str, entry: Entry, read: Callable[[], bytes]) -> bytes:
        key = lineage.label_key(what, entry)
        if key not in self._labels:
            accel = self.setup.accel
            found = self._content(key, read) if accel.is_main_process else None
            content, place, wrong = share_object(found, accel)
            if wrong:
                raise FileError(place, wrong)
            self._labels[key] = content
        return self._labels[key]

    def _content(self, key: str, read: Callable[[], bytes]) -> tuple[bytes, str, str]:
        """What there is, or where and what is wrong."""
        try:
            return self._kept[key] if key in self._kept else read(), "", ""
        except FileError as error:
            return b"", error.place, error.message
        except UserError as error:
            return b"", "", str(error)
