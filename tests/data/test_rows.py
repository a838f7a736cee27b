"""Rows of files: every kind, plain and compressed, with the right places, and garbage that is refused."""

import csv
import gzip
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.data import lines as module
from align.data.rows import EMPTY_ROW, FileError, kind_of, read_rows
from align.values import RecordError

NAMES = [f"a{kind}{packed}" for kind in (".jsonl", ".json", ".csv", ".tsv") for packed in ("", ".gz", ".zst")]
ROW = {"prompt": "Grüße, \u2028 🙂", "response": 'She said "no",\r\nthen left'}


def packed(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content)
    return pa.Codec("zstd").compress(content).to_pybytes() if name.endswith(".zst") else content


def text_of(kind: str | None, found: list[dict[str, Any]]) -> bytes:
    """Rows as Python's own writers write them."""
    if kind == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode()
    if kind == ".json":
        return json.dumps(found, indent=2).encode()
    out = io.StringIO()
    writer = csv.DictWriter(out, list(found[0]))
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue().encode()


def read(folder: Path, name: str, content: bytes) -> list[tuple[str, Any]]:
    (folder / name).write_bytes(content)
    return list(read_rows(folder / name))


def refused(folder: Path, name: str, content: bytes) -> str:
    with pytest.raises(FileError) as caught:
        read(folder, name, content)
    return f"{caught.value.place}: {caught.value.message}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_kind_gives_the_rows_that_were_written(tmp_path: Path, name: str, mark: bytes) -> None:
    content = mark + text_of(kind_of(name), [ROW, ROW])
    assert [row for _, row in read(tmp_path, name, packed(name, content))] == [ROW, ROW]


@pytest.mark.parametrize("tool", ["gzip", "zstd"])
def test_what_the_usual_tools_pack_is_read(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not here")
    suffix = {"gzip": ".gz", "zstd": ".zst"}[tool]
    found = [{"prompt": f"row {i}"} for i in range(5000)]
    halves = [text_of(".jsonl", found[:2500]), text_of(".jsonl", found[2500:])]
    content = b"".join(
        subprocess.run([tool, "-c"], input=half, capture_output=True, check=True).stdout for half in halves
    )
    assert [row for _, row in read(tmp_path, f"a.jsonl{suffix}", content)] == found


def test_parquet_keeps_types_and_numbers_its_rows(tmp_path: Path) -> None:
    found = [
        {"prompt": [{"role": "user", "content": "x"}], "ranks": [i, None], "strength": 0.5}
        for i in range(600)
    ]
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "a.parquet", row_group_size=250)
    read = list(read_rows(tmp_path / "a.parquet"))
    assert [row for _, row in read] == found
    assert [place for place, _ in read][::599] == [" row 1", " row 600"]


def test_places_in_json(tmp_path: Path) -> None:
    text = b'[\n  {"a": 1}, {"a": 2},\n\n  {"a":\n 3}, {"b": 1,\n "b": 2}, 7\n]\n'
    found = read(tmp_path, "a.json", text)
    assert [place for place, _ in found] == [
        ":2 (item 1)",
        ":2 (item 2)",
        ":4 (item 3)",
        ":5 (item 4)",
        ":6 (item 5)",
    ]
    assert found[2][1] == {"a": 3}
    assert str(found[3][1]) == "`b` appears twice in one object"
    assert found[4][1] == 7


def test_json_lines_that_are_named_json_and_objects_in_a_row(tmp_path: Path) -> None:
    found = read(tmp_path, "a.json", b'{"a": 1}\n{"a": \n{"a": 3}\n')
    assert [place for place, _ in found] == [":1", ":2", ":3"]
    assert isinstance(found[1][1], RecordError)
    assert read(tmp_path, "a.json", b'{"a":\n1}\n\n{"a": 2} {"a": 3}') == [
        (":1", {"a": 1}),
        (":4", {"a": 2}),
        (":4", {"a": 3}),
    ]


