"""A language in which each text stands in ⟦…⟧: what doesn't, on a page, was forgotten in the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CODE = "eo"  # any that is real and has no catalogue
# Letters that are no text of ours: names of files and formats, units. What users wrote is in Greek.
FREE = "code, kbd, time, .when, .clip, pre, textarea, .brand, .prose, option[lang]"
KNOWN = ["CSV", "JSON Lines", "UTC", "InstructGPT", "de, fr", "MiB"]

# In the order of the document: a text begins in one node, and may end, behind a link, in another one.
LOOK = """([free, known]) => {
  const found = [];
  const day = /^\\d+ [A-Z][a-z]{2} \\d{4}$/; // in the language's own words: no catalogue has them
  let depth = 0;
  const outside = (text, level = 0) => {
    let rest = "";
    for (const letter of text) {
      if (letter === "⟦") level += 1;
      else if (letter === "⟧") level -= 1;
      else if (!level) rest += letter;
    }
    return [known.reduce((left, word) => left.replaceAll(word, ""), rest), level];
  };
  const told = (where, rest) => /[A-Za-z]{2}/.test(rest) && found.push(`${where}: ${rest.trim()}`);
  told("title", outside(document.title.replace(/ · test$/, ""))[0]);
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (node.nodeType === Node.ELEMENT_NODE) {
      for (const name of ["title", "aria-label", "placeholder", "alt", "data-label"]) {
        const text = node.getAttribute(name);
        if (text !== null && !node.closest("time, .katex")) told(name, outside(text)[0]);
      }
      continue;
    }
    const parent = node.parentElement;
    if (parent.closest("svg")) {
      told("svg", outside(node.data)[0].replace(day, ""));
      continue;
    }
    const [rest, level] = outside(node.data, depth);
    depth = level;
    const seen = parent.tagName === "OPTION" || parent.checkVisibility({ visibilityProperty: true });
    if (seen && !parent.closest(free)) told(parent.tagName.toLowerCase(), rest);
  }
  if (depth) found.push(`${depth} texts don't end`);
  return found;
}"""


def forgotten(page: Any) -> list[str]:
    """Where letters stand on a browser's page that are in no text of the catalogue."""
    found = page.evaluate(LOOK, [FREE, KNOWN])
    return [f"{page.url.split('/', 3)[3]} {text}" for text in found]


@pytest.fixture
def pseudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The code of the language, which is there while a test runs."""
    from labeling import catalogue, language

    catalog = catalogue.extracted()
    for message in catalog:
        if isinstance(message.id, tuple):
            message.string = tuple(f"⟦{text}⟧" for text in message.id)
        elif message.id:
            message.string = f"⟦{message.id}⟧"
    folder = tmp_path / "locale"
    folder.mkdir()
    header = catalogue.begun(CODE)
    (folder / f"{CODE}.po").write_text(f"{header}\n{catalogue.body_of(catalog)}", encoding="utf-8")
    monkeypatch.setattr(language, "FOLDER", folder)
    language.languages.cache_clear()
    yield CODE
    language.languages.cache_clear()
