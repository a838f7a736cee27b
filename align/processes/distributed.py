"""What a stage needs of the processes around it, all through accelerate."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor

from align.errors import UserError
from align.processes.hardware import check_gpu
from align.processes.meeting import met
from align.processes.sharding import sharding

T = TypeVar("T")


def accelerator(timeout: float) -> Accelerator:
    """accelerate's view of devices and processes; precision is the base's own dtype, so none is mixed in.

    timeout: seconds after which a process that waits for another gives up.

    Raises UserError where an accelerate configuration asks for what the stages cannot do, where there
    is an NVIDIA device that torch cannot use, and where the processes cannot meet.
    """
    check_gpu()
    sharding()
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))
    cpu = not torch.cuda.is_available()
    try:
        with _endable(), met(timeout):
            return Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[patience])
    except ValueError as error:
        if "MASTER_ADDR" not in str(error):
            raise
        raise UserError(
            "the environment says that this is one of several processes (LOCAL_RANK, or what mpirun and "
            "srun --mpi set: OMPI_…, PMI_…), and MASTER_ADDR does not say where they meet: start "
            "them by torchrun or accelerate launch (docs/processes.md), or unset these variables"
        ) from error


@contextmanager
def _endable() -> Iterator[None]:
    """Signals end the process at once here, where it waits for others in C++, which no handler interrupts."""
    if (
        int(os.environ.get("WORLD_SIZE", "1")) < 2
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    heard = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, signal.SIG_DFL) for one in heard}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def more_elsewhere(passes: int, sharers: Accelerator | None) -> int:
    """How many passes the process with the most of them makes beyond this one's.

    `sharers`: the processes whose passes wait for each other, because the base is sharded among them;
    without it no process waits, and the answer is 0.
    """
    return highest(passes, sharers) - passes if sharers else 0


def share(rows: Sequence[T], accel: Accelerator) -> list[T]:
    """This process's rows of a global batch: every `num_processes`-th, starting at its index."""
    return list(rows[accel.process_index :: accel.num_processes])


def check_divisible(value: int, key: str, accel: Accelerator) -> None:
    """Raise UserError unless each process gets as many rows of a batch as the others."""
    check_shared(value, key, accel.num_processes)


def check_shared(value: int, key: str, processes: int) -> None:
    """The same, of a number of processes."""
    if value % processes:
        raise UserError(
            f"{key} is {value}, which {processes} processes cannot share evenly: "
            f"make it a multiple of {processes}"
        )


def gather_rows(rows: Tensor, accel: Accelerator) -> Tensor:
    """Rows of all processes in global order; inverse of `share`. `rows` [b, …] with equal b everywhere."""
    if accel.num_processes == 1:
        return rows
    gathered: Tensor = accel.gather(rows)
    return gathered.unflatten(0, (accel.num_processes, -1)).transpose(0, 1).flatten(0, 1)


def total(value: Tensor, accel: Accelerator) -> Tensor:
    """The sum over all processes."""
    if accel.num_processes == 1:
        return value
    summed: Tensor = accel.reduce(value, reduction="sum")
    return summed


def highest(value: int, accel: Accelerator) -> int:
    """The largest value of all processes."""
    if accel.num_processes == 1:
        return value
    return int(accel.gather(torch.tensor([value], device=accel.device)).max())


def sum_gradients(parameters: Iterable[torch.nn.Parameter], accel: Accelerator) -> None:
    """Add up all processes' gradients, in one flat message.

    Losses are sums over a process's rows divided by the global count, so the sum is the gradient of
    the global batch. LoRA gradients are megabytes: one message after the last microbatch costs less
    than hooks, and the order of the additions is fixed.
    """
    if accel.num_processes == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = total(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]), accel)
    offset = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()


def gather_lists(mine: list[T], accel: Accelerator) -> list[T]:
    """All processes' items in global order; inverse of `share`, for objects and uneven shares."""
    if accel.num_processes == 1:
        return mine
    flat: list[list[T]] = gather_object([mine])
    longest = max(map(len, flat))
    return [part[i] for i in range(longest) for part in flat if i < len(part)]