def test_a_json_list_longer_than_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    found = [{"text": "é🙂" * n, "n": n * 1000} for n in range(40)]
    content = json.dumps(found, ensure_ascii=False, indent=1).encode()
    assert [row for _, row in read(tmp_path, "a.json", content)] == found
    numbers = [int("1234567890123456789"[:n]) for n in range(1, 19)]
    assert [row for _, row in read(tmp_path, "c.json", json.dumps(numbers).encode())] == numbers
    assert read(tmp_path, "b.json", b'[{"a":1},\n\n{"a":12345678901}]')[1] == (
        ":3 (item 2)",
        {"a": 12345678901},
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'[{"a": 1},\n {"a": 2}', ":2: broken JSON: the file ends within its list"),
        (b'[{"a": 1},\n {"a": \n', ":3: broken JSON: Expecting value"),
        (b'[{"a": 1}\n {"a": 2}]', ":2: broken JSON: a comma is missing"),
        (b'[{"a": 1}]\n[]', ":2: broken JSON: something follows the list"),
        (b'{"a":\n1}\n{"a":\n', ":4: broken JSON: "),
        (b'[\n{"a": "\xff"}]', ":2: not UTF-8"),
        (b'[{"a": 1},\n{"a": "\0"}]', ":2: not a text file in UTF-8"),
        (b"[" * 100_000, ":1: is nested too deeply"),
    ],
)
def test_broken_json_names_its_line(tmp_path: Path, text: bytes, says: str) -> None:
    assert refused(tmp_path, "a.json", text).startswith(says)


def test_csv_of_spreadsheets(tmp_path: Path) -> None:
    text = b"prompt;ranks;note;\r\nHow?;[1, 2];;\r\n\r\n[why];x;2;\r\n"
    assert read(tmp_path, "a.csv", text) == [
        (":2", {"prompt": "How?", "ranks": "[1, 2]", "note": None}),
        (":4", {"prompt": "[why]", "ranks": "x", "note": "2"}),
    ]


def test_bad_rows_of_a_csv_do_not_hide_the_good_ones(tmp_path: Path) -> None:
    text = b'a,b\n1,"x\ny"\n\n3\n"q"z,4\n5,\xff\n6,7\n'
    found = read(tmp_path, "a.csv", text)
    assert [(place, str(row) if isinstance(row, RecordError) else row["b"]) for place, row in found] == [
        (":2", "x\ny"),
        (":5", "has 1 cells, and the header names 2 columns"),
        (":6", "broken CSV: ',' expected after '\"': check its quotes"),
        (":7", "byte 3 is not UTF-8: save the file as UTF-8"),
        (":8", "7"),
    ]


