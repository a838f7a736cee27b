"""What is kept between starts: found by content, never torn, never in the way."""

import errno
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from align.data import load as load_module
from align.data import store
from align.data.load import Split, load
from align.data.table import SCHEMA
from align.data.template import Template
from align.data.tokenize import encode_demonstrations, encode_prompts
from align.errors import UserError
from align.recipe.data import Source
from align.records import Demonstration, Prompt


def write(path: Path, *numbers: int, response: str = "response") -> str:
    lines = [json.dumps({"prompt": f"prompt {i}", "response": f"{response} {i}"}) + "\n" for i in numbers]
    path.write_text("".join(lines))
    return str(path)


def files(cache: Path) -> list[str]:
    """What is kept, without the locks, which are empty files that stay."""
    found = [p for p in cache.rglob("*") if p.is_file()]
    assert not any(p.stat().st_size for p in found if p.suffix == ".lock")
    return sorted(p.relative_to(cache).as_posix() for p in found if p.suffix != ".lock")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose rows were read."""
    found: list[str] = []
    scan_file = load_module.scan_file

    def counted(kind: Any, path: Path, *rest: Any) -> Any:
        found.append(path.name)
        return scan_file(kind, path, *rest)

    monkeypatch.setattr(load_module, "scan_file", counted)
    return found


def read(cache: Path, *paths: str, **fields: Any) -> Split[Demonstration]:
    return load(
        Demonstration, Source(train=list(paths), **{"held_out": 0.2, **fields}), "demonstrations", cache
    )


def test_a_second_start_reads_nothing_again(tmp_path: Path, reads: list[str]) -> None:
    cache = tmp_path / "cache"
    one, two = write(tmp_path / "a.jsonl", *range(30)), write(tmp_path / "b.jsonl", *range(30, 40))
    first = read(cache, one, two)
    kept = {name: (cache / name).stat().st_mtime_ns for name in files(cache)}
    assert len(kept) == 2
    assert read(cache, one, two) == first
    assert read(cache, one, two, held_out=0.5).fingerprint != first.fingerprint  # the split is no part of it
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    os.rename(one, moved / "c.jsonl")
    again = read(cache, str(moved / "c.jsonl"), two)
    assert again.fingerprint == first.fingerprint
    assert again.train.place(0).startswith(f"{moved / 'c.jsonl'}:")
    assert reads == ["a.jsonl", "b.jsonl"]
    assert {name: (cache / name).stat().st_mtime_ns for name in files(cache)} == kept
    write(tmp_path / "b.jsonl", *range(30, 41))
    assert len(read(cache, str(moved / "c.jsonl"), two).train) > len(first.train) - 5
    assert reads == ["a.jsonl", "b.jsonl", "b.jsonl"]


def test_how_a_file_is_read_is_a_part_of_its_name(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    path = write(tmp_path / "a.jsonl", *range(30))
    plug_in = tmp_path / "my_format.py"
    plug_in.write_text("def read(row):\n    return {'prompt': row['prompt'], 'response': 'one'}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    read(cache, path)
    ways: list[dict[str, Any]] = [
        {"path": path, "format": "align"},
        {"path": path, "columns": {"prompt": "response", "response": "prompt"}},
        {"path": path, "format": "my_format:read"},
    ]
    seen = {read(cache, path).fingerprint}
    for i, way in enumerate(ways):
        for _ in range(2):
            found = load(Demonstration, Source(train=[way], held_out=0.0), "demonstrations", cache)
        assert len(reads) == i + 2
        seen.add(found.fingerprint)
    assert found.train[0].response == "one"
    read(cache, path, split_key="response")
    assert len(reads) == 5
    plug_in.write_text(plug_in.read_text().replace("one", "another"))
    del sys.modules["my_format"]
    found = load(Demonstration, Source(train=[ways[2]], held_out=0.0), "demonstrations", cache)
    assert found.train[0].response == "another"
    prompts = load(Prompt, Source(train=[path], held_out=0.0), "prompts", cache)
    assert prompts.train[0] == Prompt("prompt 0")


JOIN = """
from collections.abc import Callable, Iterator
from pathlib import Path
from my_words import SAID

def read(row):
    word = Path(__file__).with_name("more.txt").open().read() if {opens} else SAID
    return {{'prompt': row['prompt'], 'response': word}}
