"""`align lineage`: the tree of a run, and every hash in it verified; what ppo refuses to start from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_recipe, make_tiny_base
from first_manifests import as_first
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from align.cli.app import app
from align.errors import UserError
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.run.files import read_json, sha256, to_json
from align.run.lineage import as_trained
from align.run.manifest import ParentRef, read_manifest
from align.stages import rm


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run whose files may be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy" / "tiny"))


def _lineage(run: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["lineage", str(run), *more])
    return done.exit_code, done.output


def test_the_tree_of_a_whole_run(run: Path, tiny_base: Path) -> None:
    code, out = _lineage(run)
    assert code == 0, out
    manifests = {stage: read_json(run / stage / "manifest.json") for stage in ("sft", "rm", "ppo")}
    lines = out.splitlines()
    assert lines[0] == f"base {tiny_base} {manifests['sft']['base'][:16]}"
    starts = {stage: next(i for i, x in enumerate(lines) if f"└─ {stage}  " in x) for stage in manifests}
    assert starts["sft"] < starts["rm"] < starts["ppo"]
    indents = [lines[i].index("└") for i in starts.values()]
    assert indents == [0, 3, 6]  # base → sft → rm → ppo
    hashes = {name: m["final"]["adapter_model.safetensors"][:16] for name, m in manifests.items()}
    assert f"from     rm {hashes['rm']}, rm_head " in out
    assert f"sft {hashes['sft']}" in lines[starts["ppo"] + 2]
    for manifest in manifests.values():
        for kind, fingerprint in manifest["data"].items():
            assert f"{kind} {fingerprint[:16]}" in out
    assert out.count("torch 2.") == 3 and out.count("command  ") == 3
    files = sum(len(manifest["final"]) for manifest in manifests.values())
    assert lines[-1] == f"all {files} files are as they were written"


def test_a_run_of_an_earlier_version_whose_keys_had_other_names(run: Path) -> None:
    for path in (run / "recipe.yaml", run / "ppo" / "manifest.json"):
        text = path.read_text().replace("value_model", "value_trunk").replace("value_warmup", "critic_warmup")
        path.write_text(text.replace("separate", "own"))
        assert "value_trunk" in path.read_text() and "own" in path.read_text()
    assert _lineage(run)[0] == 0
    assert as_trained(run, "ppo")[0].ppo.value_model == "separate"


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_every_altered_file_is_found(finished_run: Path, tmp_path: Path, stage: str) -> None:
    names = read_json(finished_run / stage / "manifest.json")["final"]
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names.keys()
    for number, name in enumerate(names):
        run = Path(shutil.copytree(finished_run, tmp_path / f"{number}"))
        file = run / stage / "final" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        code, out = _lineage(run)
        assert code == 2
        assert f"NOT VERIFIED  final/{name} is not what was written: its SHA-256 is {sha256(file)}" in out
        shutil.rmtree(run)


def test_missing_and_planted_files_and_another_parent(run: Path) -> None:
    (run / "sft/final/tokenizer.json").unlink()
    (run / "rm/final/adapter_model.bin").write_bytes(b"pickle")
    head = run / "rm/final/head.safetensors"
    save_file({"weight": load_file(head)["weight"] + 1}, head)
    manifest = read_json(run / "rm/manifest.json")
    was, manifest["final"]["head.safetensors"] = manifest["final"]["head.safetensors"], sha256(head)
    (run / "rm/manifest.json").write_text(to_json(manifest))
    code, out = _lineage(run)
    assert code == 2
    assert "final/tokenizer.json is missing" in out
    assert "final/adapter_model.bin was not written by rm" in out
    assert f"rm_head was {was} when this was trained, and {run}/rm has {sha256(head)}" in out
    assert out.endswith("3 of it could not be verified\n")


def test_another_base_and_one_that_was_moved(run: Path, tiny_base: Path, tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "other", seed=1)
    code, out = _lineage(run, "--base", str(tmp_path / "other"))
    assert code == 2
    assert "its base is not the one that was trained on: " in out and "its template" not in out
    shutil.copytree(tiny_base, tmp_path / "moved")
    assert _lineage(run, "--base", str(tmp_path / "moved"))[0] == 0
    code, out = _lineage(run, "--base", str(tmp_path / "nowhere"))
    assert code == 2 and "it is not verified" in out and "--base" in out


def test_earlier_stages_of_other_runs(finished_run: Path, tiny_base: Path, tmp_path: Path) -> None:
    """A reward model on another run's SFT: the tree leads there, and finds what was changed there."""
    theirs = Path(shutil.copytree(finished_run, tmp_path / "theirs"))
    recipe = load_recipe(make_recipe(tmp_path / "mine", tiny_base, rm={"sft": str(theirs), "steps": 1}))
    rm.run(recipe)
    code, out = _lineage(recipe.run.path)
    assert code == 0, out
    assert f"└─ sft  {theirs}  finished" in out
    (theirs / "sft/final/adapter_model.safetensors").write_bytes(b"")
    code, out = _lineage(recipe.run.path)
    assert code == 2 and "final/adapter_model.safetensors is not what was written" in out
    shutil.rmtree(theirs)
    code, out = _lineage(recipe.run.path)
    assert code == 2 and f"sft: {theirs}/sft is not there" in out


