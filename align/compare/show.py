"""What evaluation.json says, on the terminal: tables where there is one, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.report.evaluation import Table as Shown
from align.report.evaluation import tables
from align.run.progress import say
from align.text import printable


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print all of it; intervals are those of a bootstrap over prompts, 95%."""
    show_tables(tables(document), console)


def show_tables(found: Sequence[Shown], console: Console) -> None:
    """Print tables, one after the other."""
    for title, head, rows in found:
        _print(title, head, rows, console)


def _print(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    console.print()
    if console.is_terminal:
        table = Table(box=SIMPLE_HEAD, title=Text(printable(title), "bold"), title_justify="left")
        for i, name in enumerate(head):
            table.add_column(Text(printable(name)), overflow="fold", justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        console.print(table)
        return
    say(console, printable(title))
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        line = "  ".join(f"{printable(cell):{width}}" for cell, width in zip(row, widths, strict=True))
        say(console, f"  {line.rstrip()}")
