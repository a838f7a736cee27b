"""A judge model: verdicts, ties, texts that are none, orders that disagree, and addresses that fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from align.errors import AlignError, UserError
from align.evaluation.judge import Judged, Question, ask, read_template, text_of, verdict_of
from align.recipe.evaluate import Judge
from align.rewards import service

Reply = Callable[[dict[str, Any]], tuple[int, bytes]]
QUESTIONS = [Question("what is it", "a good one", "a bad one"), Question("and this", "dull", "good {first}")]


@contextmanager
def judging(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that answers chat completions, and the requests that came (with their headers)."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
            code, content = reply(body)
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def says(text: str | None) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def loves_good(body: dict[str, Any]) -> tuple[int, bytes]:
    """Prefers the answer with `good` in it, wherever it stands."""
    first = body["messages"][0]["content"].split("[Answer A]")[1].split("[Answer B]")[0]
    return says("Because.\n[[A]]" if "good" in first else "Because.\n[[B]]")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("It is better. [[A]]", 1.0),
        ("[[B]]", 0.0),
        ("At first [[A]] seems right, but [[C]]", 0.5),
        ("[[ B ]]", 0.0),
        ("A", 1.0),
        ("**B**.", 0.0),
        ("Answer A is better.", None),
        ("I cannot judge this.", None),
        ("", None),
        (None, None),
    ],
)
def test_what_a_verdict_is(text: str | None, verdict: float | None) -> None:
    assert verdict_of(text) == verdict


def test_both_orders_are_asked_and_the_second_is_turned_back(tmp_path: Path) -> None:
    with judging(loves_good) as (url, seen):
        found = ask(Judge(url=url, model="m"), QUESTIONS, tmp_path / "judge.jsonl")
    assert found == [Judged(1.0, 1.0), Judged(0.0, 0.0)]
    assert [one.value for one in found] == [1.0, 0.0]
    assert len(seen) == 4 and {one["path"] for one in seen} == {"/v1/chat/completions"}
    assert seen[0]["model"] == "m" and seen[0]["temperature"] == 0 and seen[0]["key"] is None
    texts = [one["messages"][0]["content"] for one in seen]
    assert any("good {first}" in text for text in texts)  # an answer is no template


def test_a_judge_that_takes_the_first_place_ties(tmp_path: Path) -> None:
    with judging(lambda _: says("[[A]]")) as (url, _):
        found = ask(Judge(url=url, model="m"), QUESTIONS, tmp_path / "judge.jsonl")
    assert found == [Judged(1.0, 0.0)] * 2 and found[0].value == 0.5


@pytest.mark.parametrize(
    "answer",
    [says("Both have their merits."), says(None), says(""), (200, b'{"choices": []}')],
)
def test_text_or_nothing_is_no_verdict_and_no_crash(tmp_path: Path, answer: tuple[int, bytes]) -> None:
    with judging(lambda _: answer) as (url, _):
        found = ask(Judge(url=url, model="m"), QUESTIONS, tmp_path / "judge.jsonl")
    assert [one.value for one in found] == [None, None]


def test_what_was_judged_is_asked_once(tmp_path: Path) -> None:
    kept = tmp_path / "judge.jsonl"
    with judging(loves_good) as (url, seen):
        judge = Judge(url=url, model="m")
        first = ask(judge, QUESTIONS[:1], kept)
        with kept.open("a") as file:
            file.write('{"question": "torn')  # killed while it was written
        both = ask(judge, QUESTIONS, kept)
        assert ask(judge, QUESTIONS, kept) == both and both[0] == first[0]
        assert len(seen) == 4 and len(kept.read_text().splitlines()) == 4
        ask(Judge(url=url, model="other"), QUESTIONS, kept)
        assert len(seen) == 8


def test_what_fails_for_a_while_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PAUSE", 0.0)
    failures = [503, 429]

    def reply(body: dict[str, Any]) -> tuple[int, bytes]:
        return (failures.pop(), b"busy") if failures else loves_good(body)

    with judging(reply) as (url, _):
        found = ask(Judge(url=url, model="m", parallel=1), QUESTIONS, tmp_path / "judge.jsonl")
    assert [one.value for one in found] == [1.0, 0.0]


def test_what_goes_on_failing_ends_with_what_to_do_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PAUSE", 0.0)
    count = iter(range(100))

    def reply(body: dict[str, Any]) -> tuple[int, bytes]:
        return loves_good(body) if next(count) < 2 else (500, b"")

    kept = tmp_path / "judge.jsonl"
    with (
        judging(reply) as (url, _),
        pytest.raises(AlignError, match="answered 500 .* 3 times. Verdicts so far are kept"),
    ):
        ask(Judge(url=url, model="m", parallel=1), QUESTIONS, kept)
    assert len(kept.read_text().splitlines()) == 2


def test_a_refusal_says_what_the_service_said(tmp_path: Path) -> None:
    with (
        judging(lambda _: (401, b'{"error": "no such key"}')) as (url, _),
        pytest.raises(UserError, match="answered 401.*no such key.*Is evaluate.judge.key right"),
    ):
        ask(Judge(url=url, model="m"), QUESTIONS, tmp_path / "judge.jsonl")


def test_nobody_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PAUSE", 0.0)
    with pytest.raises(
        AlignError, match="evaluate.judge: http://127.0.0.1:9/v1/chat/completions cannot be reached"
    ):
        ask(Judge(url="http://127.0.0.1:9/v1", model="m"), QUESTIONS, tmp_path / "judge.jsonl")


def test_the_key_is_the_environments_and_stands_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(url="http://127.0.0.1:9", model="m", key="JUDGE_KEY_OF_TEST")
    with pytest.raises(UserError, match="the environment has no JUDGE_KEY_OF_TEST"):
        ask(judge, QUESTIONS, tmp_path / "judge.jsonl")
    monkeypatch.setenv("JUDGE_KEY_OF_TEST", "sesame")
    with judging(loves_good) as (url, seen):
        ask(judge.model_copy(update={"url": url}), QUESTIONS, tmp_path / "judge.jsonl")
    assert {one["key"] for one in seen} == {"Bearer sesame"}
    assert "sesame" not in (tmp_path / "judge.jsonl").read_text()


def test_a_template_of_ones_own_has_places_for_all_three(tmp_path: Path) -> None:
    path = tmp_path / "template.txt"
    path.write_text("{prompt} {first}")
    with pytest.raises(UserError, match=r"has no \{second\}"):
        read_template(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        read_template(str(tmp_path / "none.txt"))
    path.write_text("{prompt}|{first}|{second}")
    assert read_template(str(path)) == "{prompt}|{first}|{second}"


def test_a_conversation_is_shown_with_its_roles() -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert text_of(messages) == "system: be brief\n\nuser: hi" and text_of("hi") == "hi"


@pytest.mark.parametrize(
    "answer", [b"<html>not json", b"[]", b"", b'{"error": {"code": 429, "message": "too many"}}']
)
def test_what_is_no_chat_completion_is_told_and_not_kept(tmp_path: Path, answer: bytes) -> None:
    """An address that is no judge's would otherwise have judged all, for good."""
    kept = tmp_path / "judge.jsonl"
    with judging(lambda _: (200, answer)) as (url, _), pytest.raises(AlignError, match="no chat completion"):
        ask(Judge(url=url, model="m"), QUESTIONS, kept)
    assert kept.read_text() == ""