def test_text_under_no_name_is_told_and_an_index_is_none(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", b",a,,b\nx7,1,,2\nx8,3,0,4\nx9,5,Be brief.,6\n")
    assert [str(row) if isinstance(row, RecordError) else row for _, row in found] == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
        "has 'Be brief.' in column 3, which has no name in the header: name it there, or delete it",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"a,b,a\n1,2,3\n", ":1: the column 'a' appears twice in the header: rename one"),
        (b'a,b\nA,\n"{""ImportId"":""x""}",\n1,2\n', ":3: is the third header row of a Qualtrics export"),
        (b'a,b\n1,"2\n3,4\n', ":2: broken CSV: unexpected end of data"),
        (b"a,b\r1,2\r", ":1: its lines end with a carriage return alone"),
        (b'{"prompt": "a, b", "chosen": "c"}\n', ":1: begins as JSON does"),
        (b'[{"prompt": "a",\n  "chosen": "c"}]\n', ":1: begins as JSON does"),
    ],
)
def test_a_csv_that_cannot_be_followed(tmp_path: Path, text: bytes, says: str) -> None:
    assert refused(tmp_path, "a.csv", text).startswith(says)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", gzip.compress(b"{}", mtime=0), ": is compressed with gzip: name it .jsonl.gz"),
        ("a.csv", packed(".zst", b"{}"), ": is compressed with zstd: name it .csv.zst"),
        ("a.json", b"PK\x03\x04", ": is a zip archive"),
        ("a.csv", b"PK\x03\x04" + bytes(26) + b"docProps/app.xml", ": is a workbook of a spreadsheet"),
        ("a.jsonl", b"PAR1....PAR1", ": is Parquet: name it .parquet"),
        ("a.csv", "a,b\n".encode("utf-16"), ":1: not a text file in UTF-8 (it begins as UTF-16)"),
        ("a.csv", "a,b\n".encode("utf-16-le"), ":1: not a text file in UTF-8 (it holds NUL bytes)"),
        ("a.csv", "größe,b\n".encode("latin-1"), ":1: byte 3 is not UTF-8: save the file as UTF-8"),
        ("a.jsonl", b"\x89PNG\r\n\x1a\n", ":1: byte 1 is not UTF-8"),
        ("a.parquet", b"", ": cannot be read: Parquet file size is 0 bytes"),
        ("a.zst", b"", ": unknown kind of file"),
    ],
)
def test_a_file_of_another_kind_is_one_message(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    assert refused(tmp_path, name, content).startswith(says)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_torn_file_says_how_far_it_was_read(tmp_path: Path, name: str) -> None:
    lines = "".join(json.dumps({"prompt": f"{i * 7919 % 10007}"}) + "\n" for i in range(20_000))
    content = packed(name, lines.encode())
    found = []
    (tmp_path / name).write_bytes(content[:-50])
    with pytest.raises(FileError, match=r"cannot be read after line \d+: ") as caught:
        for place, _ in read_rows(tmp_path / name):
            found.append(place)
    assert f"line {found[-1].removeprefix(':')}:" in caught.value.message


def test_a_line_beyond_the_limit_is_a_bad_record_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_LIMIT", 100)
    good = b'{"a": 1}\n'
    found = read(tmp_path, "a.jsonl", good + b"x" * 5000 + b"\n" + good)
    assert [place for place, _ in found] == [":1", ":2", ":3"]
    assert "write one record a line" in str(found[1][1])
    assert found[2][1] == {"a": 1}


def test_ten_million_characters_in_one_line_are_read(tmp_path: Path) -> None:
    row = {"prompt": "a" * 10**7}
    assert read(tmp_path, "a.jsonl", json.dumps(row).encode()) == [(":1", row)]


def test_garbage_in_a_parquet_file_after_its_footer_was_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": f"row {i} " * 20} for i in range(5000)]), path)
    content = bytearray(path.read_bytes())
    content[2000:4000] = b"\xaa" * 2000
    assert refused(tmp_path, "a.parquet", bytes(content)).startswith(": cannot be read")


# Tables


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b"\xef\xbb\xbfsep=;\r\nq;a,b\r\nOpen?;x\r\n", [(":3", {"q": "Open?", "a,b": "x"})]),
        (b'"sep=|"\nq|a\nx,y|1\n', [(":3", {"q": "x,y", "a": "1"})]),
        (b"q|a\nx,y|1\n", [(":2", {"q": "x,y", "a": "1"})]),
        (b'"q, asked";a\nx;1\n', [(":2", {"q, asked": "x", "a": "1"})]),  # a mark in quotes is none
        (b"\r\n;;\r\nq;a;\r\nx;1;\r\n", [(":4", {"q": "x", "a": "1"})]),  # a sheet that begins further down
        (
            b"q;a;;\r\nx;1;;\r\ny;2\r\nz;3;;;;\r\n",
            [(f":{n}", {"q": c, "a": d}) for n, c, d in zip((2, 3, 4), "xyz", "123", strict=True)],
        ),
        (
            b"q,a\nx,1\n,\n , \n,,,,\n\ny,2\n",
            [
                (":2", {"q": "x", "a": "1"}),
                *[(f":{n}", EMPTY_ROW) for n in (3, 4, 5)],
                (":7", {"q": "y", "a": "2"}),
            ],
        ),
        (b",q\n0,x\n", [(":2", {"q": "x"})]),  # the index that pandas writes
        (b"sep=;\n", []),
        (b";;;\n", []),
    ],
)
def test_tables_as_spreadsheets_save_them(tmp_path: Path, text: bytes, rows: list[Any]) -> None:
    assert read(tmp_path, "a.csv", text) == rows


