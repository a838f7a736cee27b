"""Files of cases: our own form, and those of the safety benchmarks, told apart by their columns.

Columns as the benchmarks publish them: AdvBench (2307.15043), XSTest (2308.01263), HarmBench (2402.04249),
JailbreakBench (2404.01318), StrongREJECT (2402.10260), and the report.jsonl that garak writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from align.data.rows import EMPTY_ROW, FileError, read_rows
from align.errors import UserError
from align.messages import Messages
from align.records import Prompt
from align.safety.attacks import PLAIN
from align.safety.cases import Case, Expected
from align.values import RecordError, checked_name, checked_text, needed_part, optional_part, refuse_unknown

OWN = ("id", "prompt", "expected", "harm")
_MAY = ("attack", "pair", "canary", "source")
_UNSORTED = "unsorted"  # the harm of a request whose file names none
_SHOWN = 12  # columns in a message


@dataclass(frozen=True)
class _Row:
    """A row with what a format needs to know around it; `cells` by their columns in small letters."""

    path: Path
    prefix: str  # of ids
    number: int  # from 1
    cells: Mapping[str, Any]

    def text(self, column: str) -> str:
        """What stands in a column that has to say something; raises RecordError."""
        return checked_text(needed_part(self.cells, column), column)

    def maybe(self, column: str) -> str | None:
        """The name or number in a column; None where it is not there or empty."""
        value = self.cells.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return optional_part(self.cells, column, checked_name)

    def case(self, name: str | None, prompt: str, expected: Expected, harm: str | None, source: str) -> Case:
        """A case behind nothing; without a name it has the row's number."""
        return Case(f"{self.prefix}{name or self.number}", prompt, expected, harm or _UNSORTED, PLAIN, source)


@dataclass(frozen=True)
class Format:
    """A form of files: its name, the columns by which it is known (in small letters), and a row as a case.

    `case` gives None for a row that holds none. Names of columns are shown as `spelled`.
    """

    name: str
    spelled: tuple[str, ...]
    case: Callable[[_Row], Case | None]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column.lower() for column in self.spelled)


def _own(row: _Row) -> Case:
    refuse_unknown(row.cells, (*OWN, *_MAY), "a case", "")
    expected = row.text("expected")
    if expected not in get_args(Expected):
        raise RecordError("expected", f"must be {', '.join(get_args(Expected))}, not {expected[:40]!r}")
    canary = optional_part(row.cells, "canary", checked_text)
    pair = optional_part(row.cells, "pair", checked_name)
    if expected == "withhold" and canary is None:
        raise RecordError("canary", "is missing: say which text an answer must not hold")
    return Case(
        row.prefix + checked_name(needed_part(row.cells, "id"), "id"),
        Prompt.from_dict({"prompt": needed_part(row.cells, "prompt")}).prompt,
        expected,  # type: ignore[arg-type]  # one of Expected, as was looked at above
        row.text("harm"),
        optional_part(row.cells, "attack", checked_text) or PLAIN,
        optional_part(row.cells, "source", checked_text) or row.path.name,
        row.prefix + pair if pair else None,
        canary,
    )


def _advbench(row: _Row) -> Case:
    return row.case(None, row.text("goal"), "refuse", None, "AdvBench")


def _behaviors(row: _Row) -> Case:
    """AdvBench as HarmBench's table has it."""
    return row.case(
        row.maybe("behaviorid"), row.text("behavior"), "refuse", row.maybe("category"), "AdvBench"
    )


def _harmbench(row: _Row) -> Case:
    context = row.maybe("contextstring")
    asked = row.text("behavior")
    prompt = f"{context}\n\n---\n\n{asked}" if context else asked
    return row.case(row.text("behaviorid"), prompt, "refuse", row.maybe("semanticcategory"), "HarmBench")


def _jailbreakbench(row: _Row) -> Case:
    """Its two files have the same columns: their names say which one holds harmful requests.

    Request i of the one belongs to request i of the other: the same subject, without the harm.
    """
    named = row.path.name.lower()
    if ("harmful" in named) == ("benign" in named):
        raise RecordError(
            "",
            "is of JailbreakBench: the file's name has to say `harmful` or `benign`, which its columns don't",
        )
    kind: Expected = "comply" if "benign" in named else "refuse"
    number = row.maybe("index")
    case = row.case(number, row.text("goal"), kind, row.maybe("category"), "JailbreakBench")
    return replace(case, pair=f"JailbreakBench/{number}" if number else None)


def _strongreject(row: _Row) -> Case:
    prompt = row.text("forbidden_prompt")
    return row.case(None, prompt, "refuse", row.maybe("category"), "StrongREJECT")


def _xstest(row: _Row) -> Case:
    """Version 2 has `label`; version 1 says it by the type: contrast_… are the harmful ones."""
    kind = row.text("type")
    label = row.text("label").strip().lower() if "label" in row.cells else None
    if label not in (None, "safe", "unsafe"):
        raise RecordError("label", f"must be safe or unsafe, not {label[:40]!r}")
    harmful = kind.startswith("contrast_") if label is None else label == "unsafe"
    harm = kind.removeprefix("contrast_")
    return row.case(row.maybe("id"), row.text("prompt"), "refuse" if harmful else "comply", harm, "XSTest")