"""


@pytest.fixture
def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Reads a file anew by a function that takes an answer from another file; gives the answer."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_join.py").write_text(JOIN.format(opens=True))
    (tmp_path / "my_words.py").write_text("SAID = 'said'")
    (tmp_path / "more.txt").write_text("one")
    path = write(tmp_path / "a.jsonl", *range(30))

    def answer(**entry: Any) -> str:
        for name in ("my_join", "my_words"):
            sys.modules.pop(name, None)
        source = Source(train=[{"path": path, "format": "my_join:read", **entry}], held_out=0.0)
        return load(Demonstration, source, "demonstrations", tmp_path / "cache").train[0].response

    yield answer
    for name in ("my_join", "my_words"):
        sys.modules.pop(name, None)


def test_a_function_that_opens_other_files_is_asked_again_at_each_start(
    tmp_path: Path, joined: Callable[..., str], reads: list[str]
) -> None:
    assert joined() == "one"
    (tmp_path / "more.txt").write_text("two")
    assert joined() == "two"
    assert len(reads) == 2


@pytest.mark.parametrize(
    "code", ["importlib.import_module('my_words').SAID", "os.environ['MY_WORD']", "os.getenv('MY_WORD')"]
)
def test_a_function_that_depends_on_what_cannot_be_seen_is_asked_again(
    tmp_path: Path, joined: Callable[..., str], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_join.py").write_text(
        f"import importlib, os\ndef read(row):\n    return {{**row, 'response': {code}}}"
    )
    for said in ("one", "two"):
        monkeypatch.setenv("MY_WORD", said)
        (tmp_path / "my_words.py").write_text(f"SAID = '{said}'")
        importlib.invalidate_caches()
        assert joined() == said


def test_the_files_that_an_entry_says_its_function_reads_are_a_part_of_the_caches_key(
    tmp_path: Path, joined: Callable[..., str], reads: list[str]
) -> None:
    more = str(tmp_path / "more.txt")
    assert [joined(reads=[more]), joined(reads=[more])] == ["one", "one"]
    assert len(reads) == 1
    (tmp_path / "more.txt").write_text("two")
    assert joined(reads=[more]) == "two"
    with pytest.raises(UserError, match="`reads` names nowhere.csv, which cannot be read: No such file"):
        joined(reads=["nowhere.csv"])


def test_the_modules_that_a_function_imports_from_beside_it_are_a_part_of_the_caches_key(
    tmp_path: Path, joined: Callable[..., str], reads: list[str]
) -> None:
    (tmp_path / "my_join.py").write_text(
        "from my_words import SAID\ndef read(row):\n    return {**row, 'response': SAID}"
    )
    assert [joined(), joined()] == ["said", "said"]
    assert len(reads) == 1
    (tmp_path / "my_words.py").write_text("SAID = 'otherwise'")
    assert joined() == "otherwise"


def test_changed_code_does_not_find_what_older_code_wrote(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", *range(30))
    read(tmp_path / "cache", path)
    monkeypatch.setattr(load_module, "code_of", lambda *names: "other")
    read(tmp_path / "cache", path)
    assert len(reads) == 2


@pytest.mark.parametrize("harm", [lambda b: b[:-20], lambda b: b"", lambda b: b[:8] + b"\0" * len(b)])
def test_a_torn_file_of_the_cache_is_written_again(tmp_path: Path, reads: list[str], harm: Any) -> None:
    cache = tmp_path / "cache"
    path = write(tmp_path / "a.jsonl", *range(30))
    first = read(cache, path)
    (kept,) = files(cache)
    texts = [record.prompt for record in first.train]
    (cache / kept).write_bytes(harm((cache / kept).read_bytes()))
    again = read(cache, path)
    assert [record.prompt for record in again.train] == texts
    assert reads == ["a.jsonl", "a.jsonl"]


def test_refused_records_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(UserError):
        read(tmp_path / "cache", str(path))
    assert files(tmp_path / "cache") == []
    read(tmp_path / "cache", write(path, *range(30)))
    with pytest.raises(UserError):
        read(tmp_path / "cache", str(path), held_out=1e-9)
    assert len(files(tmp_path / "cache")) == 1


def test_nothing_is_kept_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    path = write(tmp_path / "a.jsonl", *range(30))
    split = load(Demonstration, Source(train=[path]), "demonstrations")
    assert split.train[0].prompt == "prompt 0"
    assert files(tmp_path / "tmp") == []


def test_a_cache_that_cannot_be_written_names_its_key(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *range(30))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the cache .*file/records cannot be written .*by data\.cache"):
        read(tmp_path / "file", path)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = write(tmp_path / "a.jsonl", *range(30))
    read(cache, path)
    (name,) = files(cache)
    (cache / name).rename(cache / f"{name}.part-1-abc")
    read(cache, path)
    assert files(cache) == [name]


def test_two_processes_that_start_together_write_one_file(tmp_path: Path) -> None:
    path, cache = write(tmp_path / "a.jsonl", *range(3000)), tmp_path / "cache"
    code = (
        "import sys\nfrom pathlib import Path\nfrom align.data.load import load\n"
        "from align.recipe.data import Source\nfrom align.records import Demonstration\n"
        "split = load(Demonstration, Source(train=[sys.argv[1]]), 'd', Path(sys.argv[2]))\n"
        "print(len(split.train), split.fingerprint)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, path, str(cache)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert len(said) == 1 and said.pop().split()[0].isdigit()
    assert len(files(cache)) == 1


HAMMER = """
import random, sys, time
from collections.abc import Callable, Iterator
from pathlib import Path
from align.data import store
from align.data.table import SCHEMA
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)

