"""Gradient checkpointing (arXiv 1604.06174): a layer keeps its input, and runs again in the backward pass.

What backward needs of one layer is then in memory at a time, beside the inputs of all. The layer gives the
same numbers again, because nothing here draws: dropout is off in the stages that use this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

# Not reentrant: inputs need no gradient (nothing below the lowest adapter has one), and keywords are kept.
checkpointed: Callable[..., Any] = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def layers_of(decoder: nn.Module) -> list[nn.Module]:
    """The decoder's layers, whatever its list of them is called; none where there is no such list."""
    config = getattr(decoder, "config", None)
    count = getattr(config, "num_hidden_layers", 0)
    lists = (m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return list(next(lists, []))


@contextmanager
def layers_checkpointed(
    layers: Sequence[nn.Module], within: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[None]:
    """Let each layer's forward be checkpointed inside; then and again it runs within what `within` gives.

    A layer's hooks are not run again: those of a sharded base have put its weights together by then.
    """
    if not torch.is_grad_enabled():
        yield
        return
    own = [vars(layer).get("forward") for layer in layers]  # hooks of other libraries may have put one there

    def run(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with within():
            return forward(*args, **kwargs)

    for layer in layers:
        layer.forward = partial(checkpointed, run, layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
