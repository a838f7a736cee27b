"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing but in the main process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from align.text import span

_PLAIN_EVERY = 10.0  # seconds between plain lines


class ProgressBar:
    """Counts steps of one piece of work; `total` None where nobody knows how many there are.

    `passing`: it vanishes with the work, and work of a few seconds leaves no plain line.
    """

    def __init__(
        self, console: Console, title: str, total: int | None, done: int = 0, passing: bool = False
    ) -> None:
        self._console, self._title, self._total, self._passing = console, title, total, passing
        self._done, self._first = done, done
        self._started = self._said = time.monotonic()
        self._rich: Progress | None = None
        if console.is_terminal and not console.quiet:
            self._rich = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn()
                if total is None
                else TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
                transient=passing,
            )
            self._task = self._rich.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> ProgressBar:
        if self._rich:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich:
            self._rich.stop()

    def advance(self, metrics: Mapping[str, float] | None = None, count: int = 1) -> None:
        """`count` more steps are done; `metrics` are shown beside it, under the names they have here."""
        self._done += count
        note = "  ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())
        if self._rich:
            self._rich.update(self._task, completed=self._done, note=note)
            return
        now = time.monotonic()
        if now - self._said >= _PLAIN_EVERY or (self._done == self._total and not self._passing):
            self._said = now
            say(self._console, f"{self._title} {self._done}{self._of_total(note, now - self._started)}")

    def _of_total(self, note: str, passed: float) -> str:
        if self._total is None:
            return f"  {note}  for {span(passed)}"
        left = passed / (self._done - self._first) * (self._total - self._done)
        rest = f"{span(left)} left" if self._done < self._total else f"took {span(passed)}"
        return f"/{self._total}  {note}  {rest}"


def say(console: Console, text: str) -> None:
    """Print a text as it is, without colours and line breaks of rich's own."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
