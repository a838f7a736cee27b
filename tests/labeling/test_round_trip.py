"""What was on the screen is what `align rm` reads: through HTTP, the database, and the data loader."""

from __future__ import annotations

import html
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.data.load import load
from align.errors import UserError
from align.recipe.data import Data, Source
from align.records import Demonstration, Prompt, Ranking

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import func, select  # noqa: E402

from labeling.answers import drawn_order, in_item_order, in_shown_order  # noqa: E402
from labeling.store.models import Label  # noqa: E402

NUMBERS = itertools.count()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
RANKS = st.lists(st.none() | st.integers(1, 9), min_size=2, max_size=9)


def trained_on(database: str, kind: Any = Ranking, **filters: Any) -> list[Any]:
    """What a stage gets of `data: {…: {labels: …}}`."""
    source = Source.model_validate({"labels": database, "held_out": 0.0, **filters})
    return list(load(kind, source, "rankings").train)


def content(ranks: list[int | None], **more: Any) -> dict[str, Any]:
    count = len(ranks)
    return {"ranks": ranks, "quality": [None] * count, "flags": [[] for _ in ranks], **more}


@pytest.fixture
def ann(site: Any, tmp_path: Path) -> tuple[Any, Any, str]:
    return site, site.signed_in("ann"), str(tmp_path / "labeling.db")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), ranks=RANKS, all_bad=st.booleans())
def test_the_record_has_the_ranks_that_were_shown(
    ann: tuple[Any, Any, str], data: st.DataObject, ranks: list[int | None], all_bad: bool
) -> None:
    site, client, database = ann
    one = TEXT.filter(str.strip)
    texts = data.draw(st.lists(one, min_size=len(ranks), max_size=len(ranks), unique=True))
    prompt = f"prompt {next(NUMBERS)}"
    site.add({"prompt": prompt, "responses": texts, "priority": next(NUMBERS)})
    task = site.taken(client)
    order = site.order(task)
    given_ranks = {texts[order[place]]: rank for place, rank in enumerate(ranks)}
    reply = site.answer(client, content(ranks, all_bad=all_bad), task=task)
    ranked = sum(rank is not None for rank in ranks)
    assert reply.status_code == (200 if ranked > 1 or all_bad else 409), reply.text
    if reply.status_code == 409:
        assert site.answer(client, {"reason": "other"}, skip=True, task=task).status_code == 200
    found = [record for record in trained_on(database) if record.prompt == prompt] if site.records() else []
    if ranked < 2:  # nothing is ordered: nothing to train on
        assert found == []
        return
    (record,) = found
    assert dict(zip(record.responses, record.ranks, strict=True)) == given_ranks
    assert record.shown_order == tuple(order) and record.labeler == "ann"
    assert record.guideline == task["guideline"]


@given(count=st.integers(1, 9), seed=st.integers(0, 10**6), data=st.data())
def test_the_orders_undo_each_other(count: int, seed: int, data: st.DataObject) -> None:
    order = drawn_order(str(seed), 1, 1, count)
    column = st.lists(st.integers(0, 99), min_size=count, max_size=count)
    shown = {"ranks": data.draw(column), "quality": data.draw(column), "flags": data.draw(column)}
    shown["edit"] = {"response": data.draw(st.integers(0, count - 1)), "text": "t"}
    stored = in_item_order("rank", shown, order)
    assert [stored["ranks"][order[place]] for place in range(count)] == shown["ranks"]
    assert stored["edit"]["response"] == order[shown["edit"]["response"]]
    assert in_shown_order("rank", stored, order) == shown


