"""metrics.jsonl, shown in TensorBoard or Weights & Biases too, for those who watch their runs there."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from align.errors import UserError

FOLDER = "tensorboard"  # in the stage's folder


class Tracker(Protocol):
    """Something that takes numbers by step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the stage's folder, written anew from metrics.jsonl at each start.

    So no step is there twice after a resume, however the last process ended, and a tracker that is
    switched on late shows the run from its beginning.
    """

    def __init__(self, folder: Path, written: Sequence[Mapping[str, object]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        for row in written:
            metrics = numbers(row)
            self.log(int(metrics.pop("step")), metrics)
        self._writer.flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, the same one after a resume; a step that it has is not logged again.

    Nothing leaves the machine unless the environment says so (WANDB_MODE=online): the files lie in the
    stage's folder, and `wandb sync` sends them.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        import wandb

        run = folder.parent.absolute()
        started = f"{folder.absolute()} {manifest['started_at']}"
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "align"),
            name=f"{run.name} {folder.name}",
            group=run.name,
            dir=str(folder),
            id=sha256(started.encode()).hexdigest()[:16],
            resume="allow",
            config=dict(manifest["recipe"]),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def check_installed(names: Sequence[str]) -> None:
    """Raise UserError with the line that installs a tracker's package where it is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"run.trackers: {name} is not installed: `pip install {name}`, or take it off the list"
            )


def open_trackers(
    names: Sequence[str],
    folder: Path,
    manifest: Mapping[str, Any],
    written: Sequence[Mapping[str, object]],
) -> list[Tracker]:
    """The trackers by these names for one stage.

    folder, manifest: the stage's. written: the lines of metrics.jsonl up to where the stage goes on.
    """
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder / FOLDER, written),
        "wandb": lambda: WandB(folder, manifest),
    }
    return [makers[name]() for name in dict.fromkeys(names)]


def numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers: what is none has no place in a chart."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
