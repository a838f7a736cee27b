"""The pages in a real browser: keyboard, mouse, a phone's screen, and what is kept when things break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling_app import arrived  # noqa: E402
from sqlalchemy import select  # noqa: E402

from align.data.load import load  # noqa: E402
from align.recipe.data import Source  # noqa: E402
from align.records import Ranking
from labeling.store.models import Label  # noqa: E402

FOUR = {"prompt": "Which?", "responses": ["alpha", "beta", "gamma", "delta"]}


def on_screen(page: Any) -> list[tuple[str, str]]:
    """Each card's text and rank, from the top down."""
    return [
        (card.locator(".text").inner_text(), card.locator(".rank").inner_text())
        for card in page.locator(".card").all()
    ]


def sent(page: Any, key: str = "Enter") -> None:
    """Submit and wait until the app has the label."""
    with page.expect_response(lambda r: r.url.endswith("/answer") and r.status != 403) as caught:
        page.keyboard.press(key) if key else page.get_by_role("button", name="Submit").click()
    assert caught.value.status == 200
    page.wait_for_url("**/")


def record(site: Any) -> dict[str, int | None]:
    """The one ranking that `align rm` would train on, as it reads it."""
    labels = str(site.config.store.engine.url.database)
    (row,) = load(Ranking, Source.model_validate({"labels": labels, "held_out": 0.0}), "rankings").train
    return dict(zip(row.responses, row.ranks, strict=True))


def as_ranks(shown: list[tuple[str, str]]) -> dict[str, int | None]:
    return {text: None if rank == "–" else int(rank) for text, rank in shown}


