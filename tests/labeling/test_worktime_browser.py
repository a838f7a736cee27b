"""The seconds of an answer, in a real browser: only those while somebody is at the page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import select  # noqa: E402

from labeling.store.models import Label, Person, Slot, now  # noqa: E402

LATER = """
  const real = performance.now.bind(performance);
  let ahead = 0;
  performance.now = () => real() + ahead;
  window.later = (seconds) => { ahead += 1000 * seconds; };
  window.inView = (whether) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => !whether });
    document.dispatchEvent(new Event("visibilitychange"));
  };
"""


def test_idle_and_hidden_time_is_no_work_and_reading_is(site: Any, visit: Any) -> None:
    site.add({"prompt": "Write"})
    ann = site.person("ann")
    page = visit(site, ann)
    page.add_init_script(LATER)
    page.goto("/work")
    with site.config.store.write() as session:
        session.scalars(select(Slot)).unique().one().taken = now() - timedelta(hours=9)
        session.get_one(Person, ann.id).created = now() - timedelta(hours=10)
    for x in range(4):  # somebody reads, and moves the mouse now and then
        page.evaluate("later(60)")
        page.mouse.move(100 + x, 100)
    page.evaluate("later(4 * 3600)")  # nobody is there, but for the first minute and a half
    page.mouse.move(200, 100)
    page.evaluate("inView(false); later(3600); inView(true)")  # another tab
    page.get_by_label("Your response").fill("a resp")
    page.get_by_text("Draft saved").wait_for()
    page.reload()  # what was counted is kept with the draft
    page.evaluate("later(7200)")
    page.get_by_label("Your response").fill("a response")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/")
    with site.config.store.read() as session:
        seconds = session.scalars(select(Label.seconds)).one()
    assert 4 * 60 + 2 * 90 <= seconds < 4 * 60 + 2 * 90 + 45, seconds
