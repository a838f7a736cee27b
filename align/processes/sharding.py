"""Weights and optimizer states sharded among processes, where an accelerate configuration says so.

The states of the optimizers are shared out by parameter (ZeRO's first stage, arXiv 1910.02054, section 5.1):
a parameter's owner steps it and sends the others the result, which has the same bits as if all had stepped
it. The base's layers are sharded by torch's FSDP2 or by DeepSpeed's ZeRO-3. Adapters, heads and the sum of
their gradients stay whole on every process, so files are the same whoever wrote them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Literal

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import broadcast, is_deepspeed_available
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from align.errors import UserError

_KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED")
_CHANGES = ("MIXED_PRECISION", "DYNAMO_BACKEND")  # settings by which accelerate changes a model's numbers
_MOMENTS = ("exp_avg", "exp_avg_sq")
_GATHERED = "gathered"  # beside DeepSpeed's numbers of modules


@dataclass(frozen=True)
class Sharding:
    """What shards the base's layers, if anything does; the states of the optimizers are shared out anyway."""

    layers: Literal["FSDP2", "DeepSpeed's ZeRO-3"] | None
    reshard: bool = True  # a layer is whole only while it runs; else until its backward pass has used it


@cache
def sharding() -> Sharding | None:
    """What the accelerate configuration asks for; None: each process has all of everything.

    The first call removes these settings from the environment, so that accelerate and the Trainer leave it to
    `shard` and `shared_out`: they know of one model that trains as a whole, not of roles on a frozen base.

    Raises UserError where the configuration asks for what the stages cannot do.
    """
    precision, dynamo = (os.environ.get(f"ACCELERATE_{name}", "no") for name in _CHANGES)
    refuse("NO", precision, dynamo)
    for kind in ("MEGATRON_LM", "DEEPSPEED"):
        if _asked(kind):
            refuse(kind)
    if _asked("PARALLELISM_CONFIG"):
        raise UserError(
            "the accelerate configuration has a parallelism_config: take it out; distributed_type "
            "says what is shared out (docs/processes.md)"
        )
    if _asked("FSDP"):
        found = _fsdp()
        del os.environ["ACCELERATE_USE_FSDP"]
        return found
    if _asked("DEEPSPEED"):
        found = _deepspeed()
        del os.environ["ACCELERATE_USE_DEEPSPEED"]
        return found
    return None


def refuse(kind: str, precision: str = "no", dynamo: str = "no", starts: bool = True) -> None:
    """Raise UserError where the stages cannot do this distributed_type, mixed_precision or dynamo_backend.

    starts: whether they are to start here, with what is installed.
    """
    if kind == "MEGATRON_LM":
        raise UserError(
            "the accelerate configuration asks for Megatron-LM, which has models of its own: use "
            "distributed_type MULTI_GPU"
        )
    if starts and kind == "DEEPSPEED" and not is_deepspeed_available():
        raise UserError(
            "the accelerate configuration asks for DeepSpeed, which is not installed: pip install deepspeed, "
            "or use distributed_type FSDP with fsdp_version 2, which needs nothing more"
        )
    if kind not in _KINDS:
        raise UserError(
            f"the accelerate configuration asks for distributed_type {kind}, which the stages do not run on: "
            f"use one of {', '.join(_KINDS)}"
        )
    if precision.lower() != "no":
        raise UserError(
            f"the accelerate configuration asks for mixed_precision {precision}: set it to 'no'; precision "
            "is the recipe's (base.dtype)"
        )
    if dynamo.lower() != "no":
        raise UserError(
            f"the accelerate configuration asks for dynamo_backend {dynamo}: take its dynamo_config out; the "
            "stages have passes of their own"
        )


