"""Rows of JSON: objects a line or over several, one after the other, in a list, or in one object."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from align.data import lines as files
from align.data.json_tables import unfolded
from align.data.json_text import STRICT, broken, json_value
from align.data.lines import FileError, Place, PlacedRow, lines
from align.values import RecordError

_BLANK = re.compile(r"[ \t\r\n]*")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_LENIENT = json.JSONDecoder()
_DEEPEST = 100  # objects and lists that lines open: a file of nothing but beginnings costs no quadratic time
_TOO_LONG = (
    f"broken JSON, or one value of over {files.LINE_LIMIT // 2**20} MiB: write a list of records, "
    "or one record a line (JSON Lines)"
)


def json_lines(stream: io.BufferedReader, place: Place) -> Iterator[PlacedRow]:
    """An object a line; one that goes on over several lines and several on one line are read too."""
    first, _, rest = stream.peek(files.CHUNK).lstrip().partition(b"\n")
    if first.startswith(b"[") and not (rest.strip() and _is_whole(first)):
        yield from json_rows(stream, place)  # a list, whatever the file is called
        return
    source = _Lines(lines(stream, place))
    for number, line in source:
        if isinstance(line, RecordError):
            yield f":{number}", line
            continue
        if _BLANK.fullmatch(line):
            continue
        value = _value(line.rstrip("\r\n"))
        found = _objects(_going_on(line, source)) if isinstance(value, RecordError) else None
        if found is None:
            source.give_back()
            yield f":{number}", value
            continue
        source.keep()
        for start, part in found:
            yield f":{number + start - 1}", part


class _Lines(Iterator[tuple[int, "str | RecordError"]]):
    """Lines that can be given back: those that were taken since the last `keep`."""

    def __init__(self, source: Iterator[tuple[int, str | RecordError]]) -> None:
        self._source = source
        self._again: list[tuple[int, str | RecordError]] = []  # the next one last
        self.taken: list[tuple[int, str | RecordError]] = []

    def __next__(self) -> tuple[int, str | RecordError]:
        return self._again.pop() if self._again else next(self._source)

    def take(self) -> str | RecordError | None:
        """The next line, which may be given back; None at the end."""
        found = next(self, None)
        if found is None:
            return None
        self.taken.append(found)
        return found[1]

    def give_back(self) -> None:
        """Let the lines that were taken come again."""
        self._again += reversed(self.taken)
        self.taken.clear()

    def keep(self) -> None:
        """Have done with the lines that were taken."""
        self.taken.clear()


def _going_on(line: str, source: _Lines) -> str | None:
    """The text from a line on until all that it opens is closed; None where the lines do not belong together.

    A line that is cut off takes nothing of the next records with it: after `{"a": 1,` no object can follow.
    """
    parts, size = [line], len(line)
    depth = _depth(line)
    while depth and 0 < depth <= _DEEPEST and size <= files.LINE_LIMIT:
        following = source.take()
        if not isinstance(following, str):
            return None
        if _BLANK.fullmatch(following):
            continue
        if following.lstrip().startswith(("{", "[")) and not parts[-1].rstrip().endswith((",", "[", ":")):
            return None
        step = _depth(following)
        depth = None if step is None else depth + step
        parts.append(following)
        size += len(following)
    return "".join(parts) if depth == 0 else None


def _depth(line: str) -> int | None:
    """How many objects and lists a line opens and does not close; None where a text in it has no end."""
    rest = _TEXT.sub("", line)
    if '"' in rest:
        return None
    return rest.count("{") + rest.count("[") - rest.count("}") - rest.count("]")


def _objects(text: str | None) -> list[tuple[int, Any]] | None:
    """The objects in a text with the lines where they begin; None where it holds anything else."""
    if text is None:
        return None
    found: list[tuple[int, Any]] = []
    place = Place()
    reader = _Text(io.BufferedReader(io.BytesIO(text.encode())), place)
    try:
        while not reader.at_end():
            found.append((place.line, reader.value()))
    except FileError:
        return None
    return found if all(isinstance(value, (dict, RecordError)) for _, value in found) else None


def _value(text: str) -> Any:
    """A text's JSON value, or a RecordError that says why it has none."""
    try:
        return json_value(text)
    except RecordError as error:
        return error