def test_what_stands_beyond_the_header_is_not_dropped(tmp_path: Path) -> None:
    (_, row), *_ = read(tmp_path, "a.csv", b"q;a;;\nx;1;;more\n")
    assert str(row) == "has 4 cells, and the header names 2 columns"


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.csv", "a.TSV"])
def test_tabs_between_the_cells(tmp_path: Path, name: str) -> None:
    content = packed(name, b'question\ta\nOpen?\t"Yes, ""now""\tor later"\n')
    assert read(tmp_path, name, content) == [(":2", {"question": "Open?", "a": 'Yes, "now"\tor later'})]


@pytest.mark.parametrize("first", ['{"a": 1}', '["a", "b"]', "[Your Name]", "[{'role': 'user'}]", "yes"])
def test_a_cell_is_text_whatever_the_cells_around_it_are(tmp_path: Path, first: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([["q"], [first], ["Rain?"], [first]])
    assert [row["q"] for _, row in read(tmp_path, "a.csv", out.getvalue().encode())] == [
        first,
        "Rain?",
        first,
    ]


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("10,9,-3", [10, 9, -3]),
        ("10,,9", [10, None, 9]),
        ("1.0,2,-0.5,1e-05", [1.0, 2.0, -0.5, 1e-05]),
        ("007,1", ["007", "1"]),
        ("+49,1", ["+49", "1"]),
        ("1.,2", ["1.", "2"]),
        ("1_000,2", ["1_000", "2"]),
        ("nan,2", ["nan", "2"]),
        ("1e999,2", ["1e999", "2"]),
        ("9" * 5000 + ",2", ["9" * 5000, "2"]),
        ("3,x", ["3", "x"]),
        (",,", [None, None, None]),
        ('"2,5",3', ["2,5", "3"]),  # commas set the cells apart
    ],
)
def test_a_column_of_numbers_is_numbers_for_a_function(tmp_path: Path, text: str, cells: list[Any]) -> None:
    (tmp_path / "a.csv").write_text("n,t\n" + "".join(",".join([cell, "a"]) + "\n" for cell in _cells(text)))
    found = [row["n"] for _, row in read_rows(tmp_path / "a.csv", typed=True)]
    assert found == cells
    assert [type(cell) for cell in found] == [type(cell) for cell in cells]
    texts = [row["n"] for _, row in read_rows(tmp_path / "a.csv")]
    assert all(cell is None or isinstance(cell, str) for cell in texts)


def _cells(text: str) -> list[str]:
    return [text[:5], text[6:]] if text.startswith('"') else text.split(",")


@pytest.mark.parametrize(
    ("cells", "read_as"),
    [
        (["2,5", "3"], [2.5, 3.0]),
        (["2,5", "1,000"], [2.5, 1.0]),
        (["1,000", "2,000"], ["1,000", "2,000"]),  # a thousand, or one
        (["0,125"], [0.125]),
        (["2,5", "2.5"], ["2,5", "2.5"]),
        (["1,000,000"], ["1,000,000"]),
    ],
)
@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_decimal_comma_counts_where_commas_do_not_set_cells_apart(
    tmp_path: Path, cells: list[str], read_as: list[Any], mark: str
) -> None:
    (tmp_path / "a.csv").write_text(f"n{mark}t\n" + "".join(f"{cell}{mark}a\n" for cell in cells))
    assert [row["n"] for _, row in read_rows(tmp_path / "a.csv", typed=True)] == read_as


def test_a_function_gets_the_rows_of_a_torn_file_up_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'n,t\n1,a\n\xff,b\n2,c,d\n,\n3,"e')
    found = []
    with pytest.raises(FileError, match="unexpected end of data"):
        for _, row in read_rows(tmp_path / "a.csv", typed=True):
            found.append(row)
    assert found[0] == {"n": 1, "t": "a"}
    assert [type(row) for row in found[1:]] == [RecordError, RecordError, object]


