"""Disagreement is found, and a reviewer's word stands in training without hiding what others said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import func, select  # noqa: E402

from align.stats.rankings import disagreement  # noqa: E402
from labeling.store.models import Label  # noqa: E402

HTML = {"Accept": "text/html"}


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ([1, 2, 3], [1, 2, 3], (0, 3)),
        ([1, 2, 3], [3, 2, 1], (3, 3)),
        ([1, 2, 3], [1, 3, 2], (1, 3)),
        ([1, 1], [1, 2], (0.5, 1)),
        ([1, 1], [4, 4], (0, 1)),
        ([1, None, 2], [2, 1, 1], (1, 1)),
        ([1, None], [None, 1], (0, 0)),
    ],
)
def test_disagreement_is_counted_by_hand(one: Any, other: Any, apart: tuple[float, int]) -> None:
    assert disagreement(one, other) == disagreement(other, one) == apart
    assert disagreement(one) == disagreement() == (0, 0)
    assert disagreement(one, other, one) == (2 * apart[0], 2 * apart[1] + disagreement(one, one)[1])


def given(site: Any, client: Any, by_text: dict[str, int], task: dict[str, Any], **more: Any) -> Any:
    """Answer a task so that each text gets its rank, in whatever order this person sees them."""
    order = site.order(task)
    ranks = [list(by_text.values())[i] for i in order]
    content = {"ranks": ranks, "quality": [None] * len(ranks), "flags": [[] for _ in ranks]}
    return site.answer(client, content, task=task, **more)


def test_a_reviewers_word_stands_and_the_others_are_kept(make_site: Callable[..., Any]) -> None:
    site = make_site(overlap=2, gold_every=0)
    site.add(
        {"prompt": "calm", "responses": ["x", "y", "z"]}, {"prompt": "disputed", "responses": ["x", "y", "z"]}
    )
    ann, bob, eve = site.signed_in("ann"), site.signed_in("bob"), site.signed_in("eve", "reviewer")
    for client, second in ((ann, (1, 2, 3)), (bob, (3, 2, 1))):
        for ranks in ((1, 2, 3), second):
            assert (
                given(site, client, dict(zip("xyz", ranks, strict=True)), site.taken(client)).status_code
                == 200
            )
    assert ann.get("/review").status_code == ann.get("/review/1").status_code == 403
    text = eve.get("/review", headers=HTML).text
    assert text.index("disputed") < text.index("calm") and "100 %" in text and "0 %" in text
    task = site.taken_at(eve, "/review/2")
    assert given(site, eve, {"x": 2, "y": 1, "z": 2}, task, adjudicates=True).status_code == 200
    found = {row["prompt"]: [] for row in site.records()}
    for row in site.records():
        found[row["prompt"]].append((row["labeler"], row["ranks"]))
    assert found["calm"] == [("ann", [1, 2, 3]), ("bob", [1, 2, 3])]
    assert found["disputed"] == [("eve", [2, 1, 2])]
    assert given(site, eve, {"x": 1, "y": 1, "z": 1}, task, adjudicates=True).status_code == 200
    assert [r["ranks"] for r in site.records() if r["prompt"] == "disputed"] == [[1, 1, 1]]
    with site.config.store.read() as session:
        assert session.scalar(select(func.count()).select_from(Label)) == 6, "nothing was overwritten"
    page = eve.get("/review/2", headers=HTML).text
    assert "ann" in page and "bob" in page and "eve (decided)" in page
    assert eve.get("/review/99").status_code == 404
