"""Suggestions on the screen: what stands there before, what is shown after, and what a person makes of it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

from labeling_app import arrived  # noqa: E402
from sqlalchemy import select  # noqa: E402

from labeling.store.models import Label  # noqa: E402
from labeling.store.suggestions import add_suggestions  # noqa: E402

FOUR = {"prompt": "Which?", "responses": ["alpha", "beta", "gamma", "delta"]}
SCORES = [0.5, -1.25, 2.0, 0.5]
BY_TEXT = {"alpha": 2, "beta": 3, "gamma": 1, "delta": 2}
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}


def suggested(site: Any, *rows: dict[str, Any]) -> None:
    tasks = site.add(*rows)
    bot = site.person("rm-bot", "machine")
    with site.config.store.write() as session:
        given = [(task, SCORES) for task in tasks]
        add_suggestions(session, bot, "mine/rm", "a1" * 32, given, secret=site.config.secret, labels=False)


def on_screen(page: Any) -> list[tuple[str, str]]:
    return [
        (card.locator(".text").inner_text(), card.locator(".rank").inner_text())
        for card in page.locator(".card").all()
    ]


def last_label(site: Any) -> Label:
    with site.config.store.read() as session:
        return session.scalars(select(Label).order_by(Label.id.desc())).first()


def wrong(page: Any) -> list[str]:
    return [rule["id"] for rule in axe.Axe().run(page).response["violations"]]


def test_prefilled_cards_stand_in_the_machines_order(make_site: Any, visit: Any) -> None:
    site = make_site(suggestions="prefilled", control=0.0, gold_every=0)
    suggested(site, FOUR, {**FOUR, "prompt": "And here?"})
    page = visit(site, site.person("ann"))
    page.goto("/work")
    page.get_by_text("that the reward model suggests").wait_for()
    shown = on_screen(page)
    assert [rank for _, rank in shown] == ["1", "2", "2", "3"]
    assert {text: int(rank) for text, rank in shown} == BY_TEXT
    assert wrong(page) == []
    page.keyboard.press("Enter")
    page.get_by_text("You changed nothing.").wait_for()
    assert last_label(site) is None and wrong(page) == []
    page.keyboard.press("y")
    arrived(page.get_by_text("And here?"))
    assert (last_label(site).suggestion_shown, last_label(site).suggestion_taken) == ("prefilled", True)
    assert last_label(site).affirmed
    page.locator(".card", has_text="beta").locator(".rank").click()  # takes its rank away
    page.locator(".card", has_text="delta").get_by_role("button", name="Move").first.click()
    with page.expect_response(lambda r: "/draft?" in r.url):
        changed = on_screen(page)
    page.reload()
    assert on_screen(page) == changed, "the person's work, not the suggestion again"
    page.get_by_text("you have worked on them since").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    label = last_label(site)
    assert (label.suggestion_shown, label.suggestion_taken) == ("prefilled", False) and not label.affirmed
    (_, row) = site.records()
    assert dict(zip(row["responses"], row["ranks"], strict=True)) == {
        text: None if rank == "–" else int(rank) for text, rank in changed
    }


@pytest.mark.parametrize("look", [{}, PHONE], ids=["laptop", "phone"])
def test_after_the_answer_both_orders_stand_side_by_side(make_site: Any, visit: Any, look: Any) -> None:
    site = make_site(suggestions="after", control=0.0, gold_every=0)
    suggested(site, FOUR, {**FOUR, "prompt": "And here?"})
    page = visit(site, site.person("ann"), **look)
    page.goto("/work")
    assert {rank for _, rank in on_screen(page)} == {"–"}
    assert page.get_by_text("suggest").count() == 0
    for text in ("beta", "alpha", "gamma"):
        page.locator(".card", has_text=text).locator(".rank").click()
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/answered/*")
    rows = [
        [cell.inner_text() for cell in row.locator("th .clip, td").all()]
        for row in page.locator("tbody tr").all()
    ]
    assert rows == [["beta", "1", "3"], ["alpha", "2", "2"], ["gamma", "3", "1"], ["delta", "–", "2"]]
    arrived(page.get_by_text("agree on 0 of 3 pairs"))
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert wrong(page) == []
    page.get_by_role("button", name="Change my answer").click()
    page.get_by_role("button", name="Reopen it").click()
    arrived(page.get_by_role("heading", name="Rank the responses"))
    assert [text for text, _ in on_screen(page)] == ["beta", "alpha", "gamma", "delta"]
    page.locator(".card", has_text="gamma").locator("[data-do=up]").click()
    page.get_by_role("button", name="Submit").click()
    arrived(page.get_by_text("And here?"))
    assert last_label(site).suggestion_shown == "seen"
    page.keyboard.press("1")
    page.keyboard.press("j")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/answered/*")
    page.wait_for_function("document.activeElement.matches('a, button')")
    page.keyboard.press("Enter")  # on to the next task, which there is none of
    page.get_by_role("heading", name="No tasks are waiting for you").wait_for()


@pytest.mark.parametrize("device", [{}, PHONE], ids=["laptop", "phone"])
def test_figures_show_how_far_people_are_swayed(make_site: Any, visit: Any, device: dict[str, Any]) -> None:
    site = make_site(suggestions="prefilled", control=0.5, gold_every=0)
    suggested(site, *({**FOUR, "prompt": f"p{i}"} for i in range(12)))
    ann = site.signed_in("ann")
    for _ in range(12):
        task = site.taken(ann)
        ranks = task["start"]["ranks"] if "start" in task else [1, 2, 3, 4]
        given = {"ranks": ranks, "quality": [None] * 4, "flags": [[]] * 4}
        assert site.answer(ann, given, task=task, affirmed="start" in task).status_code == 200
    page = visit(site, site.person("boss", "admin"), **device)
    page.goto("/figures")
    page.get_by_role("heading", name="Do suggestions sway people?").wait_for()
    assert wrong(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    inside = "t => t.getBoundingClientRect().right <= t.closest('section').getBoundingClientRect().right + 1"
    assert page.locator(".sway table").evaluate(inside)
