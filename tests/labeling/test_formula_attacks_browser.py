"""Formulas that mean harm, in a real browser: no script, no request, nothing over others, no crash."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

SCRIPTS = {
    "href": r"\(\href{javascript:alert(1)}{x}\)",
    "url": r"\(\url{javascript:alert(1)}\)",
    "picture": r"\(\includegraphics[height=1em]{http://127.0.0.1:9/x.png}\)",
    "data": r"\(\htmlData{x=1}{y}\htmlStyle{position:fixed;inset:0}{z}\htmlId{signout}{a}\htmlClass{x}{b}\)",
    "color": r"\(\color{red;position:fixed;top:0}{x}\colorbox{url(http://127.0.0.1:9/c)}{y}\)",
    "tag": r"\(\text{<img src=x onerror=alert(1)><script>alert(2)</script>}\)",
    "in a link": r"[\(x^2\)](javascript:alert(1)) [\(\href{http://127.0.0.1:9}{y}\)](http://127.0.0.1:9/z)",
    "fence": "```\n\\(\\href{javascript:alert(1)}{x}\\) $x$\n```",
}
SIZES = {
    "rule": r"\(\rule{10000em}{10000em}\)",
    "raised rule": r"\(\rule[-500em]{1000em}{1000em}\) \(\rule[500em]{99em}{99em}\)",
    "raisebox": r"\(\raisebox{-90em}{OVER}\) \(\raisebox{90em}{OVER}\)",
    "kern": r"\(\kern-2000em\rule{3000em}{3000em}\) \(\kern{-19em}\rule{19em}{2em}\)",
    "smash": r"\(\smash{\rule{20em}{20em}}\) \(\smash[b]{\rule[-20em]{20em}{20em}}\)",
    "laps": r"\(\llap{\rule{20em}{20em}}\)\(\rlap{\rule{200em}{20em}}\)\(\clap{\rule{20em}{20em}}\)",
    "mathllap": r"\(\mathllap{\smash{\rule{20em}{20em}}}\)",
    "spaces": r"\[\\[-900em] \rule{20em}{20em}\]"
    + "\n\n"
    + r"\(\begin{matrix}a\\[-20em]\rule{20em}{20em}\end{matrix}\)",
    "hskip": r"\(\hskip -2000em \rule{20em}{20em}\) \(\mskip-2000mu\rule{20em}{20em}\)",
    "tags": r"\[x \tag{\rule{20em}{20em}}\]",
    "wide": r"\(" + "x" * 4000 + r"\)",
    "deep": r"\(" + r"\sqrt{" * 600 + "x" + "}" * 600 + r"\)",
    "high": r"\(" + r"x^{" * 500 + "x" + "}" * 500 + r"\)",
    "groups": r"\(" + r"\left(" * 400 + "x" + r"\right)" * 400 + r"\)",
    "colors": r"\(" + r"\color{red}" * 440 + r"x\)",
    "small": r"\(" + r"\small" * 800 + r" x\)",
    "fractions": r"\(" + r"\frac{1}{" * 300 + "x" + "}" * 300 + r"\)",
}
SLOW = {
    "forever": r"\(\def\a{\a\a}\a\)",
    "newcommand": r"\(\newcommand{\a}{\a\a}\a\) \(\gdef\a{\a\a}\a\) \(\global\let\x=\y\x\)",
    "roots without an end": "\\(" + r"\sqrt{" * 16_000 + "\\)",
    "no end": r"\(" + "{" * 4900 + r"\) \(" + "}" * 4900 + r"\) \[" + r"\left(" * 800 + r"\]",
    "many": r"\(\frac{\sqrt{x}}{y}\) " * 4000,
    "many rows": "\\[\\begin{matrix}" + r"a&b\\ " * 700 + "\\end{matrix}\\]",
    "dollars": "$" * 50_000 + "x" + "\\(" * 20_000,
}
ALL = {**SCRIPTS, **SIZES, **SLOW}
# Everything that paints on the page outside of the card it is in; what is clipped does not.
OUTSIDE = """
() => {
  const found = [];
  for (const box of document.querySelectorAll(".prose")) {
    const card = (box.closest(".card") || box).getBoundingClientRect();
    for (const x of [card.left + 5, (card.left + card.right) / 2, card.right - 5]) {
      for (const y of [card.top - 12, card.bottom + 12]) {
        const hit = document.elementFromPoint(x, y);
        if (hit && box.contains(hit)) found.push([hit.className, x, y]);
      }
    }
  }
  for (const button of document.querySelectorAll("button, a, textarea, .key")) {
    const at = button.getBoundingClientRect();
    if (!at.width || !at.height || at.bottom < 0 || at.top > innerHeight) continue;
    const hit = document.elementFromPoint(at.left + at.width / 2, at.top + at.height / 2);
    if (hit && hit.closest(".katex") && !button.contains(hit)) found.push(["over", button.textContent]);
  }
  return found;
}
"""


@pytest.mark.parametrize("name", ALL)
def test_a_formula_does_no_harm(site: Any, visit: Any, name: str) -> None:
    site.add({"prompt": "Which one?", "responses": [ALL[name], "the other answer, which is short"]})
    page = visit(site, site.person("ann"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    page.goto("/work")
    page.wait_for_selector(".card")
    begun = time.monotonic()
    page.keyboard.press("b")
    page.keyboard.press("a")
    page.evaluate("document.body.offsetHeight")
    took = time.monotonic() - begun
    page.wait_for_timeout(300)
    assert not [url for url in asked if ":9/" in url]
    assert (
        page.locator("a[href^='javascript'], .katex a, .katex img, [style*=fixed], #signout .katex").count()
        == 0
    )
    for card in page.locator(".card").all():
        card.scroll_into_view_if_needed()
        assert page.evaluate(OUTSIDE) == []
    width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(width) <= 0, "the page is wider than the screen"
    assert page.evaluate("document.documentElement.scrollHeight") < 40_000
    assert took < 4, "two seconds of the page, and as much for a busy machine, until it does what a key says"
