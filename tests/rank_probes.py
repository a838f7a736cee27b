"""What the processes of `ranks` can be asked beside commands; each prints JSON."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch.distributed.tensor import DTensor

from align.cli.app import app
from align.data.labels import RecordType
from align.data.template import Template
from align.models.base import find_base
from align.models.batch import collate
from align.models.forward import Forward
from align.models.passes import PAIRS
from align.models.roles import Roles
from align.processes import distributed, sharding
from align.recipe.data import Entry
from align.recipe.sections import Base
from align.run.checkpoint import load_optimizer, optimizer_tensors
from align.run.memory import size
from align.sampling.params import Draws, SamplingParams
from align.sampling.sampler import Hf
from align.stages import frame
from align.stages.frame import Setup

_LORA = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)


def sharded(folder: str) -> None:
    """How much of a sharded base this process holds, and whether it answers as the whole one does."""
    accel = distributed.accelerator(60)
    base = find_base(Base(name=str(Path(folder))))
    setup = Setup(accel, base, Template(base.tokenizer, "plain"))
    found = []
    for roles in (Roles(base.load_model(accel.device)), Roles(setup.load_model(), setup.shard_group)):
        torch.manual_seed(0)
        roles.add("policy", _LORA, trains=True)
        found.append(roles)
    whole, parts = found
    forward = [Forward(roles) for roles in found]
    again = Forward(parts, gradient_checkpointing=True)
    lean, rank = [one.fused for one in forward], accel.process_index
    forward[0].fused = forward[1].fused  # so that both go the same way
    layers = list(parts.decoder.layers.named_parameters())
    print(
        json.dumps(
            {
                "whole": sum(
                    p.numel() for n, p in whole.decoder.layers.named_parameters() if "lora_" not in n
                ),
                "held": sum(_here(p).numel() for n, p in layers if "lora_" not in n),
                "lean": lean,
                "bytes": [size(roles.held({})[0].parameters) for roles in found],
                "adapters": sorted({type(p).__name__ for n, p in layers if "lora_" in n}),
                "same": all(_sample(whole, rank) == _sample(parts, rank, every) for every in (1, 4, 16)),
                "lengths": [len(response) for response in _sample(parts, rank)],
                "gradients": _alike(_gradients(forward[0]), _gradients(forward[1])),
                "again": _alike(_gradients(forward[0]), _gradients(again)),
                "logprobs": [
                    _alike(_logprobs(forward[0], rank), _logprobs(one, rank), 1e-5)
                    for one in (forward[1], again)
                ],
            }
        )
    )


def _here(parameter: torch.Tensor) -> torch.Tensor:
    """A process's part of a layer's weight: torch's, or DeepSpeed's."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.ds_tensor


def _alike(ours: list[list[float]], theirs: list[list[float]], within: float = 1e-6) -> bool:
    """To rounding, of the largest number: a weight elsewhere in memory is summed otherwise."""
    return all(
        a == pytest.approx(b, abs=within * max(map(abs, a))) for a, b in zip(ours, theirs, strict=True)
    )


def shared_out() -> None:
    """An AdamW whose states are shared out beside torch's: three steps, saved, taken up again, one more."""
    accel = distributed.accelerator(60)

    def optimizers() -> list[torch.optim.AdamW]:
        """Two equal ones of four parameters, 12, 8, 3 and 1 numbers, in two groups."""
        found = []
        for _ in range(2):
            sizes = torch.Generator().manual_seed(0)
            some = [torch.nn.Parameter(torch.randn(n, generator=sizes)) for n in (12, 8, 3, 1)]
            groups = [{"params": some[:2]}, {"params": some[2:], "weight_decay": 0.0}]
            found.append(torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1))
        return [found[0], sharding.shared_out(found[1], accel)]

    def step(pair: list[torch.optim.AdamW], seed: int) -> None:
        for optimizer in pair:
            draws = torch.Generator().manual_seed(seed)
            for p in parameters(optimizer):
                p.grad = torch.randn(p.shape, generator=draws)
            optimizer.step()
            optimizer.zero_grad()

    def parameters(optimizer: torch.optim.AdamW) -> list[torch.nn.Parameter]:
        return [p for group in optimizer.param_groups for p in group["params"]]

    def same(pair: list[torch.optim.AdamW]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(*map(parameters, pair), strict=True))

    def kept(optimizer: torch.optim.AdamW) -> list[int]:
        return [i for i, p in enumerate(parameters(optimizer)) if p in optimizer.state]

    plain, shared = pair = optimizers()
    for seed in range(3):
        step(pair, seed)
    told = {"kept": kept(shared), "same": same(pair)}
    saved = [optimizer_tensors(optimizer) for optimizer in pair]
    told["kept after saving"] = kept(shared)
    told["saved"] = saved[0].keys() == saved[1].keys() and all(
        torch.equal(saved[0][name], saved[1][name]) for name in saved[0]
    )
    fresh = optimizers()
    for optimizer, other in zip(fresh, (plain, shared), strict=True):
        for p, theirs in zip(parameters(optimizer), parameters(other), strict=True):
            p.data.copy_(theirs.data)
        load_optimizer(optimizer, {name: tensor.clone() for name, tensor in saved[1].items()})
    told["again"] = kept(fresh[1])
    for each in (pair, fresh):
        step(each, 3)
    told["resumed"] = same(fresh) and same([plain, fresh[1]])
    print(json.dumps(told))


