"""Checks that print, read, hang, exit, give nonsense or tell secrets: what people see, what is left."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
httpx2 = pytest.importorskip("httpx2")

ROOT = Path(__file__).resolve().parents[2]
JUDGES = """
import os, subprocess, sys, time

def prints(prompts, responses):
    print("{}", flush=True)
    os.write(1, b'{"id": 1, "passed": true, "says": "forged"}')
    os.system("echo from below")
    return [False] * len(responses)

def reads(prompts, responses):
    return [f"It read {sys.stdin.read()!r}"] * len(responses)

def says(prompts, responses):
    told = {"html": "<script>alert(1)</script>", "huge": "x" * 10_000_000, "nul": "a\\0b\\ud800c"}
    return [told[responses[0]]] * len(responses)

def gives(prompts, responses):
    def endless():
        while True:
            yield 1
    return eval(responses[0])

def hides(prompts, responses):
    raise ConnectionError("POST https://bot:hunter2@judge.example")

def stops(prompts, responses):
    class Odd(BaseException):
        pass
    def odd(code):
        raise Odd("told on the terminal")
    {"exit": sys.exit, "_exit": os._exit, "odd": odd}[responses[0]](3)

def hangs(prompts, responses):
    if responses[0] == "hang":
        subprocess.Popen(["sleep", "301"])
        time.sleep(300)
    return [True] * len(responses)
"""
NAMES = ("prints", "reads", "says", "gives", "hides", "stops", "hangs")


@pytest.fixture
def asked(make_site: Any, tmp_path: Path) -> Iterator[Any]:
    yield from asking_in(make_site, tmp_path, None)


def asking_in(make_site: Any, tmp_path: Path, database: str | None) -> Iterator[Any]:
    """Asks a check of somebody's text: the status, and what the app says. Then the text is sent."""
    (tmp_path / "judges.py").write_text(JUDGES)
    functions = [{"function": f"{tmp_path / 'judges.py'}:{name}", "timeout": 20} for name in NAMES]
    site = make_site(database, checks=functions)
    site.add({"prompt": "P"})
    ann = site.signed_in()
    task = site.taken(ann)

    def ask(check: str, text: str) -> tuple[int, Any]:
        reply = ann.post(f"/work/{task['number']}/check", json={"check": check, "text": text})
        found = reply.json()
        return reply.status_code, found.get("detail", found)

    yield ask
    assert site.answer(ann, {"text": "sent"}, task=task).status_code == 200
    lead = site.signed_in("lead", "admin")
    label = lead.get("/api/v1/labels").json()["labels"][0]
    assert label["checks"], "what was said is kept"
    page = lead.get("/labels/1", headers={"Accept": "text/html"})
    assert page.status_code == 200 and "<script>alert" not in page.text
    site.app.state.checking.close()


def test_what_a_function_prints_and_reads_is_no_answer(asked: Any) -> None:
    assert asked("prints", "x") == (200, {"passed": False, "says": ""})
    assert asked("prints", "x") == (200, {"passed": False, "says": ""})
    assert asked("reads", "x") == (200, {"passed": False, "says": "It read ''"})


def test_whatever_it_says_can_be_shown_and_kept(make_site: Any, tmp_path: Path, database: str) -> None:
    going = asking_in(make_site, tmp_path, database)
    asked = next(going)
    assert asked("says", "html")[1]["says"] == "<script>alert(1)</script>"
    assert asked("says", "huge")[1]["says"] == "x" * 2000
    assert asked("says", "nul")[1]["says"] == "a�b�c"
    assert next(going, None) is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("None", "it gave a NoneType; a list, one value a response, is needed"),
        ("'Too long.'", "it gave a str; a list"),
        ("{'score': 1}", "it gave a dict; a list"),
        ("[float('nan')]", "it gave something else than numbers"),
        ("[10**400]", "it gave something else than numbers"),
        ("[[1]]", "it gave something else than numbers"),
        ("[]", "it gave 0 values for 1 responses"),
        ("endless()", "it gave more than 1 values for 1 responses"),
    ],
)
def test_nonsense_is_told_as_such(asked: Any, given: str, says: str) -> None:
    status, said = asked("gives", given)
    assert status == 503 and says in said and said.endswith("Your answer is kept; you can send it."), said
    assert asked("gives", "[3]") == (200, {"score": 3.0, "above": 0, "of": 0})


def test_what_an_error_says_is_for_the_terminal_alone(asked: Any, capfd: Any) -> None:
    status, said = asked("hides", "x")
    assert status == 503 and "it raised ConnectionError (judges.py, line " in said
    assert "hunter2" not in said and "hunter2" in capfd.readouterr().err


@pytest.mark.parametrize("way", ["exit", "_exit", "odd"])
def test_one_that_ends_python_is_started_again(asked: Any, way: str) -> None:
    status, said = asked("stops", way)
    assert status == 503 and "hunter2" not in said
    assert "it raised SystemExit" in said if way == "exit" else "it has stopped" in said
    assert asked("stops", "other")[1].startswith("The check stops failed: it raised KeyError")


def running(folder: Path) -> list[int]:
    """Processes of checks whose recipe lies in a folder, and what they started."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,pgid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 3) for line in found.splitlines()[1:]]
    mine = {int(row[0]) for row in rows if "align.loop.checks" in row[3] and inside(int(row[0]), folder)}
    return [int(row[0]) for row in rows if int(row[2]) in mine]


def gone(processes: list[int], within: float) -> bool:
    until = time.monotonic() + within
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def inside(process: int, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{process}/cwd") == str(folder)
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_of_a_check_outlives_the_app(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "judges.py").write_text(JUDGES)
    checks = "labeling: {checks: [{function: judges.py:hangs, timeout: 4}]}\n"
    (tmp_path / "r.yaml").write_text(f"base: none\nrun: {{name: demo}}\n{checks}")
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "P"}\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    align = [sys.executable, "-m", "align", "label"]
    subprocess.run([*align, "import", "r.yaml", "tasks.jsonl"], cwd=tmp_path, env=environment, check=True)
    app = subprocess.Popen(
        [*align, "r.yaml", "--port", "0"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert app.stdout is not None
    said = ""
    while not (link := re.search(r"(http://[^/]+)(/signin/\S+)", said)):
        said += app.stdout.readline()
    with httpx2.Client(base_url=link[1], follow_redirects=True, timeout=30) as ann:
        assert ann.post(link[2]).status_code == 200
        ann.headers["X-CSRF-Token"] = ann.get("/session").json()["csrf"]
        page = ann.get("/work", headers={"Accept": "text/html"}).text
        task = re.search(r'data-task="([^"]*)"', page)
        assert task is not None, page
        path = f"/work/{json.loads(html.unescape(task[1]))['number']}/check"

        def hang() -> None:
            with suppress(httpx2.HTTPError):
                ann.post(path, json={"check": "hangs", "text": "hang"})

        asking = threading.Thread(target=hang)
        asking.start()
        until = time.monotonic() + 60
        while len(running(tmp_path)) < 2:
            assert time.monotonic() < until, "the check was never asked"
            time.sleep(0.1)
        started = running(tmp_path)
        app.send_signal(end)
        app.communicate(timeout=30)
        asking.join(30)
    check, *below = started
    # After SIGKILL the check ends by itself, 5 s after its time.
    assert gone([check], within=40 if end == signal.SIGKILL else 10)
    if end == signal.SIGKILL:  # of what the check itself started nobody knows any more
        os.killpg(check, signal.SIGKILL)
    else:
        assert gone(below, within=10)