def test_no_run_and_an_unfinished_one(run: Path, tmp_path: Path) -> None:
    assert _lineage(tmp_path)[0] == 2
    manifest = read_json(run / "ppo/manifest.json")
    shutil.rmtree(run / "ppo/final")
    (run / "ppo/manifest.json").write_text(json.dumps({**manifest, "finished": False}))
    code, out = _lineage(run)
    assert code == 0 and "has not finished" in out


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "value/../../manifest.json"])
def test_a_manifest_that_names_files_outside_is_refused(run: Path, tiny_base: Path, name: str) -> None:
    manifest = read_json(run / "sft/manifest.json")
    manifest["final"][name] = "0" * 64
    (run / "sft/manifest.json").write_text(to_json(manifest))
    code, out = _lineage(run)
    assert code == 2 and f"names {name}, which is outside" in out
    recipe = make_recipe(run.parent, tiny_base, rm={"sft": str(run)})
    with pytest.raises(UserError, match="which is outside"):
        rm.run(load_recipe(recipe))


def test_a_newer_version_says_who_wrote_it(run: Path) -> None:
    path = run / "rm/manifest.json"
    manifest = read_json(path)
    versions = {**manifest["versions"], "align": "7.1"}
    path.write_text(to_json({"version": manifest["version"] + 1, "versions": versions, "other": 1}))
    code, out = _lineage(run)
    assert code == 2 and "was written by align 7.1, in version 2 of its form" in out


# What is called like a part of something else


