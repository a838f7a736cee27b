"""One file of tasks at a time is added beside the requests, so that nobody's page waits for it."""

from __future__ import annotations

import logging
import shutil
import threading
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from align.errors import UserError
from labeling.language import gettext, number
from labeling.store.engine import Store
from labeling.store.models import Person

_LOG = logging.getLogger("labeling")
_ENDS_WITHIN = 5.0  # seconds
_UNPACKED = 8  # times what may be sent: text packs to a third or a fifth


class _Stopped(Exception):
    """The app ends."""


@dataclass
class Job:
    """A file that is being added, or was the last one; `said` or `error` when it has ended."""

    name: str
    done: int = 0
    total: int = 0
    said: str | None = None
    error: str | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        if not self.total:
            return gettext("Adding the tasks of %(file)s: reading it", file=self.name)
        done, total = number(self.done), number(self.total)
        return gettext(
            "Adding the tasks of %(file)s: %(done)s of %(total)s", file=self.name, done=done, total=total
        )


class Uploads:
    """The imports of a running app."""

    def __init__(self, store: Store, limit: int) -> None:
        """`limit`: bytes of a file that is sent."""
        self._store, self._most = store, _UNPACKED * limit
        self._lock = threading.Lock()
        self._stop = False
        self._thread: threading.Thread | None = None
        self.last: Job | None = None

    def begin(self, stream: BinaryIO, name: str, overlap: int, by: Person) -> Job:
        """Copy a file that somebody sends, whose name says of what kind it is, and begin to add its tasks.

        Raises UserError while another one is being added.
        """
        with self._lock:
            if self.last is not None and not self.last.ended.is_set():
                raise UserError(f"{self.last}. " + gettext("Wait until it is done."))
            self.last = job = Job(Path(name).name)
        try:
            from labeling.store.imports import (
                suffix_of,  # what reads files is slow to load, and seldom needed
            )

            folder = TemporaryDirectory(prefix="align-import-")
            path = Path(folder.name) / f"tasks{suffix_of(job.name)}"
            with path.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
        except BaseException:
            job.ended.set()
            raise
        arguments = (job, folder, path, overlap, by)
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run, *arguments), name="import", daemon=True
        )
        self._thread.start()
        return job

    def close(self) -> None:
        """Stop between two short transactions; the same file again adds the rest."""
        self._stop = True
        if self._thread is not None:
            self._thread.join(_ENDS_WITHIN)

    def _run(self, job: Job, folder: TemporaryDirectory[str], path: Path, overlap: int, by: Person) -> None:
        from labeling.store.imports import import_file

        def progress(done: int, total: int) -> None:
            job.done, job.total = done, total
            if self._stop:
                raise _Stopped

        try:
            with folder:
                imported = import_file(
                    self._store, path, overlap, by, name=job.name, progress=progress, most=self._most
                )
                job.said = f"{imported}."
        except UserError as error:
            job.error = str(error)
        except _Stopped:
            job.error = gettext("The app was stopped.")
        except Exception:
            _LOG.exception("the import of %s failed", job.name)
            job.error = gettext(
                "Something went wrong here after %(done)s rows: add the file again for the rest.",
                done=number(job.done),
            )
        finally:
            job.ended.set()