# JSON


@pytest.mark.parametrize(
    "text",
    [
        '{\n "a": [\n  {"b": "}{"},\n  {"b": "\\"["}\n ]\n}\n\n{"a": 2}\n{\n  "a": 3\n}',
        '[\n{"a": [{"b": "}{"}, {"b": "\\"["}]},\n{"a": 2},\n{"a": 3}]',
        '[{"a": [{"b": "}{"}, {"b": "\\"["}]}, {"a": 2}, {"a": 3}]',
        '{"a": [{"b": "}{"}, {"b": "\\"["}]}{"a": 2} {"a": 3}\n',
        '{"a":\n[{"b": "}{"}, {"b": "\\"["}]} {"a":\n2}\n{"a": 3}\n',
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_over_several_lines_whatever_its_name(tmp_path: Path, name: str, text: str) -> None:
    found = [row for _, row in read(tmp_path, name, text.encode())]
    assert found == [{"a": [{"b": "}{"}, {"b": '"['}]}, {"a": 2}, {"a": 3}]


def test_places_of_json_over_several_lines(tmp_path: Path) -> None:
    text = b'{\n "a": 1\n}\n{"a": 2}{"a": 3}\n{\n "a": 4, "a": 5\n}\n'
    found = read(tmp_path, "a.jsonl", text)
    assert [place for place, _ in found] == [":1", ":4", ":4", ":5"]
    assert str(found[3][1]) == "`a` appears twice in one object"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (b'{"a": 1,', "broken JSON at column 9: Expecting property name"),
        (b'{"a": "x', "broken JSON at column 7: Unterminated string"),
        (b'{"a": [1,', "broken JSON at column 10: Expecting value"),
        (b'{"a": {"b": 1}', "broken JSON at column 15: Expecting ',' delimiter"),
        (b'{"a": 1}}', "broken JSON at column 9: Extra data"),
        (b'{"a": 1} 7', "broken JSON at column 10: Extra data"),
        (b"{'a': 1}", "broken JSON at column 2: Expecting property name"),
        (b"{", "broken JSON at column 2: Expecting property name"),
    ],
)
def test_a_broken_line_takes_no_other_with_it(tmp_path: Path, broken: bytes, says: str) -> None:
    found = read(tmp_path, "a.jsonl", b'{"a": 0}\n' + broken + b'\n{"a": 2}\n\n{"a": 3}\n' + broken)
    assert [place for place, _ in found] == [":1", ":2", ":3", ":5", ":6"]
    assert [row for _, row in found if isinstance(row, dict)] == [{"a": 0}, {"a": 2}, {"a": 3}]
    assert str(found[1][1]).startswith(says)
    assert str(found[4][1]).startswith(says)


ROWS = [
    {"prompt": "Open?", "chosen": "Yes.", "rejected": "No."},
    {"prompt": "Rain?", "chosen": "No.", "rejected": "Yes."},
]
TALK = [[{"role": "user", "content": row["prompt"]}] for row in ROWS]
BY_COLUMN = {name: [row[name] for row in ROWS] for name in ROWS[0]}