def test_ranking_with_the_keyboard_alone(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    page.keyboard.press("Tab")
    page.get_by_role("link", name="Start").press("Enter")
    page.wait_for_selector(".card:focus")
    before = [text for text, _ in on_screen(page)]
    for key in ("2", "j", "j", "1", "j", "j", "2"):  # a tie for second, and one left out
        page.keyboard.press(key)
    shown = on_screen(page)
    assert sorted(rank for _, rank in shown) == ["1", "2", "2", "–"]
    assert [rank for _, rank in shown] == ["1", "2", "2", "–"], "best first, unranked last"
    assert {text for text, _ in shown} == set(before)
    page.keyboard.press("Shift+Digit6")
    page.keyboard.press("l")
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    sent(page)
    assert record(site) == as_ranks(shown)


def test_moving_tying_and_undoing_by_keys(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    page.goto("/work")
    texts = [text for text, _ in on_screen(page)]
    for _ in range(4):
        page.locator(".card:not(.ranked) .rank").first.click()  # the next rank; the card is marked
    order = [text for text, _ in on_screen(page)]
    page.keyboard.press("Alt+ArrowUp")
    moved = [text for text, _ in on_screen(page)]
    assert moved == [order[0], order[1], order[3], order[2]] and set(moved) == set(texts)
    page.keyboard.press("t")
    assert [rank for _, rank in on_screen(page)] == ["1", "2", "2", "3"]
    page.keyboard.press("u")
    assert [(t, r) for t, r in on_screen(page)] == list(zip(moved, "1234", strict=True))
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.locator("summary", has_text="Note").click()
    page.get_by_placeholder("Anything others").fill("1234 jkbtsu?")  # keys are letters while typing
    shown = on_screen(page)
    assert [text for text, _ in shown] == moved and not page.locator("#all-bad").is_checked()
    sent(page, "Control+Enter")
    assert record(site) == as_ranks(shown)


def test_enter_submits_after_the_circles_were_pressed_with_the_mouse(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    page.goto("/work")
    for _ in range(4):
        page.locator(".card:not(.ranked) .rank").first.click()
    shown = on_screen(page)
    assert [rank for _, rank in shown] == ["1", "2", "3", "4"]
    sent(page)
    assert record(site) == as_ranks(shown)


def test_enter_submits_after_a_choice_was_pressed_with_the_mouse(site: Any, visit: Any) -> None:
    site.add({"prompt": "Which?", "responses": ["alpha", "beta"], "kind": "compare"})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    worse, better = (card.locator(".text").inner_text() for card in page.locator(".card").all())
    page.locator(".verdict label").nth(1).click()
    sent(page)
    assert record(site) == {better: 1, worse: 2}


def test_dragging_with_the_mouse(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"))
    page.goto("/work")

    def drag(card: int, onto: int, part: float) -> None:
        page.locator(".card").nth(card).locator("[data-handle]").hover()
        page.mouse.down()
        box = page.locator(".card").nth(onto).bounding_box()
        page.mouse.move(box["x"] + 300, box["y"] + box["height"] * part, steps=4)
        page.mouse.up()

    for card in page.locator(".card").all():
        card.scroll_into_view_if_needed()
    texts = [text for text, _ in on_screen(page)]
    drag(2, 0, 0.1)
    assert on_screen(page)[0] == (texts[2], "1")
    drag(3, 0, 0.9)
    assert on_screen(page)[:2] == [(texts[2], "1"), (texts[3], "2")]
    drag(2, 1, 0.5)  # onto the middle: a tie
    assert [rank for _, rank in on_screen(page)] == ["1", "2", "2", "–"]
    drag(1, 0, 0.1)
    shown = on_screen(page)
    assert [rank for _, rank in shown] == ["1", "2", "3", "–"]
    sent(page, "")
    assert record(site) == as_ranks(shown)


@pytest.mark.parametrize(
    ("look", "says"),
    [({}, "type the letters"), ({"has_touch": True, "is_mobile": True}, "press the circles")],
)
def test_a_tablet_is_told_how_to_rank_by_touch(
    site: Any, visit: Any, look: dict[str, Any], says: str
) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"), viewport={"width": 820, "height": 1180}, **look)
    page.goto("/work")
    assert says in page.locator("#how").inner_text()


def test_the_help_begins_at_its_beginning(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(site, site.person("ann"), viewport={"width": 390, "height": 780})
    page.goto("/work")
    page.wait_for_selector(".card:focus")
    page.keyboard.press("?")
    dialog = page.locator("#help-dialog")
    dialog.get_by_role("heading", name="Keys").wait_for()
    assert dialog.evaluate("(e) => [e.scrollTop, e.scrollHeight > e.clientHeight]") == [0, True]
    page.keyboard.press("Enter")
    assert page.url.endswith("/work"), "nobody leaves the task for the page of keys"
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert page.locator(".card .rank", has_text="1").count() == 1, "the card has the focus again"


def test_a_phone_ranks_by_tapping_and_scrolling_drags_nothing(site: Any, visit: Any) -> None:
    site.add(FOUR)
    page = visit(
        site, site.person("ann"), viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True
    )
    page.goto("/work")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out sideways"
    for letter in "CAB":
        page.locator(f".card[aria-label^='Response {letter}'] .rank").tap()
    page.locator(".card[aria-label^='Response B'] .text").tap()
    page.get_by_role("button", name="Move B up").tap()
    shown = on_screen(page)
    assert [rank for _, rank in shown] == ["1", "2", "3", "–"]
    assert page.locator("[data-handle]").first.evaluate("e => getComputedStyle(e).touchAction") == "none"
    assert page.locator(".card").first.evaluate("e => getComputedStyle(e).touchAction") == "auto"
    page.get_by_role("button", name="Submit").tap()
    page.wait_for_url("**/")
    assert record(site) == as_ranks(shown)


def test_losing_the_session_loses_no_draft(site: Any, visit: Any) -> None:
    site.add(FOUR)
    ann = site.person("ann")
    page = visit(site, ann)
    page.goto("/work")
    page.keyboard.press("3")
    page.context.clear_cookies()
    for key in ("j", "1"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.get_by_text("You are signed out.").wait_for()
    shown = on_screen(page)
    page.reload()
    assert "/signin" in page.url
    page.goto(site.link(ann))
    page.get_by_role("button", name="Sign in").click()
    page.goto("/work")
    assert on_screen(page) == shown
    page.context.clear_cookies()
    other = page.context.new_page()  # signed in again in another tab: the open page goes on
    other.goto(site.link(ann))
    other.get_by_role("button", name="Sign in").click()
    other.wait_for_url("**/")
    sent(page)
    assert record(site) == as_ranks(shown)


def test_a_draft_goes_with_the_person_to_another_browser(site: Any, visit: Any) -> None:
    site.add({"prompt": "Write"})
    ann = site.person("ann")
    page = visit(site, ann)
    page.goto("/work")
    with page.expect_response(lambda r: "/draft?" in r.url):
        page.get_by_label("Your response").fill("Half a sentence")
    page.get_by_text("Draft saved").wait_for()
    elsewhere = visit(site, ann)
    elsewhere.goto("/work")
    assert elsewhere.get_by_label("Your response").input_value() == "Half a sentence"


def test_all_bad_skip_and_reopen(site: Any, visit: Any) -> None:
    site.add(FOUR, {"prompt": "Second", "responses": ["x", "y"], "kind": "compare"})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    page.keyboard.press("Enter")
    page.get_by_text("Rank at least two responses").wait_for()
    page.keyboard.press("n")
    page.keyboard.press("Enter")
    arrived(page.get_by_role("heading", name="Which response is better?"))
    assert site.records() == []
    page.get_by_role("button", name="Reopen my last answer").click()
    page.get_by_role("button", name="Reopen it").click()
    arrived(page.get_by_role("heading", name="Rank the responses"))
    assert page.locator("#all-bad").is_checked(), "the answer is there as a draft"
    page.keyboard.press("s")
    page.get_by_role("button", name="I don't know enough to judge").click()
    arrived(page.get_by_role("heading", name="Which response is better?"))
    page.keyboard.press("2")
    page.keyboard.press("u")
    page.keyboard.press("1")
    better = page.locator(".card .text").first.inner_text()
    sent(page)
    assert record(site)[better] == 1


def test_two_labelers_at_once_have_different_tasks_and_a_lease_that_ends_goes_on_to_others(
    make_site: Callable[..., Any], visit: Any
) -> None:
    site = make_site(overlap=1, lease=1 / 30)  # two seconds without a sign of life
    site.add(*({**FOUR, "prompt": f"Question {i}"} for i in (1, 2)))
    pages = [visit(site, site.person(name)) for name in ("ann", "bob")]
    for page in pages:
        page.goto("/work")
    ann, bob = pages
    questions = [page.locator(".prompt").inner_text() for page in pages]
    assert questions[0] != questions[1]
    for key in ("1", "j", "2"):
        bob.keyboard.press(key)
    bob.keyboard.press("Enter")
    bob.get_by_text("No tasks are waiting for you").wait_for()
    ann.wait_for_timeout(3500)
    bob.goto("/work")
    assert "/work" not in bob.url, "a page that is open keeps its task"
    ann.evaluate("() => { for (let i = 0; i < 10000; i++) clearInterval(i); }")  # a laptop that is closed
    ann.wait_for_timeout(2500)
    bob.goto("/work")
    assert bob.locator(".prompt").inner_text() == questions[0]
    for key in ("2", "j", "1"):
        ann.keyboard.press(key)
    ann.get_by_text("Somebody else has this task now").wait_for()
    shown = on_screen(ann)
    sent(ann)
    late = next(row for row in site.records() if row["labeler"] == "ann")
    assert dict(zip(late["responses"], late["ranks"], strict=True)) == as_ranks(shown), (
        "and is not thrown away"
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_long_code_and_tables_stay_inside_and_long_texts_unfold(site: Any, visit: Any, width: int) -> None:
    code = "```python\nvalue = " + " + ".join(f"number_{i}" for i in range(60)) + "\n```\n\n"
    table = "| " + " | ".join(f"column {i}" for i in range(14)) + " |\n" + "|---" * 14 + "|\n"
    long = code + table + "A line.\n\n" * 40 + "The last line."
    site.add({"prompt": long, "responses": [long, "short " + "x" * 400]})
    page = visit(site, site.person("ann"), viewport={"width": width, "height": 844})
    page.goto("/work")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
    cards = [card.bounding_box() for card in page.locator(".card").all()]
    desk = page.locator(".work").bounding_box()
    assert all(card["x"] + card["width"] <= desk["x"] + desk["width"] + 1 for card in cards)
    card = page.locator(".card", has_text="The last line.")
    before = card.bounding_box()["height"]
    card.get_by_role("button", name="Show all").click()
    assert card.bounding_box()["height"] > before + 500
    card.get_by_role("button", name="Show less").click()
    assert card.bounding_box()["height"] == before


def test_all_bad_with_ranks_trains_on_them_and_without_it_is_kept(site: Any, visit: Any) -> None:
    site.add({**FOUR, "prompt": "one", "priority": 2}, {**FOUR, "prompt": "two", "priority": 1})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    page.keyboard.press("n")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    arrived(page.get_by_text("two", exact=True))
    for key in ("1", "j", "1", "j", "2", "n"):
        page.keyboard.press(key)
    shown = on_screen(page)
    sent(page)
    (row,) = site.records()
    assert row["prompt"] == "two"
    assert dict(zip(row["responses"], row["ranks"], strict=True)) == as_ranks(shown)
    with site.config.store.read() as session:
        kept = session.scalars(select(Label).order_by(Label.id)).all()
    assert [label.content["all_bad"] for label in kept] == [True, True]
    assert [label.content["ranks"] for label in kept] == [[None] * 4, row["ranks"]]
