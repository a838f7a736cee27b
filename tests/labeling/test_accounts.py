"""Accounts: opened again, renamed, reset, erased; names that a reader would take for each other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import text  # noqa: E402

from align.errors import UserError  # noqa: E402
from align.records import Ranking  # noqa: E402
from labeling.store.made_elsewhere import keep_rankings  # noqa: E402
from labeling.store.models import Tables  # noqa: E402
from labeling.store.names import check_scripts, skeleton  # noqa: E402

HTML = {"Accept": "text/html"}
PAIR = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    return make_site(database, gold_every=0)


def does(client: Any, person: int, what: str, **more: Any) -> Any:
    return client.post(f"/people/{person}/account", data={"what": what, **more}, headers=HTML)


@pytest.mark.parametrize(
    ("one", "other"),
    [("ann", "аnn"), ("ann", "Ann"), ("BOB", "ВОВ"), ("ace", "асе"), ("ann lee", "ann-lee"), ("bob", "b0b"),
     ("Νina", "Nina"), ("ﬁona", "fiona"), ("ann", "ａｎｎ")],
)  # fmt: skip
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize(("one", "other"), [("ann", "anna"), ("Ана", "Анна"), ("Jana", "Jána"), ("李", "木")])
def test_other_names_are_other_names(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


def test_a_word_mixes_no_scripts_that_share_letters() -> None:
    for name in ("аnn", "Νina", "bοb"):
        with pytest.raises(UserError, match="look alike"):
            check_scripts(name)
    for name in (
        "Анна",
        "Анна Smith",
        "田中 Hanako",
        "田中さくら",
        "Ågot O'Brien-Zoë",
        "김 Minji",
        "Ελένη 2",
    ):
        check_scripts(name)


def test_a_name_that_looks_like_anothers_is_refused_at_the_door(team: Any) -> None:
    team.person("ann")
    eve = team.signed_in("eve", "admin")
    link = re.search(r"/join/[\w-]+", eve.post("/people/invite", data={"role": "labeler"}, headers=HTML).text)
    assert link
    password = {"password": "long enough 1"}
    for name in ("аnn", "ANN", "асе mixed аnd", "erased 9"):
        refused = team.client().post(link[0], data={"name": name, **password}, headers=HTML)
        assert refused.status_code == 409, name
    assert team.client().post(link[0], data={"name": "anna", **password}).status_code == 303


def test_a_closed_account_opens_again_and_a_reset_link_sets_a_password(team: Any) -> None:
    ann, eve = team.person("ann", "labeler", "the old password"), team.signed_in("eve", "admin")
    assert eve.post(f"/people/{ann.id}/close", data={}).status_code == 303
    assert does(eve, ann.id, "reset").status_code == 409
    assert does(eve, ann.id, "reopen").status_code == 303
    old = {"name": "ann", "password": "the old password"}
    assert team.client().post("/signin", data=old).status_code == 303
    link = re.search(r"/signin/[\w-]+", does(eve, ann.id, "reset").text)
    assert link
    assert team.client().post("/signin", data=old).status_code == 401, "the old password is gone"
    client = team.client()
    assert client.get(link[0]).status_code == 200
    assert client.post(link[0]).status_code == 303 and client.post(link[0]).status_code == 410
    client.headers["X-CSRF-Token"] = client.get("/session").json()["csrf"]
    assert client.post("/account", data={"password": "a newer password"}).status_code == 200
    assert (
        team.client().post("/signin", data={"name": "ann", "password": "a newer password"}).status_code == 303
    )
    assert does(eve, 2, "reset").status_code == 409, "not one's own"


def test_a_renamed_persons_labels_follow_and_the_old_name_is_nobodys(team: Any) -> None:
    team.add({"prompt": "p", "responses": ["x", "y"]})
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "admin")
    assert team.answer(ann, PAIR).status_code == 200
    assert does(eve, 1, "rename", name="eva").status_code == 303
    assert does(eve, 1, "rename", name="EVE").status_code == 409
    assert [row["labeler"] for row in team.records()] == ["eva"]
    with pytest.raises(UserError, match="another account's before"):
        team.person("ann")
    assert does(eve, 1, "rename", name="ann").status_code == 303, "but the same person's again"
    assert [row["labeler"] for row in team.records()] == ["ann"]


def test_a_machine_gets_a_new_token_and_the_old_one_ends(team: Any) -> None:
    eve = team.signed_in("eve", "admin")

    def token(page: Any) -> dict[str, str]:
        found = re.search(r'class="secret">([\w-]+)<', page.text)
        assert found, page.text
        return {"Authorization": f"Bearer {found[1]}"}

    first = token(eve.post("/people/invite", data={"role": "machine", "name": "bot"}, headers=HTML))
    assert team.client().get("/api/v1/tasks", headers=first).status_code == 200
    again = eve.post("/people/invite", data={"role": "machine", "name": "bot"}, headers=HTML)
    assert again.status_code == 409 and "taken" in again.text
    second = token(does(eve, 2, "token"))
    assert team.client().get("/api/v1/tasks", headers=first).status_code == 401
    assert team.client().get("/api/v1/tasks", headers=second).status_code == 200
    assert does(eve, 1, "token").status_code == 409, "a person has none"


def everything(site: Any) -> str:
    """All that the database holds, as text."""
    with site.config.store.read() as session:
        rows = [
            json.dumps([str(value) for value in row], ensure_ascii=False)
            for table in Tables.metadata.tables
            for row in session.execute(text(f'SELECT * FROM "{table}"'))
        ]
    return "\n".join(rows)


def test_an_erased_persons_name_is_nowhere_and_the_labels_stay(team: Any) -> None:
    team.add(
        {"prompt": "p", "responses": ["x", "y"], "meta": {"asked by": ["Zoë Quist"]}},
        {"prompt": "q", "responses": [{"text": "x", "author": None}, "y"]},
    )
    zoe, eve = team.signed_in("Zoë Quist"), team.signed_in("eve", "admin")
    assert team.answer(zoe, PAIR).status_code == 200
    task = team.taken(zoe)
    assert zoe.post(f"/work/{task['number']}/draft", json={"note": "Zoë Quist was here"}).status_code == 200
    assert does(eve, 1, "rename", name="Zoë Quist-Berg").status_code == 303
    assert does(eve, 1, "rename", name="Zoë Quist").status_code == 303
    assert "Zoë Quist" in everything(team)
    assert does(eve, 1, "erase", name="Zoe").status_code == 409, "the name confirms it"
    assert does(eve, 1, "erase", name="Zoë Quist").status_code == 303
    left = everything(team) + everything(team).encode().decode("unicode_escape", "ignore")
    assert "Quist" not in left
    for path in ("/people", "/people/1", "/people/1/labels", "/review/1/answers", "/figures", "/audit"):
        assert "Quist" not in eve.get(path, headers=HTML).text
    assert [row["labeler"] for row in team.records()] == ["erased 1"]
    assert zoe.get("/work").status_code == 401
    for what in ("reopen", "reset", "rename"):
        assert does(eve, 1, what, name="back").status_code == 409
    with pytest.raises(UserError, match="before"):
        team.person("Zoë Quist")
    assert does(eve, 2, "erase", name="eve").status_code == 409, "not oneself"
    ranking = Ranking(prompt="q", responses=("x", "y"), ranks=(2, 1), labeler="Zoë Quist")
    with team.config.store.write() as session:
        assert keep_rankings(session, [(2, ranking)]) == 1
    with team.config.store.write() as session:
        assert keep_rankings(session, [(2, ranking)]) == 0
    assert [row["labeler"] for row in team.records()] == ["erased 1"] * 2
    assert "Quist" not in everything(team)


def test_accounts_are_an_admins_alone(team: Any) -> None:
    team.person("ann")
    for role in ("labeler", "reviewer"):
        client = team.signed_in(role, role)
        for what in ("reopen", "reset", "rename", "token", "erase"):
            assert does(client, 1, what, name="ann").status_code == 403
    eve = team.signed_in("eve", "admin")
    assert does(eve, 99, "reset").status_code == 404
    assert does(eve, 1, "melt").status_code == 409


def test_no_byte_of_an_erased_name_stays_in_sqlites_files(
    make_site: Callable[..., Any], tmp_path: Path
) -> None:
    site = make_site(gold_every=0)
    site.add(*({"prompt": f"p{i}", "responses": ["x", "y"], "meta": {"by": "Quist"}} for i in range(50)))
    zoe, eve = site.signed_in("Quist"), site.signed_in("eve", "admin")
    task = site.taken(zoe)
    for i in range(30):
        note = {"note": "Quist " * 40 + str(i)}
        assert zoe.post(f"/work/{task['number']}/draft", json=note).status_code == 200

    def found() -> list[str]:
        return [file.name for file in tmp_path.glob("labeling.db*") if b"Quist" in file.read_bytes()]

    assert found()
    assert does(eve, 1, "erase", name="Quist").status_code == 303
    assert found() == []
    assert eve.get("/people/1", headers=HTML).status_code == 200


def test_who_erases_is_told_where_a_reader_keeps_the_name_in_the_log(site: Any, monkeypatch: Any) -> None:
    site.person("Quist")
    eve = site.signed_in("eve", "admin")
    monkeypatch.setattr(type(site.config.store), "overwrite_freed", lambda store: False)
    page = does(eve, 1, "erase", name="Quist")
    assert page.status_code == 200 and "-wal" in page.text and "erased 1" in page.text


def test_names_that_came_with_tasks_follow_and_parts_of_other_words_stay(team: Any) -> None:
    meta = {"asked by": ["Ann", "Anniversary of Ann"], "Ann": {"deep": "by Ann."}}
    team.add({"prompt": "p", "responses": [{"text": "x", "origin": "human: Ann"}, "y"], "meta": meta})
    team.person("Ann")
    eve = team.signed_in("eve", "admin")
    assert does(eve, 1, "rename", name="Zoë Quist").status_code == 303
    assert "human: Zoë Quist" in everything(team) and "Anniversary of Zo" in everything(team)
    assert does(eve, 1, "erase", name="Zoë Quist").status_code == 303
    left = everything(team)
    assert "Quist" not in left and "Anniversary of erased 1" in left and "human: erased 1" in left
