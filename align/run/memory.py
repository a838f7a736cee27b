"""Where memory ran out: what each part of the model holds, and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from align.errors import ran_out_of_memory
from align.run import checkpoint
from align.run.folder import StageRun


@dataclass(frozen=True)
class Held:
    """Parameters that belong together, and the optimizer that trains them, if one does."""

    name: str
    parameters: Iterable[Tensor]
    optimizer: torch.optim.Optimizer | None = None

    def line(self) -> str:
        """MiB of parameters, gradients and optimizer, counted from the tensors."""
        parameters = list(self.parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        state = self.optimizer.state if self.optimizer else {}
        kept = [x for p in parameters for x in state.get(p, {}).values() if isinstance(x, Tensor)]
        mib = [f"{size(each) / 2**20:,.1f} MiB" for each in (parameters, gradients, kept)]
        return f"{self.name} held {mib[0]} of parameters, {mib[1]} of gradients, {mib[2]} of optimizer state"


def size(tensors: Iterable[Tensor]) -> int:
    """The bytes that this process has of them, which may be its part of a sharded base."""
    here = [x.to_local() if isinstance(x, DTensor) else getattr(x, "ds_tensor", x) for x in tensors]
    return sum(x.numel() * x.element_size() for x in here)


@contextmanager
def itemised(stage: StageRun, held: Callable[[], list[Held]]) -> Iterator[None]:
    """Where memory runs out inside, the exception carries what `held` lists as notes, for the message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if ran_out_of_memory(error):
            for part in held():
                error.add_note(part.line())
            found = checkpoint.newest(stage.checkpoints, stage.say, stage.identity)
            error.add_note(f"the last checkpoint is {found.path}" if found else "there is no checkpoint yet")
        raise
