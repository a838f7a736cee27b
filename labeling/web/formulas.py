"""LaTeX in Markdown: found before Markdown's own marks are, and kept as it was written.

It may stand in `\\(…\\)`, `\\[…\\]`, `$…$`, `$$…$$`, and in an environment such as `\\begin{align}`. A page's
script shows it; without one its source stands there.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

INLINE, DISPLAY = "inline", "display"  # in the text, or on lines of its own
_MOST_LINES = 100  # of a formula: an opening without an end is looked for no further
_ENVIRONMENT = (
    r"\\begin\{((?:align|alignat|aligned|cases|equation|gather|multline|[pbBvV]?matrix|split)\*?)\}"
)
# What follows a backslash belongs to it, and ends nothing.
_BETWEEN = {
    r"\(": (re.compile(r"\\\((?:[^\\]|\\[^)])*+\\\)", re.DOTALL), INLINE),
    r"\[": (re.compile(r"\\\[(?:[^\\]|\\[^\]])*+\\\]", re.DOTALL), DISPLAY),
    "$$": (re.compile(r"\$\$(?!\$)(?:\\.|[^\\$]|\$(?!\$))*+\$\$(?!\$)", re.DOTALL), DISPLAY),
}
# Nothing blank inside the dollars, no digit behind them; a letter may follow a whole formula (`$n$th`), but
# `$HOME/$USER` is none.
_DOLLARS = re.compile(
    r"\$(?![\s$])(?:\\.|[^\\$`])++(?<!\s)\$(?![\d$])(?:(?<=[\w)}\]']\$)|(?![A-Za-z]))", re.DOTALL
)
_COMMAND = re.compile(r"\\[A-Za-z]+\s*(?:\{[^{}]*\})?")
_WORD = re.compile(r"[\s(][A-Za-z]{2}")
_MATHS = re.compile(r"[\\^_=+<>]")
_OPENS = re.compile(rf"\\\[|\$\$(?!\$)|{_ENVIRONMENT}")


def with_formulas(markdown: MarkdownIt) -> MarkdownIt:
    """Markdown that leaves LaTeX alone: as elements with `data-math`, which hold its source."""
    markdown.block.ruler.before("fence", "formula", _block, {"alt": ["paragraph", "blockquote", "list"]})
    markdown.inline.ruler.before("escape", "formula", _inline)
    markdown.add_render_rule("formula", _as_html)
    return markdown


def _inline(state: StateInline, silent: bool) -> bool:
    found = _at(state) if state.src[state.pos] in "\\$" else None
    if found is None:
        return False
    source, shown = found
    if not silent:
        token = state.push("formula", "span", 0)
        token.content, token.info = source, shown
    state.pos += len(source)
    return True


def _at(state: StateInline) -> tuple[str, str] | None:
    """The formula that begins here, and how it is shown."""
    text, start, end = state.src, state.pos, state.posMax
    before, opening = text[start - 1 : start], text[start : start + 2]
    if opening in _BETWEEN and before != "$":
        unclosed = state.env.setdefault("unclosed", set())  # looked for once, however often it is opened
        if (opening, end, text) in unclosed:
            return None
        pattern, shown = _BETWEEN[opening]
        found = pattern.match(text, start, end)
        if found is None:
            if opening != "$$":
                unclosed.add((opening, end, text))
            return None
        held = found[0][2:-2].strip()
        # `\[1\]` is how Markdown writes brackets, too.
        return (found[0], shown) if held and (opening != r"\[" or _MATHS.search(held)) else None
    if text[start] != "$" or re.match(r"[A-Za-z0-9$]", before):
        return None
    found = _DOLLARS.match(text, start, end)
    return (found[0], INLINE) if found and not _is_money(found[0][1:-1]) else None


def _is_money(text: str) -> bool:
    """Whether `$5 or 10$` is meant: a number, and words that no command holds."""
    return text[0].isdigit() and _WORD.search(_COMMAND.sub("", text)) is not None


def _block(state: StateBlock, first: int, end: int, silent: bool) -> bool:
    """A formula on lines of its own: no line of it is a heading, a list, or a paragraph's end."""
    begin = state.bMarks[first] + state.tShift[first]
    opens = _OPENS.match(state.src, begin, state.eMarks[first])
    if opens is None:
        return False
    closes = rf"\end{{{opens[1]}}}" if opens[1] else {"$$": "$$", r"\[": r"\]"}[opens[0]]
    until = state.eMarks[min(end, first + _MOST_LINES) - 1]
    at = _closing(state.src, closes, opens.end(), until)
    if at < 0:
        return False
    last = bisect_left(state.eMarks, at)
    stop = at + len(closes)
    behind = state.src[stop : state.eMarks[last]].strip()
    if behind.strip(".,;:") or not state.src[opens.end() : at].strip():
        return False  # text goes on behind it: it stands in a paragraph; or it holds nothing
    lines = range(first + 1, last + 1)
    if any(state.sCount[line] < state.blkIndent and not state.isEmpty(line) for line in lines):
        return False  # the list or quotation that it began in has ended
    if not silent:
        state.line = last + 1
        token = state.push("formula", "div", 0)
        token.content = state.getLines(first, last + 1, state.blkIndent, False).strip()
        token.info, token.map = DISPLAY, [first, last + 1]
    return True


def _closing(text: str, closes: str, start: int, end: int) -> int:
    """Where a formula ends; -1: nowhere."""
    at = text.find(closes, start, end)
    while at > start and closes[0] == "\\" and (at - len(text[start:at].rstrip("\\")) - start) % 2:
        at = text.find(closes, at + 1, end)  # `\\]`: a line's end, then a bracket
    return at


def _as_html(_: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    token = tokens[at]
    lines = f' data-lines="{token.attrs["data-lines"]}"' if "data-lines" in token.attrs else ""
    return f'<{token.tag} data-math="{token.info}"{lines}>{escapeHtml(token.content)}</{token.tag}>'
