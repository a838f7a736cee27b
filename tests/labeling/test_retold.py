"""What is wrong in a file, and what a check says, in the language of whoever reads it; stored in English."""

from __future__ import annotations

import ast
import html
import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
pytest.importorskip("babel", reason="needs the `labeling` extra")

# Behind the skip above: without the extra these cannot be imported.
from align.recipe.labeling import Check  # noqa: E402
from labeling import language, retold  # noqa: E402
from labeling.checker import Checker  # noqa: E402

ROOT = Path(__file__).parents[2]
HTML = {"Accept": "text/html"}
# What every file goes through. Formats of others have more of their own, which stay English.
SOURCES = ("align/values.py", "align/records.py", "align/messages.py", "align/data/lines.py")
SOURCES += ("align/data/json_rows.py", "align/data/json_text.py", "align/data/csv_rows.py")
SOURCES += ("align/data/rows.py", "align/data/rows_within.py", "align/data/formats/base.py")
SOURCES += ("labeling/store/items.py", "labeling/store/assignment.py", "labeling/store/repeats.py")
ERRORS = ("RecordError", "FileError")
# Texts with a part that is no value, as they come.
WHOLE = {
    "has 7, which has": "has 'x' in column 3, which has no name in the header: name it there, or delete it",
    "cannot be read7: 7": "cannot be read after line 3: no space",
    "must be a 7number from 7 to 7": "must be a whole number from 1 to 50",
}


@pytest.fixture
def german() -> Iterator[None]:
    language.use(language.languages()["de"])
    yield
    language.use(language.ENGLISH)


def messages() -> Iterator[str]:
    """Every text that an error of these files is made with, "7" in the place of each value."""
    for source in SOURCES:
        module = import_module(source.removesuffix(".py").replace("/", "."))
        for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                text = as_text(node.args[-1], module)
                yield next((whole for part, whole in WHOLE.items() if text.startswith(part)), text)