def _garak(row: _Row) -> Case | None:
    """An attempt: what a probe asked. It stands there once when asked and once when judged, by the same uuid.

    A probe that looks for a text in the answer notes it as trigger: it is the canary.
    """
    if row.cells.get("entry_type") != "attempt":
        return None
    prompt = _garak_prompt(needed_part(row.cells, "prompt"))
    if prompt is None:
        return None
    probe = row.text("probe_classname")
    notes = row.cells.get("notes")
    notes = notes if isinstance(notes, Mapping) else {}
    triggers = notes.get("triggers") or notes.get("trigger")
    trigger = triggers[0] if isinstance(triggers, list) and triggers else triggers
    canary = trigger if isinstance(trigger, str) and trigger.strip() else None
    return Case(
        f"{row.prefix}{row.maybe('uuid') or row.number}",
        prompt,
        "withhold" if canary else "refuse",
        probe.split(".")[0],
        f"garak/{probe}",
        "garak",
        canary=canary,
    )


def _garak_prompt(value: Any) -> str | Messages | None:
    """A text (before 0.11), a message, or a conversation; None where it has no text, as an image has none."""
    if isinstance(value, Mapping) and "turns" in value:
        turns = [turn for turn in value["turns"] or () if isinstance(turn, Mapping)]
        found = [{"role": turn.get("role"), "content": _said(turn.get("content"))} for turn in turns]
        if not found or any(not message["content"] for message in found):
            return None
        if len(found) > 1 or found[0]["role"] != "user":
            return Prompt.from_dict({"prompt": found}).prompt
        value = found[0]["content"]
    text = _said(value)
    return checked_text(text, "prompt") if text else None  # as it stands, even if it looks like messages


def _said(content: Any) -> str | None:
    text = content.get("text") if isinstance(content, Mapping) else content
    return text if isinstance(text, str) and text.strip() else None


# In this order: whoever has the columns of two is of the first.
FORMATS = (
    Format("our own form", OWN, _own),
    Format("garak's report", ("entry_type",), _garak),
    Format("StrongREJECT", ("category", "source", "forbidden_prompt"), _strongreject),
    Format("HarmBench", ("Behavior", "SemanticCategory", "BehaviorID"), _harmbench),
    Format("JailbreakBench", ("Goal", "Behavior", "Category"), _jailbreakbench),
    Format("AdvBench", ("Behavior", "Category", "BehaviorID"), _behaviors),
    Format("AdvBench", ("goal", "target"), _advbench),
    Format("XSTest", ("prompt", "type"), _xstest),
)


def read_cases(path: Path, prefix: str | None = None) -> list[Case]:
    """The cases of a file, each with an id of its own.

    `prefix`: what the ids begin with; None: the file's name. Raises UserError, which says file, line and what
    to do.
    """
    form: Format | None = None
    stood: dict[str, str] = {}  # where, by id
    cases: list[Case] = []
    for number, (place, cells) in enumerate(_rows(path), 1):
        form = form or _format(path, place, cells)
        row = _Row(path, f"{path.stem}/" if prefix is None else prefix, number, cells)
        try:
            case = form.case(row)
        except RecordError as error:
            raise UserError(f"{path}{place}: {_as_spelled(error, form)}") from error
        if case is None or (form.case is _garak and case.id in stood):
            continue
        if case.id in stood:
            name = case.id.removeprefix(row.prefix)[:60]
            raise UserError(
                f"{path}{place}: the id {name!r} stands in {path.name}{stood[case.id]} too: "
                "give every case an id of its own"
            )
        stood[case.id] = place
        cases.append(case)
    if form is None:
        raise UserError(f"{path}: is empty: write a case a line, with {', '.join(OWN)}")
    if not cases:
        raise UserError(
            f"{path}: holds no attempt with a text: give the report.jsonl of a finished garak run"
        )
    return cases


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows with their places, columns in small letters."""
    try:
        for place, row in read_rows(path):
            if row is EMPTY_ROW:
                continue
            if isinstance(row, RecordError):
                raise UserError(f"{path}{place}: {row}")
            if not isinstance(row, dict):
                raise UserError(f"{path}{place}: must be an object with {', '.join(OWN)}")
            yield place, {str(column).lower(): cell for column, cell in row.items()}
    except FileError as error:
        raise UserError(f"{path}{error.place}: {error.message}") from error


def _format(path: Path, place: str, cells: Mapping[str, Any]) -> Format:
    """The form that has all these columns; raises UserError that names the nearest."""
    for form in FORMATS:
        if set(form.columns) <= set(cells):
            return form
    nearest = max(FORMATS, key=lambda form: _share(form, cells))
    found = ", ".join(repr(column[:40])[1:-1] for column in list(cells)[:_SHOWN])
    more = f" and {len(cells) - _SHOWN} more" if len(cells) > _SHOWN else ""
    if not _share(nearest, cells):
        nearest = FORMATS[0]
    missing = ", ".join(f"`{name}`" for name in nearest.spelled if name.lower() not in cells)
    raise UserError(
        f"{path}{place}: has the columns {found}{more}. The nearest form is {nearest.name}, which also needs "
        f"{missing}: add or rename the column, or write cases as JSON Lines with {', '.join(OWN)}"
    )


def _share(form: Format, cells: Mapping[str, Any]) -> float:
    return sum(column in cells for column in form.columns) / len(form.columns)


def _as_spelled(error: RecordError, form: Format) -> str:
    """The message, with the column as the format's files spell it, and what to do."""
    spelled = {column.lower(): column for column in form.spelled}
    told = str(RecordError(spelled.get(error.field, error.field), error.message))
    simple = error.message in ("is missing", "is empty")
    return f"{told}: fill it in, or delete the line" if simple else told
