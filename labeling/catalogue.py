"""The catalogue of the interface's texts: taken from the code, and carried over to every language.

`make catalogue` writes labeling/locale/labeling.pot anew and tells how much of each language is translated;
`make catalogue LANGUAGE=es` begins a language.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from babel import Locale, UnknownLocaleError
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po, write_po

from align.errors import UserError
from labeling.language import FOLDER, ROOT, language_of

TEMPLATE = FOLDER / "labeling.pot"
_METHODS = {".py": "python", ".html": "jinja2.ext:babel_extract", ".js": "javascript"}
_OPTIONS = {"trimmed": "true", "newstyle_gettext": "true", "trim_blocks": "true", "lstrip_blocks": "true"}
_HEADER = """\
# {name}. What is not translated here stays English.
# Glossary (the same word for the same thing):
#
msgid ""
msgstr ""
"Language: {code}\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Plural-Forms: {plurals}\\n"
"""


def sources() -> Iterator[Path]:
    """The files with texts, in a fixed order; libraries of others have none of ours."""
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in _METHODS and path.parent.name not in ("katex", "diff", "versions"):
            yield path


def extracted() -> Catalog:
    """All texts of the code, each with the files it stands in."""
    found = Catalog(charset="utf-8")
    for path in sources():
        options = _OPTIONS if path.suffix == ".html" else {}
        for _, message, _, context in extract_from_file(
            _METHODS[path.suffix], path, options=options, strip_comment_tags=True
        ):
            found.add(message, context=context, locations=[(path.relative_to(ROOT.parent).as_posix(), 0)])
    return found


def body_of(catalog: Catalog) -> str:
    """The entries as text, without a header, whose dates would change all the time."""
    for message in catalog:
        message.flags.discard("python-brace-format")  # some versions see it in braces of JSON
    made = io.BytesIO()
    write_po(made, catalog, omit_header=True, include_lineno=False, width=110, ignore_obsolete=True)
    return made.getvalue().decode().strip("\n") + "\n"


def template_text() -> str:
    """What labeling.pot has to say."""
    return body_of(extracted())


def carried_over(old: str, code: str) -> str:
    """A language's file with the texts of the code: what it had stays, what is gone goes."""
    header = old.split("\n\n", 1)[0]
    catalog = read_po(io.BytesIO(old.encode()), locale=code.replace("-", "_"))
    catalog.update(extracted(), no_fuzzy_matching=True, keep_user_comments=True)
    return header + "\n\n" + body_of(catalog)


def begun(code: str) -> str:
    """The header of a new language's file. Raises UserError where there is no such language."""
    try:
        locale = Locale.parse(code, sep="-")
    except (ValueError, UnknownLocaleError):
        raise UserError(f"{code}: no such language; write its code, as es or pt-BR") from None
    plurals = Catalog(locale=locale).plural_forms
    return _HEADER.format(name=locale.english_name, code=code, plurals=plurals)


def main(new: str = "") -> None:
    """Write the template and all languages, and say how much is translated."""
    TEMPLATE.write_text(template_text(), encoding="utf-8")
    if new and not (FOLDER / f"{new}.po").exists():
        (FOLDER / f"{new}.po").write_text(begun(new) + "\n", encoding="utf-8")
    for path in sorted(FOLDER.glob("*.po")):
        text = carried_over(path.read_text(encoding="utf-8"), path.stem)
        path.write_text(text, encoding="utf-8")
        catalog = read_po(io.BytesIO(text.encode()), locale=path.stem.replace("-", "_"))
        print(
            f"{path.stem}: {language_of(catalog, path.stem).share:.0%} of {len(catalog)} texts are translated"
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
