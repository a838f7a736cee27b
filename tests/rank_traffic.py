"""What the processes of `ranks` send each other while they train: bytes by collective."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from align.recipe.load import load_recipe
from align.stage_table import STAGES


class Collectives(TorchDispatchMode):
    """Counts the calls of each collective, and the bytes of what it gives every process."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::").strip("_")
            self.calls[name] += 1
            self.bytes[name] += sum(
                x.numel() * x.element_size() for x in tree_leaves(args[0]) if isinstance(x, Tensor)
            )
        return func(*args, **(kwargs or {}))


def count(recipe: str, stage: str, *overrides: str) -> None:
    """Run a stage, and print what it sent."""
    with Collectives() as seen:
        importlib.import_module(STAGES[stage].module).run(load_recipe(Path(recipe), list(overrides)))  # type: ignore[index]
    print("\n" + json.dumps({"calls": seen.calls, "bytes": seen.bytes}))
