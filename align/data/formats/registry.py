"""Formats found by name, by import path, by entry point, or by a row's columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from align.data import imports
from align.data.formats.argilla import argilla, argilla_flat
from align.data.formats.base import (
    Format,
    Judged,
    LeftOut,
    Placed,
    Record,
    Row,
    Unranked,
    never,
    of_tables,
    short,
)
from align.data.formats.columns import from_columns
from align.data.formats.conversations import messages_in, talk_in
from align.data.formats.demonstrations import DEMONSTRATION_FORMATS
from align.data.formats.label_studio import label_studio
from align.data.formats.lists import LIST_FORMATS
from align.data.formats.own import ALIGN, looks_like_own, read_own
from align.data.formats.pairs import PAIR_FORMATS
from align.data.formats.peers import PEER_FORMATS
from align.data.formats.suggest import suggest
from align.data.formats.tools import ToolColumns
from align.data.formats.trees import TREE_FORMATS
from align.data.formats.trl import TRL_FORMATS
from align.data.imports import last_line
from align.data.lines import FileError
from align.errors import UserError
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

if TYPE_CHECKING:
    from align.recipe.columns import Columns

GROUP = "align.formats"
FORMATS: dict[str, Format] = {
    format.name: of_tables(format)
    for format in (
        ALIGN,
        *TRL_FORMATS,
        *PEER_FORMATS,
        *LIST_FORMATS,
        *PAIR_FORMATS,
        *TREE_FORMATS,
        *DEMONSTRATION_FORMATS,
        label_studio(),
        argilla(),
        argilla_flat(),
    )
}
# Those whose fields a recipe may name beside the format, by `columns`.
TOOLS: dict[str, Callable[[ToolColumns], Format]] = {
    "label-studio": lambda columns: label_studio(None, columns),
    "argilla": argilla,
    "argilla-flat": argilla_flat,
}


def chosen(
    name: str | None, columns: Columns | Mapping[str, Any] | None = None, buckets: Sequence[str] | None = None
) -> Format | None:
    """The format that an entry of the recipe names, with what else it says; None: that of a file's columns.

    Raises UserError.
    """
    if columns is not None and name is None and buckets is None:
        return from_columns(columns)
    fields = columns if columns is None or isinstance(columns, Mapping) else columns.model_dump()
    fields = {key: value for key, value in (fields or {}).items() if value}
    if buckets is not None:
        return label_studio(buckets, fields)
    if name is not None and fields:
        return TOOLS[_plain(name)](fields)
    return find(name) if name is not None else None


def find(name: str) -> Format:
    """The format of a name: built in, "my_package.my_module:function", or an entry point of align.formats.

    A module is looked for where Python finds packages, then in the working directory. Raises UserError.
    """
    if built_in(name):
        return FORMATS[_plain(name)]
    if ":" in name:
        return _custom(name, lambda: imports.load(name))
    installed = {entry.name: entry for entry in _installed()}
    if name in installed:
        return _custom(name, installed[name].load)
    known = [*FORMATS, *installed]
    near = get_close_matches(_plain(name), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"format {short(name)}: no format has this name; {hint}There are {', '.join(known)}. "
        "A function of your own is named my_package.my_module:function."
    )


def given(format: str | None, columns: str | None = None, buckets: str | None = None) -> Format | None:
    """The format that a command's options --format, --columns and --buckets name; None without any.

    They mean what an entry of a recipe means by the same names. Raises UserError.
    """
    plain = _plain(format) if format is not None else None
    if buckets is not None and plain not in (None, "label-studio"):
        raise UserError("--buckets are a ranker's in label-studio, and --format names another")
    if columns is None and buckets is None:
        return chosen(format)
    if columns is not None and plain is not None and plain not in TOOLS:
        raise UserError("--format and --columns both say how to read a row; keep one")
    if columns is not None and buckets is not None and plain is None:
        raise UserError("--buckets beside --columns: name label-studio by --format")
    from align.recipe.load import read_columns, read_names  # they need a library, which a known format spares

    mapping = read_columns(columns, "--columns", format) if columns is not None else None
    return chosen(format, mapping, read_names(buckets, "--buckets") if buckets is not None else None)


def built_in(name: str) -> bool:
    """Whether a format's name is one of align's own, so that nobody else's code reads a row."""
    return _plain(name) in FORMATS


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _installed() -> Iterable[EntryPoint]:
    return entry_points(group=GROUP)


def _custom(name: str, load: Callable[[], Any]) -> Format:
    try:
        found = load()
    except (Exception, SystemExit) as error:
        raise UserError(f"format {name}: cannot be loaded: {last_line(error)}") from error
    if isinstance(found, Format):
        return _guarded(name, found)
    if not callable(found):
        raise UserError(f"format {name}: is {short(found)}, not a function that takes a row")
    about = " ".join((getattr(found, "__doc__", None) or "a function of your own").split())
    return Format(name, about, lambda row: _called(name, found, row), never, typed=True)


