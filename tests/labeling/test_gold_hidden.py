"""Nothing that a labeler can fetch tells a gold task from another one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import select  # noqa: E402

from labeling.store.models import Item  # noqa: E402
from labeling.store.suggestions import add_suggestions  # noqa: E402
from labeling.web.numbers import MOST, item_of, number_of  # noqa: E402

HTML = {"Accept": "text/html"}
NOTHING = {"quality": [None, None], "flags": [[], []]}


def row(i: int, gold: bool) -> dict[str, Any]:
    """Texts of the same length: what they say is no part of what is compared."""
    return {"prompt": f"p{i:03}", "responses": ["xxxx", "yyyy"]} | ({"gold": [1, 2]} if gold else {})


def plain(text: str) -> str:
    """A page without what is different on each: its number, its text, the counts."""
    text = re.sub(r"p\d\d\d|xxxx|yyyy", "TEXT", text)
    text = re.sub(r"number&#34;: \d+|data-reopen=\"\d+\"", "NUMBER", text)
    text = re.sub(r"&#34;ranks&#34;: \[\d, \d\]", "RANKS", text)
    return re.sub(r"\d+ done|\d+\+? to do|max=\"\d+\" value=\"\d+\"", "COUNT", text)


def counts(page: str) -> tuple[int, int]:
    found = re.search(r"(\d+) done · (\d+) to do", page)
    assert found
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("suggestions", ["off", "prefilled", "after"])
def test_a_labeler_cannot_tell_which_tasks_are_gold(make_site: Any, suggestions: str) -> None:
    site = make_site(gold_every=3, overlap=1, suggestions=suggestions, control=0.0)
    ids = site.add(*(row(i, gold=i >= 30) for i in range(40)))
    if suggestions != "off":
        bot = site.person("rm-bot", "machine")
        with site.config.store.write() as session:
            given = [(task, [2.0, 1.0]) for task in ids]
            add_suggestions(session, bot, "rm", "a1" * 32, given, secret=site.config.secret, labels=False)
    with site.config.store.read() as session:
        gold = set(session.scalars(select(Item.id).where(Item.gold.is_not(None))))
    ann = site.signed_in()
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    totals: list[int] = []
    order: list[bool] = []
    for turn in range(38):
        home = ann.get("/", headers=HTML).text
        page = ann.get("/work", headers=HTML)
        task = site.taken(ann)
        is_gold = task["item"] in gold
        order.append(is_gold)
        skips = turn in (5, 12, 20, 26)
        ranks = {"ranks": [2, 1], **NOTHING}
        if "start" in task and task["start"]["ranks"] == [2, 1]:
            ranks["ranks"] = [1, 2]
        draft = ann.post(f"/work/{task['number']}/draft?revision={task['revision']}", json=ranks)
        beat = ann.post(f"/work/{task['number']}/heartbeat", json={})
        content = {"reason": "other"} if skips else ranks
        sent = site.answer(ann, content, task=task, skip=skips)
        assert sent.status_code == 200, sent.text
        told = json.loads(sent.text)
        answered = ann.get(told["next"], headers=HTML).text if "next" in told else ""
        done, to_do = counts(page.text)
        assert f"{to_do} tasks are waiting" in home or f"{to_do} task is waiting" in home
        totals.append(done + to_do)
        assert all(str(item) != str(task["number"]) for item in ids)
        names = sorted(set(page.headers) | set(draft.headers) | set(sent.headers))
        if turn not in (0, 1) and not skips:  # the first pages have no last answer to reopen
            seen[is_gold].add(
                "\n".join(
                    (plain(page.text), draft.text, beat.text, str(sorted(told)), plain(answered), *names)
                )
            )
    assert 5 <= sum(order) <= 10, "there were some"
    skipped = [0] * 6 + [1] * 7 + [2] * 8 + [3] * 6 + [4] * 11
    assert totals == [totals[0] - less for less in skipped], "each task takes one away, whichever it is"
    assert totals[0] == 40
    variants = 2 if suggestions == "after" else 1  # the two agree, or they don't
    assert len(seen[False]) <= variants and seen[True] <= seen[False]


def test_when_gold_comes_is_drawn_for_each_person(make_site: Any) -> None:
    site = make_site(gold_every=5, overlap=9)
    site.add(*(row(i, gold=i >= 40) for i in range(48)))
    turns = {}
    for name in ("ann", "bob", "eve", "joe"):
        client, turns[name] = site.signed_in(name), []
        for turn in range(24):
            task = site.taken(client)
            if task["item"] > 40:
                turns[name].append(turn)
            site.answer(client, {"ranks": [1, 2], **NOTHING}, task=task)
        assert len(turns[name]) in (3, 4, 5)
    assert len({tuple(found) for found in turns.values()}) > 1
    assert any(b - a != 6 for found in turns.values() for a, b in zip(found, found[1:], strict=False))


def test_numbers_are_all_different_and_come_back() -> None:
    numbers = [number_of("secret", item) for item in range(1, 3000)]
    assert len(set(numbers)) == len(numbers) and min(numbers) >= 0 and max(numbers) <= MOST
    assert [item_of("secret", number) for number in numbers] == list(range(1, 3000))
    assert number_of("another", 7) != number_of("secret", 7)
    rising = sum(a < b for a, b in zip(numbers, numbers[1:], strict=False)) / (len(numbers) - 1)
    assert 0.45 < rising < 0.55, "their order says nothing"
