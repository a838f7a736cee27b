"""Which language a page is in, what is translated, and what never is."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
pytest.importorskip("babel", reason="needs the `labeling` extra")

from babel.messages.pofile import read_po  # noqa: E402

from align.errors import UserError  # noqa: E402
from align.recipe.sections import Recipe  # noqa: E402
from labeling import catalogue, language, serve  # noqa: E402
from labeling.store.models import Person  # noqa: E402

HTML = {"Accept": "text/html"}
THREE = {"prompt": "Ποιο;", "responses": ["άλφα", "βήτα", "γάμμα"]}
RANKS = {"quality": [None] * 3, "flags": [["fails"], [], []], "note": "σημείωση"}


def spoken(answer: Any) -> str:
    found = re.search(r'<html lang="([a-z]+)" dir="([a-z]+)">', answer.text)
    assert found, answer.text[:300]
    return found[1]


def signin(site: Any, client: Any = None, **headers: str) -> str:
    return spoken((client or site.client()).get("/signin", headers={**HTML, **headers}))


def test_the_browser_says_which_language(site: Any) -> None:
    assert signin(site, **{"Accept-Language": "de-AT,de;q=0.8,en;q=0.5"}) == "de"
    assert signin(site, **{"Accept-Language": "pl, fr;q=0.3, en;q=0.2"}) == "fr"
    assert signin(site, **{"Accept-Language": "fr;q=0.2, en-GB;q=0.9"}) == "en"
    assert signin(site, **{"Accept-Language": "ja"}) == "en"
    assert signin(site, **{"Accept-Language": "de;q=0, fr;q=x, \x7f;;;=,"}) == "en"
    assert signin(site) == "en"


def test_the_recipes_language_goes_before_the_browsers(make_site: Any) -> None:
    site = make_site(language="fr")
    assert signin(site, **{"Accept-Language": "de"}) == "fr"


def test_a_choice_before_signing_in_goes_before_the_recipes(make_site: Any) -> None:
    site = make_site(language="fr")
    client = site.client()
    answer = client.post("/language", data={"language": "de", "back": "/signin"})
    assert answer.status_code == 303 and answer.headers["location"] == "/signin"
    assert signin(site, client) == "de"
    client.post("/language", data={"language": "auto", "back": "//elsewhere.example"})
    assert signin(site, client) == "fr"
    client.post("/language", data={"language": "xx"})
    assert signin(site, client) == "fr"


def test_a_persons_choice_goes_with_the_account(site: Any) -> None:
    ann = site.signed_in("ann")
    assert spoken(ann.get("/", headers=HTML)) == "en"
    assert ann.post("/account/language", data={"language": "de"}).status_code == 303
    page = ann.get("/account", headers={**HTML, "Accept-Language": "fr"})
    assert spoken(page) == "de" and "Passwort setzen" in page.text
    elsewhere = site.client()
    with site.config.store.read() as session:
        assert elsewhere.post(site.link(session.get(Person, 1))).status_code == 303
    assert spoken(elsewhere.get("/", headers={**HTML, "Accept-Language": "fr"})) == "de"
    ann.post("/account/language", data={"language": "auto"})
    assert spoken(ann.get("/", headers={**HTML, "Accept-Language": "fr"})) == "fr"


def test_what_is_refused_is_said_in_the_persons_language_and_programs_hear_english(site: Any) -> None:
    ann = site.signed_in("ann", "admin")
    ann.post("/account/language", data={"language": "de"})
    site.add(THREE)
    refused = site.answer(ann, {"ranks": [1, None, None], **RANKS})
    assert refused.json()["detail"].startswith("Eine einzige Antwort ergibt keine Rangfolge")
    assert "Diese Seite gibt es nicht." in ann.get("/nowhere", headers=HTML).text
    machine = {"Authorization": "Bearer nothing", "Accept-Language": "de"}
    assert site.client().get("/api/v1/tasks", headers=machine).json()["detail"] == "This token is not known."
    assert "ein Konto hat" not in ann.get("/api/v1/figures").text


def test_times_and_numbers_of_pages(site: Any) -> None:
    ann = site.signed_in("ann", "admin")
    people = ann.get("/people", headers=HTML).text
    assert re.search(
        r'<time datetime="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ">\d{4}-\d\d-\d\d \d\d:\d\d UTC</time>', people
    )
    try:
        language.use(language.languages()["de"])
        assert (language.number(1234567), language.number(0.5, 1)) == ("1.234.567", "0,5")
        assert (language.percent(0.726), language.short(2.5)) == ("73\N{NO-BREAK SPACE}%", "2,5")
        language.use(language.languages()["fr"])
        assert language.number(1234.5, 1) == "1\N{NARROW NO-BREAK SPACE}234,5"
    finally:
        language.use(language.ENGLISH)
    assert language.number(1234567.25, 1) == "1,234,567.2"


def test_a_language_from_right_to_left(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    header = catalogue.begun("ar") + '\nmsgid "Name"\nmsgstr "الاسم"\n'
    arabic = language.language_of(read_po(io.BytesIO(header.encode()), locale="ar"), "ar")
    monkeypatch.setattr("labeling.web.language.languages", lambda: {"en": language.ENGLISH, "ar": arabic})
    page = site.client().get("/signin", headers={**HTML, "Accept-Language": "ar"}).text
    assert '<html lang="ar" dir="rtl">' in page and "الاسم" in page and "Password" in page


def test_a_recipe_with_a_language_that_is_not_there_is_refused() -> None:
    recipe = Recipe.model_validate(
        {"run": {"name": "r"}, "base": {"name": "x"}, "labeling": {"language": "tlh"}}
    )
    with pytest.raises(UserError, match="labeling.language: tlh is not there: name de, en, fr or auto"):
        serve.make_config(recipe)


def test_nothing_translated_is_stored_or_exported(pseudo: str, make_site: Any) -> None:
    """A lead and a labeler work in a language of ⟦…⟧; their database and files have none of it."""
    site = make_site(language=pseudo)
    site.add(THREE, THREE | {"prompt": "Και;"}, {"prompt": "Πες", "gold": None})
    lead, ann = site.signed_in("εύα", "admin"), site.signed_in("άννα")
    assert "⟦Tasks⟧" in lead.get("/tasks", headers=HTML).text
    assert site.answer(ann, {"ranks": [1, 2, 3], **RANKS}).status_code == 200
    assert site.answer(ann, {"reason": "unclear", "note": ""}, skip=True).status_code == 200
    said = {"said": "returned", "remark": "ξανά", "last": ""}
    assert lead.post("/labels/1/verdict", data=said).status_code == 303
    row = json.dumps({"prompt": "Νέο", "responses": ["α", "β"]})
    sent = lead.post("/tasks", files={"file": ("x.jsonl", row.encode())}, headers=HTML)
    assert "⟦1 task added⟧" in sent.text
    for given in ({"action": "hide"}, {"action": "priority", "priority": "2"}):
        chosen = {"task": "3", "scope": "selected", "confirmed": "1", **given}
        assert "⟦Tasks: ⟦1 " in lead.post("/tasks/change", data=chosen, headers=HTML).text
    for path, data in (
        ("/people/invite", {"role": "labeler"}),
        ("/people/invite", {"role": "machine", "name": "ρομπότ"}),
        ("/people/2/role", {"role": "reviewer"}),
        ("/people/2/abilities", {"skills": "x", "languages": "el"}),
        ("/people/2/account", {"what": "rename", "name": "αλέκα"}),
        ("/people/2/account", {"what": "reset"}),
        ("/people/2/account", {"what": "erase", "name": "αλέκα"}),
        ("/guideline/edit", {"text": "Νέα", "base": "x", "remark": ""}),
    ):
        assert lead.post(path, data=data, headers=HTML).status_code in (200, 303, 409), path
    for path in (
        "/audit.csv",
        "/audit.jsonl",
        "/api/v1/records/rankings.jsonl",
        "/api/v1/records/rankings.csv",
    ):
        answer = lead.get(path)
        assert answer.status_code == 200 and answer.text and "⟦" not in answer.text, path
    assert "⟦" not in lead.get("/api/v1/figures").text + lead.get("/api/v1/labels").text
    with sqlite3.connect(str(site.config.store.engine.url.database)) as database:
        dump = "\n".join(database.iterdump())
    assert "returned an answer" in dump and "tasks: hide" in dump and "erased 2" in dump and "⟦" not in dump