def as_text(node: ast.expr, module: Any) -> str:
    """ "" where the text is made elsewhere."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name):
        return str(getattr(module, node.id, ""))
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(as_text(part, module) or "7" for part in parts)


def test_every_error_of_a_row_and_of_a_file_has_a_template() -> None:
    found = set(filter(None, messages()))
    assert len(found) > 60
    assert [text for text in found if retold.template_of(text) is None] == []


@pytest.mark.parametrize("template", [*retold.TEMPLATES, *retold.WORDS])
def test_a_template_is_told_again_as_it_was(template: str) -> None:
    """English is English word for word, however much alike two templates are."""
    message = re.sub(r"%\((\w+)\)s", r"\1", template)
    found = retold.template_of(message)
    if template not in retold.WORDS:
        assert found is not None
        assert found[0] % found[1] == message
    assert retold.retold(message) == message


def test_what_is_filled_in_is_translated_where_it_is_a_word(german: None) -> None:
    assert retold.retold("must be text, not a number") == "muss Text sein; hier steht: eine Zahl"
    assert retold.retold("must be text, not '1,234'").endswith("'1,234'")
    assert retold.retold("It has 12,345 characters; 10,000 are the most.") == (
        "Der Text hat 12.345 Zeichen; höchstens 10.000 sind erlaubt."
    )
    assert retold.retold("It is as it is\nis missing") == "It is as it is\nfehlt"


GOOD = {"prompt": "p", "responses": ["a", "b"]}
FILES = {
    "fehlt": ("x.jsonl", '{"responses": ["a", "b"], "prompt": [{"role": "user"}]}'),
    ":2: fehlerhaftes JSON in Spalte 2": ("x.jsonl", json.dumps(GOOD) + "\n{prompt\n"),
    "`responses[1]` muss Text sein oder ein Objekt mit text, origin, author": (
        "x.jsonl",
        '{"prompt": "p", "responses": ["a", 5]}',
    ),
    "`kind` muss eines von diesen sein: rank": ("x.jsonl", json.dumps(GOOD | {"kind": "sing"})),
    "`author` niemand heißt 'eve'": (
        "x.jsonl",
        json.dumps({"prompt": "p", "responses": ["a", {"text": "b", "author": "eve"}]}),
    ),
    "unbekannte Art von Datei": ("x.txt", "hello"),
    "kein bekanntes Format hat diese Spalten: 'q'": ("x.jsonl", '{"q": 1}'),
    "hat 3 Zellen, und die Kopfzeile nennt 2 Spalten": ("x.csv", "prompt,responses\na,b,c\n"),
    "ist eine Arbeitsmappe": ("x.csv", "PK\x03\x04[Content_Types].xml"),
    "1 ausgelassen (1 × alle Antworten sind gleich: es gibt nichts zu ordnen)": (
        "x.jsonl",
        json.dumps({"prompt": "p", "responses": ["a", "a"]}),
    ),
}


@pytest.mark.parametrize("said", FILES)
def test_what_is_wrong_in_a_file_is_said_in_german(site: Any, said: str) -> None:
    lead = site.signed_in("eva", "admin")
    lead.post("/account/language", data={"language": "de"})
    name, text = FILES[said]
    page = lead.post("/tasks", files={"file": (name, text.encode())}, headers=HTML)
    assert said in html.unescape(page.text), re.findall(r'class="error"[^>]*>([^<]*)', page.text)


def test_programs_hear_english(site: Any) -> None:
    lead = site.signed_in("eva", "admin")
    lead.post("/account/language", data={"language": "de"})
    answer = lead.post("/api/v1/tasks", json=[{"prompt": 5}])
    assert answer.json()["detail"].startswith("`prompt` must be text or a list of messages, not a number")


RULE = {"name": "laenge", "min_characters": 40, "forbidden": ["obviously"]}


def test_a_rule_is_told_in_german_and_kept_in_english(make_site: Any) -> None:
    site = make_site(checks=[RULE])
    site.add({"prompt": "Schreibe"})
    ann = site.signed_in("ann")
    ann.post("/account/language", data={"language": "de"})
    task = site.taken(ann)
    said = ann.post(f"/work/{task['number']}/check", json={"check": "laenge", "text": "obviously"}).json()
    assert said["says"].split("\n") == [
        "Der Text hat 9 Zeichen; mindestens 40 sind nötig.",
        "Der Text enthält unerwünschte Wörter: obviously.",
    ]
    assert site.taken(ann)["checked"][0]["said"]["says"] == said["says"], "also after a reload"
    assert site.answer(ann, {"text": "obviously"}, task=task).status_code == 200
    lead = site.signed_in("eva", "admin")
    lead.post("/account/language", data={"language": "fr"})
    assert "Le texte contient des mots indésirables" in lead.get("/labels/1", headers=HTML).text
    (label,) = lead.get("/api/v1/labels").json()["labels"]
    assert label["checks"][0]["said"]["says"].startswith("It has 9 characters; 40 are the fewest.")


def test_a_check_that_dies_says_so_in_german(site: Any, german: None) -> None:
    checker = Checker(Check(**RULE), [sys.executable, "-c", "pass"])
    from labeling.companion import Absent

    with pytest.raises(Absent) as error:
        checker.ask("p", ["a"])
    checker.close()
    assert str(error.value).startswith("The check laenge failed: it has stopped")
    assert retold.retold(str(error.value)).startswith(
        "Die Kontrolle laenge ist fehlgeschlagen: sie wurde beendet"
    )


def test_a_malformed_answer_is_told_in_german(site: Any) -> None:
    site.add(GOOD)
    ann = site.signed_in("ann")
    ann.post("/account/language", data={"language": "de"})
    task = site.taken(ann)
    content = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}
    for wrong, said in (
        ({"ranks": [1, 100]}, "erlaubt ist nur: less than or equal to 99"),
        ({"note": "x" * 2001}, "ein Text mit höchstens 2000 Zeichen ist nötig"),
        ({"note": "\0"}, "ein Text enthält ein Zeichen, das nicht gespeichert werden kann"),
    ):
        detail = site.answer(ann, content | wrong, task=task).json()["detail"]
        assert said in detail, detail
