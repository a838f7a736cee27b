"""YAML text with the place of every key: what `align.recipe.load` reads recipes and `--set` values with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from align.errors import UserError
from align.recipe.parts import Keys
from align.text import dotted

_MOST_VALUES = 100_000  # nine lines of aliases to aliases are a thousand million


class Place(NamedTuple):
    """Where a value was written: the label that people see, and the line by which places are sorted."""

    label: str
    line: int


class Mistake(NamedTuple):
    """One thing that is wrong, and where."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place.label}: {self.message}"


@dataclass
class Document:
    """Plain values, the place of each key by its path, and the mistakes found so far."""

    values: Any = None
    places: dict[Keys, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def place(self, keys: Keys) -> Place | None:
        """The place of a key, or of the nearest key above it that has one."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places.get(keys)


def read(text: str, place_of: Callable[[int, int | None], Place]) -> Document:
    """Reads one YAML 1.2 document of plain mappings, lists and scalars.

    `place_of(line, column)` names a place; the column is given only where the YAML itself is broken.
    Raises UserError on broken YAML; keys given twice and tags become mistakes of the document.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
        document = Document()
        if node is not None:
            document.values = _Walk(yaml, document, place_of).value(node, ())
        return document
    except ReaderError as error:
        before = text[: error.position]
        place = place_of(before.count("\n") + 1, error.position - before.rfind("\n"))
        raise UserError(
            f"{place.label}: a character that YAML does not allow ({text[error.position]!r}); delete it"
        ) from None
    except MarkedYAMLError as error:
        raise _broken(error, text, place_of) from None
    except RecursionError:
        raise UserError(f"{place_of(1, None).label}: nested too deeply for a recipe") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{place_of(1, None).label}: not valid YAML: {error}") from None


class _Walk:
    """Turns nodes into values and notes where each key stands."""

    def __init__(self, yaml: YAML, document: Document, place_of: Callable[[int, int | None], Place]) -> None:
        self.yaml, self.document, self.place_of = yaml, document, place_of
        self.count = 0
        self.open: set[int] = set()  # nodes that are being read: an alias to one of them never ends

    def value(self, node: Node, keys: Keys) -> Any:
        """A node's value; a mistake of the document where a recipe cannot have it."""
        self.count += 1
        if self.count > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES} values, each alias counted as what it stands for")
        if id(node) in self.open:
            self.mistake(node, keys, "an alias that holds itself; write the value out")
            return None
        if node.tag and not node.tag.startswith("tag:yaml.org,2002:"):
            self.mistake(node, keys, f"the tag {node.tag} has no meaning in a recipe; delete it")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self.mapping(node, keys)
            if isinstance(node, SequenceNode):
                return [self.item(child, (*keys, i)) for i, child in enumerate(node.value)]
            if node.tag == "tag:yaml.org,2002:timestamp":  # YAML 1.2 has no dates: 2024-01-01 is text
                return node.value
            return self.yaml.constructor.construct_object(node, deep=True)
        finally:
            self.open.discard(id(node))

    def item(self, node: Node, keys: Keys) -> Any:
        """An element of a list, whose place is noted."""
        self.document.places[keys] = self.place_of(node.start_mark.line + 1, None)
        return self.value(node, keys)

    def mapping(self, node: MappingNode, keys: Keys) -> dict[str, Any]:
        """A mapping with the place of each key; a key given twice is a mistake."""
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, ScalarNode):
                self.mistake(key_node, keys, "a key must be a word, not a list or a mapping")
                continue
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in lines:
                self.mistake(
                    key_node, (*keys, key), f"given twice, on line {lines[key]} and on line {line}; keep one"
                )
                continue
            lines[key] = line
            self.document.places[(*keys, key)] = self.place_of(line, None)
            result[key] = self.value(child, (*keys, key))
        return result

    def mistake(self, node: Node, keys: Keys, message: str) -> None:
        """Note what is wrong at a node."""
        name = f"{dotted(keys)}: " if keys else ""
        self.document.mistakes.append(Mistake(self.place_of(node.start_mark.line + 1, None), name + message))


def _broken(error: MarkedYAMLError, text: str, place_of: Callable[[int, int | None], Place]) -> UserError:
    """One sentence for broken YAML, with the line itself and a mark under the column."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines() or [""]
    if line >= len(lines):  # the end of the file, where nothing can be pointed at
        line, column = len(lines) - 1, len(lines[-1])
    problem = error.problem or "it cannot be read"
    if "'\\t'" in problem:
        meaning = "a tab stands where YAML wants spaces; indent with spaces"
    elif "mapping values are not allowed" in problem:
        meaning = (
            "a colon that YAML does not expect here; put text that holds ': ' in quotes, "
            "and check that this line is indented like its neighbours"
        )
    elif "cannot start any token" in problem:
        meaning = f"{problem.split()[2]} cannot stand at the start of a value; put the value in quotes"
    elif "found another document" in problem:
        meaning = "a second YAML document starts here (---); a recipe is one document"
    elif "undefined alias" in problem:
        meaning = f"{problem.removeprefix('found ')}; put text that starts with * in quotes"
    elif "stream end" in problem or "end of stream" in problem:
        opened = error.context_mark.line + 1 if error.context_mark else line + 1
        meaning = f"the text ends, and a quote or bracket that was opened on line {opened} is still open"
    elif "expected ','" in problem:
        opened = error.context_mark.line + 1 if error.context_mark else line + 1
        meaning = f"a comma is missing, or the bracket that was opened on line {opened} is never closed"
    elif "<block end>" in problem:
        meaning = "this line does not fit those above; check its indentation"
    else:
        meaning = f"not valid YAML: {problem}"
    shown = lines[line].replace("\t", " ")
    place = place_of(line + 1, column + 1)
    return UserError(f"{place.label}: {meaning}\n    {shown}\n    {' ' * column}^")
