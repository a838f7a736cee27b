"""Texts of strangers as people may see them."""

from __future__ import annotations

from align.text import clean, printable


def test_what_a_text_hides_is_shown() -> None:
    assert clean("a\x1b[2J\tb\n\ud800\u202e") == "a\\x1b[2J\tb\n\\ud800\\u202e"
    assert clean({"k\0": ["x" * 9, 1.5, None]}, 4) == {"k\\x00": ["xxxx… (5 more characters)", 1.5, None]}


def test_a_terminal_sees_no_codes() -> None:
    assert printable("a\x1b[2J\nb é") == "a\\x1b[2J\\nb é"
    assert printable("a\nb\r", keep="\n") == "a\nb\\r"