def _asked(kind: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true"


def _fsdp() -> Sharding:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(
            "the accelerate configuration asks for FSDP 1: set fsdp_version to 2 under its fsdp_config"
        )
    found = FullyShardedDataParallelPlugin()
    if isinstance(found.cpu_offload, CPUOffloadPolicy):
        raise UserError(
            "the accelerate configuration asks for fsdp_offload_params: set it to false; a sharded base "
            "stays on the devices"
        )
    return Sharding("FSDP2", bool(found.reshard_after_forward))


def _deepspeed() -> Sharding:
    """Only DeepSpeed's stage is used; UserError for settings that would change the training otherwise."""
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise UserError(
            "the accelerate configuration names a deepspeed_config_file: take it out and write zero_stage "
            "under deepspeed_config; batches, clipping, rates and precision are the recipe's"
        )
    for what in ("optimizer", "param"):
        device = os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what.upper()}_DEVICE", "none")
        if device != "none":
            raise UserError(
                f"the accelerate configuration asks for offload_{what}_device {device}: set it to none; "
                "everything stays on the devices"
            )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("1", "2", "3"):
        raise UserError(
            f"the accelerate configuration asks for zero_stage {stage}: 2 shares out the states of the "
            "optimizers, 3 shards the base's layers too; without either, use distributed_type MULTI_GPU"
        )
    return Sharding("DeepSpeed's ZeRO-3" if stage == "3" else None)


def shard_group(accel: Accelerator) -> Accelerator | None:
    """The processes that one copy of the base is sharded among; None where each has all of it."""
    wish = sharding()
    return accel if accel.num_processes > 1 and wish is not None and wish.layers else None


def told(accel: Accelerator) -> str | None:
    """A line about what is shared among the processes; None where nothing is."""
    wish = sharding()
    if wish is None or accel.num_processes == 1:
        return None
    what = (
        f"the base's layers ({wish.layers}) and the optimizers' states"
        if wish.layers
        else "the optimizers' states"
    )
    return f"{what} are shared out among {accel.num_processes} processes"


def cut(layers: Iterable[nn.Module], accel: Accelerator) -> None:
    """Leave each process its part of every layer's weights, along their first dimension.

    To be called before adapters are added: these stay whole on every process. Layers that have no numbers yet
    (on the meta device) are cut too: a process has to read its part only. `assemble` comes after that.
    """
    wish = sharding()
    assert wish is not None
    mesh = init_device_mesh(accel.device.type, (accel.num_processes,))
    for layer in layers:
        if wish.layers == "FSDP2":  # a layer is whole only while it runs
            fully_shard(layer, mesh=mesh, reshard_after_forward=wish.reshard)
        else:
            _replace(layer, lambda weight: _part(weight, mesh))


def assemble(layers: Iterable[nn.Module], accel: Accelerator) -> None:
    """Give DeepSpeed, if it shards them, a layer at a time, which it takes only whole."""
    wish = sharding()
    assert wish is not None
    if wish.layers == "FSDP2":
        return
    partition = _zero3_cut(accel)
    for layer in layers:
        _replace(layer, lambda weight: weight.full_tensor())
        partition(layer)


@contextmanager
def gathered(layers: Sequence[Any]) -> Iterator[None]:
    """Every layer whole on every process inside, so that no pass of one waits for another.

    All processes enter it together, and put each layer together once.
    """
    wish = sharding()
    assert wish is not None
    if wish.layers != "FSDP2":
        with _zero3_gathered(layers):
            yield
        return
    try:
        for layer in layers:
            layer.set_reshard_after_forward(False)
            layer.unshard()
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(wish.reshard)
            layer.reset_iter_state()  # it counts passes until a backward pass, and there was none
            layer.reshard()


@contextmanager
def _zero3_gathered(layers: Sequence[Any]) -> Iterator[None]:
    import deepspeed

    with ExitStack() as stack:
        for layer in layers:
            parameters = [p for p in layer.parameters() if hasattr(p, "ds_id")]  # adapters have none
            stack.enter_context(deepspeed.zero.GatheredParameters(parameters))
            for parameter in parameters:  # in use, for the hooks that would let go of them after a pass
                parameter.ds_active_sub_modules.add(_GATHERED)
                stack.callback(parameter.ds_active_sub_modules.discard, _GATHERED)
        yield


def whole_size(layers: Iterable[nn.Module]) -> int:
    """The bytes of all layers put together."""
    weights = [p for layer in layers for p in layer.parameters()]
    return sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in weights)


