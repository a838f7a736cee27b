"""Key presses and scrolled pixels to rank K long answers on the page, and pictures of it.

    python -m benchmarks.labeling_page                    # the figures
    python -m benchmarks.labeling_page --screens FOLDER   # pictures on three screens

Needs the `labeling` extra, playwright and Debian's chromium. For every K, `--tasks` orders are drawn with a
seed, and each is given by the page's shortest way: letters in their order where it has them, else marks and
digits, best first.
"""

from __future__ import annotations

import argparse
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Page, sync_playwright

from align.recipe.labeling import Labeling
from labeling.store.engine import Store
from labeling.store.items import add_items
from labeling.store.people import add_person, new_token
from labeling.web.app import make_app
from labeling.web.config import Config

SCREENS = {"laptop": (1366, 768), "tablet": (820, 1180), "phone": (390, 844)}
WORDS = ["the", "model", "answers", "a", "question", "about", "rain", "and", "light", "with", "some", "care"]
WORDS += ["for", "what", "was", "asked", "before", "it"]
# What is on the screen: how far the page is scrolled, and where the card at hand stands.
SEEN = """() => {
  const card = document.querySelector(".card[tabindex='0']");
  return [scrollY, card.getBoundingClientRect().top, Number(card.dataset.shown)];
}"""


def text(drawn: random.Random, length: int) -> str:
    """Paragraphs of about `length` characters."""
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        sentence = " ".join(drawn.choices(WORDS, k=drawn.randint(30, 60))).capitalize() + "."
        parts.append(sentence)
    return "\n\n".join(parts)


def tasks(k: int, count: int) -> list[dict[str, Any]]:
    """Tasks with K answers of about 2,000 characters and a prompt of about 1,500."""
    drawn = random.Random(k)
    return [
        {
            "prompt": [
                {"role": "user", "content": text(drawn, 600)},
                {"role": "assistant", "content": text(drawn, 600)},
                {"role": "user", "content": f"Task {i}: and why is the light after rain so clear?"},
            ],
            "responses": [text(drawn, 2000) for _ in range(k)],
        }
        for i in range(count)
    ]


@contextmanager
def app(rows: list[dict[str, Any]]) -> Iterator[Callable[[], str]]:
    """A running app with these tasks; what makes links that sign its labeler in, once each."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "labeling.db"))
        config = Config(store, Labeling(), store.secret(), "bench")
        with store.write() as session:
            ann = add_person(session, "ann", "labeler")
            add_items(session, rows, 1)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(make_app(config), log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)

        def link() -> str:
            with store.write() as session:
                secret = new_token(session, "signin", person=ann, lasts=timedelta(hours=1))
            return f"http://127.0.0.1:{listening.getsockname()[1]}/signin/{secret}"

        yield link
        server.should_exit = True
        thread.join(10)
        store.close()


class Hand:
    """Presses keys on a page, and adds up what they do to it."""

    def __init__(self, page: Page) -> None:
        self.page, self.keys, self.scrolled, self.jumped = page, 0, 0.0, 0.0

    def press(self, key: str) -> None:
        before = self.page.evaluate(SEEN)
        self.page.keyboard.press(key)
        after = self.page.evaluate(SEEN)
        self.keys += 1
        self.scrolled += abs(after[0] - before[0])
        if before[2] == after[2]:  # the same card is at hand: how far it went from under the eye
            self.jumped += abs(after[1] - before[1])


def by_letters(hand: Hand, order: list[int]) -> None:
    for place in order:
        hand.press("abcdefghi"[place])


def by_marks(hand: Hand, order: list[int]) -> None:
    """Best first: mark it by j or k, then its digit."""
    for rank, place in enumerate(order, 1):
        shown = hand.page.eval_on_selector_all(".card", "all => all.map((c) => Number(c.dataset.shown))")
        by = shown.index(place) - shown.index(hand.page.evaluate(SEEN)[2])
        for _ in range(abs(by)):
            hand.press("j" if by > 0 else "k")
        hand.press(str(rank))


def signed_in(browser: Any, link: str, **look: Any) -> Page:
    page = browser.new_context(**look).new_page()
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    page.goto(link.split("/signin")[0] + "/work")
    page.wait_for_selector(".card:focus")
    return page


def measure(browser: Any, k: int, count: int) -> dict[str, float]:
    """Means over the tasks of key presses, pixels scrolled, and pixels that the card at hand moved."""
    drawn = random.Random(1)
    total = {"keys": 0.0, "scrolled": 0.0, "jumped": 0.0}
    with app(tasks(k, count)) as link:
        page = signed_in(browser, link(), viewport={"width": 1366, "height": 768})
        way = by_letters if page.locator("#strip").count() else by_marks
        for _ in range(count):
            page.wait_for_selector(".card:focus")
            hand = Hand(page)
            way(hand, drawn.sample(range(k), k))
            with page.expect_navigation():
                page.keyboard.press("Enter")
            total["keys"] += (hand.keys + 1) / count
            total["scrolled"] += hand.scrolled / count
            total["jumped"] += hand.jumped / count
        page.context.close()
    return total


def pictures(browser: Any, folder: Path, name: str) -> None:
    """The page with nine answers, three of them ranked, on every screen."""
    folder.mkdir(parents=True, exist_ok=True)
    with app(tasks(9, 1)) as link:
        for screen, (width, height) in SCREENS.items():
            page = signed_in(browser, link(), viewport={"width": width, "height": height})
            for key in ("1", "j", "j", "2", "j"):
                page.keyboard.press(key)
            page.wait_for_timeout(300)
            page.screenshot(path=folder / f"{name}-{screen}.png")
            page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20, help="orders drawn for each K")
    parser.add_argument("--screens", type=Path, help="write pictures into this folder instead")
    parser.add_argument("--name", default="rank", help="the beginning of the pictures' names")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        if given.screens:
            pictures(browser, given.screens, given.name)
        else:
            print("| K | key presses | pixels scrolled | pixels the card at hand moves |\n|---|---|---|---|")
            for k in (4, 9):
                found = measure(browser, k, given.tasks)
                row = f"{found['keys']:.1f} | {found['scrolled']:,.0f} | {found['jumped']:,.0f}"
                print(f"| {k} | {row} |", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