def rows():
    with (folder / "held").open("x"):  # fails where another process is in here
        time.sleep(draw.random() / 500)
        yield "text", *(bytes(32),) * 3, ":1", None, None
        (folder / "held").unlink()
    if draw.random() < 0.7:
        raise ValueError("this reader fails")

end = time.monotonic() + 3
while time.monotonic() < end:
    try:
        store.kept(folder, "records/a.arrow", SCHEMA, rows)
    except ValueError as error:
        assert str(error) == "this reader fails"
    else:
        (folder / "records/a.arrow").unlink(missing_ok=True)
"""


def test_a_file_has_never_two_writers_though_readers_fail(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(tmp_path), str(seed)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(5)
    ]
    assert [process.communicate(timeout=120)[1] for process in started] == [""] * 5


def test_a_reader_that_fails_leaves_those_that_wait_going(tmp_path: Path) -> None:
    """The first fails, the second writes, and a third that comes meanwhile waits for what it writes."""
    row = ("text", *(bytes(32),) * 3, ":1", None, None)
    fail, finish, writing = threading.Event(), threading.Event(), threading.Event()

    def broken() -> Any:
        fail.wait(60)
        raise ValueError("this reader fails")
        yield

    def slow() -> Any:
        writing.set()
        finish.wait(60)
        yield row

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(store.kept, tmp_path, "a.arrow", SCHEMA, broken)
        time.sleep(0.2)
        second = pool.submit(store.kept, tmp_path, "a.arrow", SCHEMA, slow)
        time.sleep(0.2)
        fail.set()
        assert isinstance(first.exception(60), ValueError)
        assert writing.wait(60)
        third = pool.submit(store.kept, tmp_path, "a.arrow", SCHEMA, broken)
        time.sleep(0.2)
        finish.set()
        assert second.result(60) == third.result(60)


def test_a_disk_without_locks_keeps_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr("fcntl.flock", flock)
    path = write(tmp_path / "a.jsonl", *range(30))
    assert read(tmp_path / "cache", path) == read(tmp_path / "cache", path)
    assert reads == ["a.jsonl"]


def test_large_rows_make_many_batches_and_keep_their_order(tmp_path: Path) -> None:
    text = "x" * 2**21

    def rows() -> Any:
        for i in range(9):
            yield f"{text}{i}", *(bytes([i]) * 32,) * 3, f":{i}", None, None

    batches = store.kept(tmp_path, "records/a.arrow", SCHEMA, rows)
    assert len(batches) == 3
    assert pa.Table.from_batches(batches).column("place").to_pylist() == [f":{i}" for i in range(9)]


# Tokens


@pytest.fixture
def template(tiny_base: Path) -> Template:
    from transformers import AutoTokenizer

    return Template(AutoTokenizer.from_pretrained(tiny_base), "plain")


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were tokenised, call by call."""
    found: list[int] = []
    ids = Template._ids

    def counted(self: Template, texts: Any, special: bool) -> Any:
        found.append(len(texts))
        return ids(self, texts, special)

    monkeypatch.setattr(Template, "_ids", counted)
    return found


def test_a_second_start_tokenises_nothing_again(
    tmp_path: Path, template: Template, tokenised: list[int]
) -> None:
    cache = tmp_path / "cache"
    path = write(tmp_path / "a.jsonl", *range(600))
    split = read(cache, path)
    template.hash  # noqa: B018  (its probe is tokenised too)
    tokenised.clear()
    first = encode_demonstrations(template, split.train, 100, "here", cache)
    assert sum(tokenised) == 2 * len(split.train)
    tokenised.clear()
    again = encode_demonstrations(template, read(cache, path).train, 90, "here", cache)  # another limit
    assert not tokenised
    assert first == again
    assert first[7].prompt == template.prompt_ids(split.train[7].prompt)
    assert first[7].responses == [template.response_ids(split.train[7].response)]
    assert first[5:7] == [first[5], first[6]]
    lengths = [len(e.prompt) + len(e.responses[0]) for e in first]
    assert first.lengths.tolist() == first.totals.tolist() == lengths


