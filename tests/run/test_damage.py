"""Checkpoints as the stages write them: each file damaged in each way, and checkpoints from elsewhere."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_recipe, make_tiny_base
from safetensors.torch import load_file, save_file

from align.errors import AlignError, UserError
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.run import checkpoint
from align.run.files import read_json, sha256, to_json
from align.run.folder import StageRun
from align.stages import rm, sft

STAGES = {"sft": sft, "rm": rm, "ppo": ppo}
FILES = {
    "sft": [
        "adapter.safetensors",
        "optimizer.safetensors",
        "results.json",
        "scheduler.json",
        "sizes.json",
        "trainer_state.json",
        "hashes.json",
    ],
    "rm": ["optimizer.safetensors", "reward.safetensors", "sizes.json", "hashes.json"],
    "ppo": [
        "policy.safetensors",
        "policy_optimizer.safetensors",
        "sizes.json",
        "state.json",
        "value.safetensors",
        "value_optimizer.safetensors",
        "watched.json",
        "hashes.json",
    ],
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3 if path.suffix == ".safetensors" else len(content) // 2] ^= 4
    path.write_bytes(content)


def _tear(path: Path) -> None:
    """What a power cut leaves of a file that was not forced to the disk: its size, and zeros."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))


def _link(path: Path) -> None:
    """The same bytes, from outside."""
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


WAYS: dict[str, Callable[[Path], object]] = {
    "torn": _tear,
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-2]),
    "lengthened": lambda p: p.write_bytes(p.read_bytes() + b"\n}"),
    "flipped": _flip,
    "emptied": lambda p: p.write_bytes(b""),
    "missing": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "a link": _link,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[dict[str, Path]]:
    """By what they are of: a run's folder, with each stage's last checkpoints in STAGE/kept."""
    folder = tmp_path_factory.mktemp("runs")
    make_tiny_base(folder / "base", seed=1)
    found = {}
    finish = StageRun.finish

    def keep(self: StageRun, *arguments: Any) -> None:
        shutil.copytree(self.checkpoints, self.folder / "kept")
        finish(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageRun, "finish", keep)
        for name, base, rate in (
            ("ours", tiny_base, 1e-2),
            ("base", folder / "base", 1e-2),
            ("recipe", tiny_base, 2e-2),
        ):
            recipe = make_recipe(folder / name, base, **{s: {"learning_rate": rate} for s in STAGES})
            for stage in STAGES.values() if name == "ours" else (sft,):
                stage.run(load_recipe(recipe))
            found[name] = folder / name / "runs" / "tiny"
    yield found


def _identity(run: Path, stage: str) -> dict[str, str]:
    of: dict[str, str] = read_json(sorted((run / stage / "kept").glob("step-*"))[-1] / "hashes.json")["of"]
    return of


def test_all_files_of_all_stages_are_tried(runs: dict[str, Path]) -> None:
    for stage, names in FILES.items():
        for folder in (runs["ours"] / stage / "kept").iterdir():
            assert sorted(p.name for p in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("stage", "name"), [(s, n) for s, names in FILES.items() for n in names])
