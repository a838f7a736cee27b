"""The labels that a stage trains on: the same on all its processes, and the same after a stop.

A labeling database is read while people work in it, so two readings may differ. The main process reads
once, for all; what it read goes into the run folder (see align.runtime.run), and is what a stage that
has begun goes on with.
"""

from __future__ import annotations

from accelerate import Accelerator

from align.data.labels import Kind, read_labels
from align.data.rows import FileError
from align.errors import UserError
from align.recipe import Entry, Recipe, Stage
from align.runtime.files import json_digest
from align.runtime.lineage import kept_labels
from align.runtime.run import share_object


class Labels:
    """Reads the databases of a stage's recipe; `contents` is what was read, by entry of the recipe."""

    def __init__(self, recipe: Recipe, stage: Stage, accel: Accelerator, restart: bool) -> None:
        self.contents: dict[str, bytes] = {}
        self._accel = accel
        self._kept = {} if restart or not accel.is_main_process else kept_labels(recipe.run.path / stage)

    def __call__(self, kind: Kind, entry: Entry) -> bytes:
        """Records as JSON Lines; raises FileError, on every process, where the database gives none."""
        key = f"{kind.__name__} {json_digest(entry.model_dump(exclude_defaults=True, exclude={'weight'}))}"
        if key not in self.contents:
            main = self._accel.is_main_process
            content, place, wrong = share_object(self._read(key, kind, entry) if main else None, self._accel)
            if wrong:
                raise FileError(place, wrong)
            self.contents[key] = content
        return self.contents[key]

    def _read(self, key: str, kind: Kind, entry: Entry) -> tuple[bytes, str, str]:
        """What there is, or where and what is wrong."""
        try:
            return self._kept[key] if key in self._kept else read_labels(kind, entry), "", ""
        except FileError as error:
            return b"", error.place, error.message
        except UserError as error:
            return b"", "", str(error)
