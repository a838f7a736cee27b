"""Reading files of records: what is refused, what is said, and who is held out."""

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.load import Split, load
from align.errors import UserError
from align.recipe import Source
from align.records import Demonstration, Prompt, Ranking, prompt_key

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
GOOD = b'{"prompt": "Hi", "response": "Hello"}\n'


def rows(*numbers: int) -> list[dict[str, str]]:
    return [{"prompt": f"prompt {i}", "response": f"response {i}"} for i in numbers]


def write(path: Path, records: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def read(*train: str | Path, held_out: float | list[str] = 0.0) -> Split[Demonstration]:
    source = Source(train=[str(path) for path in train], held_out=held_out)
    return load(Demonstration, source, "demonstrations")


def message(*train: str | Path, held_out: float | list[str] = 0.0) -> str:
    with pytest.raises(UserError) as caught:
        read(*train, held_out=held_out)
    return str(caught.value)


def test_jsonl_and_gzip_give_the_same_records_and_blank_lines_are_fine(tmp_path: Path) -> None:
    text = b"\n" + GOOD + b"  \r\n\n" + GOOD.replace(b"Hi", "Grüße \u2028 🙂".encode()) + b"\n"
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text))
    plain, packed = read(tmp_path / "a.jsonl"), read(tmp_path / "b.jsonl.gz")
    assert [record.prompt for record in plain.train] == ["Hi", "Grüße \u2028 🙂"]
    assert plain == packed


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"))
    assert read(tmp_path / "a.jsonl").train == [Demonstration("Hi", "Hello")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"prompt": "Hi", "response": \n', ":3: broken JSON at column 30"),
        (b'{"prompt": "Hi"}\n', ":3: `response` is missing"),
        (b'{"prompt": "Hi", "response": "a", "response": "b"}\n', ":3: `response` stands twice"),
        (b'{"prompt": "Hi", "response": NaN}\n', ":3: NaN is not a number that JSON has"),
        (b'{"prompt": "Hi", "response": ' + b"9" * 5000 + b"}\n", ":3: broken JSON"),
        (b"[" * 100_000 + b"\n", ":3: is nested too deeply"),
        (b'["Hi", "a"]\n', ":3: a demonstration is an object with keys, not a list"),
        (b"null\n", ":3: a demonstration is an object with keys, not null"),
        ('{"prompt": "Hi", "response": "Grüße"}\n'.encode("latin-1"), ":3: byte 33 is not UTF-8"),
        (b'{"prompt": "Hi", "response": "\0"}\n', ":3: not a text file in UTF-8"),
    ],
)
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"\n" + line + GOOD)
    text = message(path)
    assert f"{path}{words}" in text
    assert text.startswith("data.demonstrations: 1 problem in the records.")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "has no records"),
        ("a.jsonl", b"\n \n\n", "has no records"),
        ("a.jsonl.gz", gzip.compress(b""), "has no records"),
        ("a.jsonl", gzip.compress(GOOD), "name it .jsonl.gz"),
        ("a.jsonl.gz", GOOD, "cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(GOOD * 100)[:-9], "cannot be read"),
        ("a.jsonl.gz", gzip.compress(GOOD)[:10] + b"\xff" * 50, "cannot be read"),
        ("a.jsonl", bytes(range(256)), "not a text file"),
        ("a.jsonl", GOOD.decode().encode("utf-16"), "not a text file in UTF-8"),
        ("a.parquet", GOOD, "records are read from .jsonl and .jsonl.gz"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,  # gzip's bytes hold the time
)
def test_a_file_that_is_not_records_is_one_problem(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    text = message(tmp_path / name)
    assert f"{tmp_path / name}" in text
    assert words in text
    assert len(text.splitlines()) == 2


def test_missing_files_and_folders_are_told_together(tmp_path: Path) -> None:
    text = message(tmp_path / "no.jsonl", tmp_path, held_out=[str(tmp_path / "nor.jsonl")])
    assert text.startswith("data.demonstrations: 3 problems")
    assert f"{tmp_path / 'no.jsonl'}: no such file" in text
    assert f"{tmp_path}: is a folder: name the files in it" in text
    assert f"{tmp_path / 'nor.jsonl'}: no such file" in text


def test_the_first_twenty_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [*rows(1), *[{"prompt": "x"}] * 13])
    second = write(tmp_path / "b.jsonl", [{"response": "x"}] * 12)
    lines = message(first, second).splitlines()
    assert lines[0].startswith("data.demonstrations: 25 problems")
    assert lines[1] == f"  {first}:2: `response` is missing"
    assert lines[20] == f"  {second}:7: `prompt` is missing"
    assert lines[21:] == ["  … and 5 more"]


def test_nothing_is_held_out_at_zero(tmp_path: Path) -> None:
    split = read(write(tmp_path / "a.jsonl", rows(*range(50))))
    assert (len(split.train), split.held_out) == (50, [])


def test_the_share_is_about_what_was_asked_for(tmp_path: Path) -> None:
    split = read(write(tmp_path / "a.jsonl", rows(*range(4000))), held_out=0.2)
    assert len(split.train) + len(split.held_out) == 4000
    assert abs(len(split.held_out) - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5


SMALL = rows(*range(40))
# What is added comes in between, in another order, with some prompts a second time.
GROWN = [*SMALL, *rows(*range(40, 60)), *({**row, "response": "another"} for row in SMALL[:10])]


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 0.8), st.permutations(GROWN))
def test_a_prompt_stays_on_its_side_when_the_data_grow(
    tmp_path_factory: pytest.TempPathFactory, share: float, grown: list[dict[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("grow")
    before = read(write(folder / "a.jsonl", SMALL), held_out=share)
    after = read(write(folder / "b.jsonl", grown), held_out=share)
    assert {r.prompt for r in before.train} <= {r.prompt for r in after.train}
    assert {r.prompt for r in before.held_out} <= {r.prompt for r in after.held_out}
    assert not {r.prompt for r in after.train} & {r.prompt for r in after.held_out}
    assert len(after.train) + len(after.held_out) == len(GROWN)


def test_a_prompt_is_held_out_from_every_kind_of_record_at_once(tmp_path: Path) -> None:
    demonstrations = read(write(tmp_path / "a.jsonl", rows(*range(100))), held_out=0.3)
    asked = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows(*range(100))]
    source = Source(train=[write(tmp_path / "b.jsonl", asked)], held_out=0.3)
    prompts = load(Prompt, source, "prompts")
    assert [prompt_key(r.prompt) for r in prompts.held_out] == [
        prompt_key(r.prompt) for r in demonstrations.held_out
    ]


def test_a_share_that_leaves_a_side_empty_says_which_share_would_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(1, 2, 3, 4))
    for share, side in ((0.001, "nothing held out"), (0.999, "nothing to train on")):
        text = message(path, held_out=share)
        assert text.startswith(f"data.demonstrations.held_out: a share of {share} of 4 different prompts")
        assert side in text
        wanted = float(text.split("set ")[1].split()[0])
        split = read(path, held_out=wanted)
        assert len(split.held_out) == (1 if share < 0.5 else 3)


def test_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    text = message(write(tmp_path / "a.jsonl", rows(1, 1)), held_out=0.05)
    assert "What to do: name held-out files, or 0.0 to hold nothing out." in text


def test_held_out_files_keep_their_records_and_share_no_prompt(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", rows(1, 2, 2, 3))
    split = read(train, held_out=[write(tmp_path / "good.jsonl", rows(7, 8))])
    assert [r.response for r in split.train] == ["response 1", "response 2", "response 2", "response 3"]
    assert [r.response for r in split.held_out] == ["response 7", "response 8"]
    other = [{"prompt": [{"role": "user", "content": "prompt 2"}], "response": "as a message"}]
    leaky = write(tmp_path / "leaky.jsonl", [*rows(7), *other])
    text = message(train, held_out=[leaky])
    assert f"{leaky}:2: `prompt` is held out and also trains ({train}:2)" in text
    assert "1 problem" in text


def test_the_fingerprint_knows_content_and_split_and_no_names(tmp_path: Path) -> None:
    base = rows(*range(20))
    one = write(tmp_path / "a.jsonl", base)
    reference = read(one, held_out=0.5).fingerprint
    assert read(write(tmp_path / "other.jsonl", base), held_out=0.5).fingerprint == reference
    parts = [write(tmp_path / "c.jsonl", base[:7]), write(tmp_path / "d.jsonl", base[7:])]
    assert read(*parts, held_out=0.5).fingerprint == reference
    turned = [dict(reversed(row.items())) for row in base]
    assert read(write(tmp_path / "e.jsonl", turned), held_out=0.5).fingerprint == reference

    changed = [{**base[0], "response": "response 0."}, *base[1:]]
    moved = read(one, held_out=0.5)
    last = write(tmp_path / "f.jsonl", [r.to_dict() for r in [*moved.train, moved.held_out[0]]])
    rest = write(tmp_path / "g.jsonl", [r.to_dict() for r in moved.held_out[1:]])
    others = {
        "a word": read(write(tmp_path / "h.jsonl", changed), held_out=0.5).fingerprint,
        "one fewer": read(write(tmp_path / "i.jsonl", base[1:]), held_out=0.5).fingerprint,
        "another order": read(write(tmp_path / "j.jsonl", base[::-1]), held_out=0.5).fingerprint,
        "another share": read(one, held_out=0.2).fingerprint,
        "no split": read(one).fingerprint,
        "the split elsewhere": read(last, held_out=[rest]).fingerprint,
    }
    assert len({reference, *others.values()}) == 1 + len(others)


def test_reading_records_does_not_import_torch() -> None:
    code = "import align.data.load, align.records, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_rankings_load() -> None:
    path = SHARED / "topical-chat" / "rankings-k6.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    split = load(Ranking, Source(train=[str(path)], held_out=0.2), "rankings")
    assert len(split.train) + len(split.held_out) == 60
    assert all(len(record.ranks) == 6 for record in split.train)
    rows_of_file = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert [record.to_dict() for record in split.train] == [
        row for row in rows_of_file if Ranking.from_dict(row) in split.train
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hh-rlhf/harmless-base-test-first-1800.jsonl.gz", "`chosen` is an unknown key"),
        ("gsm8k/train-first-2000.jsonl.gz", "`question` is an unknown key"),
    ],
)
def test_real_files_of_another_form_are_refused_line_by_line(name: str, words: str) -> None:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    text = message(path)
    assert f"{path}:1: {words}" in text
    assert len(text.splitlines()) == 22
