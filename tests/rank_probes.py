"""What the processes of `ranks` can be asked beside commands; each prints JSON."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig
from torch.distributed.tensor import DTensor

from align.cli import app
from align.data.labels import Kind
from align.data.tokenize import Template
from align.models.base import find_base
from align.models.forward import Forward
from align.models.roles import Roles
from align.recipe import Base, Entry
from align.rollouts.engine import Terms
from align.rollouts.hf import sample
from align.runtime import distributed
from align.runtime.memory import size
from align.stages import labels
from align.stages.setup import Setup

_LORA = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)


def sharded(folder: str) -> None:
    """How much of a sharded base this process holds, and whether it answers as the whole one does."""
    accel = distributed.accelerator(60)
    base = find_base(Base(name=str(Path(folder))))
    setup = Setup(accel, base, Template(base.tokenizer, "plain"))
    found = []
    for roles in (Roles(base.load_model(accel.device)), Roles(setup.load_model(), setup.together)):
        torch.manual_seed(0)
        roles.add("policy", _LORA, trains=True)
        found.append(roles)
    whole, parts = found
    forward = [Forward(roles) for roles in found]
    layers = list(parts.decoder.layers.named_parameters())
    print(
        json.dumps(
            {
                "whole": sum(p.numel() for n, p in layers if "lora_" not in n),
                "held": sum(p.to_local().numel() for _, p in layers if isinstance(p, DTensor)),
                "lean": [one.lean for one in forward],
                "bytes": [size(roles.held({})[0].parameters) for roles in found],
                "adapters": sorted({type(p).__name__ for n, p in layers if "lora_" in n}),
                "same": _sample(whole, accel.process_index) == _sample(parts, accel.process_index),
                "lengths": [len(response) for response in _sample(parts, accel.process_index)],
                "gradients": _gradients(forward[0]) == _gradients(forward[1]),
            }
        )
    )


def _sample(roles: Roles, rank: int) -> list[list[int]]:
    """Process 0 has five rows in three batches, two of one prompt, and an early end; process 1 has one."""
    prompts = [[5, 6, 7], [5, 6, 7], [8, 9], [10], [11, 12]] if rank == 0 else [[13, 14]]
    draws = torch.rand(len(prompts), 6, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    terms = Terms(temperature=1.0, eos_id=-1, pad_id=0, max_tokens=6, batch_tokens=20)
    free = sample(roles, "policy", prompts, draws, terms)
    ended = free[0].response[2] if rank == 0 else free[0].response[0]
    answers = sample(roles, "policy", prompts, draws, replace(terms, eos_id=ended))
    return [one.response for one in answers]


def _gradients(forward: Forward) -> list[list[float]]:
    """Of a pass, and of one that only idles."""
    ids = torch.arange(3, 9).view(1, 6)
    forward._upper("policy", ids, None).sum().backward()
    forward.idle(1, ["policy"])
    return [
        p.grad.flatten().tolist()
        for p in forward.roles.parameters_of("policy").values()
        if p.grad is not None
    ]


def labels_of_one(recipe: str) -> None:
    """sft on a labeling database that is another one for all but the main process."""

    def read(kind: Kind, entry: Entry) -> bytes:
        assert os.environ["RANK"] == "0"
        return Path(entry.path).read_bytes()

    labels.read_labels = read
    app(["sft", recipe], prog_name="align")


def files_of_their_own(recipe: str) -> None:
    """sft where each process finds another file under the same name, as on machines without a common disk."""
    name = f"demonstrations{os.environ['RANK']}.jsonl"
    app(["sft", recipe, "--set", f"data.demonstrations.train={name}"], prog_name="align")
