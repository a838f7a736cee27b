"""What a plan is made for: cards that are named, or this machine's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from align.plan.gpus import Gpu, like
from align.processes.hardware import memory_left, numbers
from align.processes.launch import read_configuration

# What processes share out: the base's layers and the optimizers' states (by FSDP2 or ZeRO-3), or these alone.
Sharded = Literal["fsdp2", "zero3", "states"] | None
# Shares of the sheet's rates that are expected, not measured here. Passes of LoRA on frozen weights reach
# less than training in full does (PaLM's table of MFU, arXiv 2204.02311: 21% to 46%).
_PASSES, _READING = 0.35, 0.5
_LAUNCH = 1e-3  # seconds a layer of a decoding step takes at least on a GPU: some 60 kernels, one by one
_CPU_LAUNCH = 2e-4
_CONTEXT = 2**30  # CUDA's context, libraries and their workspaces
_PROCESS = 6 * 10**8  # a process on a CPU that has imported the libraries
FRAGMENTS = 0.05  # of what is counted: blocks that cannot be used, what operations need within themselves


@dataclass(frozen=True)
class Machine:
    """Where a stage runs: memory for each process, and rates. Processes have a device each."""

    name: str
    device: Literal["cpu", "gpu"]
    memory: int  # bytes a process can have
    flops: float  # operations a second
    bandwidth: float  # bytes a second
    share: float  # of `flops` that passes are expected to reach
    read_share: float  # of `bandwidth` that decoding is expected to reach
    source: str  # of the rates
    processes: int = 1
    sharded: Sharded = None  # what an accelerate configuration shares out

    @property
    def shards(self) -> bool:
        """Whether a process has a part of the base's layers alone."""
        return self.sharded in ("fsdp2", "zero3") and self.processes > 1

    @property
    def fixed(self) -> int:
        """Bytes of a process that has no model."""
        return _CONTEXT if self.device == "gpu" else _PROCESS

    @property
    def launch(self) -> float:
        """Seconds that a layer of a decoding step takes at least."""
        return _LAUNCH if self.device == "gpu" else _CPU_LAUNCH


def of_gpu(gpu: Gpu, processes: int = 1, sharded: Sharded = None) -> Machine:
    """So many of one card."""
    return Machine(
        gpu.name,
        "gpu",
        gpu.memory,
        gpu.flops,
        gpu.bandwidth,
        _PASSES,
        _READING,
        gpu.source,
        processes,
        sharded,
    )


def this_machine(processes: int = 1, sharded: Sharded = None) -> Machine:
    """The GPUs that torch sees, by the smallest, or this CPU, whose rates are measured in a moment."""
    if torch.cuda.is_available():
        sizes = [torch.cuda.mem_get_info(i)[1] for i in range(torch.cuda.device_count())]
        name = torch.cuda.get_device_name(sizes.index(min(sizes)))
        known = like(name)
        flops, bandwidth = (known.flops, known.bandwidth) if known else (0.0, 0.0)
        source = known.source if known else "not known"
        return Machine(
            name, "gpu", min(sizes), flops, bandwidth, _PASSES, _READING, source, processes, sharded
        )
    flops, bandwidth = measured()
    memory = available() // processes
    return Machine("this CPU", "cpu", memory, flops, bandwidth, 0.6, 0.5, "measured here", processes, sharded)


def measured() -> tuple[float, float]:
    """This CPU's float32 operations a second in a matrix product, and bytes a second that it reads."""
    x = torch.ones(768, 768)
    found, read = 0.0, 0.0
    wide = torch.ones(2**22)
    for _ in range(4):
        start = time.perf_counter()
        x @ x
        found = max(found, 2 * 768**3 / (time.perf_counter() - start))
        start = time.perf_counter()
        wide.sum()
        read = max(read, wide.numel() * 4 / (time.perf_counter() - start))
    return found, read


def available(root: Path = Path("/")) -> int:
    """Bytes that this process can have on Linux before it is killed, swap included; of control groups too.

    Pages of files do not count as taken: they are given up. 2**62 where nothing says it.
    """
    said = numbers(root / "proc/meminfo")
    free = (said.get("MemAvailable:", 0) + said.get("SwapFree:", 0)) * 1024 or 2**62
    left = memory_left(root)
    return free if left is None else max(0, min(free, left))


def configured(path: Path) -> tuple[int, Sharded]:
    """How many processes an accelerate configuration starts, and what it shares out among them.

    Raises UserError as a stage's launcher does; DeepSpeed need not be installed where it is planned.
    """
    config = read_configuration(path, starts=False)
    sharded: Sharded = None
    if config.kind == "FSDP":
        sharded = "fsdp2"
    elif config.kind == "DEEPSPEED":
        sharded = "zero3" if config.zero_stage == "3" else "states"
    return config.processes, sharded
