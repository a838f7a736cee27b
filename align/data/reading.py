"""What a file was understood as: its format, the columns in use and left aside, what became no record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from align.data.formats import UNUSED, Format
from align.data.likeness import looks_like

_NAMES_A_ROW = frozenset(["id", "ids", "idx", "index", "uuid", "uid", "guid", "url", "hash", "sha", "key"])
BY_COLUMNS = "the recipe's columns"  # why a file is read as it is, where the recipe maps them
PLACES = 3  # that are kept of what was seen more often


@dataclass
class Seen:
    """How often something was seen in a file, and where first."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str, count: int = 1) -> None:
        """Count it, and keep the place if it is one of the first."""
        self.count += count
        if len(self.places) < PLACES and place not in self.places:
            self.places.append(place)

    def add_all(self, other: Seen) -> None:
        """Count what was seen elsewhere too."""
        self.count += other.count
        self.places += other.places[: PLACES - len(self.places)]


@dataclass
class Reading:
    """How a file was read. Places are without the file's name in a cache, with it in what is shown.

    `columns`: what is used, and as what; None for a function, which uses what it will. `ignored`: columns in
    which something stands that no record holds, and in how many rows; `texts`: those of them that hold texts,
    lists or objects. `left_out`: rows, or parts of rows, that are not wrong and became no record, by reason.
    """

    format: str = ""
    why: str = ""
    columns: dict[str, str] | None = None
    ignored: dict[str, Seen] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    rows: int = 0
    records: int = 0
    wrong: int = 0
    left_out: dict[str, Seen] = field(default_factory=dict)

    @property
    def guessed(self) -> bool:
        """Whether nobody named the format."""
        return self.why.startswith("by its columns")

    @property
    def overlooked(self) -> dict[str, str]:
        """Ignored columns that look like a part of the record, and like which one."""
        found = {name: looks_like(name) for name in self.texts}
        return {name: part for name, part in found.items() if part}

    @property
    def unread(self) -> list[str]:
        """Ignored columns with texts that may matter: all but those that only name a row."""
        return [name for name in self.texts if not _names_a_row(name)]

    def understood(self, form: Format, why: str) -> None:
        """Note which format it is."""
        self.format, self.why = form.name, why
        self.columns = None if form.columns is None else {}

    def note(self, place: str, row: Mapping[str, Any], form: Format) -> None:
        """Note which of a row's columns the format uses and which are left aside."""
        if self.columns is None or form.columns is None:
            return
        cells = row.items() if form.unread is None else chain(row.items(), form.unread(row).items())
        for name, value in cells:
            role = form.columns.get(name)
            if role is None:
                if kind := _holds(value):
                    self.ignored.setdefault(name, Seen()).add(place)
                    if kind == "text" and name not in self.texts:
                        self.texts.append(name)
            elif role != UNUSED:
                self.columns.setdefault(name, role)

    def refused(self) -> Iterator[tuple[str, str, str]]:
        """What stops reading, once all rows were seen: place, column and what to do about it."""
        reader = f"the format {self.format}" + (", guessed from the columns," if self.guessed else "")
        if self.format == "columns":
            reader = "the recipe's `columns:`" if self.why == BY_COLUMNS else self.why
        for name, part in self.overlooked.items():
            seen = self.ignored[name]
            rows = f"{seen.count:,} rows" if seen.count > 1 else "a row"
            message = (
                f"holds something in {rows}, looks like {part}, and {reader} does not use it: say which "
                f"column is what by `columns:`, or `ignore: [{name}]` if it does not belong to the record"
            )
            yield seen.places[0], name, message

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str = "") -> Reading:
        """What `to_dict` gave, with the file's name before its places."""
        found = cls(**values)
        for key in ("ignored", "left_out"):
            told = {
                what: Seen(seen["count"], [name + place for place in seen["places"]])
                for what, seen in values[key].items()
            }
            setattr(found, key, told)
        return found

    def same_as(self, other: Reading) -> bool:
        """Whether another file was understood in the same way."""
        same = (self.format, self.why, self.columns, set(self.ignored), set(self.texts))
        return same == (other.format, other.why, other.columns, set(other.ignored), set(other.texts))

    def add(self, other: Reading) -> None:
        """Count what was read of another file that was understood in the same way."""
        self.rows += other.rows
        self.records += other.records
        self.wrong += other.wrong
        for mine, theirs in ((self.ignored, other.ignored), (self.left_out, other.left_out)):
            for what, seen in theirs.items():
                mine.setdefault(what, Seen()).add_all(seen)

    def counted(self) -> str:
        """`1,000 rows, 990 records, 10 left out: 8 × an empty row (a.csv:3, …)`."""
        parts = [f"{self.rows:,} row{'' if self.rows == 1 else 's'}"]
        parts.append(f"{self.records:,} record{'' if self.records == 1 else 's'}")
        if self.wrong:
            parts.append(f"{self.wrong:,} wrong")
        left = sum(seen.count for seen in self.left_out.values())
        reasons = "; ".join(f"{seen.count:,} × {what} ({at(seen)})" for what, seen in self.left_out.items())
        return ", ".join(parts) + (f", {left:,} left out: {reasons}" if left else ", none left out")


def at(seen: Seen) -> str:
    """The first places: `a.csv:3, a.csv:9, …`."""
    return ", ".join(seen.places) + (", …" if seen.count > len(seen.places) else "")


def by_understanding(readings: Iterable[tuple[str, Reading]]) -> Iterator[tuple[list[str], Reading]]:
    """Files one after the other; those that were understood in the same way, with their counts in one."""
    found: list[tuple[list[str], Reading]] = []
    for name, reading in readings:
        same = next((pair for pair in found if pair[1].same_as(reading)), None)
        if same is None:
            found.append(([name], Reading.from_dict(reading.to_dict())))
        else:
            same[0].append(name)
            same[1].add(reading)
    yield from found


def shown_names(names: Sequence[str]) -> str:
    """`a.jsonl`, or `a.jsonl, b.jsonl and 7 more files`."""
    more = f" and {len(names) - 2:,} more files" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def _holds(value: Any) -> str:
    """What stands in a cell: "text" (or a list, or an object), "value" (a number), "" for nothing."""
    if value is None or value == "" or value == [] or value == {}:
        return ""
    if isinstance(value, str):
        return "text" if value.strip() else ""
    return "text" if isinstance(value, (list, tuple, dict, bytes)) else "value"


def _names_a_row(name: str) -> bool:
    last = name.rpartition(".")[2].strip().lower().replace("-", "_").rpartition("_")[2]
    return last in _NAMES_A_ROW
