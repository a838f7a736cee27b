"""The keys of the work on tasks, as they are before a person changes them in their browser."""

from __future__ import annotations

from dataclasses import dataclass

from labeling.answers import KINDS

ALL = tuple(KINDS)


@dataclass(frozen=True)
class Key:
    """What a key does on the pages of some kinds of task; `#` in a key stands for a digit."""

    name: str
    key: str
    does: str
    kinds: tuple[str, ...] = ALL


KEYS = (
    Key("rank", "#", "rank the marked response: the same number twice is a tie, 0 takes it away", ("rank",)),
    Key("quality", "Shift+#", "its quality, 1 to 7", ("rank",)),
    Key("next", "j", "mark the next response (↓ too)", ("rank",)),
    Key("previous", "k", "mark the previous response (↑ too)", ("rank",)),
    Key("up", "Alt+ArrowUp", "move it up", ("rank",)),
    Key("down", "Alt+ArrowDown", "move it down", ("rank",)),
    Key("tie", "t", "tie it with the one above", ("rank",)),
    Key("flags", "f", "its flags", ("rank",)),
    Key("qualities", "q", "go to the choices of its quality", ("rank",)),
    Key("edit", "e", "rewrite it", ("rank",)),
    Key("bad", "b", "none is acceptable", ("rank",)),
    Key("choose", "#", "1: A is better, 2: B is better", ("compare",)),
    Key("equal", "t", "equally good", ("compare",)),
    Key("both_bad", "b", "both bad", ("compare",)),
    Key("write", "e", "go to the text; Esc leaves it", ("correct", "demonstrate")),
    Key("affirm", "y", "right as it stands: send what was there before you came", ("rank", "correct")),
    Key("raw", "r", "show a text as it was written"),
    Key("raw_all", "Shift+r", "show all texts as they were written"),
    Key("skip", "s", "skip"),
    Key("undo", "u", "undo"),
    Key("redo", "Shift+u", "redo"),
    Key("submit", "Enter", "submit (while you type: Ctrl + Enter)"),
    Key("help", "?", "show these keys"),
)


def keys_of(kind: str) -> list[Key]:
    """The keys on the page of a task of this kind."""
    return [key for key in KEYS if kind in key.kinds]


def named(key: str) -> str:
    """A key as people read it; static/keys.js has the same."""
    return key.replace("Arrow", "").replace("Up", "↑").replace("Down", "↓").replace("#", "1–9")
