"""The page where people talk to a policy: what they write over its answers is theirs, and kept."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling_app import Site, arrived  # noqa: E402
from talking_app import PRETENDER, asking, told, user  # noqa: E402

from labeling import companion as module  # noqa: E402
from labeling.companion import Absent, Companion  # noqa: E402
from labeling.store.models import Person, now  # noqa: E402

ATTACK = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def corrected(asked: list[dict[str, str]], answer: dict[str, str], text: str, **more: Any) -> dict[str, Any]:
    given = {"messages": asked, "answer": answer["text"], "origin": answer["origin"], "seal": answer["seal"]}
    return {**given, "text": text, "submission": "a" * 32, "seconds": 4.0, **more}


def test_a_correction_is_the_persons_own_label(talking: Site) -> None:
    ann, bob = talking.signed_in("ann"), talking.signed_in("bob")
    with talking.config.store.write() as session:  # nobody works longer than they are here
        session.get_one(Person, 1).created = now() - timedelta(hours=1)
    asked = [user("hi"), {"role": "assistant", "content": "hello"}, user("and you?")]
    _, answer = told(ann, *asked)
    assert answer["text"] == "3: and you?"
    given = corrected(asked, answer, "fine")
    assert ann.post("/chat/correct", json=given).json() == ann.post("/chat/correct", json=given).json()
    assert talking.records("demonstrations") == [{"prompt": asked, "response": "fine"}]
    (record,) = talking.records("rankings", corrections=True)
    assert record["labeler"] == "ann" and record["responses"] == ["fine", "3: and you?"]
    assert record["seconds"] == pytest.approx(4.0, abs=1) and len(record["guideline"]) == 64
    assert "and you?" in ann.get("/history").text and "and you?" not in bob.get("/history").text
    # what the policy did not say, or not to this person, is no answer of its
    assert (
        ann.post("/chat/correct", json={**given, "answer": "other", "submission": "b" * 32}).status_code
        == 409
    )
    assert bob.post("/chat/correct", json={**given, "submission": "c" * 32}).status_code == 409
    assert ann.post("/chat/correct", json={**given, "text": " ", "submission": "d" * 32}).status_code == 409
    assert len(talking.records("demonstrations")) == 1


def test_a_conversation_is_nobody_elses_task(make_site: Any, database: str) -> None:
    """Also when the correction is taken back, which frees its place in the queue."""
    from sqlalchemy import select

    from labeling.store.corrections import keep_correction
    from labeling.store.models import Person

    site = make_site(database)
    site.add({"prompt": "for all", "responses": ["x", "y"]})
    mine, bob = site.signed_in("ann"), site.signed_in("bob")
    with site.config.store.write() as session:
        label = keep_correction(
            session,
            session.scalar(select(Person).where(Person.name == "ann")),
            prompt=[user("a secret")],
            answer="no",
            text="yes",
            origin="mine/sft a1",
            guideline=site.config.guideline(),
            seconds=1.0,
            secret=site.config.secret,
            submission="a" * 32,
        ).id
    number = mine.post(f"/reopen/{label}").json()["number"]
    task = site.taken(mine)
    assert task["number"] == number
    assert site.answer(mine, {"reason": "expertise"}, task=task, skip=True).status_code == 200
    task = site.taken(bob)
    assert task["number"] != number and "a secret" not in bob.get("/work").text
    site.answer(bob, {"reason": "expertise"}, task=task, skip=True)
    assert "a secret" not in bob.get("/work").text


def test_only_people_who_are_signed_in_talk(talking: Site) -> None:
    asked = asking(user("hi"))
    assert talking.client().post("/chat/answer", json=asked).status_code == 401
    ann = talking.signed_in("ann")
    assert ann.post("/chat/answer", json=asked, headers={"X-CSRF-Token": "no"}).status_code == 403
    assert talking.signed_in("tool", "machine").post("/chat/answer", json=asked).status_code == 403
    for wrong in ([], [{"role": "system", "content": "x"}], [user("")], [{**user("x"), "more": 1}]):
        assert ann.post("/chat/answer", json=asking(*wrong)).status_code == 422
    for path in ("/chat/stop", "/chat/shown", "/chat/choose"):
        assert talking.client().post(path, json={}).status_code == 401
    status, refused = told(ann, user("long"))
    assert (status, refused["error"]) == (409, "begin a new conversation")


def test_without_a_policy_the_page_says_so(site: Site) -> None:
    ann = site.signed_in("ann")
    assert "--chat RUN" in ann.get("/chat").text and "Talk</a>" not in ann.get("/").text
    status, answer = told(ann, user("hi"))
    assert status == 503 and "--chat RUN" in answer["detail"]


def test_a_policy_that_died_is_started_again(talking: Site) -> None:
    ann = talking.signed_in("ann")
    status, gone = told(ann, user("die"))
    assert status == 503 and "try again" in gone["error"]
    assert told(ann, user("hi"))[1]["text"] == "1: hi"


def test_a_policy_that_does_not_answer_is_ended(
    policy: Callable[..., Companion], monkeypatch: pytest.MonkeyPatch
) -> None:
    companion = policy()
    assert companion.answer([user("hi")], 0) == ("1: hi", "mine/ppo 12ab")
    monkeypatch.setattr(module, "_ANSWERS_WITHIN", 0.5)
    with pytest.raises(Absent, match="did not answer"):
        companion.answer([user("wait")], 0)
    monkeypatch.undo()
    assert companion.answer([user("hi")], 0)[0] == "1: hi"


def test_what_is_printed_beside_the_answers_is_no_answer(policy: Callable[..., Companion]) -> None:
    companion = policy()
    assert companion.answer([user("chatter")], 0)[0] == "1: chatter"
    time.sleep(0.5)
    assert companion.answer([user("hi")], 0)[0] == "1: hi", "everybody gets the answer to what they asked"


@pytest.mark.parametrize("word", ["deaf", "mute"])
def test_a_policy_that_reads_or_says_no_more_is_ended(
    policy: Callable[..., Companion], monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    companion = policy()
    companion.answer([user(word)], 0)
    monkeypatch.setattr(module, "_ANSWERS_WITHIN", 1.0)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            companion.answer([user("x" * 1_000_000)], 0)
        except Absent as error:
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(20)
    assert len(failed) == 1, "who asks it waits for ever"
    monkeypatch.undo()
    assert companion.answer([user("hi")], 0)[0] == "1: hi"


def test_many_ask_and_each_gets_the_own_answer(
    policy: Callable[..., Companion], monkeypatch: pytest.MonkeyPatch
) -> None:
    companion = policy("plain")
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = companion.answer([user(str(number))], 0)[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(module._WAITING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"1: {number}" for number in range(module._WAITING)}
    monkeypatch.setattr(companion, "_places", threading.BoundedSemaphore(1))
    assert companion._places.acquire(blocking=False)
    with pytest.raises(Absent, match="Too many"):
        companion.answer([user("x")], 0)
    assert companion.prompt([user("a"), {"role": "assistant", "content": "b"}, user("c")]) == "c"


def test_a_policy_that_cannot_start_is_told(tmp_path: Path) -> None:
    companion = Companion([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(Absent, match="could not be started"):
        companion.answer([user("hi")], 0)
    companion.close()


def test_the_policy_ends_with_the_app_even_when_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "pretender.py").write_text(PRETENDER)
    code = (
        "import sys, time\nfrom labeling.companion import Companion\n"
        f"c = Companion([sys.executable, {str(tmp_path / 'pretender.py')!r}, 'chat', '1'])\n"
        "c.answer([{'role': 'user', 'content': 'hi'}], 0)\n"
        "print(c._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    app = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert app.stdout is not None
    child = int(app.stdout.readline())
    assert _alive(child)
    app.kill()
    app.wait()
    deadline = time.monotonic() + 20
    while _alive(child):
        assert time.monotonic() < deadline, "the policy outlived the app"
        time.sleep(0.1)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_policy_of_a_run_talks(finished_run: Path) -> None:
    companion = Companion([sys.executable, "-m", "align", "chat", str(finished_run), "--json"])
    try:
        text, origin = companion.answer([user("the film is")], 0)
        assert origin.startswith("tiny/ppo ") and isinstance(text, str)
        assert companion.answer([user("the film is")], 0)[0] == text
    finally:
        companion.close()


@pytest.mark.parametrize("look", [{}, {"viewport": {"width": 390, "height": 800}, "has_touch": True}])
def test_in_a_browser(talking: Site, visit: Callable[..., Any], look: dict[str, Any]) -> None:
    page = visit(talking, talking.person("ann"), **look)
    page.get_by_role("link", name="Talk").click()
    arrived(page.get_by_label("Your message"))
    page.get_by_label("Your message").fill(f"first {ATTACK}")
    page.get_by_role("button", name="Send").click()
    said = page.locator(".message.assistant .said")
    page.get_by_role("button", name="This is wrong").wait_for()  # the whole answer is there
    assert said.inner_text() == f"1: first {ATTACK}" and page.locator("#talk img, #talk script").count() == 0
    page.get_by_role("button", name="This is wrong").click()
    page.get_by_label("What it should have said").fill("")
    page.get_by_role("button", name="Keep").click()
    assert "Write the response" in page.locator("#problem").inner_text()
    page.get_by_label("What it should have said").fill(f"right {ATTACK}")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    assert axe.Axe().run(page).response["violations"] == []
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Kept as a demonstration").wait_for()
    assert said.inner_text() == f"right {ATTACK}" and page.locator("#talk img, #talk script").count() == 0
    page.get_by_label("Your message").fill("die")
    page.keyboard.press("Control+Enter")
    page.get_by_text("try again").wait_for()
    page.get_by_label("Your message").fill("second")
    page.keyboard.press("Control+Enter")
    page.get_by_text("3: second").wait_for()
    assert page.get_by_role("button", name="This is wrong").count() == 2
    page.get_by_role("button", name="New conversation").click()
    assert page.locator("#talk .message").count() == 0
    page.get_by_label("Your message").fill("third")
    page.keyboard.press("Control+Enter")
    page.get_by_text("1: third").wait_for()
    prompt = f"first {ATTACK}"
    assert talking.records("demonstrations") == [{"prompt": prompt, "response": f"right {ATTACK}"}]
    (ranking,) = talking.records("rankings", corrections=True)
    assert ranking["responses"] == [f"right {ATTACK}", f"1: {prompt}"]
