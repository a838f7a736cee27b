"""A tired person's mistakes and a failing machine: one message, the right exit code, nothing half-written.

Each command is a process of its own. Importing torch takes seconds, so a driver imports once and forks;
what the fork runs is all of `python -m align`.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import ROOT, align, make_recipe, write_jsonl

DRIVER = """
import json, os, signal, sys, tempfile
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
import align.stages.sft, align.stages.rm, align.ppo.train, align.processes.launch
from align.cli.app import main
running = {}
for line in sys.stdin:
    order = json.loads(line)
    if "start" in order:
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            sys.argv, code = ["align", *order["start"]], 0
            try:
                exec(order["before"], {})
                main()
            except SystemExit as end:
                code = end.code or 0
            except BaseException as error:
                print("Traceback", repr(error), file=sys.stderr)
                code = 99
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        running[pid] = out, err
        answer = {"pid": pid}
    else:
        pid = order["wait"]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in running.pop(pid):
            file.seek(0)
            texts.append(file.read().decode())
        answer = {"code": code, "out": texts[0], "err": texts[1]}
    print(json.dumps(answer), flush=True)
"""


@dataclass
class Done:
    code: int
    out: str
    err: str


class Commands:
    """Runs `align …` in forks of the driver."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, *arguments: str | Path, before: str = "") -> int:
        """Start a command after executing `before` in its process; returns the process's id."""
        return int(self._ask({"start": [str(a) for a in arguments], "before": before})["pid"])

    def wait(self, pid: int) -> Done:
        return Done(**self._ask({"wait": pid}))

    def __call__(self, *arguments: str | Path, before: str = "") -> Done:
        done = self.wait(self.start(*arguments, before=before))
        assert "Traceback" not in done.err + done.out
        assert "bug in align" not in done.err
        return done

    def _ask(self, order: dict[str, object]) -> dict[str, object]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))


@pytest.fixture(scope="module")
def command() -> Iterator[Commands]:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Commands(process)
        assert process.stdin
        process.stdin.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, command: Commands) -> Path:
    """The run folder of three finished stages. Tests copy what they change."""
    folder = tmp_path_factory.mktemp("finished")
    done = command("run", make_recipe(folder, tiny_base))
    assert done.code == 0, done.err
    return folder / "runs" / "tiny"


MakeRecipe = Callable[..., Path]


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def parents(run: Path) -> list[str]:
    return sets(f"rm.sft={run}", f"ppo.sft={run}", f"ppo.rm={run}")


def final(run: Path, stage: str) -> dict[str, bytes]:
    folder = run / stage / "final"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def hidden(folder: Path) -> list[str]:
    """Files and folders that were to be renamed and were not."""
    return [p.name for p in folder.rglob(".*") if p.name != ".lock"]


# The data


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "demonstrations.jsonl: no such file"),
        ("", "demonstrations.jsonl: has no records"),
        (
            '{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n',
            "demonstrations.jsonl:2: `response` is missing",
        ),
        ('{"prompt": "a", ', "demonstrations.jsonl:1: broken JSON"),
    ],
)
def test_records_that_cannot_be_used(
    command: Commands, tiny_recipe: MakeRecipe, content: str | None, says: str
) -> None:
    recipe = tiny_recipe()
    data = recipe.parent / "demonstrations.jsonl"
    data.unlink()
    if content is not None:
        data.write_text(content)
    done = command("sft", recipe)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert not (recipe.parent / "runs").exists()


PAIR = b'{"prompt": "a", "response": "b"}\n'
ROWS = "".join(f'{{"prompt": "{i * 7919 % 10007}", "response": "b"}}\n' for i in range(20_000)).encode()


