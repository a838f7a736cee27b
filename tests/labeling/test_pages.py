"""Every page passes axe's rules, light and dark, wide and narrow."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

WIDE = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
KINDS = {
    "rank": {"responses": ["**a**\n\n```\ncode\n```", "| a | b |\n|---|---|\n| 1 | 2 |", "c"]},
    "compare": {"responses": [r"\(\frac{1}{2}\) and \(\frac{1}\)", "b"]},
    "correct": {"responses": ["a [link](https://example.com)"]},
    "demonstrate": {},
}


def violations(page: Any) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]} {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("look", [WIDE, PHONE], ids=["wide-light", "phone-dark"])
def test_axe_finds_nothing_on_any_page(site: Any, visit: Any, look: dict[str, Any]) -> None:
    call = {"name": "time", "arguments": {"city": "Rome"}}
    system = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi\n\n> quote"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "12:30"},
    ]
    site.add(
        *(
            {"prompt": system, "tools": [{"name": "time"}], "kind": kind, **more}
            for kind, more in KINDS.items()
        )
    )
    long = "```\n" + "a long line " * 40 + "\n```\n\n" + "| a " * 20 + "|\n" + "|---" * 20 + "|\n"
    (decided,) = site.add({"prompt": long, "responses": [f"{long}{i}" for i in range(9)], "priority": 9})
    ranks = {"ranks": [1, *[2] * 8], "quality": [None] * 9, "flags": [["fails"], *[[] for _ in range(8)]]}
    assert site.answer(site.signed_in("bob"), {**ranks, "note": "a word " * 30}).status_code == 200
    page = visit(site, site.person("ann", "admin"), **look)
    found: dict[str, list[str]] = {}
    for path in (
        "/",
        "/guideline",
        "/account",
        "/keys",
        "/tasks",
        "/people",
        "/history",
        "/figures",
        "/review",
        f"/review/{decided}",
        f"/review/{decided}/answers",
        "/labels/1",
        "/people/1",
        "/people/1/labels",
        "/people/time",
        "/tasks?state=flagged",
        "/audit",
        "/guideline/edit",
        "/guideline/history",
        "/chat",
        "/nowhere",
    ):
        page.goto(path)
        found[path] = violations(page)
    page.goto("/people")
    page.get_by_role("button", name="Make a link").click()
    invitation = page.locator(".secret").inner_text()
    found["invited"] = violations(page)
    for kind in KINDS:
        page.goto("/work")
        if kind == "rank":
            for key in ("1", "j", "1", "w"):
                page.keyboard.press(key)
            page.keyboard.press("Escape")
            page.keyboard.press("l")
        found[kind] = violations(page)
        page.locator("h1").click()
        page.keyboard.press("?")
        found[f"{kind} help"] = violations(page)
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        found[f"{kind} skip"] = violations(page)
        with page.expect_navigation():
            page.get_by_role("button", name="Another reason").click()
    page.goto("/history")
    found["skipped"] = violations(page)
    page.context.clear_cookies()
    for path in ("/signin", invitation, site.link(site.person("carl"))):
        page.goto(path)
        found[path] = violations(page)
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


CHECKS = [
    {"name": "short", "max_characters": 10},
    {"name": "long", "min_characters": 1},
    {"function": "math:nothing", "name": "broken"},
]
SELECT = """(box) => {
  const words = document.createTreeWalker(box, NodeFilter.SHOW_TEXT).nextNode();
  getSelection().setBaseAndExtent(words, 0, words, words.length);
}"""


@pytest.mark.parametrize("look", [WIDE, PHONE], ids=["wide-light", "phone-dark"])
def test_axe_finds_nothing_in_answers_of_parts_and_what_checked_them(
    make_site: Any, visit: Any, look: dict[str, Any]
) -> None:
    site = make_site(checks=CHECKS)
    (item,) = site.add({"prompt": "Why?", "responses": ["One sentence.", "Another one."]})
    site.add(*({"prompt": "P", **KINDS[kind]} for kind in ("correct", "demonstrate")))
    page = visit(site, site.person("ann", "admin"), **look)
    found: dict[str, list[str]] = {}

    def check(name: str) -> None:
        page.get_by_role("button", name="Check my text").click()
        page.locator("#checked li", has_text="10 are the most").wait_for()
        page.locator("#checked li", has_text="The check broken failed").wait_for()
        found[f"{name} checked"] = violations(page)
        page.locator("textarea:visible").first.fill("Another text, which nobody checked.")
        found[f"{name} changed"] = violations(page)

    page.goto("/work")
    page.wait_for_selector(".card:focus")
    for place in (0, 1):
        page.locator(".card .shown .prose").nth(place).evaluate(SELECT)
        page.locator("#add-part").wait_for()
        found[f"marked {place}"] = violations(page)
        page.keyboard.press("+")
    found["composed"] = violations(page)
    check("rank")
    page.keyboard.press("Escape")
    page.locator(".card").first.focus()
    page.keyboard.type("ab")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    for path in ("/labels/1", f"/review/{item}", f"/review/{item}/answers", "/figures"):
        page.goto(path)
        found[path] = violations(page)
    for kind in ("correct", "demonstrate"):
        page.goto("/work")
        page.locator("#text").fill("Something of my own")
        check(kind)
        with page.expect_navigation():
            page.get_by_role("button", name="Submit").click()
    site.app.state.checking.close()
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
