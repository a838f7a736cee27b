"""The figures on the terminal: the tables that the page has beside its charts."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.text import printable
from labeling.figures.cards import headline, sections
from labeling.figures.shapes import Figures


def show(figures: Figures, console: Console) -> None:
    """Print every card's table and note."""
    console.print(_text(", ".join(f"{value} {what}" for value, what in headline(figures)), "bold"))
    for section in sections(figures):
        for card in section.cards:
            console.print()
            console.print(_text(f"{section.title}: {card.title}", "bold"))
            if card.rows:
                table = Table(box=None, pad_edge=False, header_style="dim")
                for i, name in enumerate(card.head):
                    table.add_column(_text(name), justify="right" if i else "left")
                for row in card.rows:
                    table.add_row(*(_text(cell) for cell in row))
                console.print(table)
            console.print(_text(card.note, "dim"))
    if figures.sway is not None:
        console.print()
        console.print(_text("Suggestions: pairs ordered as suggested", "bold"))
        for name, group in (("shown", figures.sway.shown), ("hidden", figures.sway.hidden)):
            share = "–" if group.share is None else f"{group.share:.0%}"
            console.print(_text(f"{name}: {share} of {group.judgements} answers"))


def _text(text: str, style: str = "") -> Text:
    """Names come from strangers and may hold terminal codes or markup: they are shown as text."""
    return Text(printable(text), style)
