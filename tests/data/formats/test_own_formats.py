"""A format of one's own: a function, an entry point, a mapping of columns; and records of another kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.data.formats import FORMATS, LeftOut, as_kind, detect, find, from_columns
from align.errors import UserError
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

MODULE = '''
from align.data.formats import Format
from align.records import Ranking, RecordError

def as_dict(row):
    """Two answers and a letter."""
    ranks = [1, 2] if row["better"] == "a" else [2, 1]
    return {"prompt": row["q"], "responses": [row["a"], row["b"]], "ranks": ranks}

def as_record(row):
    return Ranking(row["q"], ("x", "y"), (1, 2))

def several(row):
    yield as_dict(row)
    yield as_record(row)

def left_out(row):
    return None

def raises_after_one(row):
    yield as_dict(row)
    row["nowhere"]

def broken_record(row):
    return {"prompt": row["q"], "responses": ["x"], "ranks": [1]}

def text(row):
    return "a text"

def exits(row):
    raise SystemExit("bye")

def noted(row):
    error = ValueError("two\\nlines")
    error.add_note("a note")
    raise error

def own_error(row):
    raise RecordError("better", "must be a or b")

def unchecked(row):
    return Ranking(row["q"], ("x", ""), (1, 7))

def backwards(rows):
    yield from list(rows)[::-1]

def stops(rows):
    yield from rows
    raise ValueError("odd")

number = 3
careless = Format("c", "about", lambda row: [unchecked(row)], lambda row: False)
failing = Format("f", "about", lambda row: [row["nowhere"]], lambda row: False)
reverse = Format("r", "about", lambda row: [as_record(row)], lambda row: False, backwards)
stopping = Format("s", "about", lambda row: [as_record(row)], lambda row: False, stops)
bare = Format("b", "about", lambda row: [as_record(row)], lambda row: False, lambda rows: dict(rows).values())
whole = Format("mine", "about", lambda row: [as_record(row)], lambda row: False)
'''
ROW = {"q": "Sky?", "a": "Blue.", "b": "Green.", "better": "a"}
FIRST = {"prompt": "Sky?", "responses": ["Blue.", "Green."], "ranks": [1, 2]}
SECOND = {"prompt": "Sky?", "responses": ["x", "y"], "ranks": [1, 2]}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that only the working directory holds, under a name that no other test has used."""
    name = f"mine_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    return name


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("as_dict", [FIRST]),
        ("as_record", [SECOND]),
        ("several", [FIRST, SECOND]),
        ("whole", [SECOND]),
    ],
)
def test_a_function_of_ones_own_reads_rows(module: str, function: str, expected: list[Any]) -> None:
    records = find(f"{module}:{function}").read(ROW)
    assert [record.to_dict() for record in records] == expected


def test_what_a_function_leaves_out_is_counted_with_its_name(module: str) -> None:
    assert find(f"{module}:left_out").read(ROW) == [LeftOut(f"{module}:left_out gave None")]


