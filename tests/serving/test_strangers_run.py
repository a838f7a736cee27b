"""A run's folder may be a stranger's: using it runs no code that the person at the keyboard did not name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from first_manifests import as_first
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from align.cli.app import app
from align.errors import AlignError
from align.models.base import fingerprint
from align.models.roles import Roles
from align.run.files import sha256

STAGES = ("sft", "rm", "ppo")


def _change(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    for stage in STAGES:
        path = run / stage / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))


@pytest.fixture
def fired(tmp_path: Path) -> Path:
    """What a stranger's code makes when it runs."""
    return tmp_path / "fired"


@pytest.fixture
def strangers(finished_run: Path, tiny_base: Path, tmp_path: Path, fired: Path) -> Path:
    """A whole run on a base that brings code, and that says so."""
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "theirs.Model"}
    (base / "config.json").write_text(json.dumps(config))
    (base / "theirs.py").write_text(
        f"from transformers import LlamaForCausalLM\n\nopen({str(fired)!r}, 'w').close()\n\n\n"
        "class Model(LlamaForCausalLM):\n    pass\n"
    )
    run = Path(shutil.copytree(finished_run, tmp_path / "theirs" / "tiny"))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(tiny_base), str(base)))

    def on_their_base(manifest: dict[str, Any]) -> None:
        manifest["recipe"]["base"]["trust_remote_code"] = True
        manifest["base"] = fingerprint(base)
        manifest["base_name"] = str(base)

    _change(run, on_their_base)
    return run


def _align(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize("command", ["score", "export", "lineage"])
def test_a_bases_code_runs_only_where_it_is_trusted_on_the_spot(
    strangers: Path, tmp_path: Path, fired: Path, command: str
) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prompt": "the film", "response": " is warm"}\n')
    arguments = [command, strangers, *([answers] if command == "score" else [])]
    code, out = _align(*arguments)
    assert code == 2
    assert "runs the Python code of" in out
    assert "--trust-remote-code" in out
    assert not fired.exists()
    code, out = _align(*arguments, "--trust-remote-code")
    assert code == 0, out
    assert fired.exists() == (command != "lineage")  # which reads the tokenizer alone
    assert command != "lineage" or "are as they were written" in out


def test_a_kernel_from_the_hub_is_code_too(strangers: Path) -> None:
    _change(
        strangers,
        lambda m: m["recipe"]["base"].update(trust_remote_code=False, attention="someone/kernel:f"),
    )
    code, out = _align("export", strangers)
    assert (code, "someone/kernel:f" in out) == (2, True)


def test_trusting_adds_nothing_to_what_a_run_asks_for(strangers: Path, fired: Path) -> None:
    _change(strangers, lambda m: m["recipe"]["base"].update(trust_remote_code=False))
    code, out = _align("export", strangers, "--trust-remote-code")
    assert code == 0, out
    assert not fired.exists()


def test_formats_and_functions_of_its_recipe_are_not_imported(
    finished_run: Path, tmp_path: Path, fired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "tiny"))
    (tmp_path / "their_module.py").write_text(
        f"open({str(fired)!r}, 'w').close()\ndef read(row): return row\n"
    )
    (run / "their_module.py").write_text((tmp_path / "their_module.py").read_text())
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    recipe = yaml.load(run / "recipe.yaml")
    for kind in ("demonstrations", "rankings", "prompts"):
        source = recipe["data"][kind]
        source["train"] = [
            {"path": str(finished_run.parents[1] / f"{kind}.jsonl"), "format": "their_module:read"}
        ]
    recipe["ppo"]["rewards"] = [{"run": "this"}, {"function": "their_module:read"}]
    yaml.dump(recipe, run / "recipe.yaml")
    monkeypatch.chdir(tmp_path)
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prompt": "the film", "response": " is warm"}\n')
    for arguments in (["export", run], ["export", run, "--stage", "ppo"], ["score", run, answers]):
        code, out = _align(*arguments)
        assert code == 0, out
    assert _align("lineage", run)[0] == 0
    assert _align("report", run)[0] == 0
    assert not fired.exists()
    note = json.loads((run / "export" / "rm" / "align_export.json").read_text())
    assert note["proof"]["texts"].startswith("built-in texts")
    assert _align("check", run / "recipe.yaml") and fired.exists()  # the trap works


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type: Input should be"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "megatron_co"),
        ({"modules_to_save": ["lm_head"]}, "does not fit this base: it holds lm_head"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: Input should be a valid boolean"),
        ({"r": 0}, "r: Input should be greater than 0"),
        ({"target_modules": 3}, "is not that of an adapter that a stage wrote: target_modules"),
        ({"target_modules": "(("}, "is not that of an adapter that a stage wrote: target_modules"),
        ({"target_modules": ["nothing"]}, "does not fit this base"),
        ({"r": 2**30}, "no adapter of rank 1073741824"),
    ],
)
def test_an_adapters_configuration_asks_peft_for_nothing_that_stages_do_not_write(
    finished_run: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """PEFT imports a module by name for some of them, and fetches files for others."""
    run = Path(shutil.copytree(finished_run, tmp_path / "tiny"))
    path = run / "rm" / "final" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    _change(
        run, lambda m: m["final"].update({"adapter_config.json": sha256(path)} if m["stage"] == "rm" else {})
    )
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prompt": "the film", "response": " is warm"}\n')
    code, out = _align("score", run, answers)
    assert code == 1
    assert says in out
    assert "a bug in align" not in out


NOT_WRITTEN: list[Callable[[dict[str, Any]], object]] = [
    lambda m: m.pop("parents"),
    lambda m: m.pop("base"),
    lambda m: m.update(base=3),
    lambda m: m["data"].update(rankings=[]),
    lambda m: m.update(parents=None),
    lambda m: m["parents"].append({"kind": "rm"}),
    lambda m: m["parents"][0].update(kind="base"),
    lambda m: m["parents"][0].update(adapter=None),
    lambda m: m.update(base_name=None),
    lambda m: m.update(version="1"),
    lambda m: m.update(command=None),
    lambda m: m.update(labels=[]),
    lambda m: m["final"].update({"head.safetensors": None}),
    lambda m: m["recipe"].update(lora=[]),
    lambda m: m["parents"].append({"kind": "rm", "name": "rm", "adapter": "0" * 64, "head": "1"}),
]
FIRST_NOT_WRITTEN: list[Callable[[dict[str, Any]], object]] = [
    lambda m: m.pop("lineage"),
    lambda m: m["lineage"].pop("base"),
    lambda m: m["lineage"].update(base=3),
    lambda m: m["lineage"].update(sft_head="0" * 64),
    lambda m: m.update(lineage=3),
    lambda m: m["data"].update(rankings=[]),
    lambda m: m.update(places=None),
    lambda m: m["places"].update(base=None),
    lambda m: m.update(command=None),
    lambda m: m.update(labels=[]),
    lambda m: m["final"].update({"head.safetensors": None}),
    lambda m: m["recipe"].update(lora=[]),
    lambda m: m["recipe"].update(ppo={"rewards": [3]}),
    lambda m: m["lineage"].update(rm="0" * 64),
]


@pytest.mark.parametrize(
    ("first", "changes"), [(False, NOT_WRITTEN), (True, FIRST_NOT_WRITTEN)], ids=["now", "first form"]
)
def test_a_manifest_by_hand_is_a_message_and_never_a_bug(
    finished_run: Path, tmp_path: Path, first: bool, changes: list[Callable[[dict[str, Any]], object]]
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "tiny"))
    if first:
        as_first(run)
    path = run / "rm" / "manifest.json"
    good = path.read_text()
    for number, change in enumerate(changes):
        manifest = json.loads(good)
        change(manifest)
        path.write_text(json.dumps(manifest))
        code, out = _align("lineage", run)
        assert (code, "a bug in align" in out) == (2, False), f"{number}: {out}"
    assert "rm does not start from rm" in out
    path.write_text("[" * 100_000)
    assert _align("lineage", run)[0] == 2
    manifest = json.loads(good)
    manifest["recipe"]["base"]["dtype"] = "float8"
    path.write_text(json.dumps(manifest))
    code, out = _align("export", run)
    assert (code, "cannot read" in out or "can read: dtype" in out) == (2, True), out


