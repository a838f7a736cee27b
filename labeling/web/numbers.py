"""The numbers by which pages call tasks: they don't say which tasks came in together, as gold ones do."""

from __future__ import annotations

import hashlib
import hmac

MOST = 2**32 - 1
_HALF = 2**16
_ROUNDS = range(4)


def number_of(secret: str, item: int) -> int:
    """A task's number on pages, from its id below 2^32; always the same.

    A Feistel network of four rounds with HMAC-SHA256 (Luby and Rackoff 1988): a permutation.
    """
    left, right = divmod(item, _HALF)
    for turn in _ROUNDS:
        left, right = right, left ^ _mixed(secret, turn, right)
    return left * _HALF + right


def item_of(secret: str, number: int) -> int:
    """The inverse of `number_of`."""
    left, right = divmod(number, _HALF)
    for turn in reversed(_ROUNDS):
        left, right = right ^ _mixed(secret, turn, left), left
    return left * _HALF + right


def _mixed(secret: str, turn: int, half: int) -> int:
    made = hmac.new(secret.encode(), f"task {turn} {half}".encode(), hashlib.sha256)
    return int.from_bytes(made.digest()[:2], "big")


def whole(text: str) -> int | None:
    """The number that a form's text is; None where it is none that a row can have."""
    is_short = text.isdecimal() and len(text) <= 10  # int() refuses very long ones
    return number if is_short and (number := int(text)) < 2**31 else None
