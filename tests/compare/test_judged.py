"""Other judges in an evaluation: a model behind an address, and people's blind comparisons."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("evalica", reason="needs the `labeling` extra")

from align.compare.judged import by_people  # noqa: E402
from align.compare.policies import Policy  # noqa: E402
from align.compare.run import evaluate  # noqa: E402
from align.compare.show import tables  # noqa: E402
from align.recipe.load import load_recipe  # noqa: E402
from labeling.store.models import Item, Label  # noqa: E402

QUIET = Console(quiet=True)


class Longest(BaseHTTPRequestHandler):
    """Prefers the longer answer; when broken it says nothing that is a verdict."""

    count = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"].split("[Answer A]\n")[1].split("\n\nExplain")[0]
        first, second = text.split("\n\n[Answer B]\n")
        Longest.count += 1
        verdict = "[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]"
        said = "who can say" if self.server.broken else verdict  # type: ignore[attr-defined]
        raw = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def judge() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Longest)
    server.broken = False  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def path(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run.parents[1], tmp_path, dirs_exist_ok=True)
    return tmp_path / "recipe.yaml"


def run(path: Path, server: ThreadingHTTPServer) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    overrides = [f"run.folder={path.parent / 'runs'}", "evaluate.best_of=0"]
    return evaluate(
        load_recipe(path, [*overrides, f"evaluate.judge={{url: '{url}', model: m}}"]), console=QUIET
    )


def test_a_judge_gives_win_rates_and_ratings(path: Path, judge: ThreadingHTTPServer) -> None:
    found = run(path, judge)
    (one,) = (w for w in found["judge"]["wins"] if (w["policy"], w["against"]) == ("ppo", "sft"))
    folder = path.parent / "runs" / "tiny" / "evaluation"
    files = [file for file in (folder / "answers").iterdir() if "demonstrations" not in file.name]
    texts = {
        file.name.split("-")[0]: [json.loads(line)["response"] for line in file.open()] for file in files
    }
    pairs = zip(texts["ppo"], texts["sft"], strict=True)
    by_hand = [1.0 if len(a) > len(b) else 0.5 if len(a) == len(b) else 0.0 for a, b in pairs]
    assert one["win_rate"]["rate"]["value"] == pytest.approx(sum(by_hand) / 4)
    assert (one["no_verdict"], one["inconsistent"]) == (0, 0)
    assert len((folder / "judge.jsonl").read_text().splitlines()) <= 24  # 3 pairs, 4 prompts, 2 orders
    ratings = found["judge"]["ratings"]
    assert ratings["why_not"] or set(ratings["policies"]) == {"base", "sft", "ppo"}
    assert any("judge" in title for title, _, _ in tables(found))
    before = Longest.count
    assert run(path, judge)["judge"] == found["judge"] and Longest.count == before


def test_a_judge_without_verdicts_is_said(path: Path, judge: ThreadingHTTPServer) -> None:
    judge.broken = True  # type: ignore[attr-defined]
    found = run(path, judge)
    assert all(one["no_verdict"] == 4 for one in found["judge"]["wins"])
    assert all(one["win_rate"]["rate"]["value"] is None for one in found["judge"]["wins"])
    assert any("no verdict on 12 of 12 comparisons" in note for note in found["notes"])
    assert tables(found)


def test_peoples_blind_comparisons_stand_beside(path: Path, make_site: Callable[..., Any]) -> None:
    site = make_site()
    person = site.person("ann")
    named = [{"text": "x", "origin": "tiny/ppo abc"}, {"text": "y", "origin": "tiny/sft def"}]
    for prompt, choice in (("one", "first"), ("two", "first"), ("three", "second")):
        (item,) = site.add({"prompt": prompt, "kind": "compare", "responses": named})
        with site.config.store.write() as session:
            session.add(
                Label(
                    item_id=item,
                    person_id=person.id,
                    kind=session.get(Item, item).kind,
                    content={"choice": choice},
                    shown_order=[0, 1],
                    submission=secrets.token_hex(16),
                    seconds=5.0,
                )
            )
    database = path.parent / "labeling.db"
    recipe = load_recipe(path, [f"labeling.database={database}", f"run.folder={path.parent / 'runs'}"])
    told: list[str] = []
    found = by_people(recipe, [Policy("ppo", "tiny/ppo abc", "abc")], told.append)
    assert told == [] and found["comparisons"] == 3
    rates = {one["policy"] or one["origin"]: one["win_rate"].value for one in found["policies"]}
    assert rates == {"ppo": pytest.approx(2 / 3), "tiny/sft def": pytest.approx(1 / 3)}
    best = found["policies"][0]
    assert best["rating"].value == pytest.approx(200 * 0.30103, abs=0.1)  # odds of two to one, mean 0


def test_no_database_is_no_figure(path: Path) -> None:
    told: list[str] = []
    recipe = load_recipe(path, [f"run.folder={path.parent / 'runs'}"])
    assert by_people(recipe, [], told.append) == {} and told == []