def _sample(roles: Roles, rank: int, every: int = 1) -> list[list[int]]:
    """Process 0 has five rows in three batches, two of one prompt, and an early end; process 1 has one."""
    prompts = [[5, 6, 7], [5, 6, 7], [8, 9], [10], [11, 12]] if rank == 0 else [[13, 14]]
    draws = Draws(rank, "probe", 0, range(len(prompts)))
    params = SamplingParams(temperature=1.0, eos_id=-1, pad_id=0, max_tokens=6, batch_tokens=20)
    free = Hf(roles, every=every).sample(prompts, draws, params)
    ended = free[0].response[2] if rank == 0 else free[0].response[0]
    answers = Hf(roles, every=every).sample(prompts, draws, replace(params, eos_id=ended))
    return [one.response for one in answers]


def _gradients(forward: Forward) -> list[list[float]]:
    """Of a pass, and of one without a row."""
    forward.roles.zero_grad()
    ids = torch.arange(3, 9).view(1, 6)
    forward._upper("policy", ids, None).sum().backward()
    empty = forward.prefix(collate([PAIRS.empty]))
    forward.logprobs("policy", empty, 1.0)[0].sum().backward()
    return [
        p.grad.flatten().tolist()
        for p in forward.roles.parameters_of("policy").values()
        if p.grad is not None
    ]


def _logprobs(forward: Forward, rank: int) -> list[list[float]]:
    """Numbers and gradients of rows that differ between the processes, twice, with a pass without a graph."""
    pairs = [([5, 6, 7], [8, 9, 10]), ([11], [12, 13, 14, 15])] if rank == 0 else [([20, 21], [22])]
    forward.roles.zero_grad()
    prefix = forward.prefix(collate(pairs))
    with torch.no_grad():
        before, _, _ = forward.logprobs("policy", prefix, 1.0)
    found = []
    for weight in (1.0, -0.3):
        logprobs, entropies, _ = forward.logprobs("policy", prefix, 0.7, entropy_gradient=True)
        (weight * logprobs.sum() + entropies.sum()).backward()
        found.append(logprobs.flatten().tolist())
    gradients = [p.grad for p in forward.roles.parameters_of("policy").values() if p.grad is not None]
    return [before.flatten().tolist(), *found, *(gradient.flatten().tolist() for gradient in gradients)]


def labels_of_one(recipe: str) -> None:
    """sft on a labeling database that is another one for all but the main process."""

    def read(kind: RecordType, entry: Entry) -> bytes:
        assert os.environ["RANK"] == "0"
        return Path(entry.path).read_bytes()

    frame.read_labels = read
    app(["sft", recipe], prog_name="align")


def files_of_their_own(recipe: str) -> None:
    """sft where each process finds another file under the same name, as on machines without a common disk."""
    name = f"demonstrations{os.environ['RANK']}.jsonl"
    app(["sft", recipe, "--set", f"data.demonstrations.train={name}"], prog_name="align")


def with_other_value(stage: str, recipe: str, change: str) -> None:
    """A stage whose process 1 was started with another value."""
    app([stage, recipe, *(["--set", change] if os.environ["RANK"] == "1" else [])], prog_name="align")
