"""A labeling database as a source of records: read whole once, then a file like any other.

Who can read one says so by the entry point `labels` of the group align.label_sources: a function that takes a
database's address, a kind of records and filters, and gives rows in align's own form. The kind `evidence` are
rankings that say how people judge, and need not train (see align.data.evidence).

What was read is kept in the cache under its content's hash. A stage keeps it too (align.stages.frame), and
trains to its end on the labels that there were when it started.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from align.data.rows import FileError
from align.data.sources import File
from align.data.store import in_cache
from align.errors import UserError
from align.recipe.data import LABELS, Entry
from align.records import RecordType
from align.run.files import write_bytes

GROUP = "align.label_sources"
EVIDENCE = "evidence"
LabelReader = Callable[[RecordType, Entry], bytes]  # a database's records, in our own form, as JSON Lines
LabelSource = Callable[[str, str, Mapping[str, Any]], Sequence[Mapping[str, Any]]]


def read_labels(record: RecordType, entry: Entry) -> bytes:
    """The records as they are now; raises FileError or UserError."""
    rows = _source()(entry.path, record.kind, entry.label_filters)
    if not rows:
        asked = ", of those asked for" if entry.label_filters else ""
        raise FileError("", f"has no {record.kind} yet{asked}")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read_evidence(entry: Entry) -> bytes:
    """All that people of a database ranked, and the orders that are known, as they are now.

    Raises FileError or UserError.
    """
    rows = _source()(entry.path, EVIDENCE, entry.label_filters)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _source() -> LabelSource:
    for point in entry_points(group=GROUP, name=LABELS):
        try:
            return point.load()
        except ModuleNotFoundError as error:
            raise UserError(
                f"reading labels needs {error.name}, which is not installed: "
                "pip install 'align-rlhf[labeling]'"
            ) from error
    raise UserError(
        f"reading labels needs the labeling app, and no installed package has the entry point `{LABELS}` of "
        f"{GROUP}: pip install 'align-rlhf[labeling]'; in a clone that was installed before, make dev"
    )


def labels_file(
    kind: RecordType, entry: Entry, cache: Path | None, labels: LabelReader = read_labels
) -> File:
    """A file with what `labels` gives of a database; raises FileError or UserError."""
    content = labels(kind, entry)
    folder = (cache or Path(tempfile.gettempdir()) / "align") / "labels"
    path = folder / f"{hashlib.sha256(content).hexdigest()}.jsonl"
    if not path.is_file():
        with in_cache(path):
            write_bytes(path, content)
    return File(path, f"{_shown(entry.path)} record ")


def _shown(path: str) -> str:
    """A database's name without its password."""
    return path.rpartition("@")[2] if "://" in path else path