def test_a_damaged_file_is_named_and_the_checkpoint_passed_over(
    runs: dict[str, Path], tmp_path: Path, stage: str, name: str, way: str
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(runs["ours"] / stage / "kept", folder)
    before, newest = sorted(folder.iterdir())
    of = _identity(runs["ours"], stage)
    found = checkpoint.newest(folder, print, of)
    assert found is not None and found.path == newest

    if name == "hashes.json" and way == "a link":
        pytest.skip("a listing with the right hashes is the right listing, wherever it lies")
    WAYS[way](newest / name)
    said: list[str] = []
    found = checkpoint.newest(folder, said.append, of)
    assert found is not None and found.path == before
    assert len(said) == 1 and str(newest) in said[0]
    assert name in said[0] or (name, way) == ("hashes.json", "flipped")  # then the file that it is wrong of


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_was_not_written_with_it_is_named(
    runs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(runs["ours"] / stage / "kept", folder)
    before, newest = sorted(folder.iterdir())
    (newest / "more.json").write_text("{}")
    said: list[str] = []
    found = checkpoint.newest(folder, said.append, _identity(runs["ours"], stage))
    assert found is not None and found.path == before
    assert "more.json" in said[0]


class _Cut(Exception):
    pass


def _interrupt(recipe: Path, monkeypatch: pytest.MonkeyPatch, saves: int) -> Path:
    """Run sft up to so many checkpoints; its folder of them."""
    save = StageRun.save
    left = [saves]

    def last(*arguments: Any, **named: Any) -> None:
        save(*arguments, **named)
        left[0] -= 1
        if not left[0]:
            raise _Cut

    with monkeypatch.context() as patch, pytest.raises(_Cut):
        patch.setattr(StageRun, "save", last)
        sft.run(load_recipe(recipe))
    return load_recipe(recipe).run.path / "sft" / "checkpoints"


@pytest.mark.parametrize("other", ["base", "recipe", "stage"])
def test_a_whole_checkpoint_of_something_else_is_never_loaded(
    runs: dict[str, Path],
    tiny_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other: str,
) -> None:
    recipe = tiny_recipe(**{s: {"learning_rate": 1e-2} for s in STAGES})
    checkpoints = _interrupt(recipe, monkeypatch, 2)
    theirs = runs["ours"] / "rm" / "kept" if other == "stage" else runs[other] / "sft" / "kept"
    shutil.copytree(theirs / "step-000006", checkpoints / "step-000006")
    capsys.readouterr()
    sft.run(load_recipe(recipe))
    said = capsys.readouterr().out
    assert f"step-000006 is passed over: it is of another {other}: " in said
    assert "sft goes on from step 4" in said
    name = "adapter_model.safetensors"
    ours = (checkpoints.parent / "final" / name).read_bytes()
    assert ours == (runs["ours"] / "sft" / "final" / name).read_bytes()


def test_pruning_never_removes_the_only_good_one(tmp_path: Path) -> None:
    """Whatever was damaged before and after it, and with keep 1."""
    tensors = {"policy": {"a": torch.ones(2)}}
    for damaged in ([], [1], [2], [1, 2], [9], [1, 2, 9]):
        folder = tmp_path / "".join(map(str, damaged))
        for step in (1, 2, 9):
            checkpoint.save(folder, step, tensors, {}, keep=9)
        for step in damaged:
            _flip(folder / checkpoint.name(step) / "policy.safetensors")
        checkpoint.save(folder, 3, tensors, {}, keep=1)
        found = checkpoint.newest(folder, lambda _: None)
        assert found is not None and found.step == (3 if 9 in damaged else 9)


def test_what_a_killed_process_left_aside_is_cleared_away(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe()
    checkpoints = _interrupt(recipe, monkeypatch, 1)
    (checkpoints / ".step-000004.77").mkdir()
    (checkpoints / ".step-000004.77" / "adapter.safetensors").write_bytes(b"half")
    (checkpoints.parent / ".final.77").mkdir()
    (checkpoints.parent / ".metrics.jsonl.77").write_text("half")
    outside = recipe.parent / "demonstrations.jsonl"
    (checkpoints / ".elsewhere.77").symlink_to(recipe.parent, target_is_directory=True)
    _interrupt(recipe, monkeypatch, 1)
    assert list(checkpoints.parent.rglob(".*")) == []
    assert outside.is_file()


def test_a_lock_that_is_a_link_overwrites_nothing(tiny_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe = tiny_recipe()
    mine = tmp_path / "mine"
    mine.write_text("precious")
    folder = load_recipe(recipe).run.path
    folder.mkdir(parents=True)
    (folder / ".lock").symlink_to(mine)
    with pytest.raises(UserError, match=r"\.lock cannot be opened .*: remove it"):
        sft.run(load_recipe(recipe))
    assert mine.read_text() == "precious"


def test_checkpoints_that_a_killed_process_left_of_a_finished_stage_go(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs["ours"], tmp_path / "tiny"))
    shutil.copytree(run / "sft" / "kept", run / "sft" / "checkpoints")
    sft.run(load_recipe(run / "recipe.yaml", [f"run.folder={tmp_path}"]))
    assert "sft is finished" in capsys.readouterr().out
    assert not (run / "sft" / "checkpoints").exists()
    assert (run / "sft" / "final" / "adapter_model.safetensors").is_file()


def _rewrite(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Other tensors in a checkpoint, with the hashes that go with them: a forger's, not an accident's."""
    save_file(tensors, folder / name)
    _listed(folder, name)


def _listed(folder: Path, name: str) -> None:
    """Let the checkpoint's listing say that the file as it is now is its own."""
    listing = read_json(folder / "hashes.json")
    listing["files"][name] = {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    (folder / "hashes.json").write_text(to_json(listing))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("adapter", lambda t, k: {**t, k: torch.zeros(3, 3)}, "has shape [3, 3], not ["),
        ("adapter", lambda t, k: {n: x for n, x in t.items() if n != k}, "are in only one of them"),
        (
            "adapter",
            lambda t, k: {**t, "model.embed_tokens.weight": t[k] + 1},
            "embed_tokens.weight are in only",
        ),
        ("optimizer", lambda t, k: {**t, k: torch.zeros(3, 3)}, "does not fit the parameters"),
        ("optimizer", lambda t, k: {**t, "999.exp_avg": t[k] + 1}, "state 999.exp_avg does not fit"),
        ("optimizer", lambda t, k: {**t, "__class__.x": t[k] + 1}, "state __class__.x does not fit"),
        ("optimizer", lambda t, k: {**t, "0.momentum_buffer": t[k] + 1}, "state 0.momentum_buffer does not"),
        ("optimizer", lambda t, k: {**t, k: torch.zeros(())}, "does not fit the parameters"),
        ("optimizer", lambda t, k: {n: x for n, x in t.items() if n != k}, "of parameter 0 is incomplete"),
    ],
)
def test_tensors_with_other_names_or_shapes_are_refused(
    tiny_recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[dict[str, torch.Tensor], str], dict[str, torch.Tensor]],
    says: str,
) -> None:
    recipe = tiny_recipe()
    folder = _interrupt(recipe, monkeypatch, 1) / "step-000002"
    tensors = load_file(folder / f"{name}.safetensors")
    key = max(sorted(tensors), key=lambda k: tensors[k].dim())
    _rewrite(folder, f"{name}.safetensors", change(tensors, key))
    with pytest.raises(AlignError) as refused:
        sft.run(load_recipe(recipe))
    assert says in str(refused.value)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (io.open, (str(self.path), "w"))


PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin", "adapter_model.bin")


def test_a_planted_pickle_is_not_loaded(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not beside a checkpoint's files, nor where its listing names it, nor under an expected file's name."""
    recipe = tiny_recipe()
    fired = tmp_path / "fired"
    bomb = pickle.dumps(Bomb(fired))
    pickle.loads(bomb).close()
    assert fired.exists()  # it is one
    fired.unlink()

    folder = _interrupt(recipe, monkeypatch, 1) / "step-000002"
    for name in PICKLES:
        (folder / name).write_bytes(bomb)
    said: list[str] = []
    assert checkpoint.newest(folder.parent, said.append, read_json(folder / "hashes.json")["of"]) is None
    assert all(name in said[0] for name in PICKLES)

    for name in PICKLES:
        _listed(folder, name)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    sft.run(load_recipe(recipe))

    final = folder.parents[1] / "final"
    shutil.rmtree(final)
    shutil.copytree(whole, folder)
    (folder / "adapter.safetensors").write_bytes(bomb)
    _listed(folder, "adapter.safetensors")
    with pytest.raises(AlignError, match="cannot be read as safetensors"):
        sft.run(load_recipe(recipe))
    assert not fired.exists()