@pytest.mark.parametrize(
    ("whole", "rows", "place"),
    [
        (BY_COLUMN, ROWS, " row 2"),
        (
            BY_COLUMN | {"prompt": TALK},
            [row | {"prompt": talk} for row, talk in zip(ROWS, TALK, strict=True)],
            " row 2",
        ),
        ({"prompt": ["Open?", "Rain?"]}, [{"prompt": "Open?"}, {"prompt": "Rain?"}], " row 2"),
        ({"a1": ROWS[0], "a2": ROWS[1]}, ROWS, " key 'a2'"),
        ({"data": {"a1": ROWS[0], "a2": ROWS[1]}}, ROWS, " key 'a2'"),
        ({"anything": ROWS}, ROWS, " item 2 of 'anything'"),
        ({"version": "1.0", "license": None, "pairs": ROWS}, ROWS, " item 2 of 'pairs'"),
        ({"how_many": 2, "by": {"team": "x"}, "data": ROWS}, ROWS, " item 2 of 'data'"),
        (
            {
                "features": [{"name": "prompt"}],
                "rows": [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(ROWS)],
                "num_rows_total": 2,
            },
            ROWS,
            " item 2 of 'rows'",
        ),
        ({name: {"0": cells[0], "17": cells[1]} for name, cells in BY_COLUMN.items()}, ROWS, " row '17'"),
        (
            {"columns": list(ROWS[0]), "index": [0, 1], "data": [list(row.values()) for row in ROWS]},
            ROWS,
            " row 2",
        ),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_table_in_one_object(
    tmp_path: Path, whole: Any, rows: list[Any], place: str, indent: int | None
) -> None:
    found = read(tmp_path, "a.json", json.dumps(whole, indent=indent).encode())
    assert [row for _, row in found] == rows
    assert found[1][0] == place


SAID = {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Open?", "responses": ["Yes.", "No."], "ranks": [1, 2]},
        {
            "prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "Open?"}],
            "responses": ["Yes.", "No."],
            "ranks": [1, 2],
        },
        {"chosen": [TALK[0][0], SAID], "rejected": [TALK[0][0], SAID]},
        {"chosen": SAID, "rejected": SAID},
        {"chosen": {"text": "Yes.", "score": 1}, "rejected": {"text": "No.", "score": 0}},
        {"prompt": "Open?", "chosen": ["Yes.", "Yes!"], "rejected": ["No."], "subset": "x"},
        {"messages": [TALK[0][0], SAID]},
        {"conversations": [{"from": "human", "value": "Open?"}, {"from": "gpt", "value": "Yes."}]},
        {"id": 1, "data": {"prompt": "Open?"}, "annotations": [{"result": []}], "predictions": []},
        {"data": {"prompt": "Open?", "answer1": "Yes.", "answer2": "No."}},
        {"data": {"prompt": "Open?", "items": [{"id": "m1"}, {"id": "m2"}]}},
        {"fields": {"instruction": "Open?"}, "responses": {"preference": [{"value": 1}]}},
        {"id": "r1", "fields": {"a": "x"}, "metadata": {}, "responses": [{"values": {}}], "suggestions": []},
        {"instruction": "Open?", "completions": [{"response": "Yes."}, {"response": "No."}]},
        {"source": "x", "instruction": "Open?", "instances": [{"input": "", "output": "Yes."}]},
        {"prompt": "Open?", "answers": [{"answer": "Yes.", "rank": 1}]},
        {"question": "Open?", "items": [{"id": "a", "text": "Yes."}, {"id": "b", "text": "No."}]},
        {"info": {"post": "x"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
        {"message_tree_id": "x", "prompt": {"text": "Open?", "role": "prompter", "replies": []}},
        {"a1": ROWS[0]},
        {"prompt": "Open?"},
        {},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_record_alone_in_its_file_is_taken_as_it_is(
    tmp_path: Path, record: Any, indent: int | None
) -> None:
    assert read(tmp_path, "a.json", json.dumps(record, indent=indent).encode()) == [(":1", record)]


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        (
            {"train": ROWS, "test": ROWS[:1]},
            "holds several lists of objects ('train', 'test'): save each as a file",
        ),
        (
            {"prompt": ["a", "b"], "chosen": ["c"]},
            "is an object of lists that differ in length ('prompt' has 2, 'chosen' has 1)",
        ),
    ],
)
def test_what_may_be_several_tables_is_refused(tmp_path: Path, whole: Any, says: str) -> None:
    assert refused(tmp_path, "a.json", json.dumps(whole).encode()).startswith(f": {says}")


def test_a_number_that_is_none_is_null(tmp_path: Path) -> None:
    assert read(tmp_path, "a.json", b'[{"a": NaN, "b": [1, NaN]}]')[0][1] == {"a": None, "b": [1, None]}
    assert read(tmp_path, "a.jsonl", b'{"a": NaN}')[0][1] == {"a": None}
    assert "Infinity is not a number" in str(read(tmp_path, "a.jsonl", b'{"a": -Infinity}')[0][1])
    nan = float("nan")
    table = pa.table(
        {"a": [nan, 1.0], "b": [[nan, 2.0], None], "c": [{"d": nan, "e": "x"}, None], "f": ["x", "y"]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert [row for _, row in read_rows(tmp_path / "a.parquet")] == [
        {"a": None, "b": [None, 2.0], "c": {"d": None, "e": "x"}, "f": "x"},
        {"a": 1.0, "b": None, "c": None, "f": "y"},
    ]


# Arrow, and what is no table of ours


@pytest.mark.parametrize("form", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_as_datasets_and_pandas_write_it(tmp_path: Path, form: Any) -> None:
    rows = [{"prompt": [{"role": "user", "content": str(i)}], "score": i / 2} for i in range(600)]
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, form(sink, table.schema) as writer:
        writer.write_table(table)
    found = list(read_rows(tmp_path / "a.arrow"))
    assert [row for _, row in found] == rows
    assert found[599][0] == " row 600"
    content = (tmp_path / "a.arrow").read_bytes()
    for cut in (0, 3, 100, len(content) // 2):
        assert "cannot be read" in refused(tmp_path, "b.arrow", content[:cut])


@pytest.mark.parametrize("name", ["a.xlsx", "a.XLS", "a.ods"])
def test_a_workbook_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    assert "save its sheet as CSV" in refused(tmp_path, name, b"PK\x03\x04")
    assert "save its sheet as CSV" in refused(
        tmp_path, "a.csv", b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml"
    )


VALUES = st.recursive(
    st.sampled_from([None, True, 1, 2.5, "x", "role", "1,000"]),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(
            st.sampled_from(["0", "1", "data", "rows", "row", "prompt", "columns", "role"]), parts
        )
    ),
    max_leaves=12,
)
GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text('[]{}",:;0123e.-\n\\ua', max_size=60).map(str.encode),
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=3), max_size=3).map(
        lambda found: json.dumps(found).encode()
    ),
    st.builds(
        lambda value, indent: json.dumps(value, indent=indent).encode(), VALUES, st.sampled_from([None, 1])
    ),
    st.lists(
        st.sampled_from(['{"a": [', "{", "}", "]", '"b": 1', ",", "\n", '{"a": 1}', "NaN"]), max_size=20
    ).map(lambda parts: "".join(parts).encode()),
    st.lists(
        st.sampled_from(["sep=;", "a", ";", ",", "|", "\t", "\n", "\r\n", '"', "1,5", "7", " "]), max_size=30
    ).map(lambda parts: "".join(parts).encode()),
)


def told(path: Path, typed: bool) -> list[tuple[str, Any]]:
    """The rows of a file, and at their end why it cannot be read further."""
    found = []
    try:
        for place, row in read_rows(path, typed):
            assert place.startswith((":", " "))
            assert (
                row is None or row is EMPTY_ROW or isinstance(row, (RecordError, dict, list, str, int, float))
            )
            found.append((place, str(row) if isinstance(row, RecordError) else row))
    except FileError as error:
        assert error.message
        assert "\n" not in error.message
        found.append((error.place, error.message))
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*NAMES, "a.parquet", "a.arrow"]), GARBAGE, st.booleans(), st.binary(max_size=4))
def test_whatever_a_file_holds_is_rows_or_one_message(
    tmp_path: Path, name: str, content: bytes, pack: bool, tail: bytes
) -> None:
    (tmp_path / name).write_bytes((packed(name, content) if pack else content) + tail)
    found, typed = told(tmp_path / name, False), told(tmp_path / name, True)
    assert [place for place, _ in found] == [place for place, _ in typed]
    for (_, row), (_, other) in zip(found, typed, strict=True):
        assert type(row) is type(other)
