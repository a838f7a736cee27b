"""A reviewer's verdicts: an answer is accepted, returned or rejected; nothing is overwritten, or unseen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import event, select, text  # noqa: E402
from sqlalchemy.exc import DBAPIError  # noqa: E402

from labeling.figures.gather import gather  # noqa: E402
from labeling.store.labels import history  # noqa: E402
from labeling.store.models import Audit, Label, Person, Summary, Verdict  # noqa: E402

HTML = {"Accept": "text/html"}
PAIR = {"ranks": [1, 2], "quality": [6, 2], "flags": [[], ["hallucination"]]}


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    site = make_site(database, overlap=1, gold_every=0)
    site.add({"prompt": "p", "responses": ["x", "y"]})
    return site


def said(client: Any, label: int, verdict: str, remark: str = "", last: Any = "") -> Any:
    given = {"said": verdict, "remark": remark, "last": str(last)}
    return client.post(f"/labels/{label}/verdict", data=given, headers=HTML)


def found(site: Any, query: Any) -> Any:
    with site.config.store.read() as session:
        return session.scalars(query).all()


def test_a_returned_answer_goes_back_with_the_remark_and_stands_until_the_next(team: Any) -> None:
    ann, bob, eve = team.signed_in("ann"), team.signed_in("bob"), team.signed_in("eve", "reviewer")
    assert team.answer(ann, PAIR).status_code == 200
    assert said(eve, 1, "returned").status_code == 409, "without a remark nobody knows what to change"
    assert said(eve, 1, "returned", "Read <b>B</b> again").status_code == 303
    assert len(team.records()) == 1, "it stands"
    assert bob.get("/work").headers["location"] == "/", "nobody else gets it"
    page = ann.get("/work", headers=HTML).text
    assert "Read &lt;b&gt;B&lt;/b&gt; again" in page and "returned your answer" in page
    task = team.taken(ann)
    assert sorted(task["draft"]["ranks"]) == [1, 2], "with the answer to change"
    assert team.answer(ann, {**PAIR, "ranks": [1, 1]}, task=task).status_code == 200
    assert [row["ranks"] for row in team.records()] == [[1, 1]]
    assert "returned" not in ann.get("/work", headers=HTML).text
    assert found(team, select(Verdict.said)) == ["returned"]


def test_a_rejected_answer_counts_nowhere_and_somebody_else_gets_the_task(team: Any) -> None:
    ann, bob, eve = team.signed_in("ann"), team.signed_in("bob"), team.signed_in("eve", "reviewer")
    task = team.taken(ann)
    assert team.answer(ann, PAIR, task=task).status_code == 200
    assert said(eve, 1, "rejected", "No reading at all").status_code == 303
    assert team.records() == []
    with team.config.store.read() as session:
        material = gather(session)
        assert material.answers == [] and material.withdrawn == {}
        assert session.get_one(Summary, 1).answers == 0
        person = session.scalars(select(Person).where(Person.name == "ann")).one()
        assert [v.remark for _, _, v in history(session, person) if v] == ["No reading at all"]
    assert "No reading at all" in ann.get("/history", headers=HTML).text
    assert ann.get("/work").headers["location"] == "/", "it does not come back to the same person"
    late = team.answer(ann, {**PAIR, "ranks": [2, 1]}, task=task)
    assert late.status_code == 409 and "rejected" in late.json()["detail"]
    assert team.answer(bob, PAIR).status_code == 200
    assert [row["labeler"] for row in team.records()] == ["bob"]
    assert found(team, select(Label.kind).order_by(Label.id)) == ["rank", "rejected", "rank"]
    assert team.records(until=1)[0]["labeler"] == "ann", "as the labels stood then"


def test_overlap_counts_what_stands(make_site: Callable[..., Any], database: str) -> None:
    site = make_site(database, overlap=2, gold_every=0)
    site.add({"prompt": "p", "responses": ["x", "y"]})
    people = [site.signed_in(name) for name in ("ann", "bob", "carl", "dora")]
    eve = site.signed_in("eve", "admin")
    for client in people[:2]:
        assert site.answer(client, PAIR).status_code == 200
    assert people[2].get("/work").headers["location"] == "/"
    assert said(eve, 2, "rejected", "no").status_code == 303
    assert site.answer(people[2], PAIR).status_code == 200
    assert people[3].get("/work").headers["location"] == "/"
    assert {row["labeler"] for row in site.records()} == {"ann", "carl"}


def test_the_second_verdict_is_told_and_replaces_only_what_was_seen(team: Any) -> None:
    ann, eve, finn = team.signed_in("ann"), team.signed_in("eve", "reviewer"), team.signed_in("finn", "admin")
    team.answer(ann, PAIR)
    assert said(eve, 1, "accepted").status_code == 303
    late = said(finn, 1, "rejected", "too fast")
    assert late.status_code == 409 and "meanwhile" in late.text and 'value="too fast"' in late.text
    assert len(team.records()) == 1
    assert said(finn, 1, "rejected", "too fast", last=1).status_code == 303
    assert said(eve, 1, "accepted", last=2).status_code == 409, "it is gone"
    assert found(team, select(Verdict.said).order_by(Verdict.id)) == ["accepted", "rejected"]
    assert found(team, select(Audit.action).order_by(Audit.id)) == [
        "accepted an answer",
        "rejected an answer",
    ]
    assert "accepted" in eve.get("/labels/1", headers=HTML).text


def test_a_verdict_on_an_answer_that_was_changed_meanwhile_is_refused(team: Any) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "reviewer")
    team.answer(ann, PAIR)
    assert ann.post("/reopen/1", json={}).status_code == 200
    assert team.answer(ann, {**PAIR, "ranks": [1, 1]}).status_code == 200
    for verdict in ("accepted", "returned", "rejected"):
        late = said(eve, 1, verdict, "r")
        assert late.status_code == 409 and "replaced" in late.text
    assert found(team, select(Verdict)) == [] and len(team.records()) == 1
    assert said(eve, 2, "accepted").status_code == 303


def test_a_second_reviewers_decision_is_told_before_it_replaces(make_site: Callable[..., Any]) -> None:
    site = make_site(overlap=2, gold_every=0)
    site.add({"prompt": "p", "responses": ["x", "y"]})
    for name in ("ann", "bob"):
        site.answer(site.signed_in(name), PAIR)
    eve, finn = site.signed_in("eve", "reviewer"), site.signed_in("finn", "reviewer")
    tasks = [site.taken_at(client, "/review/1") for client in (eve, finn)]
    assert site.answer(eve, PAIR, task=tasks[0], adjudicates=True).status_code == 200
    late = site.answer(finn, {**PAIR, "ranks": [1, 1]}, task=tasks[1], adjudicates=True)
    assert late.status_code == 409 and "eve has decided" in late.json()["detail"]
    assert [row["labeler"] for row in site.records()] == ["eve"]
    knowing = {"adjudicates": True, "instead_of": [late.json()["standing"]]}
    assert site.answer(finn, {**PAIR, "ranks": [1, 1]}, task=tasks[1], **knowing).status_code == 200
    assert [row["labeler"] for row in site.records()] == ["finn"]


def test_demonstrations_and_corrections_are_seen_in_full_and_rejected(make_site: Callable[..., Any]) -> None:
    site = make_site(gold_every=0)
    site.add({"prompt": "<i>write</i>"}, {"prompt": "fix", "responses": ["wrong one"]})
    ann, eve = site.signed_in("ann"), site.signed_in("eve", "reviewer")
    for words in ("<script>alert(1)</script> written", "right one"):
        assert site.answer(ann, {"text": words}).status_code == 200
    page = eve.get("/people/1/labels", headers=HTML).text
    assert "wrong one" in page and "right one" in page and "<script>alert" not in page
    assert "written" in eve.get("/review/1/answers", headers=HTML).text
    only = eve.get("/people/1/labels?kind=correct&state=undecided", headers=HTML).text
    assert "right one" in only and "alert(1)" not in only
    assert said(eve, 2, "rejected", "still wrong").status_code == 303
    assert [row["response"] for row in site.records("demonstrations")] == [
        "<script>alert(1)</script> written"
    ]
    assert "right one" in eve.get("/people/1/labels?state=rejected", headers=HTML).text
    assert "right one" not in eve.get("/people/1/labels?state=undecided", headers=HTML).text


def test_the_review_shows_quality_rewrites_seconds_flags_and_gold(make_site: Callable[..., Any]) -> None:
    site = make_site(gold_every=0)
    site.add({"prompt": "p", "responses": ["x", "y"]})
    ann, eve = site.signed_in("ann"), site.signed_in("eve", "reviewer")
    task = site.taken(ann)
    site.answer(ann, {**PAIR, "edit": {"response": 1, "text": "better words"}}, task=task)
    order = site.order(task)
    for path in ("/review/1/answers", "/people/1/labels", "/labels/1"):
        page = re.sub(r"\s+", " ", eve.get(path, headers=HTML).text)
        first, second = page.split("quality 6")[1], page.split("quality 2")[1]
        assert "better words" in page and re.search(r"\d seconds", page)
        assert "Hallucination" in second.split("</li>")[0], "the flag is on the second response"
        assert "Hallucination" not in first.split("</li>")[0]
        assert ["x", "y"][order[1]] in second.split("</li>")[0]
    decide = eve.get("/review/1", headers=HTML).text
    assert "quality 6" in decide and "Hallucination" in decide and "better words" in decide


def test_ten_thousand_reviews_are_listed_in_a_few_queries(make_site: Callable[..., Any]) -> None:
    site = make_site(gold_every=0)
    many = 10_000
    site.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(many)))
    ann, eve = site.person("ann"), site.signed_in("eve", "reviewer")
    content = {**PAIR, "note": "", "all_bad": False, "edit": None}
    with site.config.store.write() as session:
        row = {"person_id": ann.id, "kind": "rank", "content": content, "shown_order": [0, 1]}
        session.execute(
            Label.__table__.insert(),
            [
                {**row, "item_id": i + 1, "adjudicates": False, "submission": f"s{i}", "created": ann.created}
                for i in range(many)
            ],
        )
        counts = {"answers": 1, "undecided": 1, "skips": 0, "flags": 1, "decided": False, "apart": -1.0}
        session.execute(Summary.__table__.insert(), [{"item_id": i + 1, **counts} for i in range(many)])
    queries: list[str] = []
    event.listen(
        site.config.store.engine,
        "before_cursor_execute",
        lambda c, k, statement, *more: queries.append(statement),
    )
    for path, last in (("/review?which=open", "200"), (f"/people/{ann.id}/labels?state=undecided", "500")):
        for number in ("1", last, "999999"):
            queries.clear()
            page = eve.get(f"{path}&page={number}", headers=HTML)
            assert page.status_code == 200 and "10,000 in all" in page.text
            asked = [statement for statement in queries if statement.startswith("SELECT")]
            assert len(asked) <= 6, asked
        assert f"page {last} of {last}" in page.text


def test_what_reviewers_do_is_theirs_alone(team: Any) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "reviewer")
    team.answer(ann, PAIR)
    for path in ("/review", "/review/1", "/review/1/answers", "/labels/1", "/people/1/labels"):
        assert ann.get(path).status_code == 403, path
    assert said(ann, 1, "accepted").status_code == 403
    for path in ("/review/9/answers", "/labels/9", "/people/99/labels"):
        assert eve.get(path).status_code == 404
    assert said(eve, 9, "accepted").status_code == 409
    away = eve.post("/labels/1/verdict", data={"said": "accepted", "back": "//evil.example/"}, headers=HTML)
    assert away.headers["location"] == "/labels/1#label-1"
    own = team.signed_in("gus", "reviewer")
    team.add({"prompt": "q", "responses": ["x", "y"]})
    team.answer(own, PAIR)
    assert said(own, 2, "accepted").status_code == 409, "not one's own"
    for change in ("UPDATE verdict SET said = 'x'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="only ever added to"), team.config.store.write() as session:
            session.execute(text(change))


def test_a_returned_answer_that_its_person_keeps_is_to_be_reviewed_again(team: Any) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "reviewer")
    team.answer(ann, PAIR)
    assert said(eve, 1, "returned", "sure?").status_code == 303
    with team.config.store.read() as session:
        assert session.get_one(Summary, 1).undecided == 0
    assert ann.post(f"/work/{team.number(1)}/keep", json={}).status_code == 200
    with team.config.store.read() as session:
        assert session.get_one(Summary, 1).undecided == 1
    page = eve.get("/people/1/labels?state=kept", headers=HTML).text
    assert "Answer 1" in page and "Kept by ann" in page
    assert said(eve, 1, "rejected", "not sure", last=1).status_code == 409
    assert said(eve, 1, "accepted", last=2).status_code == 303
    assert len(team.records()) == 1


def test_the_undecided_of_a_page_are_accepted_at_once(team: Any) -> None:
    team.add(*({"prompt": f"q{i}", "responses": ["x", "y"]} for i in range(3)))
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "reviewer")
    for _ in range(4):
        team.answer(ann, PAIR)
    assert said(eve, 2, "rejected", "no").status_code == 303
    given = {"label": ["1", "2", "3", "99", "x"], "back": "/people/1/labels?kind=&state=undecided&page=1"}
    assert ann.post("/people/1/labels/accept", data=given).status_code == 403
    assert "Accept the 3 undecided" in eve.get("/people/1/labels", headers=HTML).text
    done = eve.post("/people/1/labels/accept", data=given)
    assert done.headers["location"] == f"{given['back']}&accepted=2"
    assert "2 answers were accepted" in eve.get(done.headers["location"], headers=HTML).text
    assert found(team, select(Verdict.said).order_by(Verdict.id)) == ["rejected", "accepted", "accepted"]