def test_another_template_and_other_records_have_other_tokens(
    tmp_path: Path, template: Template, tiny_base: Path
) -> None:
    from transformers import AutoTokenizer

    cache = tmp_path / "cache"
    split = read(cache, write(tmp_path / "a.jsonl", *range(60)))
    plain = encode_demonstrations(template, split.train, 100, "here", cache)
    chat = Template(AutoTokenizer.from_pretrained(tiny_base), "chat")
    chatty = encode_demonstrations(chat, split.train, 100, "here", cache)
    held_out = encode_demonstrations(template, split.held_out, 100, "here", cache)
    assert chatty[0].prompt == chat.prompt_ids(split.train[0].prompt) != plain[0].prompt
    assert held_out[0].prompt == template.prompt_ids(split.held_out[0].prompt)
    assert len(held_out) == len(split.held_out)
    assert len([name for name in files(cache) if name.startswith("tokens/")]) == 3


def test_a_base_with_fewer_embeddings_does_not_find_the_tokens_of_one_with_more(
    tmp_path: Path, template: Template
) -> None:
    cache = tmp_path / "cache"
    split = read(cache, write(tmp_path / "a.jsonl", *range(9), response="the film"))
    found = encode_demonstrations(template, split.train, 100, "here", cache)
    largest = max(token for one in found for token in one.responses[0])
    assert largest > max(template.prompt_ids("a"))
    fewer = Template(template._tokenizer, "plain", rows=largest)
    with pytest.raises(UserError, match=rf"here: record 1 .* is token .* has embeddings for {largest}"):
        encode_demonstrations(fewer, split.train, 100, "here", cache)


def test_records_with_weight_are_tokenised_once(
    tmp_path: Path, template: Template, tokenised: list[int]
) -> None:
    path = write(tmp_path / "a.jsonl", *range(10))
    source = Source(train=[{"path": path, "weight": 3}], held_out=0.0)
    split = load(Demonstration, source, "demonstrations")
    template.hash  # noqa: B018
    tokenised.clear()
    encoded = encode_demonstrations(template, split.train, 100, "here")
    assert sum(tokenised) == 20
    assert len(encoded) == len(split.train) == 30
    alone = [encode_demonstrations(template, [record], 100, "here")[0] for record in split.train]
    assert encoded == alone


def test_too_long_records_are_skipped_and_listed(tmp_path: Path, template: Template) -> None:
    path = Path(write(tmp_path / "a.jsonl", *range(5)))
    lines = path.read_text().splitlines()
    lines[1] = json.dumps({"prompt": "prompt 1", "response": "the film " * 50})
    lines[3] = json.dumps({"prompt": "prompt 3", "response": "an <eos> inside"})
    path.write_text("\n".join(lines))
    source = Source(train=[{"path": str(path), "weight": 2}], held_out=0.0, on_bad_record="skip")
    split = load(Demonstration, source, "demonstrations", tmp_path / "cache")
    encoded = encode_demonstrations(template, split.train, 60, "here", tmp_path / "cache", skip=True)
    assert [r.prompt for r in encoded.records] == [f"prompt {i}" for i in (0, 0, 2, 2, 4, 4)]
    assert len(encoded) == 6
    long, eos = encoded.skipped
    assert (long.place, eos.place) == (f"{path}:2", f"{path}:4")
    assert long.message.startswith("has ") and long.message.endswith(" tokens, and `sft.max_length` is 60")
    assert "'<eos>'" in eos.message
    # What was kept with problems in it is not taken for good by a start that fails on them.
    for limit in (60, 9999):
        with pytest.raises(UserError, match=rf"here: record 4 \({path}:4: 'prompt 3'\): .*'<eos>'"):
            encode_demonstrations(template, split.train, limit, "here", tmp_path / "cache")
    with pytest.raises(UserError, match="here: no record is left. The first one left out: .*a.jsonl:1: has"):
        encode_demonstrations(template, split.train, 2, "here", tmp_path / "cache", skip=True)


def test_prompts_beyond_the_bases_positions_are_skipped_with_room_for_the_response(
    template: Template,
) -> None:
    template.positions = len(template.prompt_ids("film " * 15)) + 9
    records = [Prompt("the film"), Prompt("film " * 15)]
    encoded = encode_prompts(template, records, 100, "here", room=10, skip=True)
    assert encoded == [template.prompt_ids("the film")]
    tokens = len(template.prompt_ids(records[1].prompt))
    assert [str(problem) for problem in encoded.skipped] == [
        f"here: record 2: has {tokens} tokens, and the base reads at most {tokens + 9}, 10 of them kept free"
    ]