def _is_whole(line: bytes) -> bool:
    """Whether a line is a JSON value."""
    return not isinstance(_value(line.decode("utf-8", "replace")), RecordError)


def json_rows(stream: io.BufferedReader, place: Place) -> Iterator[PlacedRow]:
    """A list of objects, objects one after the other, a table in one object; JSON Lines by another name."""
    first, _, rest = stream.peek(files.CHUNK).lstrip().partition(b"\n")
    if first.startswith(b"{") and rest.strip() and _is_whole(first):
        yield from json_lines(stream, place)
        return
    text = _Text(stream, place)
    if not text.skip("["):
        yield from _one_after_the_other(text, place)
        return
    number = 0
    while not text.at_end():
        if text.skip("]"):
            if not text.at_end():
                raise FileError(f":{place.line}", "broken JSON: something follows the list")
            return
        if number and not text.skip(","):
            raise FileError(f":{place.line}", "broken JSON: a comma is missing between two items of the list")
        if text.at_end():
            break
        number += 1
        yield f":{place.line} (item {number})", text.value()
    raise FileError(f":{place.line}", "broken JSON: the file ends within its list")


def _one_after_the_other(text: _Text, place: Place) -> Iterator[PlacedRow]:
    if text.at_end():
        return
    where, value = f":{place.line}", text.value()
    if text.at_end():
        yield from unfolded(value, where)
        return
    yield where, value
    while not text.at_end():
        yield f":{place.line}", text.value()


class _Text:
    """A text in UTF-8 that is read as far as it is needed."""

    def __init__(self, stream: io.BufferedReader, place: Place) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._place = place
        place.line = 1

    def at_end(self) -> bool:
        """Skip white space; whether nothing follows it."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            assert blank
            self._go(blank.end())
            if self._at < len(self._text):
                return False
            if not self._more():
                return True

    def skip(self, mark: str) -> bool:
        """Go beyond a character if it is the next one."""
        if self.at_end() or self._text[self._at] != mark:
            return False
        self._go(self._at + 1)
        return True

    def value(self) -> Any:
        """The next JSON value, a RecordError for a wrong one; FileError where its end cannot be found."""
        while True:
            value: Any
            try:
                try:
                    value, end = STRICT.raw_decode(self._text, self._at)
                except RecordError as error:
                    value, (_, end) = error, _LENIENT.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, json.JSONDecodeError):  # the value may go on beyond what was read so far
                    if len(self._text) - self._at > files.LINE_LIMIT:
                        raise FileError(f":{self._place.line}", _TOO_LONG) from error
                    if self._more():
                        continue
                    line = self._place.line + self._text.count("\n", self._at, error.pos)
                    raise FileError(f":{line}", f"broken JSON: {error.msg}") from error
                raise FileError(f":{self._place.line}", broken(error)) from error
            if end == len(self._text) and self._more():
                continue
            self._go(end)
            return value

    def _go(self, to: int) -> None:
        self._place.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Read on, at least as much as is waiting, so that a long value costs no quadratic time."""
        line = self._place.line + self._text.count("\n", self._at)
        raw = self._stream.read(max(files.CHUNK, len(self._text) - self._at))
        if b"\0" in raw:
            line += raw[: raw.index(b"\0")].count(b"\n")
            raise FileError(f":{line}", "not a text file in UTF-8 (it holds NUL bytes)")
        try:
            chunk = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            raise FileError(f":{line}", "not UTF-8: save the file as UTF-8") from error
        self._text = self._text[self._at :] + chunk
        self._at = 0
        return bool(raw)
