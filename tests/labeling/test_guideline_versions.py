"""The guideline is edited in the app: versions, differences, and what labelers are told of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import select, text  # noqa: E402
from sqlalchemy.exc import DBAPIError  # noqa: E402

from labeling.store.guidelines import differences, digest  # noqa: E402
from labeling.store.models import Audit, GuidelineVersion  # noqa: E402

HTML = {"Accept": "text/html"}
PAIR = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    file = tmp_path / "guide.md"
    file.write_text("# Rules\n\nBe kind.\n")
    return file


@pytest.fixture
def team(make_site: Callable[..., Any], database: str, guide: Path) -> Any:
    site = make_site(database, gold_every=0, guideline=str(guide))
    site.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(4)))
    return site


def edits(client: Any, words: str, base: str, **more: str) -> Any:
    return client.post("/guideline/edit", data={"text": words, "base": base, **more}, headers=HTML)


def base_of(client: Any) -> str:
    found = re.search(r'name="base" value="(\w+)"', client.get("/guideline/edit", headers=HTML).text)
    assert found
    return found[1]


def test_an_edit_is_told_to_who_worked_before_and_is_in_the_history(team: Any) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "admin")
    first = team.taken(ann)["guideline"]
    assert team.answer(ann, PAIR).status_code == 200
    assert "has changed" not in ann.get("/work", headers=HTML).text
    words = "# Rules\r\n\r\nBe kind & <b>true</b>.\r\n"
    assert edits(eve, words, base_of(eve), remark="truth too").status_code == 303
    task = team.taken(ann)
    assert task["guideline"] == digest("# Rules\n\nBe kind & <b>true</b>.\n") != first
    page = ann.get("/work", headers=HTML).text
    assert "has changed since you last worked" in page and f"/guideline/changes?old={first}" in page
    told = ann.get(f"/guideline/changes?old={first}", headers=HTML).text
    assert "− Be kind.</del>" in told and "+ Be kind &amp; &lt;b&gt;true&lt;/b&gt;.</ins>" in told
    assert team.answer(ann, PAIR, task=task).status_code == 200
    assert "has changed" not in ann.get("/work", headers=HTML).text
    history = eve.get("/guideline/history", headers=HTML).text
    assert "truth too" in history and "the file" in history and ">eve<" in history
    assert ">eve<" not in ann.get("/guideline/history", headers=HTML).text, "labelers see no names"
    with team.config.store.read() as session:
        assert session.scalars(select(Audit.action)).all() == ["changed the guideline"]
    with pytest.raises(DBAPIError, match="only ever added to"), team.config.store.write() as session:
        session.execute(text("DELETE FROM guideline_version"))


def test_the_file_counts_again_when_it_changes_and_its_absence_stops_nobody(team: Any, guide: Path) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "admin")
    assert "Be kind" in ann.get("/guideline", headers=HTML).text
    assert edits(eve, "edited", base_of(eve)).status_code == 303
    assert "edited" in ann.get("/guideline", headers=HTML).text, "the file is older"
    assert team.taken(ann)["guideline"] == digest("edited\n")
    guide.write_text("from the file")
    assert "from the file" in ann.get("/guideline", headers=HTML).text
    assert team.taken(ann)["guideline"] == digest("from the file")
    guide.rename(guide.with_suffix(".moved"))
    assert team.taken(ann)["guideline"] == digest("from the file"), "work goes on"
    assert "cannot be read" not in ann.get("/guideline", headers=HTML).text
    told = eve.get("/guideline", headers=HTML).text
    assert "guide.md: No such file" in told and "from the file" in told
    with team.config.store.read() as session:
        found = session.scalars(select(GuidelineVersion.hash).order_by(GuidelineVersion.id)).all()
    assert [version[:6] for version in found] == [
        digest(words)[:6] for words in ("# Rules\n\nBe kind.\n", "edited\n", "from the file")
    ]


def test_two_who_edit_at_once_overwrite_nothing_unseen(team: Any) -> None:
    eve, finn = team.signed_in("eve", "admin"), team.signed_in("finn", "admin")
    base = base_of(finn)
    assert edits(eve, "eve's", base).status_code == 303
    late = edits(finn, "finn's", base)
    assert late.status_code == 409 and "finn&#39;s" in late.text and "changed meanwhile" in late.text
    assert "eve's" in eve.get("/guideline", headers=HTML).text
    found = re.search(r'name="base" value="(\w+)"', late.text)
    assert found and edits(finn, "both", found[1]).status_code == 303
    assert edits(finn, " ", base_of(finn)).status_code == 422
    seen = edits(finn, "**bold**", base_of(finn), what="preview")
    assert seen.status_code == 200 and "<strong>bold</strong>" in seen.text
    assert "both" in eve.get("/guideline", headers=HTML).text


def test_only_admins_edit(team: Any) -> None:
    for role in ("labeler", "reviewer"):
        client = team.signed_in(role, role)
        assert client.get("/guideline/edit").status_code == 403
        assert edits(client, "mine", "0" * 64).status_code == 403
        assert client.get("/guideline/history").status_code == 200
        assert client.get(f"/guideline/changes?old={'0' * 64}").status_code == 404
        assert client.get("/guideline/changes?old=zz").status_code == 422


def test_a_template_does_not_come_back_over_an_edit(make_site: Callable[..., Any], monkeypatch: Any) -> None:
    site = make_site(gold_every=0)
    eve = site.signed_in("eve", "admin")
    assert edits(eve, "ours", base_of(eve)).status_code == 303
    monkeypatch.setattr("labeling.web.config.read_guideline", lambda path: "the template of a newer align")
    assert "ours" in eve.get("/guideline", headers=HTML).text


def test_differences_are_lines() -> None:
    old = "\n".join(f"line {i}" for i in range(20))
    found = list(differences(old, old.replace("line 10", "another")))
    assert [line for line in found if line[0] in "+-"] == [("-", "line 10"), ("+", "another")]
    assert len(found) == 1 + 3 + 2 + 3 and found[0][0] == "…"
    assert list(differences(old, old)) == []


def folder(guide: Path) -> None:
    guide.unlink()
    guide.mkdir()


def pipe(guide: Path) -> None:
    guide.unlink()
    os.mkfifo(guide)


def unreadable(guide: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    guide.chmod(0)


GONE = {
    "No such file or directory": Path.unlink,
    "is a folder: name a file": folder,
    "Permission denied": unreadable,
    "is not UTF-8 text: save it as UTF-8": lambda guide: guide.write_bytes("# Règles\n".encode("latin-1")),
    "is not a text file": lambda guide: guide.write_bytes(b"# Rules\0"),
    "is not a file": pipe,
    "is empty": lambda guide: guide.write_text("\n"),
    "has over 1 MiB": lambda guide: guide.write_text("x" * (2**20 + 1)),
}


@pytest.mark.parametrize("why", GONE)
def test_whatever_becomes_of_the_file_people_work_on(
    make_site: Callable[..., Any], guide: Path, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(gold_every=0, guideline=str(guide))
    site.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(4)))
    ann, eve = site.signed_in("ann"), site.signed_in("eve", "admin")
    assert site.answer(ann, PAIR).status_code == 200
    GONE[why](guide)
    for _ in range(2):
        assert site.answer(ann, PAIR).status_code == 200
        assert site.signed_in(f"bob{_}").get("/", headers=HTML).status_code == 200
    assert "Be kind" in ann.get("/guideline", headers=HTML).text
    assert why in eve.get("/guideline", headers=HTML).text and why not in ann.get("/guideline").text
    eve.post("/account/language", data={"language": "de"})
    assert why not in eve.get("/guideline", headers=HTML).text, "it is told in German"
    said = [record.getMessage() for record in caplog.records if record.name == "labeling"]
    assert said == [f"labeling.guideline: {guide}: {why}. People work on with the last version."], "once"
    guide.rmdir() if guide.is_dir() else guide.unlink(missing_ok=True)
    guide.write_text("\ufeffBe kinder.", encoding="utf-8")
    assert "<p>Be kinder.</p>" in ann.get("/guideline", headers=HTML).text.replace(' dir="auto"', "")
    assert site.taken(ann)["guideline"] == digest("Be kinder.")
    assert caplog.records[-1].getMessage() == "labeling.guideline: the file is read again."


def test_a_file_that_goes_before_anybody_has_worked_is_a_version_from_the_start(
    tmp_path: Path, guide: Path
) -> None:
    from align.recipe.sections import Recipe
    from labeling.serve import make_config

    sections = {"run": {"name": "r", "folder": str(tmp_path)}, "base": {"name": "x"}}
    recipe = Recipe.model_validate(
        {**sections, "labeling": {"guideline": str(guide), "database": str(tmp_path / "labeling.db")}}
    )
    config = make_config(recipe)
    guide.unlink()
    assert config.guideline() == "# Rules\n\nBe kind.\n"
    config.store.close()