def test_a_conversation_with_tools_is_shown_and_comes_back_whole(site: Any) -> None:
    call = {"type": "function", "function": {"name": "warmth", "arguments": '{"city": "Rome"}'}}
    prompt = [
        {"role": "user", "content": "Is it warm?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "31 degrees", "name": "warmth"},
    ]
    row = {"prompt": prompt, "tools": [{"name": "warmth", "description": "How warm it is."}]}
    site.add({**row, "responses": ["Yes.", "No."], "kind": "compare"})
    ann = site.signed_in()
    page = html.unescape(ann.get("/work", headers={"Accept": "text/html"}).text)
    for shown in ("How warm it is.", 'warmth({"city": "Rome"})', "31 degrees", '<p class="role">Tool</p>'):
        assert shown in page
    assert site.answer(ann, {"choice": "first"}).status_code == 200
    (record,) = (Ranking.from_dict(made) for made in site.records())
    assert record.prompt == Prompt.from_dict(row).prompt


@pytest.mark.parametrize(
    ("choice", "ranks"), [("first", 0), ("second", 1), ("tie", None), ("both_bad", None)]
)
def test_a_comparison_is_a_ranking_of_two(site: Any, choice: str, ranks: int | None) -> None:
    items = site.add(*({"prompt": f"p{i}", "responses": ["x", "y"], "kind": "compare"} for i in range(6)))
    client = site.signed_in()
    me = client.get("/session").json()["person"]
    for item in items:
        assert site.answer(client, {"choice": choice}).status_code == 200
        order = drawn_order(site.config.secret, item, me, 2)
        found = [row["ranks"] for row in site.records() if row["prompt"] == f"p{item - 1}"]
        if choice == "both_bad":
            assert found == []
        else:
            assert found == [[1, 1] if ranks is None else [1, 2] if order[ranks] == 0 else [2, 1]]
    # both orders are drawn; among six items alone they would all be the same one time in 32
    assert {tuple(drawn_order(site.config.secret, i, me, 2)) for i in range(64)} == {(0, 1), (1, 0)}


def test_what_people_write_is_a_demonstration(site: Any, tmp_path: Path) -> None:
    conversation = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Sum?"},
    ]
    site.add(
        {"prompt": conversation, "priority": 3},
        {"prompt": "q", "responses": ["wrong"], "priority": 2},
        {"prompt": "r", "responses": ["a", "b"], "priority": 1},
    )
    client = site.signed_in()
    assert site.answer(client, {"text": "It is 4."}).status_code == 200
    assert site.answer(client, {"text": "right"}).status_code == 200
    task = site.taken(client)
    shown = site.order(task)
    edit = {"response": shown.index(1), "text": "b, better"}
    assert site.answer(client, content([1, 2], edit=edit), task=task).status_code == 200
    database = str(tmp_path / "labeling.db")
    written = trained_on(database, Demonstration)
    assert written == [
        Demonstration(tuple(conversation), "It is 4."),
        Demonstration("q", "right"),
        Demonstration("r", "b, better"),
    ]
    assert [p.prompt for p in trained_on(database, Prompt)] == [tuple(conversation), "q", "r"]


