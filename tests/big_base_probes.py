"""What the processes of `ranks` can be asked about a base that is large; each prints JSON."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama import modeling_llama

from align.cli.app import app
from align.data.template import Template
from align.errors import UserError
from align.models import fused_llama
from align.models.base import find_base
from align.models.forward import Forward
from align.models.probe_ids import probe_ids
from align.models.roles import Roles
from align.models.slices import NotInSlices
from align.processes import distributed, sharding
from align.recipe.load import load_recipe
from align.recipe.sections import Base
from align.sampling.params import Draws, SamplingParams
from align.sampling.sampler import Hf
from align.stages import frame
from align.stages.frame import Setup

LORA = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)


def _setup(folder: str, dtype: str = "auto") -> Setup:
    base = find_base(Base.model_validate({"name": str(Path(folder)), "dtype": dtype}))
    return Setup(distributed.accelerator(60), base, Template(base.tokenizer, "plain"))


def read(*folders: str) -> None:
    """Whether what each process has read of these bases makes the whole, bit for bit, and runs."""
    told = {}
    for number, folder in enumerate(folders):
        for dtype in ("bfloat16",) if number else ("bfloat16", "float32"):
            setup = _setup(folder, dtype)
            whole, parts = setup.base.load_model(setup.accel.device), setup.load_model()
            expected, found = (
                {**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (whole, parts)
            )
            layers = {id(p) for p in frame._layers(parts).parameters()}
            ids = probe_ids(whole, 7)[None]
            told[f"{Path(folder).name} {dtype}"] = {
                "same": expected.keys() == found.keys()
                and all(_equal(expected[name], tensor) for name, tensor in found.items()),
                "parts": all(isinstance(p, DTensor) == (id(p) in layers) for p in parts.parameters()),
                "frozen": not any(p.requires_grad for p in parts.parameters()),
                "runs": torch.equal(whole(ids).logits, parts(ids).logits),
                "tied": (whole.get_output_embeddings().weight is whole.get_input_embeddings().weight)
                == (parts.get_output_embeddings().weight is parts.get_input_embeddings().weight),
                "config": whole.config.to_dict() == parts.config.to_dict(),
            }
    print(json.dumps(told))


def _equal(whole: torch.Tensor, parts: torch.Tensor) -> bool:
    if isinstance(parts, DTensor):
        parts = parts.full_tensor()
    return whole.dtype == parts.dtype and torch.equal(whole, parts)


def refuse(folder: str) -> None:
    """What is said of a base that cannot be loaded in parts."""
    try:
        _setup(folder).load_model()
    except UserError as error:
        print(json.dumps(str(error)))


def load(folder: str, how: str) -> None:
    """The memory that is this process's alone while it loads its part of a base, in bytes; files that are
    mapped are not counted. how: "slices", or "whole", which lets all processes read the whole in turn."""
    setup = _setup(folder, "bfloat16")
    if how == "whole":

        def no_slices(*_: object) -> None:
            raise NotInSlices

        frame.check_slices = no_slices
    if sharding.sharding() == sharding.Sharding("DeepSpeed's ZeRO-3"):
        sharding._zero3_cut(setup.accel)  # imports it, which is no weight's memory
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: what is freed is given back
    with _peak() as peak:
        model = setup.load_model()
    layers = sum(2 * getattr(p, "ds_numel", p.numel()) for p in frame._layers(model).parameters())
    embeddings = 2 * model.get_input_embeddings().weight.numel()
    print(json.dumps({"peak": peak[0], "layers": layers, "embeddings": embeddings}))


def sample(folder: str) -> None:
    """What a sharded base samples, and how many messages that takes, by how many tokens and where it fits."""
    setup = _setup(folder)
    whole = Roles(setup.base.load_model(setup.accel.device))
    told = {}
    for memory in (2**40, 2**10):
        sharding.device_memory = lambda accel, memory=memory: memory
        parts = Roles(setup.load_model(), setup.shard_group)
        for roles in (whole, parts):
            if roles.peft is None:
                torch.manual_seed(0)
                roles.add("policy", LORA, trains=True)
                roles.prove_logits()
        found = []
        for length in (3, 12):
            with _Messages() as messages:
                responses = _responses(parts, setup.accel.process_index, length)
            found.append(messages.count)
            assert responses == _responses(whole, setup.accel.process_index, length)
        layers = frame._layers(parts.base)
        held = sum(_here(p) for p in layers.parameters())
        told["fits" if memory > 2**20 else "does not fit"] = {
            "messages": found,
            "remark": Hf(parts).remarks(),
            "parts again": held * 2 <= sum(p.numel() for p in whole.decoder.layers.parameters()) * 1.1,
            "trains": _trains(parts),
        }
    print(json.dumps({"layers": len(layers), **told}))


class _Messages(TorchDispatchMode):
    """Counts what processes send each other."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.namespace in ("c10d", "_c10d_functional")
        return func(*args, **(kwargs or {}))


def _here(parameter: torch.Tensor) -> int:
    """How many numbers of a weight this process holds."""
    if isinstance(parameter, DTensor):
        return parameter.to_local().numel()
    whole_and_part = {id(p): p for p in (parameter, getattr(parameter, "ds_tensor", parameter))}
    return sum(p.numel() for p in whole_and_part.values())


def _trains(roles: Roles) -> bool:
    """A pass with a gradient, after sampling."""
    forward = Forward(roles)
    forward._upper("policy", torch.arange(3, 9).view(1, 6), None).sum().backward()
    return all(p.grad is not None for n, p in roles.parameters_of("policy").items())


def _responses(roles: Roles, rank: int, length: int) -> list[list[int]]:
    """Process 0 has three prompts, in two batches, and process 1 has one."""
    prompts = [[5, 6, 7], [8, 9], [10]] if rank == 0 else [[13, 14]]
    params = SamplingParams(
        temperature=1.0, eos_id=-1, pad_id=0, max_tokens=length, batch_tokens=2 * (length + 3)
    )
    found = Hf(roles).sample(prompts, Draws(rank, "probe", 0, range(len(prompts))), params)
    return [one.response for one in found]


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    """The most anonymous memory above that at the beginning, looked at every millisecond."""
    start = _anonymous()
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], _anonymous() - start)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
        most[0] = max(most[0], _anonymous() - start)


def _anonymous() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line]
    return int(line.split()[1]) * 1024


def out_of_memory(stage: str, recipe: str) -> None:
    """A stage in which the memory of process 1 runs out once there is a checkpoint."""
    if os.environ["RANK"] == "1":
        checkpoints = load_recipe(Path(recipe)).run.path / stage / "checkpoints"
        for owner, name in ((modeling_llama.LlamaModel, "forward"), (fused_llama, "decode")):
            setattr(owner, name, _full(getattr(owner, name), checkpoints))
    app([stage, recipe], prog_name="align")


def _full(whole: Callable[..., Any], checkpoints: Path) -> Callable[..., Any]:
    def forward(*arguments: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and list(checkpoints.glob("step-*")):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has …")
        return whole(*arguments, **named)

    return forward
