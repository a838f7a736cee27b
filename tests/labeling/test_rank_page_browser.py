"""Nine long answers: letters in order, what stays in sight and in place, columns, differences, the drawer."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling.web.keys import keys_of  # noqa: E402

NAMES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LINE = "It is a long answer to a short question, and it goes on for a while. "
PROMPT = [
    {"role": "user", "content": "The beginning.\n\n" + "Words before. " * 150},
    {"role": "assistant", "content": "An answer. " * 100},
    {"role": "user", "content": "The last question?"},
]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LAPTOP = {"viewport": {"width": 1366, "height": 768}}
TOP = "e => e.getBoundingClientRect().top"


def task(count: int, long: bool = True) -> dict[str, Any]:
    more = "\n\n".join([LINE * 4] * 7) if long else ""
    return {"prompt": PROMPT, "responses": [f"{name}\n\n{more}" for name in NAMES[:count]]}


def opened(site: Any, visit: Any, given: dict[str, Any], **look: Any) -> Any:
    site.add(given)
    page = visit(site, site.person("ann"), **(look or LAPTOP))
    page.goto("/work")
    page.wait_for_selector(".card:focus")
    return page


def ranks(page: Any) -> str:
    """The ranks in the order of the letters."""
    cards = page.locator(".card").all()
    by = {c.locator("h2").inner_text(): c.locator(".rank").inner_text() for c in cards}
    return " ".join(by[letter] for letter in sorted(by))


def in_strip(page: Any) -> list[str]:
    return [text.replace("\n", "") for text in page.locator("#strip .chip").all_inner_texts()]


def first_words(page: Any) -> dict[str, str]:
    """What the response of each letter begins with."""
    cards = page.locator(".card").all()
    return {c.locator("h2").inner_text(): c.locator(".text").inner_text().split()[0] for c in cards}


def drag(page: Any, grip: Any, to: tuple[float, float]) -> None:
    grip.hover()
    page.mouse.down()
    page.mouse.move(*to, steps=5)


def test_letters_in_their_order_and_enter_are_the_ranking(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(9))
    words = first_words(page)
    page.keyboard.type("bidfac=ehg")
    assert page.locator("#typed").inner_text() == "B › I › D › F › A › C=E › H › G"
    assert ranks(page) == "5 1 6 3 6 4 8 7 2"
    assert in_strip(page) == ["B1", "I2", "D3", "F4", "A5", "C6", "E6", "H7", "G8"]
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    (row,) = site.records()
    given = dict(zip((text.split()[0] for text in row["responses"]), row["ranks"], strict=True))
    assert {letter: given[word] for letter, word in words.items()} == dict(
        zip("ABCDEFGHI", [5, 1, 6, 3, 6, 4, 8, 7, 2], strict=True)
    )


def test_backspace_takes_a_letter_back_and_a_letter_counts_once(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(4, long=False))
    page.keyboard.type("=aac=")
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    page.keyboard.type("i")
    assert ranks(page) == "1 – – –" and page.locator("#typed").inner_text() == "A"
    page.reload()
    page.keyboard.type("d")
    assert ranks(page) == "1 – – 2", "and it goes on after a reload"
    page.keyboard.type("=cb")
    assert ranks(page) == "1 3 2 2"
    page.keyboard.type("c")
    assert ranks(page) == "2 4 1 3", "all were ranked: a new order begins, with what was before behind it"
    page.keyboard.type("b=a")
    assert ranks(page) == "2 2 1 3"
    for _ in range(2):
        page.keyboard.press("u")
    assert ranks(page) == "3 2 1 4" and not page.locator("#all-bad").is_checked()
    page.keyboard.press("4")  # of the one at hand, which is A: the letters are done
    assert page.locator("#typed").inner_text() == ""


def test_letters_go_by_what_stands_on_the_key_and_else_by_its_place(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(4, long=False))
    devtools = page.context.new_cdp_session(page)

    def press(code: str, key: str, modifiers: int = 0) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            given = {"type": kind, "code": code, "key": key, "modifiers": modifiers}
            devtools.send("Input.dispatchKeyEvent", given)

    press("KeyQ", "a")  # French
    press("Digit0", "=", 8)  # German
    press("KeyB", "и")  # Russian
    press("Equal", "Dead")  # German, by its place
    press("KeyC", "C")  # caps lock
    press("KeyD", "d")
    assert ranks(page) == "1 1 1 2"
    press("Digit7", "=", 8)  # Hungarian: a quality, as everywhere
    assert page.locator(".at-hand .quality input:checked").input_value() == "7"


def test_a_key_that_a_person_has_chosen_before_stays_theirs(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(4, long=False))
    person = page.evaluate("JSON.parse(document.getElementById('task').dataset.task).person")
    page.evaluate(f"localStorage.setItem('align keys {person}', JSON.stringify({{skip: 'n', undo: 'd'}}))")
    page.reload()
    page.keyboard.type("ac")
    page.keyboard.press("d")
    assert ranks(page) == "1 – – –"
    page.keyboard.press("n")
    assert page.get_by_role("dialog").get_by_text("Why skip this task?").is_visible()
    assert not page.locator("#all-bad").is_checked()


def test_letters_can_be_moved_and_then_are_free_for_commands(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(4, long=False))
    page.goto("/keys")

    def change(does: str, key: str, says: str) -> None:
        page.get_by_role("button", name=f"Change the key to {does}").click()
        page.keyboard.press(key)
        page.get_by_role("status").get_by_text(says).wait_for()

    change("none is acceptable", "b", "b is the key to rank this response next")
    page.keyboard.press("Escape")
    change("rank this response next", "k", "This one needs letters")
    page.keyboard.press("Alt+C")
    page.get_by_role("status").get_by_text("Alt+A–I: rank this").wait_for()
    change("none is acceptable", "b", "b: none is acceptable")
    page.goto("/work")
    page.wait_for_selector(".card:focus")
    for key in ("Alt+D", "b", "Alt+B", "a"):
        page.keyboard.press(key)
    assert ranks(page) == "– 2 – 1" and page.locator("#all-bad").is_checked()


def test_no_command_of_ranking_is_a_letter_of_a_response() -> None:
    assert not {key.key for key in keys_of("rank")} & set("abcdefghi")
    assert not {key.key for key in keys_of("rank")} & {f"Shift+{letter}" for letter in "abcdefghi"}


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_rank_moves_nothing_under_the_eye(site: Any, visit: Any, columns: int) -> None:
    page = opened(site, visit, task(9))
    for _ in range(columns - 1):
        page.keyboard.press("v")
    for keys in ("1", "jjj1", "k3", "I1", "fcd", "uu", "t"):
        *way, last = keys
        for key in way:
            page.keyboard.press("Shift+I" if key == "I" else key)
        before = page.locator(".card:focus").evaluate(TOP)
        page.keyboard.press(last)
        assert abs(page.locator(".card:focus").evaluate(TOP) - before) <= 1.5, keys
    circle = page.locator(".card:not(.ranked) .rank").first
    circle.scroll_into_view_if_needed()
    letter = circle.locator("xpath=ancestor::li").get_attribute("data-shown")
    before = circle.evaluate(TOP)
    circle.click()
    assert abs(page.locator(f".card[data-shown='{letter}'] .rank").evaluate(TOP) - before) <= 1.5


@pytest.mark.parametrize("look", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_the_last_question_and_all_ranks_stay_in_sight(site: Any, visit: Any, look: Any) -> None:
    page = opened(site, visit, task(9), **look)
    height = look["viewport"]["height"]
    for letter in "IE":
        page.keyboard.press(f"Shift+{letter}")
        prompt = page.locator(".prompt").bounding_box()
        question = page.get_by_text("The last question?").bounding_box()
        strip = page.locator("#strip").bounding_box()
        card = page.locator(".card:focus").bounding_box()
        assert 0 <= prompt["y"] <= question["y"] < prompt["y"] + prompt["height"] <= strip["y"]
        assert question["y"] + question["height"] <= prompt["y"] + prompt["height"] + 1
        assert strip["y"] + strip["height"] <= card["y"] + 1, "and lie on no card that was gone to"
        assert strip["y"] + strip["height"] < height * 0.4, "most of the screen is for the answers"
    page.get_by_role("button", name="Whole prompt").click()
    assert page.get_by_text("The beginning.").bounding_box()["y"] >= 0
    page.keyboard.press("p")
    assert page.get_by_text("The beginning.").bounding_box()["y"] < 0
    assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]


def test_the_strip_goes_to_a_card_and_ranks_by_dragging(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(9))
    page.get_by_role("button", name="Go to H").click()
    assert page.locator(".card:focus h2").inner_text() == "H"
    assert page.locator(".card:focus").evaluate(TOP) < 420

    def chip(letter: str) -> Any:
        return page.locator("#strip .chip", has_text=letter)

    def onto(letter: str, part: float) -> tuple[float, float]:
        box = chip(letter).bounding_box()
        return box["x"] + box["width"] * part, box["y"] + box["height"] / 2

    for letter, to in (("C", ("A", 0.5)), ("F", ("C", 0.9)), ("H", ("C", 0.1)), ("D", ("F", 0.5))):
        drag(page, chip(letter).locator("button"), onto(*to))
        assert page.locator(".held").inner_text().startswith(f"{letter}: rank")
        page.mouse.up()
    assert in_strip(page)[:4] == ["H1", "C2", "D3", "F3"]
    drag(page, chip("C").locator("button"), onto("I", 0.5))
    assert page.locator(".held").inner_text() == "C: no rank"
    page.mouse.up()
    assert ranks(page) == "– – – 3 – 3 – 1 –" and not page.locator(".held").is_visible()
    drag(page, chip("F").locator("button"), onto("H", 0.1))
    page.keyboard.press("Escape")
    page.mouse.up()
    assert ranks(page) == "– – – 3 – 3 – 1 –", "Esc lets go"


def test_a_dragged_card_scrolls_the_page_at_its_edges(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(9))
    drag(page, page.locator(".card .handle").first, (500, 690))
    page.wait_for_timeout(1500)  # the mouse stands still
    assert page.evaluate("scrollY") > 900
    assert page.locator(".held").is_visible()
    page.mouse.up()
    assert ranks(page).count("1") == 1
    at = page.evaluate("scrollY")
    page.wait_for_timeout(200)
    assert page.evaluate("scrollY") == at, "it ends with the drag"


def test_fingers_drag_letters_in_the_strip(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(9), **PHONE)
    devtools = page.context.new_cdp_session(page)
    page.locator(".prompt").scroll_into_view_if_needed()

    def finger(kind: str, *at: float) -> None:
        points = [{"x": at[0], "y": at[1]}] if at else []
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    for letter, other, part in (("G", "A", 0.5), ("B", "G", 0.9), ("E", "B", 0.5)):
        start, end = (page.locator("#strip .chip", has_text=it).bounding_box() for it in (letter, other))
        y = end["y"] + end["height"] / 2
        finger("touchStart", start["x"] + 15, start["y"] + 15)
        for step in (0.3, 0.7, 1):
            x = start["x"] + 15 + (end["x"] + end["width"] * part - start["x"] - 15) * step
            finger("touchMove", x, y)
        finger("touchEnd")
    assert in_strip(page)[:3] == ["G1", "B2", "E2"]


def test_columns_folded_cards_and_the_drawer_stay_as_they_were(site: Any, visit: Any) -> None:
    site.add({**task(4), "priority": -1})
    page = opened(site, visit, task(9))
    list_ = page.locator("#cards")
    narrow = list_.bounding_box()["width"]
    page.keyboard.press("m")
    assert not page.locator("#guide").is_visible() and list_.bounding_box()["width"] > narrow + 250
    page.get_by_role("button", name="Three columns").click()
    page.keyboard.press("Shift+A")
    page.keyboard.press("x")
    page.locator(".card[data-shown='1']").focus()
    page.get_by_role("button", name="B in full").click()
    page.keyboard.type("ba")
    page.get_by_text("Draft saved").wait_for()
    page.reload()
    page.wait_for_selector(".card:focus")
    assert not page.locator("#guide").is_visible()
    tops = {round(card.bounding_box()["y"]) for card in page.locator(".card:not(.ranked)").all()[:3]}
    assert len(tops) == 1, "three stand in a line"
    for place, shown in enumerate([False, False, True, True]):
        card = page.locator(f".card[data-shown='{place}']")
        assert card.locator(".text").is_visible() == shown
    assert page.locator(".card[data-shown='0']").bounding_box()["height"] < 80
    page.locator(".card[data-shown='0']").focus()
    page.keyboard.press("x")
    assert page.locator(".card[data-shown='0'] .text").is_visible()
    page.get_by_role("button", name="Guideline").click()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    page.wait_for_selector(".card:focus")
    assert page.locator(".card.read").count() == 0, "another task has its own"
    assert page.locator("#guide").is_visible() and page.locator("#cards").get_attribute("data-columns") == "3"


def test_two_answers_stand_side_by_side_with_the_differences_marked(site: Any, visit: Any) -> None:
    one = "It rains today, says the **friendly** host of the show.\n\n- light"
    given = {"prompt": "?", "responses": [one, one.replace("friendly", "angry").replace("light", "dark")]}
    page = opened(site, visit, given)
    page.keyboard.press("j")
    page.keyboard.press("o")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("of the words differ").wait_for()
    sides = [side.locator("mark").all_inner_texts() for side in dialog.locator(".side").all()]
    assert sorted(sides) == [["angry", "dark"], ["friendly", "light"]]
    assert dialog.locator(".side strong mark").count() == 2, "in the text as it is shown"
    page.keyboard.press("a")
    assert ranks(page) == "– –", "nothing is ranked unseen"
    dialog.get_by_label("Left side", exact=True).select_option("B")
    dialog.get_by_text("0% of the words differ").wait_for()
    assert dialog.locator("mark").count() == 0
    page.keyboard.press("Escape")
    page.keyboard.type("ba")
    assert ranks(page) == "2 1"


def test_quality_and_flags_are_on_the_card_at_hand(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(9))
    for key in ("Shift+Digit6", "l", "Space", "Escape"):
        page.keyboard.press(key)
    assert page.get_by_role("group", name="Quality").count() == 1
    page.keyboard.press("j")
    seen = page.get_by_role("group", name="Quality")
    assert seen.count() == 1 and page.locator(".at-hand h2").inner_text() == "B"
    assert page.locator(".card[data-shown='0'] .given").inner_text() == "quality 6, 1 flag"
    assert not page.locator(".card[data-shown='0'] .flags fieldset").is_visible()


def test_one_key_shows_all_of_a_long_answer(site: Any, visit: Any) -> None:
    page = opened(site, visit, task(9))
    card = page.locator(".card:focus")
    top, height = card.evaluate(TOP), card.bounding_box()["height"]
    page.keyboard.press("Shift+X")
    assert card.bounding_box()["height"] > height + 50 and card.evaluate(TOP) == top
    page.keyboard.press("Shift+X")
    assert card.bounding_box()["height"] == height


@pytest.mark.parametrize("look", [LAPTOP, {**PHONE, "color_scheme": "dark"}], ids=["laptop", "phone-dark"])
def test_axe_finds_nothing_whatever_is_open(site: Any, visit: Any, look: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    site.add({"prompt": "Write", "priority": -1})
    page = opened(site, visit, task(9), **look)
    found = {}
    for keys in ("ac=b", "v", "vx", "Xl", "p", "m", "mo"):
        for key in keys:
            page.keyboard.press("Shift+X" if key == "X" else key)
        page.wait_for_timeout(200)
        found[keys] = axe.run(page).response["violations"]
        assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    page.get_by_label("Your response").fill("Look:\n\n```\nx = 1\n```")
    page.locator("#previewed code").wait_for()
    found["preview"] = axe.run(page).response["violations"]
    wrong = {
        keys: [(rule["id"], rule["nodes"][0]["html"][:150]) for rule in rules]
        for keys, rules in found.items()
    }
    assert not any(wrong.values()), wrong


def test_what_is_written_is_shown_as_it_will_be_read(site: Any, visit: Any) -> None:
    site.add({"prompt": "Write"})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    field = page.get_by_label("Your response")
    assert not page.locator("#preview").is_visible()
    field.fill("**Good** <img src=x onerror=alert(1)> \\(x^2\\)")
    shown = page.locator("#previewed")
    shown.locator("strong", has_text="Good").wait_for()
    shown.locator(".katex").wait_for()
    assert shown.locator("img").count() == 0
    font = "e => getComputedStyle(e).fontFamily"
    assert "monospace" not in field.evaluate(font)
    field.fill("```python\nx = 1\n```")
    shown.locator("pre code", has_text="x = 1").wait_for()
    assert "monospace" in field.evaluate(font)
    page.locator("summary", has_text="Preview").click()
    page.reload()
    assert not shown.is_visible()
