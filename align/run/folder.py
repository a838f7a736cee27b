"""The run folder: who may write it, where a stage goes on, and when it is finished.

runs/<name>/recipe.yaml                the resolved recipe of the last command
runs/<name>/<stage>/manifest.json      recipe, lineage, data, versions, results
                    metrics.jsonl      one line a logged step; like it samples.jsonl and bad-steps.jsonl
                    checkpoints/       see align.run.checkpoint
                    final/             what the next stage reads
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from rich.console import Console
from torch import Tensor

from align.errors import AlignError, Terminated, UserError
from align.processes import distributed, sharding, stopping
from align.recipe.load import dump
from align.recipe.sections import Recipe, Run
from align.run import checkpoint
from align.run.agreement import agree_on_files
from align.run.files import json_digest, sha256, sweep, to_json, whole_folder, write_text
from align.run.lineage import LABELS, begun, keep_labels, now, stage_manifest
from align.run.manifest import Manifest, ParentRef
from align.run.metrics import JsonLines, numbers
from align.run.progress import ProgressBar, say
from align.run.trackers import Tracker, check_installed, open_trackers
from align.stage_table import Accepted, Stage

_SIZES = "sizes"  # a checkpoint's note of how long the stage's .jsonl files were, and of processes
BAD_STEPS = "bad-steps.jsonl"
_MIN_FREE_BYTES = 64 * 2**20


@dataclass
class StageRun:
    """One stage's part of a run folder, as the stage sees it while it works."""

    stage: Stage
    folder: Path
    accel: Accelerator
    console: Console
    manifest: Manifest
    settings: Run
    metrics: JsonLines
    samples: JsonLines
    bad_steps: JsonLines
    _saved: int = 0  # the step of the newest checkpoint
    _opened: list[Tracker] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def final(self) -> Path:
        """The folder that the next stage reads."""
        return self.folder / "final"

    @property
    def identity(self) -> dict[str, str]:
        """What its checkpoints belong to; one from elsewhere is passed over."""
        parts = {"recipe": json_digest(self.manifest.recipe), "data": json_digest(self.manifest.data)}
        return {"stage": self.stage, **parts, **self.manifest.began_with}

    @property
    def _logs(self) -> dict[str, JsonLines]:
        return {"metrics": self.metrics, "samples": self.samples, "bad_steps": self.bad_steps}

    @property
    def finished(self) -> bool:
        """Whether its manifest says so and its result is there."""
        return self.manifest.finished and self.final.is_dir()

    @property
    def main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.accel.is_main_process

    def say(self, text: str) -> None:
        """Print a line; only the main process does."""
        say(self.console, text)

    @contextmanager
    def steps(self, total: int, done: int) -> Iterator[ProgressBar]:
        """Around the loop of steps: their progress bar, and signals handled as `stopping` says."""
        grace, speaks = self.settings.grace, self.main and "ALIGN_EXIT_FILE" not in os.environ
        with stopping.heeded(grace, speaks), ProgressBar(self.console, self.stage, total, done) as bar:
            yield bar

    def stop_if_told(self, step: int, save: Callable[[], None]) -> None:
        """Between two steps, `step` of them done: if a process was told to stop, save and stop.

        All processes call it together, since all of them stop at the same step.
        """
        if number := distributed.highest(stopping.told(), self.accel):
            self._keep(step, save)
            stopping.stop(number)

    @contextmanager
    def unchanged(self, step: int, save: Callable[[], None]) -> Iterator[None]:
        """A part of a step that changes nothing of what `save` writes: a signal ends it at once.

        With several processes it waits for the step to end, as the others would not know of it.
        """
        if self.accel.num_processes > 1:
            yield
            return
        try:
            with stopping.at_once():
                yield
        except (KeyboardInterrupt, Terminated):
            self._keep(step, save)
            raise

    def _keep(self, step: int, save: Callable[[], None]) -> None:
        if step != self._saved:
            save()
            self.say(f"{self.stage} stops after step {step}, which is saved")

    def newest(self) -> checkpoint.Checkpoint | None:
        """The checkpoint to go on from, the same one on every process; log lines after it are cut."""
        found = checkpoint.newest(self.checkpoints, self.say, self.identity) if self.main else None
        found = share_object(found, self.accel)
        sizes = found.document(_SIZES) if found else {}
        for name, log in self._logs.items():
            log.cut(sizes.get(name, log.size) if found else 0)
        self._open_trackers()
        if found:
            self._saved = found.step
            self.say(f"{self.stage} goes on from step {found.step} ({found.path})")
            before, now_there = sizes.get("processes"), self.accel.num_processes
            if before not in (None, now_there):
                self.say(
                    f"{self.stage} was saved with {before} processes and goes on with {now_there}: the same "
                    "rows and draws, sums to rounding"
                )
        return found

    def _open_trackers(self) -> None:
        """Let the trackers follow metrics.jsonl, whose lines after the checkpoint are cut by now."""
        if self.main and self.settings.trackers and not self._opened:
            manifest, written, samples = self.manifest.json_ready(), self.metrics.rows(), self.samples.rows()
            self._opened = open_trackers(self.settings.trackers, self.folder, manifest, written, samples)
            self.metrics.followers.append(self._track)

    def _track(self, step: int, row: Mapping[str, object]) -> None:
        for tracker in self._opened:
            tracker.log(step, numbers(row))

    def show(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Give the trackers a table of samples."""
        for tracker in self._opened:
            tracker.table(step, rows)

    def close(self) -> None:
        """Let the trackers send what they hold."""
        for tracker in self._opened:
            tracker.close()

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint (main process); the others wait, so that none runs ahead of a failed save."""
        if self.main:
            self._still_there()
            sizes = {name: log.settle() for name, log in self._logs.items()}
            sizes["processes"] = self.accel.num_processes
            documents = {**documents, _SIZES: sizes}
            checkpoint.save(self.checkpoints, step, tensors, documents, self.settings.keep, self.identity)
        self._saved = step
        self.accel.wait_for_everyone()

    def finish(
        self,
        write: Callable[[Path], None],
        results: Mapping[str, float],
        prove: Callable[[Path], None] | None = None,
    ) -> None:
        """Fill final/ by `write`, then mark the stage finished; checkpoints are no longer needed.

        `prove` sees what was written before it becomes final/, on every process, and raises to prevent it.
        """
        if self.main:
            self._still_there()
        with ExitStack() as stack:
            aside = stack.enter_context(whole_folder(self.final)) if self.main else None
            if aside is not None:
                write(aside)
            if prove is not None:
                prove(share_object(aside, self.accel))
        if self.main:
            files = sorted(p for p in self.final.rglob("*") if p.is_file())
            hashes = {p.relative_to(self.final).as_posix(): sha256(p) for p in files}
            ended = {"finished": True, "final": hashes, "results": dict(results), "finished_at": now()}
            self.manifest = self.manifest.model_copy(update=ended)
            write_text(self.folder / "manifest.json", to_json(self.manifest.json_ready()))
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.accel.wait_for_everyone()

    def _still_there(self) -> None:
        """Raise AlignError where the folder has gone, rather than go on in a new and empty one."""
        if not self.folder.is_dir():
            raise AlignError(
                f"{self.folder} is gone, and {self.stage} was using it: bring it back (is its disk "
                "mounted?), and the same command goes on from the last checkpoint"
            )


@contextmanager
def open_stage(
    recipe: Recipe,
    stage: Stage,
    accel: Accelerator,
    *,
    lineage: Mapping[str, str],
    data: Mapping[str, str],
    parents: Sequence[ParentRef] = (),
    labels: Mapping[str, bytes] | None = None,
    restart: bool,
    accepted: Sequence[Accepted] = (),
) -> Iterator[StageRun]:
    """Lock the run folder, compare what is there with the recipe, and hand the stage its folder.

    `lineage`: base and template hashes. `data`: fingerprint of each kind of records the stage reads.
    `parents`: what it starts from. `labels`: what it read of labeling databases, to be kept. `accepted`:
    what may have changed since it began. Raises
    UserError when another process has the folder, when the folder cannot be written, when the stage was
    started with another recipe, lineage or data, or when its processes have not read the same.
    """
    check_installed(recipe.run.trackers)
    made_of = {**lineage, **{parent.name: parent.hashes for parent in parents}}
    agree_on_files(made_of | {f"data.{kind}": read for kind, read in data.items()}, accel)
    main = accel.is_main_process
    folder, console = recipe.run.path / stage, Console(quiet=not main)
    manifest, new = None, False
    with ExitStack() as stack:
        if main:
            _writable(recipe.run.path)
            stack.callback(_lock(recipe.run.path).release)
            if restart and folder.exists():
                say(console, f"the old {stage} folder is now {set_aside(folder)}")
            new = not folder.exists()
            manifest = stage_manifest(recipe, stage, lineage, data, folder, parents, labels, accepted)
            _begin(recipe, folder, manifest, labels or {})
        run = StageRun(
            stage=stage,
            folder=folder,
            accel=accel,
            console=console,
            manifest=share_object(manifest, accel),
            settings=recipe.run,
            metrics=JsonLines(folder / "metrics.jsonl" if main else None),
            samples=JsonLines(folder / "samples.jsonl" if main else None),
            bad_steps=JsonLines(folder / BAD_STEPS if main else None),
        )
        stack.callback(run.close)
        _tell(run, bool(labels))
        try:
            yield run
        except UserError:
            if new and not begun(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _tell(run: StageRun, labeled: bool) -> None:
    """Say how the stage begins; `labeled`: it reads labeling databases."""
    if labeled and begun(run.folder):
        since = f"its labels are those of {run.manifest.started_at}, when it began"
        run.say(f"{run.stage}: {since}; --restart takes what has come since")
    if shared := sharding.told(run.accel):
        run.say(f"{run.stage}: {shared}")
    if run.finished:
        run.say(f"{run.stage} is finished: {run.final}")
        if run.main:  # what a process left that was killed when it had just finished
            shutil.rmtree(run.checkpoints, ignore_errors=True)


def _begin(recipe: Recipe, folder: Path, manifest: Manifest, labels: Mapping[str, bytes]) -> None:
    """Create the stage's folder with recipe and manifest; UserError where something is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / LABELS, folder / "checkpoints", folder / "checkpoints" / "best"):
            sweep(place)
        keep_labels(folder, labels)
        write_text(recipe.run.path / "recipe.yaml", dump(recipe))
        write_text(folder / "manifest.json", to_json(manifest.json_ready()))
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(
            f"{error.filename2 or error.filename} is in the way ({error.strerror}): move it, or give "
            "the run another name (run.name)"
        ) from error


def share_object(value: Any, accel: Accelerator) -> Any:
    """The main process's value, on every process."""
    if accel.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]


def _writable(folder: Path) -> None:
    """Raise UserError unless files can be made in the folder and some space is left."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(there).free
        if free < _MIN_FREE_BYTES:
            raise UserError(
                f"{folder} has {free / 2**20:.0f} MiB left on its disk: free some space, or change run.folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"the run folder {folder} cannot be written ({error.strerror}): choose another with run.folder"
        ) from error


def _lock(folder: Path) -> FileLock:
    """Hold the run folder until the lock is released or the process ends, however it ends.

    Its file says who holds it. A link is not followed: whoever made the folder chose where it leads.
    Raises UserError where another process holds it, or the disk has no locks.
    """
    path = folder / ".lock"
    lock = FileLock(path, blocking=False, on_acquired=_sign)
    try:
        lock.acquire()
    except Timeout:
        owner = path.read_text(errors="replace") or "an unknown process"
        raise UserError(
            f"{folder} is in use by {owner}: wait for it, or give this run another name"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened and locked ({error.strerror}): remove it, or choose another disk with "
            "run.folder"
        ) from error
    return lock


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now()}".encode())


def set_aside(folder: Path) -> Path:
    """Give a folder another name, with the time in it, and tell which. AlignError where that cannot be."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    aside = folder.with_name(f"{folder.name}.before-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{folder.name}.before-{stamp}-{number}")
    try:
        folder.rename(aside)
    except OSError as error:
        raise AlignError(f"{folder} cannot be set aside ({error.strerror})") from error
    return aside