def _zstd(content: bytes) -> bytes:
    import pyarrow

    return bytes(pyarrow.Codec("zstd").compress(content).to_pybytes())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", PAIR + b'{"prompt": "a", "resp\n' + PAIR, "a.jsonl:2: broken JSON at column 17"),
        ("a.json", b"[" + PAIR + b',{"prompt":]', "a.json:2: broken JSON: Expecting value"),
        ("a.jsonl", bytes(range(256)) * 9, "a.jsonl:1: not a text file in UTF-8"),
        ("a.csv", b"\x89PNG\r\n\x1a\n" * 99, "a.csv:1: byte 1 is not UTF-8: save the file as UTF-8"),
        (
            "a.jsonl",
            PAIR.decode().encode("utf-16"),
            "a.jsonl:1: not a text file in UTF-8 (it begins as UTF-16)",
        ),
        (
            "a.csv",
            "prompt,response\ngrün,b\n".encode("latin-1"),
            "a.csv:2: byte 3 is not UTF-8: save the file as UTF-8",
        ),
        (
            "a.jsonl",
            PAIR + PAIR.replace(b"a", b"\0"),
            "a.jsonl:2: not a text file in UTF-8 (it holds NUL bytes)",
        ),
        ("a.jsonl", PAIR.replace(b"a", rb"\u0000"), "a.jsonl:1: `prompt` holds a NUL character"),
        (
            "a.csv",
            b"question,answer\na,b\n",
            "a.csv:2: no known format has these columns: 'question', 'answer'",
        ),
        ("a.csv", b"prompt,response\na,b\nc\n", "a.csv:3: has 1 cells, and the header names 2 columns"),
        ("a.parquet", PAIR, "a.parquet: cannot be read: Parquet magic bytes not found"),
        ("a.jsonl.gz", gzip.compress(ROWS)[:-99], "a.jsonl.gz: cannot be read after line "),
        ("a.jsonl.zst", _zstd(ROWS)[:-99], "a.jsonl.zst: cannot be read after line "),
        ("a.jsonl.zst", PAIR, "a.jsonl.zst: cannot be read: ZSTD decompress failed"),
        (
            "a.xlsx",
            b"PK",
            "a.xlsx: is a workbook of a spreadsheet: save its sheet as CSV (in UTF-8), and name that file",
        ),
    ],
)
def test_files_that_are_not_what_they_seem(
    command: Commands, tiny_recipe: MakeRecipe, name: str, content: bytes, says: str
) -> None:
    recipe = tiny_recipe()
    (recipe.parent / name).write_bytes(content)
    done = command("sft", recipe, *sets(f"data.demonstrations.train={name}"))
    assert (done.code, done.out) == (2, "")
    assert f"{recipe.parent}/{says}" in done.err
    assert len(done.err.splitlines()) == 2
    assert nothing_written(recipe)