TENSORS: list[tuple[Callable[[dict[str, torch.Tensor], str], dict[str, torch.Tensor]], str]] = [
    (lambda t, k: {**t, k: torch.zeros(4, 7)}, "does not fit this base"),
    (lambda t, k: {**t, k: torch.zeros(2, 2)}, "no adapter of rank 4"),
    (lambda t, k: {n: x for n, x in t.items() if n != k}, "does not fit this base"),
    (lambda t, k: {**t, k.replace("layers.3", "layers.9"): t[k].clone()}, "does not fit this base"),
    (lambda t, k: {**t, "base_model.model.model.norm.weight": torch.zeros(32)}, "no adapter of rank 4"),
    (lambda t, k: {**t, "base_model.model.model.norm.weight": torch.zeros(4)}, "no adapter of rank 4"),
    (lambda t, k: {}, "holds no tensors"),
]


def test_an_adapters_tensors_are_its_own_and_fit(finished_run: Path, tiny_base: Path, tmp_path: Path) -> None:
    """By the name of one of the base's weights a tensor would take its place, for all roles."""
    final = Path(shutil.copytree(finished_run / "rm" / "final", tmp_path / "final"))
    good = load_file(final / "adapter_model.safetensors")
    key = next(name for name in sorted(good) if "layers.3" in name and "lora_A" in name)
    for change, says in TENSORS:
        save_file(change(good, key), final / "adapter_model.safetensors")
        roles = Roles(AutoModelForCausalLM.from_pretrained(tiny_base))
        with pytest.raises(AlignError, match=says):
            roles.add("reward", final, trains=False)