def test_filters_choose_labelers_and_guidelines(make_site: Callable[..., Any], tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text("one")
    site = make_site(overlap=2, guideline=str(guide))
    site.add({"prompt": "p", "responses": ["x", "y"]})
    ann, bob = site.signed_in("ann"), site.signed_in("bob")
    first = site.taken(ann)["guideline"]
    assert site.answer(ann, content([1, 2])).status_code == 200
    guide.write_text("two")
    assert site.answer(bob, content([1, 1])).status_code == 200
    database = str(tmp_path / "labeling.db")
    assert len(trained_on(database)) == 2
    assert [r.labeler for r in trained_on(database, labelers=["bob"])] == ["bob"]
    assert [r.labeler for r in trained_on(database, guideline=first[:8])] == ["ann"]
    with pytest.raises(UserError, match="nobody is called eve"):
        trained_on(database, labelers=["eve"])
    with pytest.raises(UserError, match="no rankings yet, of those asked for"):
        trained_on(database, guideline="0" * 64)
    with pytest.raises(UserError, match="no such labeling database"):
        trained_on(str(tmp_path / "other.db"))


def test_agreement_leaves_out_what_people_order_differently(
    make_site: Callable[..., Any], tmp_path: Path
) -> None:
    site = make_site(overlap=2)
    people = [site.signed_in("ann"), site.signed_in("bob"), site.signed_in("rev", "reviewer")]
    rankings = {  # a ranking each; of the pairs that both ranked, how many they order alike
        "same": ([1, 2, 3], [1, 2, 3]),  # 3 of 3
        "two thirds": ([1, 2, 3], [2, 1, 3]),
        "a tie": ([1, 2, 3], [1, 1, 3]),  # 2.5 of 3
        "opposite": ([1, 2, 3], [3, 2, 1]),
        "apart": ([1, 2, None], [None, 1, 2]),  # no pair in common
        "alone": ([1, 2, 3], None),
        "decided": ([1, 2, 3], [3, 2, 1]),
    }
    items = site.add(
        *({"prompt": name, "responses": ["x", "y", "z"], "priority": -i} for i, name in enumerate(rankings))
    )
    by_id = dict(zip(items, rankings, strict=True))

    def in_order_shown(task: dict[str, Any], ranks: list[int | None]) -> dict[str, Any]:
        order = site.order(task)
        return content([ranks[index] for index in order])

    for number, client in enumerate(people[:2]):
        for _ in rankings:
            task = site.taken(client)
            ranks = rankings[by_id[task["item"]]][number]
            given = {"content": in_order_shown(task, ranks)} if ranks else {"content": {"reason": "other"}}
            reply = site.answer(client, **given, skip=ranks is None, task=task)
            assert reply.status_code == 200, reply.text
    decided = site.taken_at(people[2], f"/review/{items[-1]}")
    answer = site.answer(people[2], in_order_shown(decided, [2, 1, 3]), task=decided, adjudicates=True)
    assert answer.status_code == 200

    def prompts(**filters: Any) -> dict[str, int]:
        return Counter(record.prompt for record in trained_on(str(tmp_path / "labeling.db"), **filters))

    always = {"same": 2, "apart": 2, "alone": 1, "decided": 1}
    assert prompts() == always | {"two thirds": 2, "a tie": 2, "opposite": 2}
    assert prompts(agreement=0.6) == always | {"two thirds": 2, "a tie": 2}
    assert prompts(agreement=0.8) == always | {"a tie": 2}
    assert prompts(agreement=1.0) == always
    # others' answers count, also where only one person's are asked for
    assert prompts(agreement=1.0, labelers=["ann"]) == {"same": 1, "apart": 1, "alone": 1}


def test_corrections_are_rankings_where_they_are_asked_for(site: Any, tmp_path: Path) -> None:
    site.add(
        {"prompt": "q", "responses": ["wrong"], "priority": 3},
        {"prompt": "same", "responses": ["fine"], "priority": 2},
        {"prompt": "r", "responses": ["a", "b", "c"], "priority": 1},
    )
    client = site.signed_in()
    assert site.answer(client, {"text": "right"}).status_code == 200
    assert site.answer(client, {"text": "fine "}).status_code == 409, (
        "nothing was changed: that is to be said"
    )
    assert site.answer(client, {"text": "fine "}, affirmed=True).status_code == 200
    task = site.taken(client)
    order = site.order(task)
    edit = {"response": order.index(1), "text": "b, better"}
    given = content([None, None, None], edit=edit, all_bad=True)
    assert site.answer(client, given, task=task).status_code == 200
    database = str(tmp_path / "labeling.db")
    with pytest.raises(UserError, match="no rankings yet"):
        trained_on(database)
    found = trained_on(database, corrections=True)
    assert [(r.prompt, r.responses, r.ranks, r.source) for r in found] == [
        ("q", ("right", "wrong"), (1, 2), "correction 1"),
        ("r", ("b, better", "b"), (1, 2), "correction 3"),
    ]
    assert {r.guideline for r in found} == {task["guideline"]} and {r.labeler for r in found} == {"ann"}
    with pytest.raises(ValueError, match=r"belongs under data\.rankings"):
        Data.model_validate({"demonstrations": {"labels": database, "corrections": True}})
    with pytest.raises(ValueError, match="choose labels of a labeling database"):
        Data.model_validate({"rankings": {"train": {"path": "a.jsonl", "corrections": True}}})


def test_labels_are_found_again_as_they_were(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = make_site(overlap=2)
    (item,) = site.add({"prompt": "p", "responses": ["x", "y"]})
    client, other, reviewer = site.signed_in("ann"), site.signed_in("bob"), site.signed_in("rev", "reviewer")
    assert site.answer(client, content([1, 1])).status_code == 200
    seen: dict[int, list[Any]] = {}

    def note() -> None:
        rows = site.records()
        with site.config.store.read() as session:
            seen[session.scalar(select(func.max(Label.id)))] = rows

    note()
    assert site.answer(other, content([1, 2])).status_code == 200
    note()
    assert client.post("/reopen/1").status_code == 200
    assert site.answer(client, content([2, 1])).status_code == 200
    note()
    decided = site.taken_at(reviewer, f"/review/{item}")
    assert site.answer(reviewer, content([1, 2]), task=decided, adjudicates=True).status_code == 200
    note()
    assert [len(rows) for rows in seen.values()] == [1, 2, 2, 1]
    for label, rows in seen.items():
        assert site.records(until=label) == rows


@pytest.mark.parametrize("filters", [{}, {"agreement": 0.9, "corrections": True}])
def test_a_prompt_stays_on_its_side_as_labels_grow(
    site: Any, tmp_path: Path, filters: dict[str, Any]
) -> None:
    site.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(30)))
    client = site.signed_in()
    source = Source.model_validate({"labels": str(tmp_path / "labeling.db"), "held_out": 0.3, **filters})
    sides: list[tuple[set[Any], set[Any]]] = []
    for _ in range(2):
        for _ in range(15):
            site.answer(client, content([1, 2]))
        split = load(Ranking, source, "rankings")
        sides.append(({r.prompt for r in split.train}, {r.prompt for r in split.held_out}))
    assert len(sides[1][0] | sides[1][1]) == 30
    assert sides[0][0] <= sides[1][0] and sides[0][1] <= sides[1][1]
