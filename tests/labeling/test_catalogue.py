"""The catalogue of the interface's texts is whole: nothing is missing in it, in German, or in French."""

from __future__ import annotations

import io
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("babel", reason="needs the `labeling` extra")
pytest.importorskip("jinja2")

from babel.messages.pofile import read_po  # noqa: E402

from align.errors import UserError  # noqa: E402
from labeling import catalogue, language  # noqa: E402

LANGUAGES = sorted(path.stem for path in language.FOLDER.glob("*.po"))
PLACES = re.compile(r"%\(\w+\)s|%%|<[^>]+>")
RENEW = "run `make catalogue`, and translate what is new"


def messages(code: str) -> list[Any]:
    with (language.FOLDER / f"{code}.po").open("rb") as file:
        return [message for message in read_po(file, locale=code) if message.id]


def forms(value: Any) -> list[str]:
    return list(value) if isinstance(value, tuple | list) else [value]


def test_the_template_has_every_text_of_the_code() -> None:
    assert catalogue.TEMPLATE.read_text(encoding="utf-8") == catalogue.template_text(), RENEW


def test_no_text_is_where_the_extraction_does_not_look() -> None:
    """Within `${…}` of a script it finds nothing."""
    for path in catalogue.sources():
        if path.suffix == ".js":
            assert re.findall(r"\$\{[^}]*gettext\(", path.read_text(encoding="utf-8")) == [], path


def test_german_and_french_are_there() -> None:
    assert {"de", "fr"} <= set(LANGUAGES)


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_language_has_the_texts_of_the_code_and_no_others(code: str) -> None:
    text = (language.FOLDER / f"{code}.po").read_text(encoding="utf-8")
    assert catalogue.carried_over(text, code) == text, RENEW


@pytest.mark.parametrize("code", ["de", "fr"])
def test_nothing_is_untranslated_or_doubtful(code: str) -> None:
    left = [m.id for m in messages(code) if m.fuzzy or not all(forms(m.string))]
    assert left == [], RENEW
    assert language.read_language(language.FOLDER / f"{code}.po").share == 1


@pytest.mark.parametrize("code", LANGUAGES)
def test_what_is_filled_in_is_the_same_in_each_form_of_a_translation(code: str) -> None:
    for message in messages(code):
        wanted = sorted(set(PLACES.findall(forms(message.id)[-1])))
        for string in filter(None, forms(message.string)):
            assert sorted(set(PLACES.findall(string))) == wanted, message.id
            assert string.count('"') <= forms(message.id)[-1].count('"'), f"ends an attribute: {string}"
            string % dict.fromkeys(re.findall(r"%\((\w+)\)s", string), 1)


def test_a_percent_sign_is_filled_in_too() -> None:
    assert language.gettext("95 %% interval") == "95 % interval"


@pytest.fixture
def spanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which somebody has begun Spanish."""
    monkeypatch.setattr(language, "FOLDER", tmp_path)
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    monkeypatch.setattr(catalogue, "TEMPLATE", tmp_path / "labeling.pot")
    language.languages.cache_clear()
    catalogue.main("es")
    yield tmp_path / "es.po"
    language.languages.cache_clear()


def test_a_language_of_two_texts_falls_back_to_english(
    spanish: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = spanish.read_text(encoding="utf-8")
    text = text.replace('msgid "Tasks"\nmsgstr ""', 'msgid "Tasks"\nmsgstr "Tareas"')
    text = text.replace('msgid "Work"\nmsgstr ""', 'msgid "Work"\nmsgstr "Trabajar"')
    spanish.write_text(text, encoding="utf-8")
    capsys.readouterr()
    catalogue.main()
    assert re.match(r"es: 0% of \d{3,} texts are translated\n", capsys.readouterr().out)
    assert spanish.read_text(encoding="utf-8") == text, "what was translated stays"
    found = language.languages()["es"]
    assert found.name == "Español" and found.share == 0
    language.use(found)
    try:
        assert language.gettext("Tasks") == "Tareas"
        assert language.gettext("My answers") == "My answers"
        assert language.ngettext("%(num)s flag", "%(num)s flags", 2) == "2 flags"
    finally:
        language.use(language.ENGLISH)


def test_a_language_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="xq: no such language"):
        catalogue.begun("xq")


def test_plural_forms_of_scripts_are_found_by_the_categories_of_the_browser() -> None:
    """Polish has three, by its grammar: 1 plik, 2 pliki, 5 plików."""
    header = catalogue.begun("pl").encode()
    entry = '\n\n#: labeling/web/static/x.js\nmsgid "%(num)s file"\nmsgid_plural "%(num)s files"\n'
    strings = [f'msgstr[{i}] "%(num)s {word}"\n' for i, word in enumerate(("plik", "pliki", "plików"))]
    found = read_po(io.BytesIO(header + (entry + "".join(strings)).encode()), locale="pl")
    polish = language.language_of(found, "pl")
    forms = polish.scripts["%(num)s file"]
    assert [forms[polish.plurals[of]] for of in ("one", "few", "many")] == [
        "%(num)s plik",
        "%(num)s pliki",
        "%(num)s plików",
    ]


def test_the_package_has_the_catalogues() -> None:
    root = Path(__file__).parents[2]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in data["labeling"] for path in (root / "labeling").glob(pattern)}
    assert set(language.FOLDER.glob("*.po")) <= packed
