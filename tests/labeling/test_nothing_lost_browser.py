"""Faults in a real browser: lost acknowledgements, two tabs, wrong clocks, undo while rewriting."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling_app import arrived  # noqa: E402

FOUR = {"prompt": "Which?", "responses": ["alpha", "beta", "gamma", "delta"]}
DRAFTS = re.compile(r"/draft\?")
RESET = "connectionreset"


def rank(page: Any, keys: str) -> dict[str, int]:
    """Give the cards, from the top of the first page on, these ranks; what the page then shows."""
    for place, key in enumerate(keys):
        page.locator(f".card[data-shown='{place}']").focus()
        page.keyboard.press(key)
    return shown(page)


def shown(page: Any) -> dict[str, int]:
    cards = page.locator(".card").all()
    return {c.locator(".text").inner_text(): int(c.locator(".rank").inner_text()) for c in cards}


def records(site: Any) -> list[dict[str, int]]:
    return [dict(zip(row["responses"], row["ranks"], strict=True)) for row in site.records()]


def lose_answers(page: Any, count: int = 1) -> list[int]:
    """The app gets so many answers, and what it says about them gets lost; the statuses."""
    lost: list[int] = []

    def handle(route: Any) -> None:
        if len(lost) < count:
            lost.append(route.fetch().status)
            return route.abort(RESET)
        return route.continue_()

    page.route("**/answer", handle)
    return lost


def drafted(page: Any) -> None:
    page.get_by_text("Draft saved").wait_for()


def test_an_answer_changed_after_its_acknowledgement_was_lost_is_the_one_that_stands(
    site: Any, visit: Any
) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    lost = lose_answers(page)
    page.goto("/work")
    first = rank(page, "1234")
    page.keyboard.press("Enter")
    page.get_by_text("trying again").wait_for()
    assert lost == [200] and records(site) == [first]
    second = rank(page, "4321")
    page.get_by_text("submit it again").wait_for()
    page.wait_for_timeout(4500)  # nothing is sent half way through
    assert records(site) == [first]
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    assert records(site) == [second]


def test_an_answer_whose_acknowledgement_was_lost_is_sent_again_once(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    lost = lose_answers(page, 2)
    page.goto("/work")
    given = rank(page, "1122")
    page.keyboard.press("Enter")
    page.wait_for_url("**/", timeout=20_000)
    assert lost == [200, 200] and records(site) == [given]


def test_what_is_changed_while_the_answer_is_on_its_way_is_not_thrown_away(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    page.goto("/work")
    held: list[Any] = []
    page.route("**/answer", lambda route: route.continue_() if held else held.append(route))
    first = rank(page, "1234")
    page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    second = rank(page, "4321")
    held[0].continue_()
    page.get_by_text("saved as it was when you sent it").wait_for()
    assert records(site) == [first] and shown(page) == second
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    assert records(site) == [second]


def test_a_second_tab_drops_nothing_unseen(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    page.goto("/work")
    first = rank(page, "1234")
    drafted(page)
    tab = page.context.new_page()
    tab.goto("/work")
    assert shown(tab) == first, "it begins with what the first one has"
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    second = rank(tab, "4321")
    tab.keyboard.press("Enter")
    tab.get_by_text("answered this task already").wait_for()
    assert records(site) == [first] and shown(tab) == second, "told, and the work is still there"
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/")
    assert records(site) == [second]


def test_drafts_of_two_tabs_overwrite_each_other_only_as_far_as_undo_goes(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    page.goto("/work")
    tab = page.context.new_page()
    tab.goto("/work")
    first = rank(page, "1234")
    drafted(page)
    second = rank(tab, "4321")
    tab.get_by_text("Undo brings that version back").wait_for()
    drafted(tab)
    tab.keyboard.press("u")
    assert shown(tab) == first
    tab.keyboard.press("Shift+U")
    assert shown(tab) == second


CLOCK = "(() => {{ const now = Date.now; Date.now = () => now() + {minutes} * 60000; }})()"


@pytest.mark.parametrize("minutes", [-10, 10])
def test_the_later_draft_is_the_later_one_whatever_the_clock_says(
    site: Any, visit: Any, minutes: int
) -> None:
    site.add({"prompt": "Write"})
    ann = site.person("ann")
    wrong, right = visit(site, ann), visit(site, ann)
    wrong.context.add_init_script(CLOCK.format(minutes=minutes))
    wrong.goto("/work")
    wrong.get_by_label("Your response").fill("first")
    drafted(wrong)
    right.goto("/work")
    assert right.get_by_label("Your response").input_value() == "first"
    right.get_by_label("Your response").fill("second, from the other browser")
    drafted(right)
    wrong.goto("/work")
    assert wrong.get_by_label("Your response").input_value() == "second, from the other browser"
    wrong.route(DRAFTS, lambda route: route.abort(RESET))
    wrong.get_by_label("Your response").fill("third, only here")
    wrong.get_by_text("kept in this browser").wait_for()
    wrong.reload()
    assert wrong.get_by_label("Your response").input_value() == "third, only here"
    wrong.unroute(DRAFTS)
    wrong.keyboard.press("Control+Enter")
    wrong.wait_for_url("**/")
    assert [row["response"] for row in site.records("demonstrations")] == ["third, only here"]


def test_a_clock_that_is_set_back_refuses_no_answer(site: Any, visit: Any) -> None:
    site.add({"prompt": "Write"})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    page.evaluate(CLOCK.format(minutes=-10))
    page.get_by_label("Your response").fill("a response")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/")
    assert len(site.records("demonstrations")) == 1


def test_a_rewrite_survives_undo_redo_and_leaving_the_field(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    page.goto("/work")
    card, other = (page.locator(f".card[data-shown='{i}']") for i in (0, 1))
    area = card.locator(".rewrite textarea")
    card.focus()
    page.keyboard.press("w")
    area.fill("much better")
    page.keyboard.press("Escape")
    assert area.input_value() == "much better"
    page.get_by_role("button", name="Undo").click()
    assert area.input_value() != "much better", "what was typed is a step"
    page.get_by_role("button", name="Redo").click()
    assert area.input_value() == "much better"
    for _ in range(2):
        page.get_by_role("button", name="Undo").click()
    assert not area.is_visible()
    for _ in range(2):
        page.get_by_role("button", name="Redo").click()
    assert area.input_value() == "much better"
    other.get_by_role("button", name="Rewrite").click()  # an answer has one: the first is put away
    page.get_by_text("is put away").wait_for()
    other.locator(".rewrite textarea").fill("another")
    card.get_by_role("button", name="Rewrite").click()
    assert area.input_value() == "much better"
    card.get_by_role("button", name="Remove my version").click()
    card.get_by_role("button", name="Rewrite").click()
    assert area.input_value() == "much better"
    page.keyboard.press("Escape")
    rank(page, "1234")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    assert [row["response"] for row in site.records("demonstrations")] == ["much better"]


def test_reopening_asks_and_the_old_answer_can_be_kept(site: Any, visit: Any) -> None:
    site.add(FOUR, {**FOUR, "prompt": "Second"})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    first = rank(page, "1234")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    arrived(page.get_by_text("Second", exact=True))
    page.get_by_role("button", name="Reopen my last answer").click()
    page.get_by_role("button", name="Leave it as it is").click()
    assert page.get_by_text("Second", exact=True).is_visible()
    page.get_by_role("button", name="Reopen my last answer").click()
    page.get_by_role("button", name="Reopen it").click()
    arrived(page.get_by_text("You reopened this task"))
    assert shown(page) == first and records(site) == [first]
    rank(page, "2143")
    drafted(page)
    page.get_by_role("button", name="Keep the earlier answer").click()
    arrived(page.get_by_text("Second", exact=True))
    assert records(site) == [first]
