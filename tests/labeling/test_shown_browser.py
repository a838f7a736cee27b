"""Texts on the page: formulas, their source, directions, links, and the keys that change between them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

FORMULAS = r"So $a*b*c$ and \(x_1\)." + "\n\n\\[\n\\frac{1}{2}\n- y\n\\]\n\nIt is $5 or $10."
BROKEN = r"Look: \(\frac{1}\) and $\def\a{\a\a}\a$ and \(\href{javascript:alert(1)}{x}\)"


def raws(page: Any) -> list[bool]:
    return [card.locator(".raw").is_visible() for card in page.locator(".card").all()]


def test_formulas_are_rendered_and_their_source_is_one_key_away(site: Any, visit: Any) -> None:
    site.add({"prompt": "Solve \\(x^2\\)", "responses": [FORMULAS, BROKEN]})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    good = page.locator(".card", has=page.locator("text=or $10"))
    good.locator("[data-math=display] .katex-display").wait_for()
    assert good.locator("[data-math] .katex").count() == 3
    assert (
        "It is $5 or $10." in good.inner_text()
        and "a*b*c" not in good.locator(".katex-html").first.inner_text()
    )
    assert page.locator(".prompt .katex").count() == 1
    bad = page.locator(".card", has_text="Look:")
    bad.locator(".broken").first.wait_for()
    assert bad.locator(".broken").all_inner_texts() == [r"\(\frac{1}\)", r"$\def\a{\a\a}\a$"]
    assert page.locator(".card a[href]").count() == 0, "no link comes out of LaTeX"
    is_loaded = "f => [...f].some(x => x.family.startsWith('KaTeX') && x.status == 'loaded')"
    assert page.evaluate(f"document.fonts.ready.then({is_loaded})"), "its fonts are the app's own"
    good.locator(".text").click()
    page.keyboard.press("r")
    assert (
        good.locator(".raw").inner_text().endswith(FORMULAS.split("\n\n")[-1]) and raws(page).count(True) == 1
    )
    assert good.locator(".raw").text_content() == FORMULAS
    assert good.get_by_role("button", name="as it was written").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Shift+R")
    assert raws(page) == [True, True] and page.locator(".prompt .raw").is_visible()
    assert page.get_by_role("button", name="Raw text").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Raw text").click()
    assert raws(page) == [False, False] and page.locator(".prompt .prose").is_visible()


def test_a_page_without_formulas_loads_nothing_for_them(site: Any, visit: Any) -> None:
    site.add({"prompt": "Cost?", "responses": ["$5", "$10"], "kind": "compare"})
    page = visit(site, site.person("ann"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/work")
    page.keyboard.press("r")  # no card is marked: all texts
    assert raws(page) == [True, True]
    assert not any("katex" in url for url in asked)


def test_a_link_in_a_response_opens_beside_the_page(site: Any, visit: Any) -> None:
    site.add({"prompt": "Where?", "responses": ["[out](http://127.0.0.1:9/there) [in](/signout)"]})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    page.context.route("**/there", lambda route: route.fulfill(body="<p>Outside", content_type="text/html"))
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="out").click()
    opened.value.get_by_text("Outside").wait_for()
    assert opened.value.evaluate("window.opener") is None, "it can't reach back"
    page.get_by_text("in", exact=True).click()
    assert page.url.endswith("/work")


def test_texts_and_fields_take_the_direction_of_what_stands_in_them(site: Any, visit: Any) -> None:
    site.add({"prompt": "שלום עולם", "responses": ["مرحبا\n\nhello", "b"]}, {"prompt": "w", "priority": -1})
    page = visit(site, site.person("ann"))
    for _ in range(2):
        page.goto("/work")
        fields = page.locator("textarea, input:not([type=hidden], [type=radio], [type=checkbox])").all()
        assert fields and all(field.get_attribute("dir") == "auto" for field in fields)
        direction = "e => getComputedStyle(e).direction"
        if page.locator(".card").count():
            assert page.locator(".prompt p[dir]").evaluate(direction) == "rtl"
            both = page.locator(".card", has_text="hello").locator(".prose p").all()
            assert [part.evaluate(direction) for part in both] == ["rtl", "ltr"]
            page.keyboard.press("s")
            with page.expect_navigation():
                page.get_by_role("button", name="Another reason").click()
