"""Parts of responses are marked by mouse, finger and keys, and taken word for word into an answer."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

PLAIN = "One plain sentence. And a second one.\r\n\r\nA second paragraph 😀 with an end."
RICH = "Some **bold** words here.\n\n- first item\n- second $x^2$ item\n\n```py\na = 1\nb = 2\n```"
TASK = {"prompt": "Why?", "responses": [PLAIN, RICH]}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
# Marks the characters from the first of `start` to the last of `end` in an element.
MARK = """(element, [start, end]) => {
  const texts = [];
  const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) texts.push(walk.currentNode);
  const first = texts.find((node) => node.data.includes(start));
  const last = texts.findLast((node) => node.data.includes(end));
  const behind = last.data.indexOf(end) + end.length;
  getSelection().setBaseAndExtent(first, first.data.indexOf(start), last, behind);
}"""


def opened(site: Any, visit: Any, **look: Any) -> Any:
    site.add(TASK)
    page = visit(site, site.person("ann"), **look)
    page.goto("/work")
    page.wait_for_selector(".card:focus")
    return page


def mark(page: Any, start: str, end: str) -> None:
    page.locator(".card .text", has_text=start).filter(has_text=end).first.evaluate(MARK, [start, end])


def own(page: Any) -> str:
    return str(page.locator("#own-text").input_value())


def test_what_is_marked_is_taken_by_button_and_key_word_for_word(site: Any, visit: Any) -> None:
    page = opened(site, visit)
    mark(page, "And a", "one.")
    page.get_by_role("button", name="Add to my answer").click()
    assert own(page) == "And a second one."
    assert page.evaluate("getSelection().isCollapsed") and not page.locator("#add-part").is_visible()
    mark(page, "words", "here.")
    page.keyboard.press("+")
    mark(page, "a = 1", "1")
    page.keyboard.press("+")
    assert own(page) == "And a second one.\n\nwords here.\n\na = 1"
    page.locator("#own-text").fill("And a second one.\n\nother words.\n\na = 1")
    assert page.locator(".own .parts li").nth(1).inner_text().split("\n")[-2] == "changed since"
    page.get_by_text("Draft saved").wait_for()
    page.reload()
    page.wait_for_selector(".card:focus")
    assert page.locator(".own .parts li").count() == 3
    page.get_by_role("button", name="Take part 3").click()
    assert own(page) == "And a second one.\n\nother words."
    page.locator(".card").first.focus()
    page.keyboard.press("u")
    assert own(page).endswith("a = 1") and page.locator(".own .parts li").count() == 3
    page.keyboard.type("ab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    (row,) = site.records("demonstrations")
    texts = [TASK["responses"][p["response"]][p["start"] : p["end"]] for p in row["parts"]]
    assert texts == ["And a second one.", "words here.", "a = 1"]
    assert [p["edited"] for p in row["parts"]] == [False, True, False]


@pytest.mark.parametrize(
    ("start", "end", "taken"),
    [
        ("bold", "here.", "Some **bold** words here."),  # what is marked runs through a mark of Markdown
        ("first item", "first item", "- first item"),  # all of an item is the item
        ("irst it", "irst it", "irst it"),
        ("econd ", "item", "- second $x^2$ item"),  # a formula
        ("words here", "first", "words here.\n\n- first item"),  # the start is exact, the end is not
        ("second one.", "paragraph 😀", "second one.\r\n\r\nA second paragraph 😀"),
        ("A second paragraph", "with an end.", "A second paragraph 😀 with an end."),
    ],
)
def test_the_source_of_what_is_marked_is_taken(
    site: Any, visit: Any, start: str, end: str, taken: str
) -> None:
    page = opened(site, visit)
    page.wait_for_function("!document.querySelector('.card [data-math]:not(:has(.katex))')")
    mark(page, start, end)
    page.keyboard.press("+")
    assert own(page) == taken.replace("\r\n", "\n")
    told = "whole paragraphs" in page.locator("#state").inner_text()
    assert told == (taken.startswith(("Some", "- second", "words"))), "and what is more is said"
    page.keyboard.type("ab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    ((part,),) = (row["parts"] for row in site.records("demonstrations"))
    assert TASK["responses"][part["response"]][part["start"] : part["end"]] == taken


def test_keys_alone_mark_and_take(site: Any, visit: Any) -> None:
    page = opened(site, visit)
    letter = page.locator(".card", has_text="plain sentence").locator("h2").inner_text()
    page.keyboard.press(f"Shift+{letter}")
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert own(page) == "One plain sentence. And a second one."
    page.keyboard.press("+")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("+")
    assert own(page).endswith(
        "\n\nOne plain sentence. And a second one.\n\nA second paragraph 😀 with an end"
    )
    page.keyboard.press("+")
    page.keyboard.press("Escape")
    assert page.evaluate("getSelection().isCollapsed")
    page.keyboard.press("Shift+W")
    assert page.evaluate("document.activeElement.id") == "own-text"


def test_the_sign_counts_where_it_stands_on_a_digit_and_the_key_can_be_another(site: Any, visit: Any) -> None:
    page = opened(site, visit)
    devtools = page.context.new_cdp_session(page)
    mark(page, "And a", "one.")
    for kind in ("rawKeyDown", "keyUp"):  # Czech
        devtools.send("Input.dispatchKeyEvent", {"type": kind, "code": "Digit1", "key": "+"})
    assert own(page) == "And a second one." and page.locator(".card.ranked").count() == 0
    page.goto("/keys")
    page.locator("[data-change=add]").click()
    page.keyboard.press(";")
    page.goto("/work")
    page.wait_for_selector(".card:focus")
    mark(page, "words", "here.")
    page.keyboard.press(";")
    assert own(page).endswith("words here.")


def test_on_a_phone_a_tap_takes_it_into_the_version_that_is_written(site: Any, visit: Any) -> None:
    page = opened(site, visit, **PHONE)
    page.locator(".card", has_text="plain sentence").get_by_role("button", name="Rewrite").tap()
    mark(page, "words", "here.")
    button = page.get_by_role("button", name="Add to my answer")
    box = button.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 24
    button.tap()
    area = page.locator(".rewrite textarea:visible")
    assert area.input_value() == PLAIN.replace("\r\n", "\n") + "\n\nwords here."
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_correction_takes_parts_of_the_answer(site: Any, visit: Any) -> None:
    site.add({"prompt": "P", "responses": [PLAIN]})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    page.locator("#text").fill("Better:")
    page.keyboard.press("Escape")
    mark(page, "And a", "one.")
    page.keyboard.press("+")
    assert page.locator("#text").input_value() == "Better:\n\nAnd a second one."
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    (row,) = site.records("demonstrations")
    assert [(p["start"], p["end"]) for p in row["parts"]] == [(20, 37)]


def test_a_part_that_the_app_refuses_keeps_the_work_on_the_page(site: Any, visit: Any) -> None:
    page = opened(site, visit)
    mark(page, "And a", "one.")
    page.keyboard.press("+")
    page.route(
        "**/answer",
        lambda route: route.continue_(post_data=route.request.post_data.replace('"end":37', '"end":36')),
    )
    page.keyboard.type("ab")
    page.keyboard.press("Enter")
    page.get_by_text("Part 1 of the answer isn't what stands at that place").wait_for()
    assert own(page) == "And a second one."
