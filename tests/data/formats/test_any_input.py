"""Whatever JSON a row holds, a format gives records that can be trusted or one of our errors, no other."""

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.data.formats import FORMATS, Judged, LeftOut, as_kind, detect, from_columns
from align.errors import UserError
from align.records import Demonstration, Prompt, Ranking, RecordError

ROWS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))["rows"]
    for path in sorted(Path(__file__).with_name("samples").glob("*.json"))
}
KEYS = sorted(
    {key for rows in ROWS.values() for row in rows for key in row}
    | {
        "role",
        "content",
        "text",
        "rank",
        "replies",
        "id",
        "value",
        "response",
        "annotations",
        "status",
        "items",
    }
)
WORDS = ["", " ", "\0", "\ud800", "user", "assistant", "\n\nHuman: a\n\nAssistant: b", "N/A", "submitted"]
WORDS += ["[1, 2]", "[", "model_a", "left", "1", "-3", "nan", "inf", "9" * 400, "1e999"]
plain = (
    st.none()
    | st.booleans()
    | st.integers(-4, 4)
    | st.sampled_from([10**400, -(10**400), 1e308, -1e308, 0.5, 1e999, float("nan")])
    | st.sampled_from(WORDS)
    | st.text(max_size=3)
)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)
rows = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), values, max_size=8)
many = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, part in inside for path in paths(part, (*at, key)))]


def with_part(value: Any, path: tuple[Any, ...], new: Any, drop: bool) -> Any:
    if not path:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    if drop and len(path) == 1:
        del changed[path[0]]
    else:
        changed[path[0]] = with_part(value[path[0]], path[1:], new, drop)
    return changed


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A good row with one to three parts replaced or taken away."""
    name = draw(st.sampled_from(sorted(ROWS)))
    row = draw(st.sampled_from(ROWS[name]))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(row)))
        if path:
            row = with_part(row, path, draw(values), draw(st.booleans()))
    return name, row


def check(name: str, given: list[dict[str, Any]]) -> None:
    """Read as a loader does; every record that comes out is one that `from_dict` accepts."""
    format = FORMATS[name]
    placed = iter([(f"file:{i}", row) for i, row in enumerate(given, 1)])
    for place, row in format.gather(placed) if format.gather else placed:
        assert place.startswith("file:")
        try:
            found = list(format.read(row))
        except RecordError as error:
            assert error.message and len(str(error)) < 1_000
            continue
        for record in found:
            if not isinstance(record, (Judged, LeftOut)):
                assert type(record).from_dict(record.to_dict()) == record
            for kind in (Prompt, Demonstration, Ranking) if not isinstance(record, LeftOut) else ():
                try:
                    assert all(isinstance(part, (kind, LeftOut)) for part in as_kind(record, kind))
                except RecordError:
                    assert kind is not Prompt


@many
@given(rows)
def test_any_row_in_any_format(row: dict[str, Any]) -> None:
    for name in FORMATS:
        check(name, [row])


@settings(many, max_examples=300)
@given(spoilt())
def test_a_good_row_spoilt_in_its_own_format(given_: tuple[str, dict[str, Any]]) -> None:
    name, row = given_
    check(name, [row, *ROWS[name]])


@settings(many, max_examples=100)
@given(rows | spoilt().map(lambda pair: pair[1]))
def test_detection_finds_one_format_or_says_what_to_do(row: dict[str, Any]) -> None:
    try:
        format = detect(row)
    except UserError as error:
        assert str(error)
        return
    assert format in FORMATS.values()


MAPPINGS = [
    {"prompt": "prompt"},
    {"prompt": ["instruction", "input"], "response": "output"},
    {"prompt": "data.prompt", "responses": "completions.response", "scores": "completions.overall_score"},
    {"prompt": "question", "responses": "answers", "ranks": "ranks", "labeler": "worker"},
    {"prompt": "prompt", "chosen": "chosen", "rejected": ["rejected", "response"], "strength": "margin"},
]


@settings(many, max_examples=100)
@given(rows, st.sampled_from(MAPPINGS))
def test_any_row_through_a_mapping_of_columns(row: dict[str, Any], columns: dict[str, Any]) -> None:
    wanted = {
        name.split(".")[0]
        for source in columns.values()
        for name in ([source] if isinstance(source, str) else source)
    }
    full = {name: row.get(name, ["a", "b"]) for name in wanted} | row
    for one in (row, full):
        try:
            found = list(from_columns(columns).read(one))
        except RecordError:
            continue
        for record in found:
            assert type(record).from_dict(record.to_dict()) == record


@many
@given(
    st.dictionaries(
        st.sampled_from(["prompt", "ranks", "chosen", "x", ""]),
        st.text(max_size=3) | st.lists(st.text(max_size=3)),
    )
)
def test_any_mapping_of_columns_is_a_format_or_refused(columns: dict[str, Any]) -> None:
    try:
        from_columns(columns)
    except UserError as error:
        assert str(error).startswith("columns")