def _called(name: str, function: Callable[[Any], Any], row: Row) -> list[Record | LeftOut]:
    """What a person's function makes of a row, checked; whatever it raises becomes a RecordError."""
    try:
        given = function(row)
        many = not isinstance(
            given, (Prompt, Demonstration, Ranking, LeftOut, Mapping, str, bytes, type(None))
        )
        results = list(given) if many else [given]
    except RecordError:
        raise
    except (Exception, SystemExit) as error:
        raise RecordError("", f"the format function {name} raised {last_line(error)}") from error
    found: list[Record | LeftOut] = []
    for result in results:
        if isinstance(result, (Prompt, Demonstration, Ranking)):
            found.append(_record(name, result))
        elif isinstance(result, LeftOut):
            found.append(result)
        elif isinstance(result, Mapping):
            found += _checked(name, result)
        elif result is None:
            found.append(LeftOut(f"{name} gave None"))
        else:
            raise RecordError(
                "", f"the format function {name} gave {short(result)}: a record, a dict, or None is needed"
            )
    return found


def _guarded(name: str, form: Format) -> Format:
    """A person's own format: whatever its `read` and its `gather` raise becomes a RecordError."""
    gather = form.gather

    def read(row: Row) -> Iterator[Record | LeftOut]:
        try:
            results = list(form.read(row))
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise RecordError("", f"the format {name} raised {last_line(error)}") from error
        for result in results:
            if isinstance(result, (LeftOut, Judged, Unranked)):
                yield result
            elif isinstance(result, (Prompt, Demonstration, Ranking)):
                yield _record(name, result)
            else:
                raise RecordError("", f"the format {name} gave {short(result)}: `read` gives records")

    def gathered(rows: Iterator[Placed]) -> Iterator[Placed]:
        assert gather is not None
        try:
            for one in gather(rows):
                pair = isinstance(one, tuple) and len(one) == 2
                if not (pair and isinstance(one[0], str) and isinstance(one[1], Mapping)):
                    raise RecordError("", f"`gather` of {name} gave {short(one)}: (place, row) is needed")
                yield one
        except (UserError, FileError):
            raise
        except Exception as error:
            raise RecordError("", f"`gather` of the format {name} raised {last_line(error)}") from error

    return replace(form, read=read, gather=gather and gathered)


def _record(name: str, result: Prompt | Demonstration | Ranking) -> Record:
    """A record that a person's code made, checked as one from a file is."""
    try:
        return type(result).from_dict(result.to_dict())
    except RecordError as error:
        raise RecordError(
            "", f"the format {name} gave a record whose `{error.field}` {error.message}"
        ) from error
    except Exception as error:
        raise RecordError("", f"the format {name} gave a record that is none: {last_line(error)}") from error


def _checked(name: str, result: Row) -> list[Record]:
    try:
        return read_own(result)
    except RecordError as error:
        field = f"`{error.field}` " if error.field else "what "
        raise RecordError(
            "", f"the format function {name} gave a record whose {field}{error.message}"
        ) from error


def _but_for_a_value(row: Row) -> str | None:
    """What is said of a row that one format would know if each of its cells held a text."""
    odd = [name for name, value in row.items() if not isinstance(value, (str, list, Mapping)) or not value]
    filled = {name: "text" if name in odd else value for name, value in row.items()}
    names = [form.name for form in FORMATS.values() if odd and form.detect(filled)]
    if len(names) != 1:
        return None
    held = ", ".join(f"`{name}` is {'empty' if not row[name] else short(row[name])}" for name in odd)
    return (
        f"these are the columns of the format {names[0]}, and here {held}: correct the row, or write "
        f"`format: {names[0]}` to have each such row told"
    )


def detect(row: Row) -> Format:
    """The one format whose columns a row has; raises UserError that lists them and says how to name it."""
    if not isinstance(row, Mapping):
        raise UserError(f"a row is an object with columns, not {short(row)}")
    typed = {name: messages_in(value, str(name)) for name, value in row.items()}  # tables hold them as text
    objects = [name for name in ("chosen", "rejected") if isinstance(row.get(name), Mapping)]
    typed |= {name: found for name in objects if len(found := talk_in(row[name], name)) > 1}
    fitting = [format for format in FORMATS.values() if format.detect(typed)]
    if len(fitting) == 1:
        return fitting[0]
    near = None if fitting else suggest(row, FORMATS.values())
    told = near is not None and "`columns:" in near
    whole = {"prompt", "responses", "ranks"} <= set(row)
    if not fitting and (whole or not told) and looks_like_own(row):
        return FORMATS[ALIGN.name]  # its reader says which key is wrong
    columns = ", ".join(short(str(key)) for key in list(row)[:30]) or "none"
    if fitting:
        names = ", ".join(format.name for format in fitting)
        raise UserError(f"the columns ({columns}) fit several formats: name one with `format:` ({names}).")
    if told:
        raise UserError(f"no known format has these columns: {columns}. {near} Or name one with `format:`.")
    if nearly := _but_for_a_value(row):
        raise UserError(nearly)
    raise UserError(
        f"no known format has these columns: {columns}. {f'{near} ' if near else ''}Name the format with "
        f"`format:` ({', '.join(FORMATS)}, or my_package.my_module:function), or say which column is what "
        "with `columns:`, as in {prompt: q, chosen: better, rejected: worse}."
    )
