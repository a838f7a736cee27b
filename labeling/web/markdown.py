"""Untrusted Markdown as safe HTML."""

from __future__ import annotations

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from labeling.web.formulas import with_formulas

_TAGS = {
    "p",
    "span",
    "div",
    "br",
    "hr",
    "em",
    "strong",
    "s",
    "code",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "a",
}
_TAGS |= {"span", "div", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}
_ATTRIBUTES = {
    "a": {"href", "title", "target"},
    "ol": {"start"},
    "table": {"tabindex"},
    "span": {"data-math"},
    "div": {"data-math"},
    "*": {"dir", "data-lines"},
}
_OUTSIDE = ("https://", "http://", "mailto:")  # `http:people`, like `/people`, is a place in the app
# Of what people mark, the smallest of these is taken whole where its own words are not its source.
_BLOCKS = {"paragraph_open", "heading_open", "blockquote_open", "list_item_open", "table_open"}
_BLOCKS |= {"bullet_list_open", "ordered_list_open", "fence", "formula"}
_NARROW = 4  # columns that a phone has room for
# Below the page's own headings: a message's start at h3, the guideline's at h2.
_LEVELS = ("h1", "h2", "h3", "h4", "h5", "h6")
_SHIFTS = {
    breaks: {tag: _LEVELS[min(i + by, 5)] for i, tag in enumerate(_LEVELS)}
    for breaks, by in ((True, 2), (False, 1))
}


def _renderer(breaks: bool) -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "breaks": breaks}).enable(["table", "strikethrough"])
    made.disable("image")  # a picture on another server would tell it who reads the page
    made.disable("code")  # four spaces: more often prose that is set in than code
    return with_formulas(made)


_RENDERERS = {breaks: _renderer(breaks) for breaks in (True, False)}


def _columns(tokens: list[Token], table: int) -> int:
    count = 0
    while tokens[table].type != "thead_close":  # not by slices: a text may be tables from end to end
        count += tokens[table].type == "th_open"
        table += 1
    return count


def _lead_outside(link: Token) -> None:
    """Let a link open a page of its own, or lead nowhere."""
    if str(link.attrs.get("href", "")).lower().startswith(_OUTSIDE):
        link.attrSet("target", "_blank")
    else:
        link.attrs.pop("href", None)


@lru_cache(maxsize=512)
def safe_html(text: str, breaks: bool = True, lines: bool = False) -> Markup:
    """Markdown rendered, then cleaned of everything that isn't text, structure, LaTeX or an ordinary link.

    `breaks`: a line's end is one on the page too, as in what models and people write to each other; without
    it the text is a document of its own. `lines`: blocks say in `data-lines` which lines of the text they
    are, from the first (0) to the one behind the last.
    """
    markdown = _RENDERERS[breaks]
    tokens = markdown.parse(text)
    for place, token in enumerate(tokens):
        if token.type == "table_open" and _columns(tokens, place) > _NARROW:
            token.attrSet("tabindex", "0")  # it may be wider than the page: keys must reach it to scroll
        if token.level == 0 and token.nesting == 1:
            token.attrSet("dir", "auto")
        if lines and token.map and token.type in _BLOCKS:
            token.attrSet("data-lines", f"{token.map[0]} {token.map[1]}")
        token.tag = _SHIFTS[breaks].get(token.tag, token.tag)
        for part in token.children or ():
            if part.type == "link_open":
                _lead_outside(part)
    clean = nh3.clean(
        markdown.renderer.render(tokens, markdown.options, {}),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        strip_comments=True,
    )
    return Markup(clean)