def nothing_written(recipe: Path) -> bool:
    """But for locks, which are empty files that stay."""
    kept = [path for path in (recipe.parent / "cache").rglob("*") if path.is_file()]
    kept = [path for path in kept if path.suffix != ".lock" or path.stat().st_size]
    return not kept and not (recipe.parent / "runs").exists()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def read(row):\n    return row['text']", "raised KeyError: 'text'"),
        ("def read(row):\n    raise SystemExit(0)", "raised SystemExit: 0"),
        (
            "def read(row):\n    return {'prompt': 'a', 'reponse': 'b'}",
            "gave a record whose `reponse` is an unknown",
        ),
        ("def read(row):\n    yield row\n    1 / 0", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_format_function_that_fails(
    command: Commands, tiny_recipe: MakeRecipe, code: str, says: str
) -> None:
    recipe = tiny_recipe()
    (recipe.parent / "mine.py").write_text(code)
    entry = "{path: demonstrations.jsonl, format: 'mine:read'}"
    done = command(
        "sft",
        recipe,
        *sets(f"data.demonstrations.train={entry}"),
        before=f"import sys; sys.path.insert(0, {str(recipe.parent)!r})",
    )
    assert done.code == 2
    assert f"demonstrations.jsonl:1: the format function mine:read {says}" in done.err
    assert len(done.err.splitlines()) < 25
    assert nothing_written(recipe)


def test_ten_million_characters_in_one_line(command: Commands, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe()
    row = {"prompt": "long", "response": "good and bright " * 625_000}
    path = recipe.parent / "long.jsonl"
    path.write_text(json.dumps({"prompt": "short", "response": "x"}) + "\n" + json.dumps(row) + "\n")
    done = command(
        "sft", recipe, *sets("data.demonstrations.train=long.jsonl", "data.demonstrations.held_out=0")
    )
    assert done.code == 2
    assert (
        "data.demonstrations: 1 of 2 records have more than 1024 tokens. The first is record 2 (" in done.err
    )
    assert f"({path}:2: 'long')" in done.err
    assert len(done.err) < 1000
    assert not (recipe.parent / "runs/tiny/sft").exists()


def test_a_data_set_that_is_neither_here_nor_on_the_hub(command: Commands, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe()
    done = command("sft", recipe, *sets("data.demonstrations.train=nobody/nothing"))
    assert done.code == 2
    assert "nobody/nothing: no such file or folder, and the data set nobody/nothing is not" in done.err
    assert "HF_HUB_OFFLINE" in done.err
    assert nothing_written(recipe)


def test_a_cache_that_cannot_be_written(command: Commands, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe()
    (recipe.parent / "blocked").write_text("")
    done = command("sft", recipe, *sets(f"data.cache={recipe.parent}/blocked"))
    assert done.code == 2
    assert "blocked/records cannot be written" in done.err
    assert "choose another folder by data.cache" in done.err
    assert not (recipe.parent / "runs").exists()


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_bad_records_are_left_out_and_listed_where_the_recipe_says_so(
    command: Commands, tiny_recipe: MakeRecipe, finished: Path, stage: str
) -> None:
    recipe = tiny_recipe()
    kind = {"sft": "demonstrations", "rm": "rankings", "ppo": "prompts"}[stage]
    data = recipe.parent / f"{kind}.jsonl"
    good = data.read_text().splitlines()
    long = {**json.loads(good[2]), "prompt": "the film " * 40}
    data.write_text("\n".join([*good[:2], json.dumps(long), "{", *good[3:], '{"prompt": 7}']) + "\n")
    limit = {"sft": "sft.max_length=60", "rm": "rm.max_length=60", "ppo": "ppo.max_prompt_tokens=32"}[stage]
    arguments = (stage, recipe, *parents(finished), *sets(limit))
    refused = command(*arguments)
    assert refused.code == 2
    assert f"{data}:4: broken JSON" in refused.err
    assert f"{data}:{len(good) + 2}: " in refused.err
    done = command(*arguments, *sets(f"data.{kind}.on_bad_record=skip"))
    assert done.code == 0, done.err
    listed = recipe.parent / "runs/tiny" / stage / "skipped.jsonl"
    assert f"3 records are left out; {listed} lists them" in done.out
    assert (
        f"data.{kind}: {data}, read as align: {len(good) + 2} rows, {len(good)} records, 2 wrong" in done.out
    )
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [row["place"] for row in rows] == [f"{data}:4", f"{data}:{len(good) + 2}", f"{data}:3"]
    assert "tokens, and `" in rows[2]["message"]


def test_rankings_that_are_all_tied_and_then_are_not(
    command: Commands, tiny_recipe: MakeRecipe, finished: Path
) -> None:
    recipe = tiny_recipe()
    data = recipe.parent / "rankings.jsonl"
    good = data.read_text()
    rows = [json.loads(line) for line in good.splitlines()]
    data.write_text("".join(json.dumps({**row, "ranks": [1] * len(row["ranks"])}) + "\n" for row in rows))
    done = command("rm", recipe, *parents(finished))
    assert done.code == 2
    assert "all responses are tied" in done.err
    assert not (recipe.parent / "runs/tiny/rm").exists()
    data.write_text(good)
    assert command("rm", recipe, *parents(finished)).code == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.rankings.train=nowhere.jsonl", "nowhere.jsonl"),
        ("data.rankings.train={path: rankings.jsonl, format: helpster3}", "helpster3"),
        ("data.prompts.train=nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_records_of_later_stages_are_read_before_the_first_trains(
    command: Commands, tiny_recipe: MakeRecipe, change: str, says: str
) -> None:
    recipe = tiny_recipe()
    done = command("run", recipe, "--set", change)
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert not (recipe.parent / "runs/tiny/sft").exists()


def test_nothing_need_be_held_out(command: Commands, tiny_recipe: MakeRecipe) -> None:
    none = (f"data.{kind}.held_out=0" for kind in ("demonstrations", "rankings", "prompts"))
    done = command("run", tiny_recipe(), *sets(*none))
    assert done.code == 0, done.err


# The recipe

UNREADABLE = """
import align.models.base
def fail(*_, **__):
    raise AssertionError("weights were loaded")
align.models.base.BaseCheckpoint.load_model = fail
"""


def test_a_batch_that_processes_cannot_share_is_told_before_anything_trains(
    command: Commands, tiny_recipe: MakeRecipe
) -> None:
    recipe = tiny_recipe(ppo={"rollout_batch_size": 9, "minibatch_size": 9})
    done = command("run", recipe, "--num-processes", "2")
    assert (done.code, done.err.count("error:")) == (2, 1)
    assert "ppo.rollout_batch_size is 9, which 2 processes cannot share evenly" in done.err
    assert not (recipe.parent / "runs/tiny/sft").exists()


@pytest.mark.parametrize("port", ["notaport", "99999"])
def test_a_server_s_address_is_looked_at_before_anything_trains(
    command: Commands, tiny_recipe: MakeRecipe, port: str
) -> None:
    url = f"http://127.0.0.1:{port}"
    done = command("run", tiny_recipe(ppo={"engine": "vllm", "engine_url": url}))
    assert done.code == 2
    assert f"ppo: engine_url is {url}, which is no address" in done.err
    assert "recipe.yaml:" in done.err


def test_a_server_that_is_not_there_is_told_before_anything_trains(
    command: Commands, tiny_recipe: MakeRecipe, finished: Path
) -> None:
    url = "http://127.0.0.1:9"
    recipe = tiny_recipe(ppo={"engine": "vllm", "engine_url": url})
    (line,) = [i for i, text in enumerate(recipe.read_text().splitlines(), start=1) if "engine_url" in text]
    for more in ([], ["--num-processes", "2"]):
        done = command("run", recipe, *more)
        assert (done.code, done.out, done.err.count("error:")) == (2, "", 1)
        assert f"error: {recipe}:{line}: engine vllm: no vLLM server answers at {url} (" in done.err
        assert "after sft and rm have trained; nothing was started" in done.err and "--anyway" in done.err
        assert not (recipe.parent / "runs").exists()
    begun = command("run", recipe, "--anyway")
    assert begun.out.startswith(f"warning: engine vllm: no vLLM server answers at {url}")
    assert begun.code == 2 and f"error: engine vllm: no vLLM server answers at {url}" in begun.err
    assert (recipe.parent / "runs/tiny/rm/final").is_dir()
    shutil.copytree(finished / "ppo", recipe.parent / "runs/tiny/ppo", dirs_exist_ok=True)
    assert "vLLM" not in command("run", recipe).err  # nothing will ask it


@pytest.mark.parametrize("arguments", [["sft"], ["run"], ["run", "--num-processes", "2"], ["plan"]])
def test_a_layer_that_the_base_lacks_is_told_with_its_line_before_anything_is_loaded(
    command: Commands, tiny_recipe: MakeRecipe, arguments: list[str]
) -> None:
    recipe = tiny_recipe(lora={"targets": ["v_proj", "q_prj"]})
    (line,) = [i for i, text in enumerate(recipe.read_text().splitlines(), start=1) if '"targets"' in text]
    done = command(arguments[0], recipe, *arguments[1:], before=UNREADABLE)
    assert (done.code, done.err.count("error:")) == (2, 1)
    assert done.err.strip() == (
        f"error: {recipe}:{line}: lora.targets: the base has no linear layer named q_prj; did you mean "
        "q_proj? it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )
    assert not (recipe.parent / "runs/tiny/sft").exists()
    overridden = command("sft", recipe, *sets("lora.targets=[nope]"))
    assert "error: --set lora.targets=[nope]: lora.targets: the base has no linear" in overridden.err
    assert "did you mean" not in overridden.err


def test_broken_yaml_and_a_missing_recipe(command: Commands, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base: [x\nrun: {name: a}\n")
    done = command("run", recipe)
    assert done.code == 2
    assert f"{recipe}:2:" in done.err
    done = command("run", tmp_path / "recipes.yaml")
    assert done.code == 2
    assert "did you mean" in done.err


def test_a_key_by_its_earlier_name(command: Commands, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe(ppo={"value_trunk": "policy"})
    (line,) = [i for i, text in enumerate(recipe.read_text().splitlines(), start=1) if "value_trunk" in text]
    done = command("ppo", recipe)
    assert done.code == 2
    assert done.err.strip() == (
        f"error: {recipe}:{line}: ppo.value_trunk: this key is now called ppo.value_model; "
        "write `value_model: shared`"
    )
    assert not (recipe.parent / "runs/tiny").exists()


def test_mistakes_that_show_late_are_mended_and_the_run_goes_its_way(
    command: Commands, tiny_recipe: MakeRecipe
) -> None:
    """What the message says to change must then be allowed to change."""
    recipe = tiny_recipe()
    for override, says in (
        ("sft.max_length=5", "raise `sft.max_length` to"),
        ("lora.targets=[nope]", "the base has no linear layer named nope; it has down_proj"),
        ("lora.layers=9", "lora.layers is 9, and the base has 4 layers"),
        ("sft.microbatch_size=3", "does not divide"),
        ("base.attention=nonsense", "cannot be loaded"),
    ):
        done = command("sft", recipe, "--set", override)
        assert done.code == 2
        assert says in done.err
        assert not (recipe.parent / "runs/tiny/sft").exists()
    assert command("sft", recipe, *sets("run.seed=99999999999999")).code == 0


def test_prompts_over_the_limit(command: Commands, tiny_recipe: MakeRecipe, finished: Path) -> None:
    recipe = tiny_recipe()
    done = command("ppo", recipe, *parents(finished), *sets("ppo.max_prompt_tokens=2"))
    assert done.code == 2
    assert "raise `ppo.max_prompt_tokens` to" in done.err
    done = command("ppo", recipe, *parents(finished), *sets("ppo.minibatch_size=3"))
    assert done.code == 2
    assert "multiple of minibatch_size (3)" in done.err
    done = command("ppo", recipe, *parents(finished), *sets("ppo.max_response_tokens=250"))
    assert done.code == 2
    assert "the base reads at most 256" in done.err
    assert not (recipe.parent / "runs/tiny/ppo").exists()


# The base


def _only_bin(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def _cut(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def _edit_config(base: Path, **fields: object) -> None:
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda base: shutil.rmtree(base), "there is no such folder"),
        (lambda base: (base / "config.json").unlink(), "it is not a transformers checkpoint"),
        (_only_bin, "holds no .safetensors file"),
        (_cut, "cannot be loaded"),
        (lambda base: _edit_config(base, num_hidden_layers=6), "not complete: 18 of its model's weights"),
        (lambda base: _edit_config(base, hidden_size=64), "its config.json is that of another model"),
        (
            lambda base: (base / "config.json").write_text("[]"),
            "config or tokenizer files are missing or broken",
        ),
        (lambda base: (base / "tokenizer.json").unlink(), "config or tokenizer files are missing or broken"),
        (lambda base: (base / "chat_template.jinja").unlink(), "Set `data.template: plain`"),
    ],
)
def test_a_base_that_cannot_be_used(
    command: Commands,
    tiny_recipe: MakeRecipe,
    tiny_base: Path,
    tmp_path: Path,
    break_it: Callable[[Path], None],
    says: str,
) -> None:
    base, recipe = tmp_path / "base", tiny_recipe()
    shutil.copytree(tiny_base, base)
    break_it(base)
    done = command("sft", recipe, *sets(f"base.name={base}", "data.template=chat"))
    assert done.code == 2
    assert says in done.err
    assert not (recipe.parent / "runs/tiny/sft").exists()


def _add_token(base: Path, *, pad: str | None = None, eos: str | None = None, prompt: str = "") -> None:
    """Give the tokenizer a special token, and the embedding table no row for it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    if name := pad or eos:
        tokenizer.add_special_tokens({"pad_token" if pad else "eos_token": name})
    elif prompt:
        tokenizer.add_tokens(prompt, special_tokens=True)
        tokenizer.chat_template = f"{prompt}{tokenizer.chat_template}"
    tokenizer.save_pretrained(base)


@pytest.mark.parametrize("in_config", [False, True])
def test_padding_that_the_base_has_no_embedding_for_changes_no_result(
    command: Commands,
    tiny_recipe: MakeRecipe,
    tiny_base: Path,
    finished: Path,
    tmp_path: Path,
    in_config: bool,
) -> None:
    base, recipe = tmp_path / "base", tiny_recipe()
    shutil.copytree(tiny_base, base)
    _add_token(base, pad="[PAD]")
    config = json.loads((base / "config.json").read_text())
    if in_config:
        _edit_config(base, pad_token_id=config["vocab_size"])
    done = command("run", recipe, *sets(f"base.name={base}"))
    assert done.code == 0, done.err
    run = recipe.parent / "runs/tiny"
    for stage in ("sft", "rm", "ppo"):
        mine, theirs = final(run, stage), final(finished, stage)
        weights = [name for name in theirs if name.endswith(".safetensors")]
        assert weights and {name: mine[name] for name in weights} == {name: theirs[name] for name in weights}
    for stage in ("sft", "rm"):
        done = command("export", run, "--stage", stage, "--to", tmp_path / stage)
        assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("token", "kind", "name"),
    [
        ({"eos": "<|end|>"}, "plain", "<|end|>"),
        ({"eos": "<|end|>"}, "chat", "<|end|>"),
        ({"prompt": "<|start|>"}, "chat", "<|start|>"),
    ],
)
def test_a_token_that_the_base_has_no_embedding_for_is_found_before_anything_runs(
    command: Commands,
    tiny_recipe: MakeRecipe,
    tiny_base: Path,
    tmp_path: Path,
    token: dict[str, str],
    kind: str,
    name: str,
) -> None:
    base, recipe = tmp_path / "base", tiny_recipe()
    shutil.copytree(tiny_base, base)
    _add_token(base, **token)
    rows = json.loads((base / "config.json").read_text())["vocab_size"]
    says = f"base.name: {name!r} is token {rows}, and the base has embeddings for {rows} tokens"
    arguments = sets(f"base.name={base}", f"data.template={kind}")
    done = command("sft", recipe, *arguments)
    assert done.code == 2
    assert says in done.err
    assert not (recipe.parent / "runs").exists()
    done = command("check", recipe, *arguments)
    assert done.code == 2
    assert says in " ".join(done.out.split())


def test_a_record_with_a_token_that_the_base_has_no_embedding_for_is_named(
    command: Commands, tiny_recipe: MakeRecipe, tiny_base: Path, tmp_path: Path
) -> None:
    base, recipe = tmp_path / "base", tiny_recipe()
    shutil.copytree(tiny_base, base)
    _add_token(base, prompt="<|start|>")
    data = recipe.parent / "demonstrations.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[0]["response"] = rows[1]["prompt"] = "a <|start|> b"
    write_jsonl(data, rows)
    all_rows = sets(f"base.name={base}", "data.demonstrations.held_out=0.0")
    done = command("sft", recipe, *all_rows)
    assert done.code == 2
    assert "data.demonstrations: record 1 (" in done.err and "'<|start|>' is token 3" in done.err
    assert not (recipe.parent / "runs/tiny/sft").exists()
    done = command("sft", recipe, *all_rows, *sets("data.demonstrations.on_bad_record=skip"))
    assert done.code == 0, done.err
    assert "2 records are left out" in done.out
    done = command("check", recipe, *all_rows)
    assert done.code == 2
    assert "'<|start|>' is token 3" in " ".join(done.out.split())


@pytest.mark.parametrize("name", ["nobody/nothing", "a b", "a" * 300])
def test_a_name_that_is_neither_folder_nor_cached(
    command: Commands, tiny_recipe: MakeRecipe, name: str
) -> None:
    done = command("sft", tiny_recipe(), *sets(f"base.name={name}"))
    assert done.code == 2
    assert done.err.startswith(f"error: base {name}")
    assert ("HF_HUB_OFFLINE" in done.err) == (name == "nobody/nothing")


def test_no_network_is_said_at_once(tiny_recipe: MakeRecipe) -> None:
    """A process of its own: the hub's library reads its environment when it is imported."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as hub:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = hub.accept()
                except OSError:
                    return
                calls.append(connection.close())

        threading.Thread(target=hang_up, daemon=True).start()
        address = f"http://127.0.0.1:{hub.getsockname()[1]}"
        done = align(
            "sft", tiny_recipe(), *sets("base.name=nobody/nothing"), HF_HUB_OFFLINE="0", HF_ENDPOINT=address
        )
    assert done.returncode == 2
    assert "neither a folder nor complete in the hub's cache" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(calls) == 1  # it asked, and did not ask again


# Earlier stages


def test_stages_out_of_order(command: Commands, tiny_recipe: MakeRecipe, finished: Path) -> None:
    recipe = tiny_recipe()
    for stage, overrides, says in (
        ("rm", [], "run `align sft`"),
        ("ppo", [], "run `align sft`"),
        ("ppo", sets(f"ppo.sft={finished}"), "run `align rm`"),
        ("ppo", sets(f"ppo.sft={recipe.parent}"), "name one in which sft has finished"),
        ("ppo", sets(f"ppo.sft={finished}/sft"), f"name the run's folder, {finished}, not a stage's"),
    ):
        done = command(stage, recipe, *overrides)
        assert done.code == 3
        assert says in done.err
    assert not (recipe.parent / "runs").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("manifest.json", b"", "manifest.json cannot be read"),
        ("manifest.json", b"[]", "manifest.json cannot be read"),
        ("manifest.json", b'{"finished": true}', "manifest.json has no entry"),
        ("final/adapter_model.safetensors", b"x", "is not what sft wrote"),
        ("final/adapter_config.json", None, "adapter_config.json is missing"),
    ],
)
def test_an_earlier_stage_that_was_altered(
    command: Commands,
    tiny_recipe: MakeRecipe,
    finished: Path,
    tmp_path: Path,
    name: str,
    content: bytes,
    says: str,
) -> None:
    recipe, copy = tiny_recipe(), tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "sft" / name).unlink()
    if content is not None:
        (copy / "sft" / name).write_bytes(content)
    done = command("rm", recipe, *parents(copy))
    assert done.code == 2
    assert says in done.err
    assert "restore it, or train sft again" in done.err
    assert not (recipe.parent / "runs").exists()


# The run folder


@pytest.mark.parametrize(
    "name", ["runs", "runs/tiny", "runs/tiny/sft", "runs/tiny/recipe.yaml/x", "runs/tiny/.lock/x"]
)
def test_something_is_in_the_way(command: Commands, tiny_recipe: MakeRecipe, name: str) -> None:
    recipe = tiny_recipe()
    blocker = recipe.parent / name
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_text("")
    done = command("sft", recipe)
    assert done.code == 2
    assert str(blocker).removesuffix("/x") in done.err
    assert blocker.read_text() == ""


def test_restart_twice_keeps_all_that_was(command: Commands, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe()
    run = recipe.parent / "runs/tiny"
    results = []
    for seed in range(3):
        assert command("sft", recipe, "--restart", *sets(f"run.seed={seed}", "sft.steps=1")).code == 0
        results.append(final(run, "sft"))
    kept = [final(run, folder.name) for folder in sorted(run.glob("sft.before-*"))]
    assert kept == results[:2]
    assert final(run, "sft") == results[2]


SLOW_SAVES = """
import time, align.run.checkpoint as checkpoint
save = checkpoint.save
def slow(*arguments, **named):
    time.sleep(0.5)
    return save(*arguments, **named)
checkpoint.save = slow
"""


def test_two_commands_on_one_folder_and_a_stale_lock(command: Commands, tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe(sft={"steps": 1})
    lock = recipe.parent / "runs/tiny/.lock"
    first = command.start("sft", recipe, before=SLOW_SAVES.replace("0.5", "60"))
    while not lock.exists() or not lock.read_text():
        time.sleep(0.01)
    second = command("sft", recipe)
    assert second.code == 2
    since = re.search(
        rf"in use by process {first} on {re.escape(socket.gethostname())} since (\S+): wait", second.err
    )
    assert since and 0 <= (datetime.now(UTC) - datetime.fromisoformat(since[1])).total_seconds() < 300
    os.kill(first, signal.SIGKILL)
    assert command.wait(first).code == -signal.SIGKILL
    assert f"process {first} " in lock.read_text()  # stale: nobody holds it
    third = command("sft", recipe)
    assert third.code == 0, third.err
    assert f"process {first} " not in lock.read_text()


NEVER_KEPT = """
import time, align.data.store as store
def stuck(path, *rest):
    path.touch()
    time.sleep(600)
store._write = stuck
"""


def test_a_run_killed_while_it_fills_a_shared_cache_blocks_no_other(
    command: Commands, tiny_recipe: MakeRecipe, finished: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "shared"
    recipes = [tiny_recipe(tmp_path / name, data={"cache": str(cache)}) for name in ("one", "two")]
    first = command.start("sft", recipes[0], before=NEVER_KEPT)
    while not list(cache.rglob("*.part-*")):
        time.sleep(0.01)
    second = command.start("sft", recipes[1])
    time.sleep(3)
    os.kill(first, signal.SIGKILL)
    assert command.wait(first).code == -signal.SIGKILL
    done = command.wait(second)
    assert done.code == 0, done.err
    assert list(cache.rglob("*.part-*")) == []
    assert final(tmp_path / "two/runs/tiny", "sft") == final(finished, "sft")


# The middle of a run


def _first_checkpoint(stage_folder: Path) -> Path:
    for _ in range(3000):
        found = sorted(stage_folder.glob("checkpoints/step-*"))
        if found:
            return found[0]
        time.sleep(0.01)
    raise AssertionError("no checkpoint was written")


def _newest(stage_folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max(int(path.name.partition("-")[2]) for path in stage_folder.glob("checkpoints/step-*"))


STUCK = """
import time, align.stages.rm as rm
update, calls = rm.update, []
def stuck(*arguments):
    calls.append(1)
    if len(calls) == 2:
        time.sleep(60)
    return update(*arguments)
rm.update = stuck
"""


@pytest.mark.parametrize(
    ("signals", "grace", "says"),
    [
        ([signal.SIGTERM], 1.5, "the step at hand took longer than run.grace (1.5 s)"),
        ([signal.SIGTERM, signal.SIGTERM], 30, "a second signal came"),
        ([signal.SIGINT, signal.SIGTERM], 30, "a second signal came"),
    ],
)
def test_a_step_that_does_not_end_ends_with_the_time_or_a_second_signal(
    command: Commands,
    tiny_recipe: MakeRecipe,
    finished: Path,
    signals: list[signal.Signals],
    grace: float,
    says: str,
) -> None:
    recipe = tiny_recipe()
    run = recipe.parent / "runs/tiny"
    more = sets(f"run.grace={grace}", "rm.checkpoint_every=1")
    pid = command.start("rm", recipe, *parents(finished), *more, before=STUCK)
    _first_checkpoint(run / "rm")
    time.sleep(0.3)
    started = time.monotonic()
    for number in signals:
        os.kill(pid, number)
        time.sleep(0.1)
    done = command.wait(pid)
    assert done.code == 128 + signals[0]
    assert says in done.err
    assert time.monotonic() - started < 6
    done = command("rm", recipe, *parents(finished))
    assert "rm goes on from step 1" in done.out
    assert final(run, "rm") == final(finished, "rm")


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_stopped_in_the_middle(
    command: Commands, tiny_recipe: MakeRecipe, finished: Path, stage: str
) -> None:
    recipe = tiny_recipe()
    run = recipe.parent / "runs/tiny"
    arguments = (stage, recipe, *parents(finished))

    first = command.start(*arguments, before=SLOW_SAVES)
    _first_checkpoint(run / stage)
    second = command(*arguments)
    os.kill(first, signal.SIGINT)
    assert second.code == 2
    assert f"{run} is in use by process {first} " in second.err
    done = command.wait(first)
    assert done.code == 130
    told = "".join(
        line
        for line in done.out.splitlines(True)
        if not line.startswith(("warning: ", "data.", f"{stage}: ", f"{stage} 6/6 "))
    )
    assert told in ("", f"{stage} stops after step {_newest(run / stage)}, which is saved\n")
    assert done.err.splitlines()[-1] == "interrupted: the same command goes on from the last checkpoint"

    changed = command(*arguments, *sets(f"{stage}.learning_rate=0.5"))
    assert changed.code == 2
    assert f"{stage}.learning_rate: was 0.01, is 0.5" in changed.err

    again = command.start(*arguments, before=SLOW_SAVES)
    while f"process {again} " not in (run / ".lock").read_text():
        time.sleep(0.01)
    os.kill(again, signal.SIGTERM)
    assert command.wait(again).code == 143

    newest = sorted(run.glob(f"{stage}/checkpoints/step-*"))[-1]
    damaged = sorted(newest.glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = command(*arguments)
    assert done.code == 0, done.err
    assert f"{newest} is passed over: {damaged.name} has" in done.out
    assert final(run, stage) == final(finished, stage)
    assert hidden(run) == []


# The disk

NEEDS_MOUNT = "needs root and the right to mount, to make a disk that is full or read-only"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts file systems, and unmounts them at the end."""
    mounted: list[Path] = []

    def mount(folder: Path, *how: str) -> Path:
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *how, str(folder)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(NEEDS_MOUNT)
        mounted.append(folder)
        return folder

    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip(NEEDS_MOUNT)
    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", str(folder)], check=False)


def test_a_disk_that_is_full_or_read_only_from_the_start(
    command: Commands, tiny_recipe: MakeRecipe, tmp_path: Path, disk: Callable[..., Path]
) -> None:
    recipe = tiny_recipe()
    small = disk(tmp_path / "small", "-t", "tmpfs", "-o", "size=16m", "none")
    done = command("sft", recipe, *sets(f"run.folder={small}/runs"))
    assert done.code == 2
    assert "16 MiB left" in done.err
    assert list(small.iterdir()) == []
    fixed = disk(tmp_path / "fixed", "-t", "tmpfs", "-o", "ro", "none")
    done = command("sft", recipe, *sets(f"run.folder={fixed}"))
    assert done.code == 2
    assert f"the run folder {fixed}/tiny cannot be written (Read-only file system)" in done.err


FILL = """
import align.run.checkpoint as checkpoint
save, count = checkpoint.save, 0
def fill(*arguments, **named):
    global count
    count += 1
    if count == 2:
        try:
            with open("{disk}/filler", "wb", buffering=0) as file:
                while file.write(b"x" * 4096):
                    pass
        except OSError:
            pass
    return save(*arguments, **named)
checkpoint.save = fill
"""
BROKEN = """
import align.run.checkpoint as checkpoint
save, count = checkpoint.save_file, 0
def fail(*arguments, **named):
    global count
    count += 1
    if count == {count}:
        {how}
    return save(*arguments, **named)
checkpoint.save_file = fail
"""
GONE = "import os, pathlib; run = pathlib.Path({run!r}); os.rename(run, run.with_name('elsewhere'))"


@pytest.mark.parametrize(
    ("stage", "how", "says"),
    [
        ("sft", "raise OSError(28, 'No space left on device')", "no space is left on the disk"),
        ("rm", "raise OSError(30, 'Read-only file system')", "the disk is read-only now; make it writable"),
        ("ppo", "raise OSError(122, 'Disk quota exceeded')", "no space is left on the disk"),
        ("sft", GONE, "is gone"),
        ("rm", GONE, "is gone"),
        ("ppo", GONE, "is gone"),
    ],
)
def test_a_disk_that_fails_while_a_checkpoint_is_written(
    command: Commands, tiny_recipe: MakeRecipe, finished: Path, stage: str, how: str, says: str
) -> None:
    """As the test below, where nothing can be mounted."""
    recipe = tiny_recipe()
    run = recipe.parent / "runs/tiny"
    files = {"sft": 2, "rm": 2, "ppo": 4}[stage]
    broken = BROKEN.format(count=files + 2, how=how.format(run=str(run)))
    done = command(stage, recipe, *parents(finished), before=broken)
    assert done.code == 1
    assert says in done.err
    assert "the same command goes on from the last checkpoint" in done.err
    if how == GONE:
        assert not run.exists() or not list(run.rglob("*.safetensors"))
        shutil.rmtree(run, ignore_errors=True)
        (run.parent / "elsewhere").rename(run)
    assert len(list(run.glob(f"{stage}/checkpoints/step-*"))) == 1
    done = command(stage, recipe, *parents(finished))
    assert done.code == 0, done.err
    assert f"{stage} goes on from step" in done.out
    assert final(run, stage) == final(finished, stage)
    assert hidden(run) == []


LOCKED_AT_THE_END = """
import subprocess
from align.run.folder import StageRun
finish = StageRun.finish
def locked(run, *arguments, **named):
    subprocess.run(["mount", "-o", "bind", run.folder, run.folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", run.folder], check=True)
    return finish(run, *arguments, **named)
StageRun.finish = locked
"""


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_a_disk_that_fills_up_and_one_that_turns_read_only(
    command: Commands,
    tiny_recipe: MakeRecipe,
    finished: Path,
    tmp_path: Path,
    disk: Callable[..., Path],
    stage: str,
) -> None:
    folder = disk(tmp_path / "disk", "-t", "tmpfs", "-o", "size=80m", "none")
    run = folder / "tiny"
    arguments = (stage, tiny_recipe(), *parents(finished), *sets(f"run.folder={folder}"))

    done = command(*arguments, before=FILL.format(disk=folder))
    assert done.code == 1
    assert "no space is left on the disk" in done.err
    assert "the same command goes on from the last checkpoint" in done.err
    assert len(list(run.glob(f"{stage}/checkpoints/*"))) == 1
    assert hidden(folder) == []
    (folder / "filler").unlink()

    done = command(*arguments, before=LOCKED_AT_THE_END)
    subprocess.run(["umount", str(run / stage)], check=True)
    assert done.code == 1
    assert f"the disk is read-only now: {run / stage}" in done.err
    assert not (run / stage / "final").exists()

    done = command(*arguments)
    assert done.code == 0, done.err
    assert "goes on from step" in done.out
    assert final(run, stage) == final(finished, stage)
    assert hidden(folder) == []


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v limits nothing elsewhere")
@pytest.mark.parametrize("kib", [500_000, 1_000_000])
def test_too_little_room_for_torch_is_one_line(tiny_recipe: MakeRecipe, kib: int) -> None:
    recipe = tiny_recipe()
    done = subprocess.run(
        ["bash", "-c", f'ulimit -v {kib}; "$@"', "-", sys.executable, "-m", "align", "sft", recipe],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: memory ran out") and "`ulimit -v unlimited`" in line
