"""Two answers to one prompt, word by word: what of the first is gone and what of the second is new."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from markupsafe import Markup, escape

_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_MOST = 1500  # words: matching takes up to their number's square
_LEAST = 0.4  # share of the characters in common, spaces apart, under which marks tell nothing


def differences(before: object, after: object) -> tuple[Markup, Markup] | None:
    """The two texts as HTML with `del` and `ins`; None where too little is in common, or they are endless."""
    if not isinstance(before, str) or not isinstance(after, str):
        return None
    first, second = _WORD.findall(before.strip()), _WORD.findall(after.strip())
    if not first or not second or max(len(first), len(second)) > _MOST:
        return None
    matched = SequenceMatcher(None, first, second, autojunk=False)
    kept = "".join("".join(first[i : i + size]) for i, _, size in matched.get_matching_blocks())
    if 2 * _inked(kept) < _LEAST * (_inked(before) + _inked(after)):
        return None
    old, new = [], []
    for kind, i, j, k, m in matched.get_opcodes():
        gone, come = escape("".join(first[i:j])), escape("".join(second[k:m]))
        old.append(gone if kind == "equal" or not gone else Markup("<del>{}</del>").format(gone))
        new.append(come if kind == "equal" or not come else Markup("<ins>{}</ins>").format(come))
    return Markup("").join(old), Markup("").join(new)


def _inked(text: str) -> int:
    """Characters that are no space."""
    return sum(map(len, text.split()))
