"""Metrics and samples, shown in TensorBoard or Weights & Biases too, for those who watch their runs there."""

from __future__ import annotations

import html
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from align.errors import UserError
from align.run.hub import first_line
from align.run.metrics import numbers

FOLDER = "tensorboard"  # in the stage's folder
_TABLE = "samples"
_COLUMNS = ("prompt", "response", "reference", "score", "kl")

LoggedRow = Mapping[str, object]


class Tracker(Protocol):
    """Where the metrics of steps, and tables of samples, are sent."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of a step."""

    def table(self, step: int, rows: Sequence[LoggedRow]) -> None:
        """Send samples of a step as a table."""

    def close(self) -> None:
        """Send what is left and end."""


class TensorBoard:
    """Event files in the stage's folder, written anew from metrics.jsonl and samples.jsonl at each start.

    So no step is there twice after a resume, however the last process ended, and a tracker that is
    switched on late shows the run from its beginning.
    """

    def __init__(self, folder: Path, written: Sequence[LoggedRow], samples: Sequence[LoggedRow]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        _tell(self, written, samples)
        self._writer.flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def table(self, step: int, rows: Sequence[LoggedRow]) -> None:
        """Send samples of a step as a table."""
        cells = [[_cell(row[name]) for name in _COLUMNS] for row in rows]
        lines = [_COLUMNS, ["---"] * len(_COLUMNS), *cells]
        self._writer.add_text(_TABLE, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)

    def close(self) -> None:
        """Send what is left and end."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, the same one after a resume; a step that it has is not logged again.

    Nothing leaves the machine unless the environment says so (WANDB_MODE=online): the files lie in the
    stage's folder, and `wandb sync` sends them. A killed process leaves there only what it had written
    out by then, so at each start they are written anew.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        written: Sequence[LoggedRow],
        samples: Sequence[LoggedRow],
    ) -> None:
        import wandb

        run = folder.parent.absolute()
        started = f"{folder.absolute()} {manifest['started_at']}"
        name = sha256(started.encode()).hexdigest()[:16]
        for before in (folder / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(before, ignore_errors=True)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "align"),
                name=f"{run.name} {folder.name}",
                group=run.name,
                dir=str(folder),
                id=name,
                resume="allow",
                config=dict(manifest["recipe"]),
                mode=os.environ.get("WANDB_MODE", "offline"),
            )
        except wandb.Error as error:
            raise UserError(
                f"run.trackers: wandb cannot start ({first_line(error)}). Without WANDB_MODE=online it needs "
                "no account and no network, and `wandb sync` sends the run later"
            ) from error
        _tell(self, written, samples, self._run.starting_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        self._run.log(dict(metrics), step=step)

    def table(self, step: int, rows: Sequence[LoggedRow]) -> None:
        """Send samples of a step as a table."""
        import wandb

        data = [[row[name] for name in _COLUMNS] for row in rows]
        self._run.log({_TABLE: wandb.Table(columns=list(_COLUMNS), data=data)}, step=step)

    def close(self) -> None:
        """Send what is left and end."""
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
    written: Sequence[LoggedRow],
    samples: Sequence[LoggedRow] = (),
) -> list[Tracker]:
    """The trackers by these names for one stage.

    folder, manifest: the stage's. written, samples: the lines of metrics.jsonl and samples.jsonl up to
    where the stage goes on; samples that the reference answered too are shown.
    """
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder / FOLDER, written, samples),
        "wandb": lambda: WandB(folder, manifest, written, samples),
    }
    return [makers[name]() for name in dict.fromkeys(names)]


def _tell(
    tracker: Tracker, written: Sequence[LoggedRow], samples: Sequence[LoggedRow], first: int = 0
) -> None:
    """Give a tracker what was written before, from step `first` on, in the order in which it was."""
    shown = [row for row in samples if "reference" in row]
    tables = {step: list(rows) for step, rows in groupby(shown, lambda row: int(str(row["step"])))}
    for row in written:
        metrics = numbers(row)
        step = int(metrics.pop("step"))
        if step < first:
            continue
        if step in tables:
            tracker.table(step, tables.pop(step))
        tracker.log(step, metrics)


def _cell(value: object) -> str:
    """A number or a text as one cell of a Markdown table, whatever the text holds."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return html.escape(" ".join(str(value).split()), quote=False).replace("|", "&#124;")