def device_memory(accel: Accelerator) -> int:
    """The bytes of this process's device, or its share of the machine's memory."""
    if accel.device.type == "cuda":
        return int(torch.cuda.get_device_properties(accel.device).total_memory)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", accel.num_processes))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // here


def _replace(layer: nn.Module, change: Callable[[Any], Tensor]) -> None:
    """Put other tensors, frozen, in the place of a layer's weights."""
    for module in layer.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(change(weight.detach()), requires_grad=False))


def _part(weight: Tensor, mesh: DeviceMesh) -> DTensor:
    """This process's rows of a weight, in memory of their own."""
    rows = weight.chunk(mesh.size())
    rank = mesh.get_local_rank()
    own = rows[rank].clone() if rank < len(rows) else weight.new_empty(0, *weight.shape[1:])
    return DTensor.from_local(
        own, mesh, [Shard(0)], run_check=False, shape=weight.shape, stride=weight.stride()
    )


def _zero3_cut(accel: Accelerator) -> Callable[[nn.Module], object]:
    """DeepSpeed's partitions and its hooks that gather them, without its engine.

    The engine would own the one model and its one optimizer. Each layer is a model of its own here, as
    roles go through them in an order that DeepSpeed's look-ahead over a whole model would not expect.
    """
    os.environ.setdefault("DS_ACCELERATOR", accel.device.type)
    import deepspeed
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload

    # On CPUs it would compile a kernel for sums first, which partitions do not need.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    return lambda layer: DeepSpeedZeRoOffload(
        layer, timers=None, ds_config=config, overlap_comm=False, param_persistence_threshold=0
    )


def shared_out(optimizer: torch.optim.AdamW, accel: Accelerator) -> torch.optim.AdamW:
    """The same optimizer, or one whose states are shared out, where the configuration asks for it."""
    if sharding() is None or accel.num_processes == 1 or isinstance(optimizer, _SharedAdamW):
        return optimizer
    return _SharedAdamW(optimizer.param_groups, accel)


class _SharedAdamW(torch.optim.AdamW):
    """AdamW that keeps the states of this process's parameters only. All processes use it together."""

    def __init__(self, groups: list[dict[str, Any]], accel: Accelerator) -> None:
        super().__init__(groups)
        self._accel = accel
        self._owned: list[list[nn.Parameter]] = [[] for _ in range(accel.num_processes)]
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for parameter in sorted(parameters, key=lambda p: -p.numel()):  # stable, so the same everywhere
            min(self._owned, key=lambda some: sum(p.numel() for p in some)).append(parameter)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Step this process's parameters and receive the others'."""
        for parameter in self._others():
            parameter.grad = None  # which AdamW passes over, and keeps no state of
        super().step(closure)
        for owner, parameters in enumerate(self._owned):
            self._send(owner, parameters)

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """All parameters' states, on every process."""
        for owner, parameters in enumerate(self._owned):
            known = [float(self.state[p]["step"]) for p in parameters if p in self.state]
            step = torch.tensor(max(known, default=0.0))
            self._send(owner, [step])
            if not step:
                continue
            for p in parameters:
                if p not in self.state:
                    moments = {name: torch.empty_like(p) for name in _MOMENTS}
                    self.state[p] = {"step": step.clone(), **moments}
            self._send(owner, [self.state[p][name] for p in parameters for name in _MOMENTS])
        whole = super().state_dict()
        self._drop_others()
        return whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep this process's part of all parameters' states."""
        super().load_state_dict(state_dict)
        self._drop_others()

    def _others(self) -> list[nn.Parameter]:
        mine = self._accel.process_index
        return [p for owner, some in enumerate(self._owned) if owner != mine for p in some]

    def _drop_others(self) -> None:
        for parameter in self._others():
            self.state.pop(parameter, None)

    def _send(self, owner: int, tensors: Sequence[Tensor]) -> None:
        """The owner's numbers into all processes' tensors, in one message."""
        if not tensors:
            return
        device = self._accel.device
        flat = broadcast(torch.cat([x.detach().flatten().to(device) for x in tensors]), owner)
        for tensor, part in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
