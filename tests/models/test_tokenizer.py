"""A base's tokenizer without torch is the one that AutoTokenizer loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version
from transformers import AutoTokenizer

from align.errors import UserError
from align.models import tokenizer as module
from align.models.base import find_base
from align.models.tokenizer import KNOWN, KNOWN_VERSIONS, find_tokenizer
from align.recipe.data import Data
from align.recipe.sections import Base as BaseSpec

TRANSFORMERS = version("transformers")
torch_is_spared = pytest.mark.skipif(
    Version(TRANSFORMERS) < Version("5.18"), reason="before transformers 5.18 every tokenizer imports torch"
)


def a_base(tiny_base: Path, folder: Path, model_type: str, tokenizer_class: str) -> Path:
    shutil.copytree(tiny_base, folder)
    for name, changed in (
        ("config.json", {"model_type": model_type}),
        ("tokenizer_config.json", {"tokenizer_class": tokenizer_class}),
    ):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | changed))
    return folder


@torch_is_spared
@pytest.mark.parametrize("fast", ["", "Fast"])
@pytest.mark.parametrize(("model_type", "name"), KNOWN)
def test_the_class_is_the_one_that_auto_tokenizer_takes(
    tiny_base: Path, tmp_path: Path, model_type: str, name: str, fast: str
) -> None:
    if (name, fast) in (("PreTrainedTokenizer", ""), ("TokenizersBackend", "Fast")):
        pytest.skip("no tokenizer is saved under this name")
    folder = a_base(tiny_base, tmp_path / "base", model_type, name + fast)
    expected = AutoTokenizer.from_pretrained(folder)
    known = module._known_tokenizer(folder)
    assert known is not None
    assert type(known.tokenizer) is type(expected)
    found = find_tokenizer(BaseSpec(name=str(folder)))
    base = find_base(BaseSpec(name=str(folder)))
    assert (found.positions, found.rows) == (base.positions, base.rows)
    assert found.template(Data()).hash == base.template(Data()).hash


@torch_is_spared
def test_it_is_known_of_the_transformers_that_is_installed() -> None:
    assert TRANSFORMERS in KNOWN_VERSIONS, "see what its AutoTokenizer takes, then say so"


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("config.json", {"model_type": "mistral"}),
        ("config.json", {"auto_map": {"AutoConfig": "own.Config"}}),
        ("config.json", {"vocab_size": None}),
        ("tokenizer_config.json", {"tokenizer_class": None}),
        ("tokenizer_config.json", {"eos_token": None}),
    ],
)
def test_what_is_not_certain_is_asked_of_auto_tokenizer(
    tiny_base: Path, tmp_path: Path, name: str, changed: dict[str, object]
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(values | changed))
    assert module._known_tokenizer(folder) is None


def test_a_broken_tokenizer_is_told_as_by_training(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError) as by_training:
        find_base(BaseSpec(name=str(folder)))
    with pytest.raises(UserError) as by_check:
        find_tokenizer(BaseSpec(name=str(folder)))
    assert str(by_check.value) == str(by_training.value)


@torch_is_spared
def test_check_imports_neither_torch_nor_pandas(tiny_base: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "responses": ["a", "b"], "ranks": [1, 2]} for i in range(3)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"base: {tiny_base}\nrun: {{name: r, folder: {tmp_path}/runs}}\n"
        f"data: {{cache: {tmp_path}/cache, rankings: {{train: r.jsonl, held_out: 0}}}}\n"
    )
    code = (
        "import sys\nfrom align.cli.app import app\n"
        f"code = app(['check', {str(recipe)!r}], standalone_mode=False)\n"
        "print(code, sorted({'torch', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout
