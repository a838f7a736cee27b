"""Figures from a database: what counts, who sees what, and what the page says while there is little."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
pytest.importorskip("evalica", reason="needs the `labeling` extra")
pytest.importorskip("krippendorff", reason="needs the `labeling` extra")

from sqlalchemy import event  # noqa: E402

from labeling.store.models import Item, Label, Person, Slot, now  # noqa: E402

HTML = {"Accept": "text/html"}
XYZ = {"responses": ["x", "y", "z"]}


def put(site: Any, item: int, person: Any, content: Any, kind: str | None = None, **more: Any) -> int:
    """A label as it would be after an answer; the number that it got."""
    with site.config.store.write() as session:
        found = session.get(Item, item)
        if isinstance(content, list):
            size = len(content)
            content = {"ranks": content, "quality": [None] * size, "flags": [[]] * size, "all_bad": False}
            content["edit"] = None
        elif isinstance(content, str):
            content = {"choice": content}
        label = Label(
            item_id=item,
            person_id=person.id,
            kind=kind or found.kind,
            content=content,
            shown_order=list(range(len(found.responses))),
            submission=secrets.token_hex(16),
            **{"seconds": 10.0, **more},
        )
        session.add(label)
        session.flush()
        return int(label.id)


@pytest.fixture
def team(make_site: Callable[..., Any]) -> Any:
    return filled(make_site(overlap=2))


@pytest.fixture
def everywhere(make_site: Callable[..., Any], database: str) -> Any:
    """The same on each kind of database."""
    return filled(make_site(database, overlap=2))


def filled(site: Any) -> Any:
    """With a little of everything, small enough to count by hand."""
    ann, bob = site.person("ann"), site.person("bob")
    eve, robot = site.person("eve", "reviewer"), site.person("robot", "machine")
    named = [{"text": "p", "origin": "old"}, {"text": "q", "origin": "new"}]
    one, two, three, four, five, six, seven = site.add(
        {"prompt": "one", **XYZ},
        {"prompt": "two", **XYZ},
        {"prompt": "three", **XYZ, "gold": [1, 2, 3]},
        {"prompt": "four", **XYZ},
        {"prompt": "five", "kind": "compare", "responses": named},
        {"prompt": "six", "kind": "compare", "responses": named[::-1]},
        {"prompt": "seven", "kind": "compare", "responses": ["p", "q"]},
    )
    put(site, one, ann, [1, 2, 3], seconds=20.0)
    replaced = put(site, one, bob, [3, 2, 1], seconds=90.0)  # he thought again
    put(site, one, bob, [1, 3, 2], replaces=replaced)
    put(site, one, eve, [3, 2, 1], adjudicates=True)
    put(site, one, robot, [3, 2, 1])
    put(site, two, ann, [1, 1, 2], seconds=40.0)
    put(site, two, bob, [1, 2, None], seconds=None)
    put(site, three, ann, [1, 2, 3], seconds=60.0)
    put(site, three, bob, [2, 1, 3])
    put(site, four, ann, {"reason": "unclear"}, kind="skip", seconds=500.0)
    taken_back = put(site, four, bob, [1, 2, 3])
    put(site, four, bob, {}, kind="withdrawn", replaces=taken_back)
    put(site, five, ann, "first")
    put(site, five, bob, "both_bad")
    put(site, six, ann, "first")
    put(site, seven, ann, "tie")
    with site.config.store.write() as session:
        for slot in session.query(Slot).filter(Slot.item_id.in_((one, two))):
            slot.state = "done"
        first, second = session.query(Slot).filter_by(item_id=four)
        first.state, first.leased_until = "leased", now() + timedelta(hours=1)
        second.state, second.leased_until = "leased", now() - timedelta(hours=1)
    return site


def figures(site: Any, role: str = "reviewer") -> dict[str, Any]:
    client = site.signed_in(f"the {role}", role)
    return dict(client.get("/api/v1/figures").json())


def test_agreement_counts_people_who_stand_by_their_answers(everywhere: Any) -> None:
    found = figures(everywhere)["agreement"]
    rankings = found["rankings"]
    assert rankings["value"] == pytest.approx((2 + 0.5) / 4)
    assert (rankings["count"], rankings["prompts"]) == (4, 2)
    assert found["decided"]["value"] == pytest.approx(2 / 3)
    assert found["tau"]["value"] == pytest.approx(1 / 3) and found["tau"]["low"] is None
    assert found["comparisons"]["value"] is None, "both bad orders nothing"
    assert (found["tasks"], found["partial"], found["alpha_quality"]) == (2, 1, None)


def test_each_person_has_their_own_counts(everywhere: Any) -> None:
    people = {person["name"]: person for person in figures(everywhere)["people"]}
    assert list(people) == ["ann", "bob", "eve"], "machines' labels are no person's"
    ann, bob, eve = people.values()
    assert ann["answers"] == {"rank": 2, "compare": 3} and bob["answers"] == {"rank": 2, "compare": 1}
    assert [p["gold_answers"] for p in (ann, bob, eve)] == [1, 1, 0]
    assert [p["skipped"] for p in (ann, bob, eve)] == [1, 0, 0]
    assert [p["withdrawn"] for p in (ann, bob, eve)] == [0, 2, 0], "changed once, taken back once"
    assert [p["decided"] for p in (ann, bob, eve)] == [0, 0, 1]
    assert ann["seconds"]["rank"] == {"median": 40.0, "lower": 30.0, "upper": 50.0, "count": 3}
    assert bob["seconds"]["rank"]["count"] == 2, "an answer without a time has none"
    assert ann["gold"]["value"] == 1.0 and bob["gold"]["value"] == pytest.approx(2 / 3)
    assert ann["with_others"]["value"] == pytest.approx(2.5 / 4) and eve["with_others"]["value"] is None


def test_policies_are_compared_blind_and_by_name(everywhere: Any) -> None:
    found = figures(everywhere)["policies"]
    assert (found["comparisons"], found["unnamed"], found["unrated"]) == (3, 1, None)
    (pair,) = found["pairings"]
    assert sorted((pair["first"], pair["second"])) == ["new", "old"]
    assert (pair["wins"], pair["ties"], pair["both_bad"], pair["losses"]) == (1, 0, 1, 1)
    assert pair["win_rate"]["value"] == 0.5
    assert [policy["rating"]["value"] for policy in found["policies"]] == pytest.approx([0, 0], abs=1e-6)


def test_progress_counts_places(everywhere: Any) -> None:
    found = figures(everywhere)
    assert found["gold_tasks"] == 1
    rank, compare = found["progress"]
    assert rank == {"kind": "rank", "tasks": 3, "done": 4, "leased": 1, "free": 1}, (
        "a lease that ended is free"
    )
    assert compare == {"kind": "compare", "tasks": 3, "done": 0, "leased": 0, "free": 6}
    assert sum(day["answers"] for day in found["days"]) == 10


def test_a_few_selects_are_enough(team: Any) -> None:
    from labeling.figures.compute import figures as compute

    asked: list[str] = []
    event.listen(team.config.store.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    with team.config.store.read() as session:
        compute(session)
    assert len([statement for statement in asked if statement.startswith("SELECT")]) <= 10


def test_days_without_answers_are_shown_and_old_ones_are_not(site: Any) -> None:
    ann = site.person("ann")
    items = site.add(*({"prompt": f"{i}"} for i in range(4)))
    last = datetime(2026, 3, 31, 12, tzinfo=UTC)
    for item, back in zip(items, (0, 0, 29, 30), strict=True):
        put(site, item, ann, {"text": "x"}, created=last - timedelta(days=back))
    days = figures(site)["days"]
    assert [day["day"] for day in (days[0], days[-1])] == ["2026-03-02", "2026-03-31"]
    assert [day["answers"] for day in days] == [1, *[0] * 28, 2]


def test_labelers_see_their_own_counts_and_nothing_that_breaks_the_blind(team: Any) -> None:
    client = team.signed_in("cat")
    answered = client.get("/api/v1/figures")
    assert answered.status_code == 403
    for path in ("/figures", "/figures?person=1", "/figures?name=ann"):
        text = client.get(path, headers=HTML).text
        assert "Your figures" in text and "You have not answered anything yet." in text
        assert not re.search("ann|bob|eve|gold|agree|Win rate", text, re.IGNORECASE)
    ann = team.client()
    with team.config.store.read() as session:
        ann.post(team.link(session.query(Person).filter_by(name="ann").one()))
    text = ann.get("/figures", headers=HTML).text
    assert "<strong>6</strong> answers of yours" in text, "a gold task is one of hers like any other"
    assert not re.search("bob|eve|gold|agree|Win rate", text, re.IGNORECASE)


@pytest.mark.parametrize("case", ["empty", "alone", "ties"])
def test_what_is_missing_is_said_calmly(site: Any, case: str) -> None:
    ann, bob = site.person("ann"), site.person("bob")
    named = [{"text": "p", "origin": "old"}, {"text": "q", "origin": "new"}]
    if case != "empty":
        items = site.add(
            {"prompt": "one", **XYZ},
            {"prompt": "two", **XYZ, "gold": [1, 1, 1]},
            {"prompt": "three", "kind": "compare", "responses": named},
        )
        for person in (ann, bob) if case == "ties" else (ann,):
            for item, content in zip(items, ([1, 1, 1], [1, 1, 1], "tie"), strict=True):
                put(site, item, person, content)
    client = site.signed_in("eve", "admin")
    text = client.get("/figures", headers=HTML).text
    assert not re.search(r"\b(nan|inf|None)\b", text, re.IGNORECASE)
    assert json.loads(client.get("/api/v1/figures").text, parse_constant=pytest.fail)
    if case == "empty":
        for missing in ("There are no tasks yet", "Nobody has answered", "There are no comparisons"):
            assert missing in text
        assert "<svg" not in text
    if case == "alone":
        assert "No two people have ordered the same task yet" in text
    if case == "ties":
        assert "100 %" in text and "Kendall" not in text, "who ties everything has no tau"


def test_names_in_charts_are_text(site: Any) -> None:
    from test_security import PAYLOADS

    items = site.add(
        *(
            {
                "prompt": f"{i}",
                "kind": "compare",
                "responses": [{"text": "p", "origin": payload}, {"text": "q", "origin": "plain"}],
            }
            for i, payload in enumerate(PAYLOADS)
        )
    )
    people = [site.person(payload[:80]) for payload in PAYLOADS if payload[:80].isprintable()]
    for item in items:
        for i, person in enumerate(people):
            put(site, item, person, "first" if i % 2 else "second")
    text = site.signed_in("eve", "admin").get("/figures", headers=HTML).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    ours = [f'<script type="module" src="/static/{name}.js">' for name in ("times", "signout")]
    assert re.findall(r"<script[^>]*>", text) == ours
    assert text.count("<img") == text.count("<iframe") == text.count("<math") == 0
    tags = re.findall(r"<(?!/|!)[^>]*>", text)
    assert not any(re.search(r"\son\w+=|style=|javascript:", re.sub(r'"[^"]*"', '""', tag)) for tag in tags)


def test_axe_finds_nothing_and_nothing_sticks_out(team: Any, visit: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    eve = team.person("eva with a name that is far too long for the width of a phone", "admin")
    put(team, 1, eve, [1, 2, 3])
    looks = ({"viewport": {"width": 1280, "height": 900}}, {"viewport": {"width": 390, "height": 800}})
    for look, scheme in zip(looks, ("light", "dark"), strict=True):
        page = visit(team, eve, **look, color_scheme=scheme)
        page.goto("/figures")
        assert page.locator("svg.chart").count() >= 8
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        found = axe.Axe().run(page).response["violations"]
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]
        assert page.get_by_role("img", name="Ratings").count() == 1


def test_the_terminal_has_the_same_numbers(team: Any, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from align.cli.app import app

    clear = {"text": "p", "origin": "clear\x1b[2J"}, {"text": "q", "origin": "new"}
    (item,) = team.add({"prompt": "eight", "kind": "compare", "responses": list(clear)})
    put(team, item, team.person("[red]joe"), "first")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"base: none\nrun: {{name: r}}\nlabeling: {{database: {tmp_path}/labeling.db}}\n")
    printed = CliRunner().invoke(app, ["label", "figures", str(recipe)]).output
    assert "62 %" in printed and "InstructGPT" in printed
    assert "[red]joe" in printed and "\x1b" not in printed and "clear\\x1b[2J" in printed
    (tmp_path / "labeling.db").rename(tmp_path / "moved.db")
    missing = CliRunner().invoke(app, ["label", "figures", str(recipe)])
    assert missing.exit_code == 2 and not (tmp_path / "labeling.db").exists()


def test_serving_loads_no_numeric_library() -> None:
    heavy = "{'numpy', 'pandas', 'scipy', 'evalica', 'krippendorff', 'torch'}"
    code = f"import sys, labeling.serve; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
