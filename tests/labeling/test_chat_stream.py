"""Answers of a talk as they come: piece by piece, stopped, cut off, side by side."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

import httpx2 as httpx  # noqa: E402
from labeling_app import Site, arrived  # noqa: E402
from talking_app import asking, told, user  # noqa: E402

from labeling import companion as module  # noqa: E402
from labeling.companion import Companion  # noqa: E402
from labeling.web.app import make_app  # noqa: E402
from labeling.web.gate import Limits  # noqa: E402


@contextmanager
def over_the_wire(client: Any, address: str) -> Iterator[httpx.Client]:
    """A signed-in client's session on a real connection: the test client hears answers only when they end."""
    headers = {"X-CSRF-Token": client.headers["X-CSRF-Token"]}
    cookies = {cookie.name: cookie.value for cookie in client.cookies.jar}
    with httpx.Client(base_url=address, headers=headers, cookies=cookies, timeout=20) as wire:
        yield wire


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    return map(json.loads, response.iter_lines())


def until_piece(said: Iterator[dict[str, Any]], count: int = 3) -> str:
    """The text of the first pieces."""
    pieces: list[str] = []
    while len(pieces) < count:
        pieces += [line["piece"]] if "piece" in (line := next(said)) else []
    return "".join(pieces)


def free_within(companion: Companion, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if companion._turn.acquire(timeout=0.05):
            companion._turn.release()
            return True
    return False


def test_an_answer_comes_in_pieces_and_is_stopped_by_who_asked(
    talking: Site, served: Callable[[Site], str]
) -> None:
    ann, bob = talking.signed_in("ann"), talking.signed_in("bob")
    address, asked = served(talking), asking(user("slow"))
    with over_the_wire(ann, address) as wire, wire.stream("POST", "/chat/answer", json=asked) as answer:
        said = events(answer)
        begun = until_piece(said)  # the policy goes on until it is stopped: nothing waits for the end
        assert begun.startswith("1:  0")
        assert bob.post("/chat/stop", json={"ask": asked["ask"]}).json() == {"stopped": False}
        assert ann.post("/chat/stop", json={"ask": asked["ask"]}).json() == {"stopped": True}
        *_, last = said
    assert last["stopped"] is True and last["text"].startswith(begun)
    assert told(bob, user("hi"))[1]["text"] == "1: hi", "the model is free, and the same process goes on"
    given = {"messages": asked["messages"], "answer": last["text"], "origin": last["origin"]}
    given |= {"seal": last["seal"], "text": "right", "submission": "a" * 32, "seconds": 1.0}
    assert ann.post("/chat/correct", json=given).status_code == 200, "what was said so far can be corrected"
    assert ann.post("/chat/stop", json={"ask": asked["ask"]}).json() == {"stopped": False}


def test_who_leaves_in_the_middle_leaves_the_model_free(talking: Site, served: Callable[[Site], str]) -> None:
    ann, bob = talking.signed_in("ann"), talking.signed_in("bob")
    address, companion = served(talking), talking.config.companion
    process = companion._process
    with (
        over_the_wire(ann, address) as wire,
        wire.stream("POST", "/chat/answer", json=asking(user("slow"))) as answer,
    ):
        until_piece(events(answer))
    assert free_within(companion)
    begun = time.monotonic()
    assert told(bob, user("hi"))[1]["text"] == "1: hi" and companion._process is process
    assert time.monotonic() - begun < 10, "the policy went on for nobody"
    assert told(ann, user("again"))[1]["text"] == "1: again"
    assert companion._places._value == module._WAITING, "everybody's place is given back"


def test_who_leaves_the_queue_leaves_no_place_taken(talking: Site, served: Callable[[Site], str]) -> None:
    ann, bob = talking.signed_in("ann"), talking.signed_in("bob")
    address, companion = served(talking), talking.config.companion
    with (
        over_the_wire(ann, address) as one,
        one.stream("POST", "/chat/answer", json=asking(user("slow"))) as first,
    ):
        said = events(first)
        until_piece(said)
        with (
            over_the_wire(bob, address) as two,
            two.stream("POST", "/chat/answer", json=asking(user("hi"))) as second,
        ):
            assert [line for line, _ in zip(events(second), range(3), strict=False)] == [
                {"waiting": True}
            ] * 3
            assert companion._places._value == module._WAITING - 2
        deadline = time.monotonic() + 5
        while companion._places._value != module._WAITING - 1:
            assert time.monotonic() < deadline, "who left still stands in the queue"
            time.sleep(0.05)
        ann.post("/chat/stop", json={"ask": "f" * 32})
        *_, last = said
    assert last["stopped"] is True


def test_two_people_at_once_get_their_own_answers_one_after_the_other(
    talking: Site, served: Callable[[Site], str]
) -> None:
    people = {name: talking.signed_in(name) for name in ("ann", "bob")}
    address = served(talking)
    ends: dict[str, dict[str, Any]] = {}

    def ask(name: str) -> None:
        with (
            over_the_wire(people[name], address) as wire,
            wire.stream("POST", "/chat/answer", json=asking(user(name))) as answer,
        ):
            *_, ends[name] = events(answer)

    threads = [threading.Thread(target=ask, args=(name,)) for name in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {name: end["text"] for name, end in ends.items()} == {"ann": "1: ann", "bob": "1: bob"}


def test_a_policy_that_dies_in_the_middle_is_told_after_what_it_said(talking: Site) -> None:
    ann = talking.signed_in("ann")
    lines = ann.post("/chat/answer", json=asking(user("broken"))).text.splitlines()
    said = [line for line in map(json.loads, lines) if "waiting" not in line]
    assert said[0] == {"piece": "1: ", "side": 0}
    assert said[1]["status"] == 503 and "try again" in said[1]["error"] and len(said) == 2
    assert told(ann, user("hi"))[1]["text"] == "1: hi"


def test_the_gate_counts_answers_that_come_and_limits_what_is_asked(
    talking: Site, served: Callable[[Site], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    talking.app = make_app(talking.config, Limits(2**20, work=2**16, of_session=1))
    ann, bob = talking.signed_in("ann"), talking.signed_in("bob")
    address = served(talking)
    large = asking(user("x" * 2**16))
    assert ann.post("/chat/answer", json=large).status_code == 413
    with (
        over_the_wire(ann, address) as wire,
        wire.stream("POST", "/chat/answer", json=asking(user("slow"))) as answer,
    ):
        said = events(answer)  # which hangs up where nobody holds it any more
        until_piece(said)
        assert answer.headers["cache-control"] == "no-store"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert ann.get("/session").status_code == 503, "the answer that comes is a request like any other"
        assert bob.get("/session").status_code == 200
    assert free_within(talking.config.companion)
    for _ in range(module._WAITING):
        assert talking.config.companion._places.acquire(blocking=False)
    response = bob.post("/chat/answer", json=asking(user("hi")))
    assert response.status_code == 503 and "Too many people" in response.json()["detail"]


def test_an_app_that_ends_lets_those_go_who_wait(talking: Site, served: Callable[[Site], str]) -> None:
    ann = talking.signed_in("ann")
    address = served(talking)
    with (
        over_the_wire(ann, address) as wire,
        wire.stream("POST", "/chat/answer", json=asking(user("slow"))) as answer,
    ):
        said = events(answer)
        until_piece(said)
        talking.config.companion.let_go()
        *_, last = said
    assert last["stopped"] is True and last["text"].startswith("1:")


def test_texts_are_shown_as_everywhere_else(talking: Site) -> None:
    ann = talking.signed_in("ann")
    texts = ["**so** $x^2$", "<script>alert(1)</script>"]
    html = ann.post("/chat/shown", json={"texts": texts}).json()["html"]
    assert "<strong>so</strong>" in html[0] and 'data-math="inline"' in html[0]
    assert "<script" not in html[1] and "alert(1)" in html[1]


def chosen(asked: list[dict[str, str]], end: dict[str, Any], choice: str, **more: Any) -> dict[str, Any]:
    given = {"messages": asked, "texts": end["texts"], "seal": end["seal"], "choice": choice}
    return {**given, "submission": "a" * 32, "seconds": 2.0, **more}


def test_a_choice_of_two_is_a_ranking_with_the_talk_as_its_prompt(comparing: Site) -> None:
    ann, bob = comparing.signed_in("ann"), comparing.signed_in("bob")
    asked = [user("hi"), {"role": "assistant", "content": "hello"}, user("so?")]
    sides = set()
    for turn in range(20):  # drawn anew for each: one side every time has a chance of 1 in 2^19
        _, end = told(ann, *asked)
        assert sorted(end["texts"]) == ["3: SO?", "3: so?"]
        assert not {"mine", "origin", "ppo", "sft"} & set(json.dumps(end).replace('"', " ").split()), turn
        sides.add(end["texts"][0])
    assert len(sides) == 2
    while end["texts"][0] == "3: so?":  # so that the first policy stands second
        _, end = told(ann, *asked)
    side = end["texts"].index("3: so?")
    given = chosen(asked, end, ("first", "second")[side])
    assert ann.post("/chat/choose", json=given).json() == ann.post("/chat/choose", json=given).json()
    (record,) = comparing.records("rankings")
    assert record["prompt"] == asked and record["responses"] == ["3: so?", "3: SO?"]
    assert record["ranks"] == [1, 2] and record["labeler"] == "ann"
    assert record["shown_order"] == [side, 1 - side], "place s showed response shown_order[s]"
    assert comparing.records("demonstrations") == []
    assert "so?" not in bob.get("/history").text and bob.get("/work").status_code == 303
    other = ("second", "first")[side]
    wrong = [
        chosen(asked, end, other),
        chosen(asked, end, other, submission="b" * 32, texts=end["texts"][::-1]),
    ]
    assert [ann.post("/chat/choose", json=one).status_code for one in wrong] == [409, 409]
    assert bob.post("/chat/choose", json={**given, "submission": "c" * 32}).status_code == 409
    # the talk goes on with the chosen one, which can be corrected though nobody says whose it is
    right = {"messages": asked, "answer": "3: so?", "origin": "", "seal": end["seals"][side], "text": "right"}
    right |= {"submission": "d" * 32, "seconds": 1.0}
    assert ann.post("/chat/correct", json=right).status_code == 200
    assert comparing.records("demonstrations") == [{"prompt": asked, "response": "right"}]


def test_a_tie_is_a_ranking_too(comparing: Site) -> None:
    ann = comparing.signed_in("ann")
    _, end = told(ann, user("hi"))
    assert ann.post("/chat/choose", json=chosen([user("hi")], end, "tie")).status_code == 200
    (record,) = comparing.records("rankings")
    assert record["prompt"] == "hi" and record["ranks"] == [1, 1]


def send(page: Any, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Control+Enter")


def test_a_talk_in_a_browser_is_stopped_kept_and_corrected(
    talking: Site, visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit(talking, talking.person("ann"))
    page.get_by_role("link", name="Talk").click()
    arrived(page.get_by_label("Your message"))
    send(page, "first **so** $x^2$")
    said = page.locator(".message.assistant .said")
    said.locator("strong").wait_for()
    said.locator(".katex").first.wait_for()
    send(page, "slow")
    page.get_by_text("3:  0 1 2").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped; what was said").wait_for()
    send(page, "third")
    page.get_by_text("5: third").wait_for()
    page.get_by_role("button", name="This is wrong").first.click()
    page.get_by_label("What it should have said").fill("corrected")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Kept as a demonstration").wait_for()
    page.get_by_role("button", name="This is wrong").nth(
        2
    ).click()  # said when the first was not corrected yet
    page.get_by_label("What it should have said").fill("the last")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("the last").wait_for()
    first, last = talking.records("demonstrations")
    assert first == {"prompt": "first **so** $x^2$", "response": "corrected"}
    assert [m["content"] for m in last["prompt"]][::2] == ["first **so** $x^2$", "slow", "third"]
    assert last["prompt"][1]["content"] == "1: first **so** $x^2$" and last["response"] == "the last"
    send(page, "broken")
    page.get_by_text("broke off here").wait_for()
    assert page.get_by_label("Your message").input_value() == "broken"
    send(page, "slow again")
    page.get_by_text("7:  0 1 2").wait_for()
    page.route(
        "**/chat/*", lambda route: route.abort("connectionreset")
    )  # the connection is gone, to stop it too
    page.get_by_label("Your message").fill("a draft")
    page.keyboard.press("Escape")
    page.get_by_text("broke off here").wait_for()
    page.unroute("**/chat/*")
    assert page.locator(".coming .message.user").inner_text().endswith("slow again")
    page.reload()
    arrived(page.get_by_text("broke off here"))
    assert page.get_by_label("Your message").input_value() == "a draft"
    assert page.locator(".message.assistant .said").all_inner_texts()[:3:2] == ["corrected", "the last"]
    assert page.locator(".coming .said").last.inner_text().startswith("7:  0 1")
    page.get_by_role("button", name="Ask again").click()
    page.locator(".coming [aria-busy]", has_text="7:").wait_for()
    assert page.get_by_label("Your message").input_value() == "a draft"
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped; what was said").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/signin")
    assert page.evaluate("Object.keys(localStorage)") == []


@pytest.mark.parametrize("look", [{}, {"viewport": {"width": 390, "height": 800}, "has_touch": True}])
def test_two_answers_in_a_browser(comparing: Site, visit: Callable[..., Any], look: dict[str, Any]) -> None:
    page = visit(comparing, comparing.person("ann"), **look)
    page.goto("/chat")
    arrived(page.get_by_label("Your message"))
    send(page, "hi there")
    page.get_by_role("button", name="A is better").wait_for()
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    assert axe.Axe().run(page).response["violations"] == []
    page.reload()
    arrived(page.get_by_role("button", name="B is better"))
    better = page.locator(".coming .message.assistant .said").nth(1).inner_text()
    send(page, "too early")
    page.get_by_text("Say first which answer").wait_for()
    page.get_by_role("button", name="B is better").click()
    page.get_by_text("Kept as a ranking").wait_for()
    assert page.locator(".message.assistant .said").all_inner_texts() == [better]
    (record,) = comparing.records("rankings")
    assert record["prompt"] == "hi there" and record["responses"][record["ranks"].index(1)] == better
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
