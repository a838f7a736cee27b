"""A file that a command names, read as an entry of a recipe is, with what is ignored and what is not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from align.data.doubts import doubted
from align.data.formats import Format
from align.data.formats.paths import without
from align.data.reading import Reading
from align.data.scan import gathered, noted
from align.values import RecordError

Placed = Iterator[tuple[str, Any]]


@dataclass
class OneFile:
    """How a command reads a file, and what was seen of its columns; `ignore`: those that are left out."""

    ignore: Sequence[str] = ()
    reading: Reading = field(default_factory=Reading)

    def less(self, row: Any) -> Any:
        """A row without the columns to ignore."""
        return without(row, self.ignore) if self.ignore and isinstance(row, Mapping) else row

    def format(self, form: Format, named: bool) -> Format:
        """The format that the rows are read by; `named`: by the person, else by the columns."""
        why = "what --columns maps" if form.name == "columns" else "named" if named else "by its columns"
        self.reading.understood(form, why)
        return doubted(form, self.ignore)

    def rows(self, form: Format, rows: Placed) -> Placed:
        """The rows as the format puts them together; errors among them pass by."""
        return gathered(form, noted(rows, form, self.reading))

    def refused(self) -> Iterator[tuple[str, RecordError]]:
        """After the last row: places of columns that look like a part of a record, and that nothing uses."""
        for place, column, message in self.reading.refused():
            yield place, RecordError(column, message)
