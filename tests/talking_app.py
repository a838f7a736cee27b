"""Apps with a policy to talk to, that says what a test tells it to."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from labeling_app import Site

if TYPE_CHECKING:
    from labeling.companion import Companion

# A policy that says what it is told to, in pieces: `die` ends it, `wait` never answers, `long` refuses,
# `chatter` prints what is no answer before and after its own, `deaf` reads no more, `mute` says no more,
# `broken` ends it in the middle, `slow` goes on for long. The second policy speaks in capitals.
PRETENDER = r"""
import json, os, queue, sys, threading, time
names = ["mine/ppo 12ab", "mine/sft 34cd"]
ready = {"ready": names[0], "template": sys.argv[1], "policies": names[: int(sys.argv[2])]}
print(json.dumps(ready), flush=True)
asked, stopped = queue.Queue(), set()
def read():
    for line in sys.stdin:
        found = json.loads(line)
        stopped.add(found["stop"]) if "stop" in found else asked.put(found)
    asked.put(None)
threading.Thread(target=read, daemon=True).start()
while (found := asked.get()) is not None:
    messages, named = found["messages"], {"id": found["id"]}
    word = messages[-1]["content"]
    def say(**said):
        print(json.dumps(named | said), flush=True)
    if word == "die":
        os._exit(1)
    if word == "wait":
        time.sleep(600)
    text = f"{len(messages)}: {word}"
    text = text.upper() if found["policy"] else text
    if word == "chatter":
        sys.stdout.buffer.write(b"Loading: 100%\n\xff\xfe\n[1]\n{}\n")
    if word == "long":
        say(error="begin a new conversation")
        continue
    say(piece=text[:3])
    if word == "broken":
        os._exit(1)
    if word.startswith("slow"):
        n = 0
        while found["id"] not in stopped and n < 1000:
            say(piece=f" {n}")
            n += 1
            time.sleep(0.02)
        say(text=text[:3] + "".join(f" {i}" for i in range(n)), stopped=n < 1000)
        continue
    say(piece=text[3:])
    say(text=text)
    if word == "chatter":
        print(json.dumps({"text": "of somebody else"}), "done", sep="\n", flush=True)
    if word == "deaf":
        time.sleep(600)
    if word == "mute":
        os.close(1)
        time.sleep(600)
"""


@pytest.fixture
def policy(tmp_path: Path) -> Iterator[Callable[..., Companion]]:
    """Starts pretenders."""
    path = tmp_path / "pretender.py"
    path.write_text(PRETENDER)
    from labeling.companion import Companion

    started: list[Companion] = []

    def start(template: str = "chat", policies: int = 1) -> Companion:
        started.append(Companion([sys.executable, str(path), template, str(policies)], policies))
        return started[-1]

    yield start
    for one in started:
        one.close()


def with_policies(site: Site, companion: Companion) -> Site:
    from labeling.web.app import make_app

    site.config = replace(site.config, companion=companion)
    site.app = make_app(site.config)
    return site


@pytest.fixture
def talking(make_site: Callable[..., Site], policy: Callable[..., Companion]) -> Site:
    return with_policies(make_site(), policy())


@pytest.fixture
def comparing(make_site: Callable[..., Site], policy: Callable[..., Companion]) -> Site:
    return with_policies(make_site(), policy(policies=2))


def asking(*messages: dict[str, str], ask: str = "f" * 32, turn: int = 0) -> dict[str, Any]:
    return {"messages": list(messages), "turn": turn, "ask": ask}


def told(client: Any, *messages: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The status of an answer, and how it ended."""
    response = client.post("/chat/answer", json=asking(*messages))
    if response.status_code != 200:
        return response.status_code, response.json()
    last = json.loads(response.text.splitlines()[-1])
    return last.get("status", 200), last


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}