def test_a_reply_that_was_cut_within_a_character_is_kept(tmp_path: Path) -> None:
    with judging(lambda _: (200, b'{"choices": [{"message": {"content": "[[A]] \\ud83d"}}]}')) as (url, _):
        found = ask(Judge(url=url, model="m"), QUESTIONS, tmp_path / "judge.jsonl")
    assert found[0].straight == 1.0
    assert "[[A]] ?" in (tmp_path / "judge.jsonl").read_text(encoding="utf-8")


def test_replies_are_kept_as_they_come(tmp_path: Path) -> None:
    """A first question that takes long holds up no others; what they cost is not lost with it."""
    kept, slow = tmp_path / "judge.jsonl", threading.Event()

    def reply(body: dict[str, Any]) -> tuple[int, bytes]:
        if "a good one" not in body["messages"][0]["content"]:
            return loves_good(body)
        slow.wait(10)
        return 400, b"refused"

    def advance() -> None:
        if len(kept.read_text().splitlines()) == 2:
            slow.set()

    with judging(reply) as (url, _), pytest.raises(UserError, match="answered 400"):
        ask(Judge(url=url, model="m", parallel=4), QUESTIONS, kept, advance)
    assert len(kept.read_text().splitlines()) == 2


def test_a_judge_on_this_machine_is_asked_without_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(service, "PAUSE", 0.0)
    with judging(loves_good) as (url, _):
        found = ask(Judge(url=url, model="m"), QUESTIONS, tmp_path / "judge.jsonl")
    assert [one.value for one in found] == [1.0, 0.0]
