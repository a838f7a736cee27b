"""Untrusted Markdown as safe HTML."""

from __future__ import annotations

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

_TAGS = {"p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"}
_TAGS |= {"h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "table": {"tabindex"}}
_NARROW = 4  # columns that a phone has room for
# Below the page's own headings: a message's start at h3, the guideline's at h2.
_LEVELS = ("h1", "h2", "h3", "h4", "h5", "h6")
_SHIFTS = {
    breaks: {tag: _LEVELS[min(i + by, 5)] for i, tag in enumerate(_LEVELS)}
    for breaks, by in ((True, 2), (False, 1))
}


def _renderer(breaks: bool) -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "breaks": breaks}).enable(["table", "strikethrough"])
    return made.disable("image")  # a picture on another server would tell it who reads the page


_RENDERERS = {breaks: _renderer(breaks) for breaks in (True, False)}


def _columns(tokens: list[Token], table: int) -> int:
    count = 0
    while tokens[table].type != "thead_close":  # not by slices: a text may be tables from end to end
        count += tokens[table].type == "th_open"
        table += 1
    return count


@lru_cache(maxsize=512)
def safe_html(text: str, breaks: bool = True) -> Markup:
    """Markdown rendered, then cleaned of everything that isn't text, structure or an ordinary link.

    `breaks`: a line's end is one on the page too, as in what models and people write to each other; without
    it the text is a document of its own.
    """
    markdown = _RENDERERS[breaks]
    tokens = markdown.parse(text)
    for place, token in enumerate(tokens):
        if token.type == "table_open" and _columns(tokens, place) > _NARROW:
            token.attrSet("tabindex", "0")  # it may be wider than the page: keys must reach it to scroll
        token.tag = _SHIFTS[breaks].get(token.tag, token.tag)
    clean = nh3.clean(
        markdown.renderer.render(tokens, markdown.options, {}),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        strip_comments=True,
    )
    return Markup(clean)