@pytest.fixture(scope="module")
def labelled(
    finished_run: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A run whose rewards are called x, x_base and x_head: models of other runs, and a function."""
    folder = tmp_path_factory.mktemp("labelled")
    names = ("x", "x_base", "x_head")
    for name in names:
        shutil.copytree(finished_run, folder / name)
    judge = tmp_path_factory.mktemp("functions") / "judge_labelled.py"
    judge.write_text("def f(prompts, responses): return [0.0] * len(prompts)\n")
    rewards = [{"run": str(folder / name), "name": name} for name in names]
    rewards.append({"function": f"{judge}:f", "name": "y_head"})
    fields = {"sft": str(finished_run), "rewards": rewards, "iterations": 2}
    recipe = load_recipe(make_recipe(folder, tiny_base, ppo=fields))
    ppo.run(recipe)
    copies = iter(range(100))

    def copy() -> Path:
        there = Path(shutil.copytree(folder, folder.with_name(f"{folder.name}-{next(copies)}")))
        for path in (there / "runs/tiny/ppo/manifest.json", there / "runs/tiny/recipe.yaml"):
            path.write_text(path.read_text().replace(f"{folder}/", f"{there}/"))
        return there

    return copy


@pytest.mark.parametrize("changed", ["x", "x_base", "x_head"])
@pytest.mark.parametrize("file", ["adapter_model", "head"])
def test_a_reward_model_is_verified_whatever_it_is_called(
    labelled: Callable[..., Path], changed: str, file: str
) -> None:
    folder = labelled()
    run, final = folder / "runs" / "tiny", folder / changed / "rm" / "final" / f"{file}.safetensors"
    assert _lineage(run)[0] == 0
    tensors = {name: tensor + 1 for name, tensor in load_file(final).items()}
    save_file(tensors, final)
    manifest = read_json(final.parents[1] / "manifest.json")
    was, manifest["final"][final.name] = manifest["final"][final.name], sha256(final)
    (final.parents[1] / "manifest.json").write_text(to_json(manifest))
    code, out = _lineage(run)
    part = "_head" if file == "head" else ""
    assert code == 2 and f"reward/{changed}{part} was {was} when this was trained" in out


def test_a_reward_model_is_not_told_as_unverified_for_its_name(labelled: Callable[..., Path]) -> None:
    code, out = _lineage(labelled() / "runs" / "tiny")
    assert code == 0 and "NOT VERIFIED" not in out, out


# Manifests of the version before


def test_manifests_of_the_version_before_are_verified(run: Path) -> None:
    as_first(run)
    assert "lineage" in read_json(run / "ppo/manifest.json")
    code, out = _lineage(run)
    assert code == 0, out
    manifest = read_json(run / "ppo/manifest.json")
    manifest["lineage"]["rm_head"] = "0" * 64
    (run / "ppo/manifest.json").write_text(to_json(manifest))
    code, out = _lineage(run)
    assert code == 2 and f"rm_head was {'0' * 64} when this was trained" in out


def test_their_labels_are_told_from_their_parts(labelled: Callable[..., Path]) -> None:
    """x's head and the model x_head had one key, and x_head was written last; so it was with no other."""
    run = labelled() / "runs" / "tiny"
    manifest = read_json(run / "ppo" / "manifest.json")
    as_first(run)
    found = read_manifest(run / "ppo" / "manifest.json", "")
    expected = [ParentRef(**parent) for parent in manifest["parents"]]
    by_name = {parent.name: parent for parent in expected}
    by_name["reward/x"] = by_name["reward/x"].model_copy(update={"head": None})
    assert {parent.name: parent for parent in found.parents} == by_name
    code, out = _lineage(run)
    assert code == 2 and "reward/x_head: no hash of it was written down" in out
    assert out.count("NOT VERIFIED") == 1


@pytest.mark.parametrize("rewards", [False, True], ids=["rm", "labelled"])
def test_a_stage_that_the_version_before_began_goes_on_to_the_same_bits(
    run: Path, labelled: Callable[..., Path], rewards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = labelled() / "runs" / "tiny" if rewards else run
    recipe = load_recipe(run / "recipe.yaml", [f"run.folder={run.parent}", "ppo.checkpoint_every=1"])
    whole = (run / "ppo/final/adapter_model.safetensors").read_bytes()
    shutil.rmtree(run / "ppo")

    def stopped(*_: object) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(ppo, "outcome", stopped)
        ppo.run(recipe)
    *_, before_last, last = sorted((run / "ppo/checkpoints").iterdir())
    shutil.rmtree(last)
    as_first(run)
    (run / "ppo/metrics.jsonl").write_text((run / "ppo/metrics.jsonl").read_text() + "{}\n")  # is cut off
    ppo.run(recipe)
    assert "{}" not in (run / "ppo/metrics.jsonl").read_text(), f"it did not go on from {before_last}"
    assert (run / "ppo/final/adapter_model.safetensors").read_bytes() == whole
    assert read_json(run / "ppo/manifest.json")["version"] == 1


# What ppo refuses to start from


def _tokenizer(base: Path) -> None:
    path = base / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("base", "was trained with another base: {base}, and this recipe has "),
        (
            "tokenizer",
            "was trained with another tokenizer or chat template: {template}, and this recipe has ",
        ),
        ("template", "was trained with another data.template: plain, and this recipe has chat"),
        ("lora", "was trained with lora.rank 4 (here 8)"),
        ("adapter", "its SHA-256 is {changed}, the manifest says {adapter}"),
        ("rm adapter", "its SHA-256 is {changed}, the manifest says {adapter}"),
    ],
)
def test_ppo_refuses_what_it_does_not_belong_to_with_both_values(
    run: Path, tiny_base: Path, tmp_path: Path, what: str, says: str
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    if what == "base":
        shutil.rmtree(base)
        make_tiny_base(base, seed=1)
    elif what == "tokenizer":
        _tokenizer(base)
    stage = "rm" if what == "rm adapter" else "sft"
    adapter = run / stage / "final/adapter_model.safetensors"
    if "adapter" in what:
        adapter.write_bytes(adapter.read_bytes()[:-1] + b"\x01")
    sections = {"ppo": {"sft": str(run), "rm": str(run)}}
    if what == "template":
        sections["data"] = {"template": "chat"}
    if what == "lora":
        sections["lora"] = {"rank": 8}
    recipe = load_recipe(make_recipe(tmp_path / "mine", base, **sections))
    manifest = read_json(run / stage / "manifest.json")
    expected = says.format(
        base=manifest["base"],
        template=manifest["template"],
        changed=sha256(adapter),
        adapter=manifest["final"]["adapter_model.safetensors"],
    )
    with pytest.raises(UserError) as refused:
        ppo.run(recipe)
    assert expected in str(refused.value)
    assert not recipe.run.path.exists()