@pytest.mark.parametrize(
    ("function", "field", "said"),
    [
        ("raises_after_one", "", "the format function {} raised KeyError: 'nowhere'"),
        (
            "broken_record",
            "",
            "the format function {} gave a record whose `responses` has 1: a ranking needs at least 2",
        ),
        ("text", "", "the format function {} gave 'a text': a record, a dict, or None is needed"),
        ("exits", "", "the format function {} raised SystemExit: bye"),
        ("noted", "", "the format function {} raised ValueError: two lines"),
        ("own_error", "better", "must be a or b"),
    ],
)
def test_what_a_function_raises_is_told_in_one_line(
    module: str, function: str, field: str, said: str
) -> None:
    format = find(f"{module}:{function}")
    with pytest.raises(RecordError) as caught:
        format.read(ROW)
    assert (caught.value.field, caught.value.message) == (field, said.format(f"{module}:{function}"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hh_rlfh", "did you mean hh-rlhf?"),
        ("ultra-feedback", "did you mean ultrafeedback?"),
        ("", "no format has this name"),
        ("no_such_module_anywhere:f", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("{}:nothing", "has no attribute 'nothing'"),
        ("{}:number", "is 3, not a function"),
        (":f", "cannot be loaded"),
        ("{}:", "cannot be loaded"),
    ],
)
def test_a_format_that_is_not_there_is_told(module: str, name: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        find(name.format(module))
    assert words in str(caught.value)


def test_a_module_that_fails_is_told_by_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_written.py").write_text("def f(row:\n", encoding="utf-8")
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="format half_written:f: cannot be loaded: SyntaxError"):
        find("half_written:f")
    with pytest.raises(UserError, match="No module named 'a_package_that_is_not_there'"):
        find("needs_more:f")


def test_an_installed_package_can_bring_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bread_format-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: bread-format\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[align.formats]\nbread = bread_format_module:as_dict\n")
    (tmp_path / "bread_format_module.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    format = find("bread")
    assert (format.name, format.about) == ("bread", "Two answers and a letter.")
    assert [record.to_dict() for record in format.read(ROW)] == [FIRST]
    with pytest.raises(UserError, match="did you mean bread"):
        find("braed")


# columns


def read(columns: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    return [record.to_dict() for record in from_columns(columns).read(row)]


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        ({"prompt": "q"}, {"q": "Sky?", "other": 1}, {"prompt": "Sky?"}),
        ({"prompt": "q", "response": "a"}, ROW, {"prompt": "Sky?", "response": "Blue."}),
        (
            {"prompt": ["q", "more"], "response": "a"},
            ROW | {"more": ""},
            {"prompt": "Sky?", "response": "Blue."},
        ),
        (
            {"prompt": ["q", "more"], "response": "a"},
            ROW | {"more": "Now."},
            {"prompt": "Sky?\n\nNow.", "response": "Blue."},
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "labeler": "who", "strength": "margin"},
            ROW | {"who": 7, "margin": "0.5"},
            FIRST | {"labeler": "7", "strength": 0.5},
        ),
        (
            {"prompt": "q", "chosen": "good", "rejected": ["bad", "worse"]},
            {"q": "Sky?", "good": ["Blue.", "Grey."], "bad": "Red.", "worse": "Wet."},
            {"prompt": "Sky?", "responses": ["Blue.", "Grey.", "Red.", "Wet."], "ranks": [1, 1, 2, 2]},
        ),
        (
            {"prompt": "q", "responses": ["a", "b"], "ranks": ["rank_a", "rank_b"]},
            ROW | {"rank_a": "2", "rank_b": 1.0},
            FIRST | {"ranks": [2, 1]},
        ),
        (
            {"prompt": "q", "responses": "all", "ranks": "ranks"},
            {"q": "Sky?", "all": '["Blue.", "Red.", "Hm."]', "ranks": "[1, 2, null]"},
            {"prompt": "Sky?", "responses": ["Blue.", "Red.", "Hm."], "ranks": [1, 2, None]},
        ),
        (
            {
                "prompt": "task.q",
                "responses": "answers.text",
                "scores": "answers.marks.overall",
                "source": "a.b",
            },
            {
                "task": {"q": "Sky?"},
                "a.b": "file",
                "answers": [
                    {"text": "Red.", "marks": {"overall": 1}},
                    {"text": "Blue.", "marks": {"overall": "9.5"}},
                    {"text": "Azure.", "marks": {"overall": 9.5}},
                    {"text": "Hm.", "marks": {"overall": None}},
                    {"text": None, "marks": {"overall": 10}},
                ],
            },
            {
                "prompt": "Sky?",
                "responses": ["Red.", "Blue.", "Azure.", "Hm."],
                "ranks": [2, 1, 1, None],
                "source": "file",
            },
        ),
        (
            {"prompt": "talk", "chosen": "answers.0", "rejected": "answers.1"},
            {"talk": [{"role": "human", "content": "Sky?"}], "answers": ["Blue.", "Red."]},
            {
                "prompt": [{"role": "user", "content": "Sky?"}],
                "responses": ["Blue.", "Red."],
                "ranks": [1, 2],
            },
        ),
    ],
)
def test_a_mapping_of_columns_reads_rows(
    columns: dict[str, Any], row: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert read(columns, row) == [expected]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt": "q", "respones": "a"}, "did you mean responses?"),
        ({"labeler": "a"}, "nothing makes no record. Map one of these: prompt; prompt + response; "),
        ({}, "nothing makes no record"),
        ({"prompt": "q", "chosen": "a"}, "chosen, prompt makes no record"),
        ({"prompt": "q", "responses": "a", "ranks": "b", "scores": "c"}, "makes no record"),
        ({"prompt": "q", "response": ["a", "b"]}, "columns.response: expected text or null; got a list"),
        ({"prompt": []}, "columns: prompt: name the column"),
        ({"prompt": ""}, "columns: prompt: name the column"),
        ({"prompt": "q", "response": "a", "labeler": "w"}, "columns: labeler: only rankings have it"),
    ],
)
def test_a_mapping_that_makes_no_record_is_refused_at_once(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        from_columns(columns)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "row", "field", "words"),
    [
        ({"prompt": "question"}, ROW, "question", "is missing; the columns are 'q', 'a', 'b', 'better'"),
        ({"prompt": "q.text"}, ROW, "q.text", "is missing"),
        ({"prompt": "q", "response": "a"}, ROW | {"a": ""}, "a", "is empty"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, ROW | {"b": " "}, "b", "is empty"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, ROW | {"b": None}, "b", "holds no response"),
        (
            {"prompt": "q", "responses": "all", "ranks": "ranks"},
            ROW | {"all": ["x", "y"], "ranks": [1]},
            "ranks",
            "has 1 ranks, and there are 2 responses",
        ),
        (
            {"prompt": "q", "responses": "all", "ranks": "ranks"},
            ROW | {"all": ["x", "y"], "ranks": [0, 1]},
            "ranks[0]",
            "from 1, the best, up, not 0",
        ),
        (
            {"prompt": "q", "responses": "all", "scores": "marks"},
            ROW | {"all": ["x", "y"], "marks": ["good", 1]},
            "marks[0]",
            "must be a number, not 'good'",
        ),
        ({"prompt": ["q", "n"], "response": "a"}, ROW | {"n": 3}, "n", "must be text, not 3"),
    ],
)
def test_a_row_that_does_not_fit_its_mapping_is_told_by_its_column(
    columns: dict[str, Any], row: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(RecordError) as caught:
        read(columns, row)
    assert (caught.value.field, words in caught.value.message) == (field, True), str(caught.value)


# one kind from another

RANKING = Ranking("Sky?", ("Red.", "Blue.", "Azure.", "Hm."), (2, 1, 1, None))
WRITTEN = Demonstration("Sky?", "Blue.")
ASKED = Prompt("Sky?")


def test_a_record_gives_what_is_part_of_it() -> None:
    assert list(as_kind(RANKING, Ranking)) == [RANKING]
    assert list(as_kind(RANKING, Demonstration)) == [WRITTEN]  # the first of the two best
    assert list(as_kind(RANKING, Prompt)) == [ASKED]
    assert list(as_kind(WRITTEN, Prompt)) == [ASKED]
    assert list(as_kind(ASKED, Prompt)) == [ASKED]


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (lambda: as_kind(WRITTEN, Ranking), "gives demonstrations .* here rankings, .* are needed"),
        (lambda: as_kind(ASKED, Ranking), "gives prompts without any response"),
        (lambda: as_kind(ASKED, Demonstration), "here demonstrations, a prompt with the response"),
    ],
)
def test_a_record_that_holds_too_little_is_told(convert: Callable[[], Any], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        convert()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unchecked", "gave a record whose `responses[1]` is empty"),
        ("careless", "gave a record whose `responses[1]` is empty"),
        ("failing", "raised KeyError: 'nowhere'"),
        ("stopping", "`gather` of the format formats_of_mine:stopping raised ValueError: odd"),
        ("bare", "`gather` of formats_of_mine:bare gave an object"),
    ],
)
def test_whatever_a_format_of_ones_own_gives_or_raises_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    (tmp_path / "formats_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    form = find(f"formats_of_mine:{name}")
    rows = iter([("a:1", ROW), ("a:2", ROW)])
    with pytest.raises(RecordError) as caught:
        for _, row in form.gather(rows) if form.gather else rows:
            list(form.read(row))
    assert words in str(caught.value)
    reverse = find("formats_of_mine:reverse")
    assert reverse.gather is not None
    assert [place for place, _ in reverse.gather(iter([("a:1", ROW), ("a:2", ROW)]))] == ["a:2", "a:1"]


def test_detection_never_takes_a_custom_format() -> None:
    assert all(not find("hh-rlhf").detect(row) for row in ({}, ROW))
    with pytest.raises(UserError):
        detect(ROW)
    assert "columns" not in FORMATS
