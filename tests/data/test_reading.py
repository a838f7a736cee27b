"""What a file was understood as: told of every file, the same from the cache, and never silently less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from align.data.formats import UNUSED, Format, LeftOut
from align.data.formats.registry import FORMATS
from align.data.load import Split, load
from align.data.reading import Reading, by_understanding
from align.errors import UserError
from align.recipe.data import Source
from align.records import Ranking
from align.values import RecordError

PAIR = Format(
    "pair",
    "a question, two answers",
    lambda row: _read(row),
    lambda row: "better" in row,
    None,
    {"asked": "prompt", "better": "best", "worse": "worst", "number": UNUSED},
)
ROW = {"asked": "Open?", "better": "Yes.", "worse": "No."}


def _read(row: Any) -> Iterator[Ranking | LeftOut]:
    if row["better"] is None:
        yield LeftOut("nobody judged it")
    elif row["better"] == "?":
        return
    elif not row["asked"]:
        raise RecordError("asked", "is empty")
    else:
        yield Ranking(row["asked"], (row["better"], row["worse"]), (1, 2))


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Split[Ranking]]:
    monkeypatch.setitem(FORMATS, "pair", PAIR)

    def make(*rows: dict[str, Any], **entry: Any) -> Split[Ranking]:
        write_jsonl(tmp_path / "a.jsonl", list(rows))
        source = Source(train=[{"path": str(tmp_path / "a.jsonl"), **entry}], held_out=0.0)
        return load(Ranking, source, "rankings", tmp_path / "cache")

    return make


def test_format_columns_and_counts_are_told_and_the_same_from_the_cache(
    read: Callable[..., Split[Ranking]], tmp_path: Path
) -> None:
    rows = [
        {**ROW, "number": 1, "note": "n", "id": "a1", "votes": 7},
        {**ROW, "better": None, "note": None},
        {**ROW, "better": "?", "note": "m"},
    ]
    for _ in range(2):
        ((name, reading),) = read(*rows).readings
        assert name == str(tmp_path / "a.jsonl")
        assert (reading.format, reading.why) == ("pair", "by its columns asked, better, worse")
        assert reading.columns == {"asked": "prompt", "better": "best", "worse": "worst"}
        assert {column: seen.count for column, seen in reading.ignored.items()} == {
            "note": 2,
            "id": 1,
            "votes": 1,
        }
        assert reading.unread == ["note"]
        assert (reading.rows, reading.records, reading.wrong) == (3, 1, 0)
        assert reading.counted() == (
            f"3 rows, 1 record, 2 left out: 1 × nobody judged it ({name}:2); "
            f"1 × no record in it, says pair ({name}:3)"
        )


@pytest.mark.parametrize(
    "column",
    ["input", "System", "history", "images", "tools", "context", "response_a", "Answer 2", "completions"],
)
def test_a_column_that_looks_like_a_part_of_the_record_is_refused_until_it_is_ignored(
    read: Callable[..., Split[Ranking]], column: str
) -> None:
    rows = [ROW, {**ROW, "asked": "Rain?", column: ["x"]}, {**ROW, "asked": "Sun?", column: "y"}]
    with pytest.raises(
        UserError, match=rf":2: `{column}` holds something in 2 rows, .*`ignore: \[{column}\]`"
    ):
        read(*rows)
    assert len(read(*rows, ignore=[column]).train) == 3
    empty: list[Any] = [None, "", " ", [], {}]
    assert len(read(*({**ROW, "asked": f"{i}?", column: value} for i, value in enumerate(empty))).train) == 5


def test_skipping_bad_records_does_not_skip_a_column(
    read: Callable[..., Split[Ranking]], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "b.jsonl", [{**ROW, "input": "x"}])
    source = Source(train=[str(tmp_path / "b.jsonl")], held_out=0.0, on_bad_record="skip")
    with pytest.raises(UserError, match="`input` holds something in a row"):
        load(Ranking, source, "rankings", tmp_path / "cache")


def test_an_ignored_column_is_hidden_from_the_format_too(read: Callable[..., Split[Ranking]]) -> None:
    rows = [{"instruction": "Add.", "input": "1 + 1", "output": "2"}]
    assert read(ROW, ignore=["note"]).train[0].prompt == "Open?"
    with pytest.raises(UserError, match="no known format has these columns: 'input', 'output'"):
        read(*rows, ignore=["instruction"])


def test_a_file_without_a_record_says_what_was_left_out(read: Callable[..., Split[Ranking]]) -> None:
    with pytest.raises(UserError, match="pair finds no record in it: 2 × nobody judged it"):
        read(*[{**ROW, "better": None}] * 2)


def test_the_format_that_was_guessed_is_named_in_its_errors(read: Callable[..., Split[Ranking]]) -> None:
    wrong = {**ROW, "asked": ""}
    with pytest.raises(UserError, match=r"`asked` is empty \(read as pair, by its columns\)"):
        read(ROW, wrong)
    with pytest.raises(UserError, match="`asked` is empty$"):
        read(ROW, wrong, format="pair")


def test_files_that_were_read_in_one_way_are_told_together() -> None:
    one = Reading("pair", "named in the recipe", {"asked": "prompt"}, rows=3, records=2)
    two = Reading("pair", "named in the recipe", {"asked": "prompt"}, rows=5, records=5)
    other = Reading("pair", "named in the recipe", {}, rows=1)
    found = list(by_understanding([("a", one), ("b", other), ("c", two)]))
    assert [(names, reading.rows) for names, reading in found] == [(["a", "c"], 8), (["b"], 1)]
    assert one.rows == 3


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (None, {"prompt": "Open?", "A": "Yes.", "B": "No.", "chosen": "A", "rejected": "B"}),
        (None, {"prompt": "Open?", "gpt": "Yes.", "claude": "No.", "chosen": "GPT", "rejected": "claude"}),
        (
            {"prompt": "q", "chosen": "good", "rejected": "bad"},
            {"q": "Open?", "a": "Yes.", "b": "No.", "good": "b", "bad": "a"},
        ),
    ],
)
def test_names_of_columns_are_no_answers(
    read: Callable[..., Split[Ranking]], columns: Any, row: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"its responses are .*, the names of columns that hold texts"):
        read(row, columns=columns)
    short = {"prompt": "Right?", "chosen": "A", "rejected": "B", "A": "", "source": "x"}
    assert len(read(short).train) == 1


@pytest.mark.parametrize(
    "name", ["system_message", "systemPrompt", "System Prompt", "chat-history", "document"]
)
def test_a_part_of_the_prompt_by_any_spelling_is_not_passed_over(
    read: Callable[..., Split[Ranking]], name: str
) -> None:
    with pytest.raises(
        UserError, match=f"`{name}` holds something in a row, looks like a part of the prompt"
    ):
        read({**ROW, name: "Be brief."})
