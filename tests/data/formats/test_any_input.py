"""Whatever JSON a row holds, a format gives records that can be trusted or one of our errors, no other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.data.formats import FORMATS, Format, Judged, LeftOut, Placed, as_kind, detect, from_columns
from align.data.formats.argilla import argilla, argilla_flat
from align.data.formats.label_studio import label_studio
from align.errors import UserError
from align.recipe.load import read_columns
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

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
    return name, spoil(draw, draw(st.sampled_from(ROWS[name])))


def spoil(draw: st.DrawFn, row: dict[str, Any]) -> dict[str, Any]:
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(row)))
        if path:
            row = with_part(row, path, draw(values), draw(st.booleans()))
    return row


def gathered(format: Format, placed: Iterator[Placed]) -> Iterator[Placed]:
    """The rows as the format puts them together; what it says of the file as a whole is a UserError."""
    try:
        yield from format.gather(placed) if format.gather else placed
    except UserError as error:
        assert len(str(error)) < 2_000


def check(name: str, given: list[dict[str, Any]]) -> None:
    check_with(FORMATS[name], given)


def check_with(format: Format, given: list[dict[str, Any]]) -> None:
    """Read as a loader does; every record that comes out is one that `from_dict` accepts."""
    placed = iter([(f"file:{i}", row) for i, row in enumerate(given, 1)])
    for place, row in gathered(format, placed):
        assert place.startswith("file:")
        try:
            found = list(format.read(row))
        except RecordError as error:
            assert error.message and len(str(error)) < 1_000
            continue
        assert found, "a row that gives nothing must say why"
        for record in found:
            if isinstance(record, LeftOut):
                assert 0 < len(record.reason) < 200
                continue
            if not isinstance(record, Judged):
                assert type(record).from_dict(record.to_dict()) == record
            for kind in (Prompt, Demonstration, Ranking):
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


# Every kind of export that a recipe's keys can make a format read in another way.
BUCKETS = {"_": ["x"], "good": ["z", "y"], "bad": []}
RANKED = {"from_name": "rank", "to_name": "list", "type": "ranker", "value": {"ranker": BUCKETS}}
BUCKETED = ROWS["label-studio"][0] | {"annotations": [{"completed_by": 1, "result": [RANKED]}]}
TOLD = [
    (label_studio(), BUCKETED),
    (label_studio(["good", "_", "bad"]), BUCKETED),
    (label_studio(["good", "bad"], {"prompt": "prompt", "responses": "items"}), BUCKETED),
    (label_studio(None, {"responses": ["answer1", "answer2"]}), ROWS["label-studio"][1]),
    (argilla({"prompt": ["instruction"]}), ROWS["argilla"][2]),
    (argilla_flat({"prompt": "instruction"}), ROWS["argilla-flat"][0]),
]


@settings(many, max_examples=200)
@given(st.data())
def test_a_spoilt_export_of_a_labeling_tool(data: st.DataObject) -> None:
    format, row = data.draw(st.sampled_from(TOLD))
    check_with(format, [spoil(data.draw, row), row])


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
    {"chosen": "chosen", "rejected": "rejected", "system": "system", "tools": "tools", "source": "source"},
    {"prompt": "prompt", "responses": "answers", "order": "ranks"},
    {"prompt": "prompt", "responses": "answers", "order": "order", "ids": "ids"},
    {"prompt": "prompt", "responses": ["response1", "response2"], "verdict": "winner"},
    {
        "prompt": "messages",
        "responses": ["response1", "response2"],
        "verdict": {"column": "winner", "low": "a", "high": "b", "middle": 0.0},
    },
    {"prompt": "question", "responses": "answers", "verdict": {"best": "winner", "worst": "ranks"}},
    {"prompt": "question", "responses": "response", "scores": "margin", "group_by": ["question", "worker"]},
    {"prompt": "question", "responses": "response", "chosen": "winner", "group_by": "question"},
    {"response": "conversations", "messages": {"role": "from", "content": "value", "assistant": "gpt"}},
]


@settings(many, max_examples=100)
@given(rows, st.sampled_from(MAPPINGS))
def test_any_row_through_a_mapping_of_columns(row: dict[str, Any], columns: dict[str, Any]) -> None:
    wanted = {name.split(".")[0] for _, names in read_columns(columns).named() for name in names}
    full = {name: row.get(name, ["a", "b"]) for name in wanted} | row
    for one in (row, full):
        form = from_columns(columns)
        try:
            placed = gathered(form, iter([(":1", one), (":2", row), (":3", full)]))
            found = [record for _, whole in placed for record in form.read(whole)]
        except RecordError:
            continue
        for record in found:
            if isinstance(record, LeftOut):
                assert record.reason
                continue
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
