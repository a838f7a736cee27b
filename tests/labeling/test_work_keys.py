"""Keys: none labels by accident, all reach what they name on every keyboard, and people may change them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling_app import arrived  # noqa: E402
from sqlalchemy import select  # noqa: E402

from labeling.store.models import Label  # noqa: E402
from labeling.web.keys import KEYS, keys_of  # noqa: E402

THREE = {"prompt": "Which?", "responses": ["alpha", "beta", "gamma"]}
SHIFT = 8  # of the DevTools protocol's modifiers


def labels(site: Any) -> list[Label]:
    with site.config.store.read() as session:
        return list(session.scalars(select(Label).order_by(Label.id)))


def ranks(page: Any) -> list[str]:
    return page.locator(".card .rank").all_inner_texts()


def typed(page: Any, code: str, key: str, modifiers: int = 0) -> None:
    """A key press as a keyboard of another layout sends it: its place, and what stands on it."""
    devtools = page.context.new_cdp_session(page)
    for kind in ("rawKeyDown", "keyUp"):
        given = {"type": kind, "code": code, "key": key, "modifiers": modifiers}
        devtools.send("Input.dispatchKeyEvent", given)


def test_nothing_is_corrected_by_pressing_enter(site: Any, visit: Any) -> None:
    site.add(*({"prompt": f"p{i}", "responses": ["It is fine."], "priority": -i} for i in range(3)))
    page = visit(site, site.person("ann"))
    page.goto("/work")
    for press in ("Enter", "Control+Enter"):
        page.keyboard.press(press)
        page.get_by_role("alert").get_by_text("You changed nothing.").wait_for()
    page.get_by_role("button", name="Submit").click()
    assert labels(site) == []
    foot = page.locator(".foot").bounding_box()
    alert = page.get_by_role("alert").bounding_box()
    assert foot["y"] <= alert["y"] and alert["y"] + alert["height"] <= 720, "beside Submit, in sight"
    page.locator("h1").click()
    page.keyboard.press("y")
    arrived(page.locator(".prompt", has_text="p1"))
    page.get_by_role("button", name="Right as it stands").click()
    arrived(page.locator(".prompt", has_text="p2"))
    page.get_by_label("Your corrected version").fill("It is better.")
    page.keyboard.press("Escape")
    page.keyboard.press("y")
    page.get_by_text("You changed it").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    assert [(label.content["text"], label.affirmed) for label in labels(site)] == [
        ("It is fine.", True),
        ("It is fine.", True),
        ("It is better.", False),
    ]


def test_enter_on_a_checkbox_ticks_it(site: Any, visit: Any) -> None:
    site.add(THREE)
    page = visit(site, site.person("ann"))
    page.goto("/work")
    for key in ("1", "j", "2", "l", "Enter", "Tab", "Enter"):
        page.keyboard.press(key)
    assert page.locator(".flags input:checked").count() == 2
    page.keyboard.press("Enter")
    assert page.locator(".flags input:checked").count() == 1 and labels(site) == []
    page.keyboard.press("Escape")
    page.locator("#all-bad").focus()
    page.keyboard.press("Enter")
    assert page.locator("#all-bad").is_checked()
    page.get_by_text("None of these is acceptable").click()
    assert not page.locator("#all-bad").is_checked()
    page.locator(".flags[open] label").first.click()
    with page.expect_navigation():  # after the mouse Enter submits, as it does on the circles
        page.keyboard.press("Enter")
    (label,) = labels(site)
    assert not label.content["all_bad"] and sum(map(len, label.content["flags"])) in (0, 2)


def test_what_is_missing_is_said_beside_submit_and_has_the_focus(make_site: Any, visit: Any) -> None:
    site = make_site(quality="required", gold_every=0)
    site.add({**THREE, "priority": 3}, {"prompt": "w", "priority": 2})
    site.add({"prompt": "Which?", "responses": ["x", "y"], "kind": "compare", "priority": 1})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    for key in ("1", "Shift+Digit7", "j", "2", "Enter"):
        page.keyboard.press(key)
    page.get_by_role("alert").get_by_text("a quality from 1 to 7").wait_for()
    unrated = "e => !e.querySelector('.quality input:checked')"
    assert page.locator(".card:focus").evaluate(unrated)
    for _ in range(2):
        page.keyboard.press("Shift+Digit4")
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
    arrived(page.get_by_label("Your response"))
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("Write the response first").wait_for()
    page.locator("#text:focus").fill("words")
    page.keyboard.press("Control+Enter")
    arrived(page.get_by_text("Which is better?"))
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("Say which response is better").wait_for()
    assert page.locator("input[type=radio]:focus").count() == 1


@pytest.mark.parametrize(
    ("one", "two", "undo"),
    [
        ("&", "é", ("KeyU", "u")),  # French: digits take Shift
        ("+", "ě", ("KeyU", "u")),  # Czech, too
        ("1", "2", ("KeyU", "г")),  # Russian: letters are of another script
    ],
    ids=["french", "czech", "russian"],
)
def test_digits_go_by_their_place_on_every_layout(
    site: Any, visit: Any, one: str, two: str, undo: Any
) -> None:
    site.add(THREE)
    page = visit(site, site.person("ann"))
    page.goto("/work")
    typed(page, "Digit2", two)
    assert ranks(page) == ["2", "–", "–"]
    typed(page, "Digit1", one)
    assert ranks(page) == ["1", "–", "–"]
    typed(page, "Digit6", "6", SHIFT)
    rated = page.locator(".card.ranked .quality input:checked")
    assert rated.input_value() == "6" and ranks(page) == ["1", "–", "–"]
    typed(page, *undo)
    assert rated.count() == 0
    typed(page, "Numpad3", "3")
    assert ranks(page) == ["3", "–", "–"]


def test_people_change_their_keys_and_see_them(site: Any, visit: Any) -> None:
    site.add(THREE)
    ann = site.person("ann")
    page = visit(site, ann)
    page.goto("/work")
    page.keyboard.press("?")
    page.get_by_role("link", name="Change the keys").click()
    arrived(page.get_by_role("heading", name="Keys"))

    def changed(does: str, key: str, says: str) -> None:
        page.get_by_role("button", name=f"Change the key to {does}").click()
        page.keyboard.press(key)
        page.get_by_role("status").get_by_text(says).wait_for()

    changed("undo", "s", "s is the key to skip")
    page.keyboard.press("z")
    page.get_by_role("status").get_by_text("z: undo").wait_for()
    changed("undo", "3", "Digits give ranks")
    page.keyboard.press("Escape")
    changed("its quality, 1 to 7", "x", "needs digits")
    page.keyboard.press("Alt+Digit5")
    page.get_by_role("status").get_by_text("Alt+1–9").wait_for()
    changed("submit", "Tab", "has its use in the browser")
    page.keyboard.press("Escape")
    page.goto("/work")
    assert page.locator("#undo kbd").inner_text() == "z"
    for key in ("1", "Alt+Digit5", "Shift+Digit3"):
        page.keyboard.press(key)
    assert page.locator(".card.ranked .quality input:checked").input_value() == "5"
    page.keyboard.press("u")
    assert ranks(page) == ["1", "–", "–"]
    page.keyboard.press("z")
    page.keyboard.press("z")
    assert ranks(page) == ["–", "–", "–"]
    page.keyboard.press("?")
    assert page.get_by_role("dialog").locator("[data-key=quality]").inner_text() == "Alt+1–9"
    page.goto("/keys")
    page.get_by_role("button", name="The usual keys again").click()
    page.goto("/work")
    assert page.locator("#undo kbd").inner_text() == "u"


def test_no_two_keys_of_a_page_are_the_same() -> None:
    for kind in ("rank", "compare", "correct", "demonstrate"):
        keys = [key.key for key in keys_of(kind)]
        assert len(keys) == len(set(keys)), kind
    assert len({key.name for key in KEYS}) == len(KEYS)


# What a browser may hold under a person's keys, whoever wrote it, and the key to skip after that.
KEPT = {
    '{"skip": "z", "gone": "q"}': "z",
    '{"skip": ""}': "s",
    '{"skip": "F5"}': "s",
    '{"skip": "Tab"}': "s",
    '{"skip": "Dead"}': "s",
    '{"skip": "#"}': "s",
    '{"skip": "' + "x" * 10_000 + '"}': "s",
    '{"skip": ["z"], "undo": {"a": 1}}': "s",
    '{"undo": "z", "skip": "z"}': "z",  # in the order of the page's keys
    '["z"]': "s",
    '"zz"': "s",
    "{": "s",
}


@pytest.mark.parametrize("kept", KEPT)
def test_odd_keys_in_the_browser_leave_every_action_a_key(site: Any, visit: Any, kept: str) -> None:
    site.add(THREE)
    ann = site.person("ann")
    page = visit(site, ann)
    page.evaluate("([place, kept]) => localStorage.setItem(place, kept)", [f"align keys {ann.id}", kept])
    page.goto("/work")
    page.keyboard.press("a")
    assert sorted(ranks(page)) == ["1", "–", "–"]
    page.keyboard.press("u")
    page.keyboard.press(KEPT[kept])
    page.get_by_role("button", name="Another reason").wait_for()
    page.goto("/keys")
    assert len(page.locator("#keys").inner_text()) < 4000


def test_keys_of_the_browser_and_dead_keys_are_refused(site: Any, visit: Any) -> None:
    ann = site.person("ann")
    page = visit(site, ann)
    page.goto("/keys")
    for does in ("undo", "rank the marked response"):
        button = page.locator(f"[data-does^='{does}']").first
        for code, key in (("F5", "F5"), ("Tab", "Tab"), ("BracketLeft", "Dead"), ("Quote", "Process")):
            button.click()
            typed(page, code, key)
            page.locator("#said", has_text="has its use").wait_for()
            page.keyboard.press("Escape")
    stored = page.evaluate(f"localStorage.getItem('align keys {ann.id}')")
    assert stored is None
    page.locator("[data-does='undo']").click()
    typed(page, "Minus", "§")
    page.locator("#said", has_text="§: undo").wait_for()
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full') } }")
    page.locator("[data-does='undo']").click()
    page.keyboard.press("z")
    page.locator("#said", has_text="keeps nothing").wait_for()
