"""Reading files of records: what is refused, what is said, and who is held out."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.load import Split, load
from align.data.scan import Located, scan
from align.data.split import side
from align.errors import UserError
from align.recipe.data import Source
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
    assert (plain.train, plain.fingerprint) == (packed.train, packed.fingerprint)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"))
    assert read(tmp_path / "a.jsonl").train == [Demonstration("Hi", "Hello")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"prompt": "Hi", "response": \n', ":3: broken JSON at column 30"),
        (b'{"prompt": "Hi"}\n', ":3: `response` is missing"),
        (b'{"prompt": "Hi", "response": "a", "response": "b"}\n', ":3: `response` appears twice"),
        (b'{"prompt": "Hi", "response": Infinity}\n', ":3: Infinity is not a number in JSON"),
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
        ("a.parquet", GOOD, "cannot be read: Parquet magic bytes not found"),
        ("a.txt", GOOD, "unknown kind of file: records are read from .jsonl, .json, .csv, .tsv"),
        ("a.parquet.gz", gzip.compress(GOOD), "unknown kind of file"),
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
    assert f"{tmp_path}: holds no .jsonl, .json, .csv, .tsv, .parquet or .arrow file" in text
    assert f"{tmp_path / 'nor.jsonl'}: no such file" in text


def test_the_same_problem_is_one_line_with_a_count_and_the_first_places(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [*rows(1), *[{"prompt": "x"}] * 13])
    second = write(tmp_path / "b.jsonl", [{"response": "x"}] * 12)
    by_columns = "is missing (read as align, by its columns)"
    assert message(first, second).splitlines() == [
        "data.demonstrations: 25 problems in the records. Correct the files or the recipe, then rerun.",
        f"  {first}:2: `response` {by_columns} (13 times; also :3, :4, …)",
        f"  {second}:1: `prompt` {by_columns} (12 times; also :2, :3, …)",
    ]


def test_twenty_kinds_of_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    wrong = [{"prompt": "x", "response": "y", f"key{i:02}": 1} for i in range(25)]
    lines = message(write(tmp_path / "a.jsonl", [*rows(1), *wrong])).splitlines()
    assert lines[0].startswith("data.demonstrations: 25 problems")
    assert (len(lines), lines[-1]) == (22, "  … and 5 more kinds of problems")


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
    for share, left in ((0.001, "nothing held out"), (0.999, "nothing to train on")):
        text = message(path, held_out=share)
        assert text.startswith(f"data.demonstrations.held_out: a share of {share} of 4 different prompts")
        assert left in text
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


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def test_a_real_file_with_some_wrong_records_is_refused_or_read_without_them() -> None:
    path = str(shared("hh-rlhf/harmless-base-test-first-1800.jsonl.gz"))
    with pytest.raises(UserError, match=r"^data.rankings: \d+ problems") as caught:
        load(Ranking, Source(train=[path]), "rankings")
    wrong = int(str(caught.value).split()[1])
    split = load(Ranking, Source(train=[path], on_bad_record="skip"), "rankings")
    assert 0 < len(split.skipped) == wrong < 30
    assert len(split.train) + len(split.held_out) + wrong == 1800


def test_a_real_file_in_no_known_form_is_read_by_its_columns() -> None:
    path = str(shared("gsm8k/train-first-2000.jsonl.gz"))
    text = message(path)
    assert f"{path}:1: no known format has these columns: 'question', 'answer'" in text
    assert len(text.splitlines()) == 2
    entry = {"path": path, "columns": {"prompt": "question", "response": "answer"}}
    split = load(Demonstration, Source(train=[entry], held_out=0.1), "demonstrations")
    with gzip.open(path) as file:
        first = json.loads(file.readline())
    assert len(split.train) + len(split.held_out) == 2000
    assert (first["question"], first["answer"]) in [
        (r.prompt, r.response) for r in (*split.train[:3], *split.held_out[:3])
    ]


# Several entries


def entry(path: str | Path, **fields: Any) -> dict[str, Any]:
    return {"path": str(path), **fields}


def prompts_of(records: Sequence[Any]) -> list[str]:
    return [record.prompt for record in records]


def test_a_weight_says_how_often_a_record_comes_and_the_hash_says_which(tmp_path: Path) -> None:
    often = write(tmp_path / "often.jsonl", rows(*range(1000)))
    seldom = write(tmp_path / "seldom.jsonl", rows(*range(1000, 1100)))
    source = Source(train=[entry(often, weight=2.25), entry(seldom, weight=0.5)], held_out=0.1)
    split = load(Demonstration, source, "demonstrations")
    counts = Counter(prompts_of(split.train))
    held_out = prompts_of(split.held_out)
    assert len(set(held_out)) == len(held_out)  # weights are for training
    first = [counts[row["prompt"]] for row in rows(*range(1000)) if row["prompt"] not in held_out]
    assert set(first) == {2, 3}
    assert abs(first.count(3) / len(first) - 0.25) < 0.06
    second = [counts[row["prompt"]] for row in rows(*range(1000, 1100)) if row["prompt"] not in held_out]
    assert set(second) == {0, 1}
    assert abs(second.count(1) / len(second) - 0.5) < 0.2
    again = load(Demonstration, source, "demonstrations")
    assert again == split
    alone = load(Demonstration, Source(train=[entry(often, weight=2.25)], held_out=0.1), "demonstrations")
    assert Counter(prompts_of(alone.train)) == {k: n for k, n in counts.items() if int(k.split()[1]) < 1000}


def test_a_weight_that_leaves_nothing_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(1))
    with pytest.raises(UserError, match="the weights leave no record to train on"):
        load(Demonstration, Source(train=[entry(path, weight=1e-9)], held_out=0.0), "demonstrations")


def test_entries_of_several_kinds_come_in_their_order(tmp_path: Path) -> None:
    pairs = [{"question": f"q{i}", "good": "yes", "bad": "no"} for i in range(3)]
    (tmp_path / "pairs.csv").write_text(
        "".join(",".join(r) + "\n" for r in [[*pairs[0]], *(r.values() for r in pairs)])
    )
    own = [{"prompt": f"p{i}", "responses": ["a", "b"], "ranks": [1, 2]} for i in range(2)]
    (tmp_path / "own.json").write_text(json.dumps(own))
    pq.write_table(pa.Table.from_pylist(own[:1]), tmp_path / "own.parquet")
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    train = [
        entry(tmp_path / "own.parquet"),
        entry(tmp_path / "pairs.csv", columns=columns),
        entry(tmp_path / "own.json"),
    ]
    split = load(Ranking, Source(train=train, held_out=0.0), "rankings")
    assert prompts_of(split.train) == ["p0", "q0", "q1", "q2", "p0", "p1"]
    assert [split.train.place(i).removeprefix(f"{tmp_path}/") for i in (0, 1, 5)] == [
        "own.parquet row 1",
        "pairs.csv:2",
        "own.json:1 (item 2)",
    ]
    assert split.train[1].responses == ("yes", "no")


def test_what_is_wrong_with_an_entry_is_told_with_all_the_rest(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", rows(1))
    train = [
        entry(good, format="no-such"),
        entry(good, format="no.such:thing"),
        entry(good, split="train"),
        entry(good, revision="main"),
        entry(tmp_path / "*.csv"),
    ]
    with pytest.raises(UserError) as caught:
        load(Demonstration, Source(train=train), "demonstrations")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("data.demonstrations: 5 problems")
    for line, words in zip(
        lines[1:],
        [
            "no format has this name",
            "cannot be loaded: ModuleNotFoundError",
            "choose among the files of a folder",
            "`revision` is for data sets on the Hub",
            "no file has this name",
        ],
        strict=True,
    ):
        assert words in line
        assert str(tmp_path) in line


# Sides


LABELERS = [
    {
        "prompt": f"p{i % 40}",
        "responses": ["a", "b"],
        "ranks": [1, 2],
        "labeler": f"l{i // 8}",
        "source": f"s{i % 40}",
    }
    for i in range(400)
]


def test_rows_of_one_split_key_stay_on_one_side(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LABELERS)
    split = load(Ranking, Source(train=[path], held_out=0.3, split_key="source"), "rankings")
    sides = [{record.source for record in records} for records in (split.train, split.held_out)]
    assert all(sides)
    assert not sides[0] & sides[1]
    by_prompt = load(Ranking, Source(train=[path], held_out=0.3), "rankings")
    assert set(prompts_of(by_prompt.held_out)) != set(
        prompts_of(split.held_out)
    )  # it was the key that decided


def test_a_split_key_that_tears_prompts_apart_is_refused_or_costs_training_records(tmp_path: Path) -> None:
    mine = [{**row, "prompt": "shared" if i % 20 == 0 else f"p{i}"} for i, row in enumerate(LABELERS)]
    path = write(tmp_path / "a.jsonl", mine)
    spec: dict[str, Any] = {"train": [path], "held_out": 0.3, "split_key": "labeler"}
    with pytest.raises(UserError, match="`labeler` puts it on both sides: split by the prompt, or with"):
        load(Ranking, Source(**spec), "rankings")
    split = load(Ranking, Source(**spec, on_bad_record="skip"), "rankings")
    assert 0 < len(split.skipped) < 20 and split.held_out
    assert not set(prompts_of(split.train)) & set(prompts_of(split.held_out))
    assert not {r.labeler for r in split.train} & {r.labeler for r in split.held_out}
    assert len(split.train) + len(split.held_out) + len(split.skipped) == len(LABELERS)
    assert "this record does not train" in split.skipped[0].message


def test_held_out_files_may_not_share_a_value_of_the_split_key_either(tmp_path: Path) -> None:
    def ranking(number: int, labeler: str) -> dict[str, Any]:
        return {"prompt": f"p{number}", "responses": ["a", "b"], "ranks": [1, 2], "labeler": labeler}

    train = write(tmp_path / "a.jsonl", [ranking(1, "ana"), ranking(2, "bo")])
    held_out = write(tmp_path / "b.jsonl", [ranking(3, "cy"), ranking(4, "bo")])
    spec: dict[str, Any] = {"train": [train], "held_out": [held_out], "split_key": "labeler"}
    with pytest.raises(
        UserError, match=r"b.jsonl:2: `labeler` is held out and also trains \(.*a.jsonl:2\): keep"
    ):
        load(Ranking, Source(**spec), "rankings")
    split = load(Ranking, Source(**spec, on_bad_record="skip"), "rankings")
    assert (prompts_of(split.train), prompts_of(split.held_out)) == (["p1"], ["p3", "p4"])


@pytest.mark.parametrize("wrong", [{}, {"labeler": None}])
def test_a_row_without_the_split_key_is_a_problem(tmp_path: Path, wrong: dict[str, Any]) -> None:
    row = {k: v for k, v in LABELERS[0].items() if k != "labeler"} | wrong
    path = write(tmp_path / "a.jsonl", [LABELERS[1], row])
    with pytest.raises(UserError, match=r"a.jsonl:2: `labeler` is (missing|null)"):
        load(Ranking, Source(train=[path], held_out=0.0, split_key="labeler"), "rankings")


def test_sides_by_key_agree_with_the_split(tmp_path: Path) -> None:
    source = Source(train=[write(tmp_path / "a.jsonl", rows(*range(200)))], held_out=0.3)
    split = load(Demonstration, source, "demonstrations")
    scanned = [part for part in scan(Demonstration, source.train) if isinstance(part, Located)]
    assert [p.record for p in scanned if side(p.key, 0.3) == "held_out"] == list(split.held_out)
    assert [p.record for p in scanned if side(p.key, 0.3) == "train"] == list(split.train)
    assert scanned[4].place == f"{tmp_path / 'a.jsonl'}:5"
    assert scanned[4].key == prompt_key("prompt 4")


# Bad records


def test_skipping_counts_and_lists_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b'{"prompt": "a"\n' + b'{"prompt": "b"}\n' + b"caf\xe9\n" + GOOD + b"\0\n")
    source = Source(train=[str(path)], held_out=0.0, on_bad_record="skip")
    for _ in range(2):  # the second time from the cache
        split = load(Demonstration, source, "demonstrations", tmp_path / "cache")
        assert len(split.train) == 2
        assert [str(problem).removeprefix(f"{path}:").split(":")[0] for problem in split.skipped] == list(
            "2346"
        )
        assert split.skipped[1].to_dict() == {
            "place": f"{path}:3",
            "field": "response",
            "message": "is missing (read as align, by its columns)",
        }
    with pytest.raises(UserError, match="4 problems"):  # what is cached does not hide them
        load(Demonstration, Source(train=[str(path)], held_out=0.0), "demonstrations", tmp_path / "cache")


def test_a_file_that_cannot_be_read_is_never_skipped(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.jsonl", rows(1, 2))
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(GOOD * 1000)[:-9])
    for bad in (torn, tmp_path / "none.jsonl"):
        with pytest.raises(UserError, match=bad.name):
            load(Demonstration, Source(train=[whole, str(bad)], on_bad_record="skip"), "demonstrations")


def test_when_every_record_is_skipped_that_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "x"}] * 3)
    with pytest.raises(UserError, match=r"every record was skipped\n  .*a.jsonl:1: `response` is missing"):
        load(Demonstration, Source(train=[path], on_bad_record="skip"), "demonstrations")


GARBAGE = st.one_of(
    st.binary(max_size=150),
    st.text('[]{}",:;019.-\n\\u', max_size=40).map(str.encode),
    st.lists(
        st.dictionaries(
            st.sampled_from(["prompt", "response", "responses", "ranks", "chosen", "rejected", "x"]),
            st.recursive(
                st.none() | st.integers(-1, 2**70) | st.floats() | st.text(max_size=4),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
                ),
                max_leaves=4,
            ),
            max_size=3,
        ),
        max_size=3,
    ).map(lambda found: "\n".join(map(json.dumps, found)).encode()),
)
SUFFIXES = [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.zst", ".csv.gz"]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([Prompt, Demonstration, Ranking]),
    st.sampled_from(SUFFIXES),
    GARBAGE,
    st.sampled_from(["fail", "skip"]),
    st.sampled_from([None, "prompt", "x"]),
)
def test_whatever_stands_in_a_file_is_records_or_one_clear_message(
    tmp_path_factory: pytest.TempPathFactory,
    kind: Any,
    suffix: str,
    content: bytes,
    bad: Any,
    key: str | None,
) -> None:
    path = tmp_path_factory.mktemp("garbage") / f"a{suffix}"
    if suffix.endswith(".gz"):
        content = gzip.compress(content)
    elif suffix.endswith(".zst"):
        content = pa.Codec("zstd").compress(content).to_pybytes()
    path.write_bytes(content)
    source = Source(train=[str(path)], held_out=0.0, on_bad_record=bad, split_key=key)
    try:
        split = load(kind, source, "things")
    except UserError as error:
        assert str(error).startswith("data.things")
        assert str(path) in str(error)
        assert len(str(error).splitlines()) <= 22
    else:
        assert all(isinstance(record, kind) for record in split.train)
        assert len(split.train)


def test_a_leak_between_files_is_skipped_on_the_training_side(tmp_path: Path) -> None:
    train, held_out = write(tmp_path / "a.jsonl", rows(1, 2, 3)), write(tmp_path / "b.jsonl", rows(3, 4))
    source = Source(train=[train], held_out=[held_out], on_bad_record="skip")
    split = load(Demonstration, source, "demonstrations")
    assert prompts_of(split.train) == ["prompt 1", "prompt 2"]
    assert prompts_of(split.held_out) == ["prompt 3", "prompt 4"]
    assert [str(p) for p in split.skipped] == [
        f"{train}:3: `prompt` is held out too ({held_out}:1): this record does not train"
    ]
