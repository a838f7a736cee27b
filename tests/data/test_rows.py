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
from align.data.rows import FileError, kind_of, read_rows
from align.records import RecordError

NAMES = [f"a{kind}{packed}" for kind in (".jsonl", ".json", ".csv") for packed in ("", ".gz", ".zst")]
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"a,b,a\n1,2,3\n", ":1: the column 'a' appears twice in the header"),
        (b'a,b\n1,"2\n3,4\n', ":2: broken CSV: unexpected end of data"),
        (b"a,b\r1,2\r", ":1: broken CSV: new-line character"),
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


GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text('[]{}",:;0123e.-\n\\ua', max_size=60).map(str.encode),
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=3), max_size=3).map(
        lambda found: json.dumps(found).encode()
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*NAMES, "a.parquet"]), GARBAGE, st.booleans(), st.binary(max_size=4))
def test_whatever_a_file_holds_is_rows_or_one_message(
    tmp_path: Path, name: str, content: bytes, pack: bool, tail: bytes
) -> None:
    try:
        for place, row in read(tmp_path, name, (packed(name, content) if pack else content) + tail):
            assert place.startswith((":", " row "))
            assert row is None or isinstance(row, (RecordError, dict, list, str, int, float))
    except FileError as error:
        assert error.message
        assert "\n" not in error.message
