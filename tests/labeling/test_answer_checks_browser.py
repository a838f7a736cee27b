"""A check is asked for by button and key, and stands beside the text with the version that it is of."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
CHECKS = [{"name": "short", "max_characters": 10}, {"function": "math:nothing", "name": "broken"}]


@pytest.fixture
def checked(make_site: Any) -> Any:
    site = make_site(checks=CHECKS)
    yield site
    site.app.state.checking.close()


def test_a_demonstration_is_checked_and_sent_whatever_is_said(checked: Any, visit: Any) -> None:
    checked.add({"prompt": "Why?"})
    page = visit(checked, checked.person("ann"), **PHONE)
    page.goto("/work")
    page.locator("#text").fill("Much longer than that")
    page.get_by_role("button", name="Check my text").tap()
    page.locator("#checked li.bad", has_text="10 are the most").wait_for()
    page.locator("#checked li", has_text="broken The check broken failed").wait_for()
    page.locator("#text").fill("Much shorter, hm")
    assert "of an earlier version" in page.locator("#checked li").first.inner_text()
    page.get_by_text("Draft saved").wait_for()
    page.reload()
    assert "of an earlier version" in page.locator("#checked li").first.inner_text()
    page.locator("#text").fill("Short.")
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+K")
    page.locator("#checked li.good-mark", has_text="passed").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Submit").tap()
    page.wait_for_url("**/")
    (row,) = checked.records("demonstrations")
    assert row["checks"] == ["broken", "short"]


def test_while_ranking_ones_own_answer_is_checked_and_nothing_else(checked: Any, visit: Any) -> None:
    checked.add({"prompt": "Why?", "responses": ["One.", "Two."]})
    page = visit(checked, checked.person("ann"))
    page.goto("/work")
    page.wait_for_selector(".card:focus")
    assert not page.locator("#checks").is_visible(), "nothing is written yet"
    page.keyboard.press("Shift+W")
    page.keyboard.type("Mine")
    page.get_by_role("button", name="Check my text").click()
    page.locator("#checked li.good-mark", has_text="passed").wait_for()
    page.get_by_role("button", name="Remove my answer").click()
    assert not page.locator("#checks").is_visible()
