"""What is wrong with records, told once for all places where the same is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from align.data.reading import Seen
from align.data.scan import Problem

_PLACE_IN_A_LIST = re.compile(r"\[\d+\]")
_IN_ITS_FILE = re.compile(r"(?::| row | record )\d+[^/]*$")  # what a place says after the file's name


@dataclass
class Tally:
    """Problems by what is wrong: how often each was met, and where first."""

    count: int = 0
    kinds: dict[str, Seen] = field(default_factory=dict)  # by the first one as it is told
    _first: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, problem: Problem) -> None:
        """Count it with those of its kind: the same words, whichever item of a list they are said of.

        A file that cannot be read is a kind of its own.
        """
        self.count += 1
        alike = _PLACE_IN_A_LIST.sub("[]", problem.what) + (problem.place if problem.whole_file else "")
        kind = self._first.setdefault(alike, str(problem))
        self.kinds.setdefault(kind, Seen()).add(problem.place)

    def lines(self, shown: int) -> list[str]:
        """A line a kind, those met most often first: `a.jsonl:3: what is wrong (20 times: …)`."""
        ordered = sorted(self.kinds.items(), key=lambda pair: -pair[1].count)
        return [
            first + (f" ({seen.count:,} times{_also(seen)})" if seen.count > 1 else "")
            for first, seen in ordered[:shown]
        ]


def _also(seen: Seen) -> str:
    """The next places: `; also :9, :12, …`; in another file with its name."""
    first, *others = seen.places
    file = _IN_ITS_FILE.sub("", first)
    more = ", …" if seen.count > len(seen.places) else ""
    return f"; also {', '.join(place.removeprefix(file).strip() for place in others)}{more}" if others else ""
