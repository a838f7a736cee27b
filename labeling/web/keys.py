"""The keys of the work on tasks, as they are before a person changes them in their browser."""

from __future__ import annotations

from dataclasses import dataclass

from labeling.answers import KINDS

ALL = tuple(KINDS)


@dataclass(frozen=True)
class Key:
    """What a key does on the pages of some kinds of task; `#` in a key is any digit, `@` a letter A–I."""

    name: str
    key: str
    does: str
    kinds: tuple[str, ...] = ALL


KEYS = (
    Key("order", "@", "rank this response next: its letters in order, best first", ("rank",)),
    Key("equals", "=", "between two letters: a tie", ("rank",)),
    Key("back", "Backspace", "take the last letter back", ("rank",)),
    Key("go", "Shift+@", "go to this response", ("rank",)),
    Key("rank", "#", "rank the marked response: the same number twice is a tie, 0 takes it away", ("rank",)),
    Key("quality", "Shift+#", "its quality, 1 to 7", ("rank",)),
    Key("next", "j", "mark the next response (↓ too)", ("rank",)),
    Key("previous", "k", "mark the previous response (↑ too)", ("rank",)),
    Key("up", "Alt+ArrowUp", "move it up", ("rank",)),
    Key("down", "Alt+ArrowDown", "move it down", ("rank",)),
    Key("tie", "t", "tie it with the one above", ("rank",)),
    Key("flags", "l", "its flags", ("rank",)),
    Key("qualities", "q", "go to the choices of its quality", ("rank",)),
    Key("edit", "w", "rewrite it", ("rank",)),
    Key("own", "Shift+w", "your own answer", ("rank",)),
    Key("add", "+", "take the marked text into your answer; first: mark a paragraph", ("rank", "correct")),
    Key("fold", "x", "fold it up as read, and open it again", ("rank",)),
    Key("unfold", "Shift+x", "all of a long one, or its beginning", ("rank",)),
    Key("beside", "o", "put it beside another one, with what differs marked", ("rank",)),
    Key("columns", "v", "one, two or three columns", ("rank",)),
    Key("bad", "n", "none is acceptable", ("rank",)),
    Key("choose", "#", "1: A is better, 2: B is better", ("compare",)),
    Key("equal", "t", "equally good", ("compare",)),
    Key("both_bad", "b", "both bad", ("compare",)),
    Key("write", "e", "go to the text; Esc leaves it", ("correct", "demonstrate")),
    Key("check", "Shift+k", "have your own text checked", ("rank", "correct", "demonstrate")),
    Key("affirm", "y", "right as it stands: send what was there before you came", ("rank", "correct")),
    Key("prompt", "p", "the whole prompt, or its end"),
    Key("guide", "m", "open and close the guideline"),
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
    for name, shown in (("Arrow", ""), ("Up", "↑"), ("Down", "↓"), ("#", "1–9"), ("@", "A–I")):
        key = key.replace(name, shown)
    return key
