"""In a real browser: each text is the catalogue's, times are the person's, and nothing sticks out."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
pytest.importorskip("babel", reason="needs the `labeling` extra")

from pseudo_language import forgotten  # noqa: E402

from labeling.store.models import Person  # noqa: E402

NOTHING = {"quality": [None] * 3, "note": "σημείωση"}
THREE = {"responses": ["άλφα", "βήτα", "γάμμα " + r"\(\frac{1}\)"]}
TASKS = [
    {"prompt": "Ποιο;", **THREE, "priority": 9, "overlap": 3},
    {"prompt": "Χρυσό;", **THREE, "gold": [1, 2, 3], "priority": 8},
    {"prompt": "Καλύτερο;", "responses": ["άλφα", "βήτα"], "kind": "compare", "priority": 7},
    {"prompt": "Διόρθωσε", "responses": ["λάθος"], "priority": 6},
    {"prompt": "Γράψε", "priority": 5},
    {"prompt": "Κανείς", "responses": ["άλφα", "βήτα"], "skills": ["ιατρική"], "priority": 4},
]
LEAVE_OUT = re.compile(r"\.(csv|jsonl)$|^/api/|^/static/|^/signout")


def links(page: Any) -> list[str]:
    found = page.eval_on_selector_all("a[href]", "all => all.map((one) => one.getAttribute('href'))")
    return [link.partition("#")[0] for link in found if link.startswith("/") and not LEAVE_OUT.search(link)]


def crawled(page: Any, *begin: str) -> tuple[set[str], list[str]]:
    """All pages that links lead to, and what was forgotten on them."""
    waiting, seen, found = [*begin, "/nowhere"], set(), []
    while waiting:
        path = waiting.pop(0)
        if path not in seen:
            seen.add(path)
            page.goto(path)
            found += forgotten(page)
            waiting += links(page)
    return {urlsplit(path).path for path in seen}, found


def answers(site: Any, client: Any, *contents: dict[str, Any]) -> None:
    for content in contents:
        assert site.answer(client, content, skip="reason" in content).status_code == 200


@pytest.fixture
def worked(pseudo: str, make_site: Any) -> Any:
    """A site on which people have done something of each kind."""
    site = make_site(
        language=pseudo, calibration=1, pass_mark=0.0, suggestions="after", control=0.0, gold_every=1
    )
    site.add(*TASKS)
    ranks = {"ranks": [1, 2, None], **NOTHING, "flags": [["fails"], [], []]}
    for name in ("άννα", "βασίλης"):
        client = site.signed_in(name, "reviewer")
        answers(site, client, ranks if name == "άννα" else ranks | {"ranks": [2, 1, 3]})
    answers(site, client, {"reason": "unclear", "note": ""})
    lead = site.signed_in("εύα", "admin")
    assert lead.post("/labels/1/verdict", data={"said": "returned", "remark": "ξανά", "last": ""}).is_redirect
    return site


def test_no_page_of_a_lead_has_a_text_that_is_not_in_the_catalogue(worked: Any, visit: Any) -> None:
    page = visit(worked, worked.person("ζωή", "admin"))
    paths, found = crawled(
        page, "/", "/tasks?state=stuck", "/tasks?state=skipped", "/guideline/changes?old=" + "0" * 64
    )
    assert {
        "/tasks",
        "/people/time",
        "/audit",
        "/labels/1",
        "/people/1",
        "/review/1",
        "/keys",
        "/figures",
    } <= paths
    page.goto("/tasks")
    page.locator("select[name=action]").select_option("priority")
    page.locator("select[name=scope]").select_option("filter")
    page.get_by_label("⟦Priority⟧", exact=True).fill("1")
    page.get_by_role("button", name="⟦Go on").click()
    found += forgotten(page)
    page.goto("/people")
    page.get_by_role("button", name="⟦Make a link⟧").click()
    found += forgotten(page)
    invited = page.locator(".secret").inner_text()
    page.goto("/people/1")
    page.get_by_role("button", name="⟦Reset the password⟧").click()
    found += forgotten(page)
    page.context.clear_cookies()
    for path in (f"/join/{invited.rsplit('/', 1)[1]}", "/join/none", "/signin", "/signin/none"):
        page.goto(path)
        found += forgotten(page)
    assert found == []


def test_no_page_of_a_labeler_has_a_text_that_is_not_in_the_catalogue(worked: Any, visit: Any) -> None:
    page = visit(worked, worked.person("ζωή"))
    paths, found = crawled(page, "/", "/history", "/account", "/keys")
    kinds = set()
    for _ in range(6):
        page.goto("/work")
        if page.url.endswith("/"):
            break
        page.keyboard.press("Enter")  # refused: what is missing is said
        page.wait_for_selector("#problem:not([hidden])")
        found += forgotten(page)
        page.get_by_role("button", name="⟦Keys⟧").click()
        found += forgotten(page)
        page.keyboard.press("Escape")
        done = DONE[kind := page.evaluate("JSON.parse(document.getElementById('task').dataset.task).kind")]
        kinds.add(kind)
        done(page)
        page.locator("#state", has_text="⟦Draft saved⟧").wait_for()
        found += forgotten(page)
        page.keyboard.press("Control+Enter")
        page.wait_for_event("load")
        found += forgotten(page)
    paths, after = crawled(page, "/", "/history", "/figures")
    assert kinds >= {"rank", "compare", "correct", "demonstrate"}
    assert found + after == []


def ranked(page: Any) -> None:
    for key in ("z", "=", "a", "a", "b", "c", "Shift+5", "w"):
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    for key in ("o", "Escape", "l", "Space", "Escape", "x", "x", "v", "n", "u", "m", "m"):
        page.keyboard.press(key)


DONE = {
    "rank": ranked,
    "compare": lambda page: page.keyboard.press("1"),
    "correct": lambda page: page.locator("#text").fill("σωστό"),
    "demonstrate": lambda page: page.locator("#text").fill("σωστό"),
}


def test_times_are_those_of_the_persons_clock_and_language(site: Any, visit: Any) -> None:
    from datetime import UTC, datetime

    with site.config.store.write() as session:
        session.add(
            Person(
                name="ann", role="labeler", created=datetime(2026, 1, 31, 22, 5, tzinfo=UTC), language=None
            )
        )
    eve = site.person("eve", "admin")
    seen = {}
    for code in ("de-DE", "fr-FR", "en-GB", "en-US"):
        page = visit(site, eve, locale=code, timezone_id="Asia/Tokyo")
        page.goto("/people")
        times = page.locator("td.when time")
        seen[code] = times.first.inner_text().replace("\N{NARROW NO-BREAK SPACE}", " ")
        assert times.first.get_attribute("datetime") == "2026-01-31T22:05:00Z"
        lately = times.last.inner_text()
    assert seen["de-DE"] == "01.02.2026, 07:05"
    assert seen["fr-FR"] == "1 févr. 2026, 07:05"
    assert seen["en-GB"] == "1 Feb 2026, 07:05"
    assert seen["en-US"] == "Feb 1, 2026, 7:05 AM"
    assert re.fullmatch(r"this minute|\d+ minutes? ago", lately)


def test_without_javascript_times_are_utc_and_say_so(site: Any, visit: Any) -> None:
    page = visit(site, site.person("eve", "admin"), java_script_enabled=False, timezone_id="Asia/Tokyo")
    page.goto("/people")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", page.locator("td.when time").inner_text())


def test_a_person_changes_the_language_and_scripts_follow(site: Any, visit: Any) -> None:
    site.add({"prompt": "p", **THREE})
    page = visit(site, site.person("ann"))
    page.goto("/account")
    page.get_by_label("Language").select_option("de")
    page.get_by_role("button", name="Change the language").click()
    page.goto("/work")
    assert page.locator("html").get_attribute("lang") == "de"
    page.keyboard.press("u")
    assert page.locator("#state").inner_text() == "Nichts rückgängig zu machen"
    page.keyboard.press("l")
    page.keyboard.press("Space")
    page.keyboard.press("j")
    assert "1 Markierung" in page.locator(".given").all_text_contents()


LOOKS = {
    "phone": {"width": 390, "height": 800},
    "tablet": {"width": 820, "height": 1180},
    "wide tablet": {"width": 1025, "height": 768},  # the narrowest that has tables with columns
    "laptop": {"width": 1366, "height": 768},
}


@pytest.mark.parametrize("code", ["de", "fr", "en"])
@pytest.mark.parametrize("look", LOOKS)
def test_nothing_sticks_out_in_longer_languages(make_site: Any, visit: Any, code: str, look: str) -> None:
    site = make_site(language=code)
    site.add(*TASKS)
    site.add(
        {
            "prompt": "Which of these is right? " * 12,
            "responses": ["alpha " * 90, "beta " * 90],
            "priority": 9,
        }
    )
    ranks = {"ranks": [1, 2, None], **NOTHING, "flags": [["fails"], [], []]}
    lead = "Wilhelmina-Antoinette von Hohenzollern-Sigmaringen zu Donaueschingen"
    site.answer(
        site.signed_in(lead), {"ranks": [1, 2], **NOTHING, "quality": [5, 4], "flags": [["fails"], []]}
    )
    answers(site, site.signed_in("άννα"), ranks)
    page = visit(site, site.person("ζωή", "admin"), viewport=LOOKS[look])
    wide = []
    for path in PAGES:
        page.goto(path)
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(path)
    assert wide == []


PAGES = [
    "/",
    "/work",
    "/keys",
    "/account",
    "/tasks",
    "/people",
    "/people/1",
    "/people/1/labels",
    "/people/time",
]
PAGES += ["/labels/1", "/guideline", "/guideline/history"]
PAGES += ["/audit", "/review", "/review/1", "/review/1/answers", "/figures", "/history", "/guideline/edit"]
