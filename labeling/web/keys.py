"""The keys of the work on tasks, as they are before a person changes them in their browser."""

from __future__ import annotations

from dataclasses import dataclass

from labeling.answers import KINDS
from labeling.language import N_, gettext

ALL = tuple(KINDS)
# As they stand on keyboards, which differ by language.
_WRITTEN = (N_("Enter"), N_("Shift"), N_("Ctrl"), N_("Alt"), N_("Esc"), N_("Backspace"))


@dataclass(frozen=True)
class Key:
    """What a key does on the pages of some kinds of task; `#` in a key is any digit, `@` a letter A–I."""

    name: str
    key: str
    does: str
    kinds: tuple[str, ...] = ALL


KEYS = (
    Key("order", "@", N_("rank this response next: its letters in order, best first"), ("rank",)),
    Key("equals", "=", N_("between two letters: a tie"), ("rank",)),
    Key("back", "Backspace", N_("take the last letter back"), ("rank",)),
    Key("go", "Shift+@", N_("go to this response"), ("rank",)),
    Key(
        "rank",
        "#",
        N_("rank the marked response: the same number twice is a tie, 0 takes it away"),
        ("rank",),
    ),
    Key("quality", "Shift+#", N_("its quality, 1 to 7"), ("rank",)),
    Key("next", "j", N_("mark the next response (↓ too)"), ("rank",)),
    Key("previous", "k", N_("mark the previous response (↑ too)"), ("rank",)),
    Key("up", "Alt+ArrowUp", N_("move it up"), ("rank",)),
    Key("down", "Alt+ArrowDown", N_("move it down"), ("rank",)),
    Key("tie", "t", N_("tie it with the one above"), ("rank",)),
    Key("flags", "l", N_("its flags"), ("rank",)),
    Key("qualities", "q", N_("go to the choices of its quality"), ("rank",)),
    Key("edit", "w", N_("rewrite it"), ("rank",)),
    Key("own", "Shift+w", N_("your own answer"), ("rank",)),
    Key(
        "add",
        "+",
        N_("take the marked text into your answer; first: mark a paragraph"),
        ("rank", "correct"),
    ),
    Key("fold", "x", N_("fold it up as read, and open it again"), ("rank",)),
    Key("unfold", "Shift+x", N_("all of a long one, or its beginning"), ("rank",)),
    Key("beside", "o", N_("put it beside another one, with what differs marked"), ("rank",)),
    Key("columns", "v", N_("one, two or three columns"), ("rank",)),
    Key("bad", "n", N_("none is acceptable"), ("rank",)),
    Key("choose", "#", N_("1: A is better, 2: B is better"), ("compare",)),
    Key("equal", "t", N_("equally good"), ("compare",)),
    Key("both_bad", "b", N_("both bad"), ("compare",)),
    Key("write", "e", N_("go to the text; Esc leaves it"), ("correct", "demonstrate")),
    Key("check", "Shift+k", N_("have your own text checked"), ("rank", "correct", "demonstrate")),
    Key("affirm", "y", N_("right as it stands: send what was there before you came"), ("rank", "correct")),
    Key("prompt", "p", N_("the whole prompt, or its end")),
    Key("guide", "m", N_("open and close the guideline")),
    Key("raw", "r", N_("show a text as it was written")),
    Key("raw_all", "Shift+r", N_("show all texts as they were written")),
    Key("skip", "s", N_("skip")),
    Key("undo", "u", N_("undo")),
    Key("redo", "Shift+u", N_("redo")),
    Key("submit", "Enter", N_("submit (while you type: Ctrl + Enter)")),
    Key("help", "?", N_("show these keys")),
)


def keys_of(kind: str) -> list[Key]:
    """The keys on the page of a task of this kind."""
    return [key for key in KEYS if kind in key.kinds]


def named(key: str) -> str:
    """A key as people read it; static/keys.js has the same."""
    for name, shown in (("Arrow", ""), ("Up", "↑"), ("Down", "↓"), ("#", "1–9"), ("@", "A–I")):
        key = key.replace(name, shown)
    return "+".join(gettext(part) if part in _WRITTEN else part for part in key.split("+"))
