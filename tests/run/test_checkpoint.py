"""A checkpoint is complete or absent: what is torn, altered or foreign is named and passed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from align.errors import AlignError
from align.run import checkpoint

TENSORS = {"policy": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}}


def _two(folder: Path) -> None:
    checkpoint.save(folder, 1, TENSORS, {"state": {"kl": 0.5}}, keep=2)
    checkpoint.save(
        folder, 2, {"policy": {k: v + 1 for k, v in TENSORS["policy"].items()}}, {"state": {}}, keep=2
    )


def test_the_newest_is_read_back(tmp_path: Path) -> None:
    _two(tmp_path)
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None and found.step == 2 and not said
    assert torch.equal(found.tensors("policy")["a"], TENSORS["policy"]["a"] + 1)
    assert found.document("state") == {}


def test_old_ones_go_and_no_folder_is_left_aside(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, TENSORS, {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004", "step-000005"]


def test_a_damaged_later_one_does_not_push_out_the_one_just_written(tmp_path: Path) -> None:
    _two(tmp_path)
    _flip(tmp_path / "step-000002" / "policy.safetensors")
    checkpoint.save(tmp_path, 1, TENSORS, {}, keep=1)
    found = checkpoint.newest(tmp_path, lambda _: None)
    assert found is not None and found.step == 1


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "emptied": lambda p: p.write_bytes(b""),
    "flipped": _flip,
    "deleted": lambda p: p.unlink(),
}


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json", "hashes.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_the_one_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    _two(tmp_path)
    if (name, damage) == ("hashes.json", "flipped"):
        pytest.skip("a flipped space inside the listing's layout changes nothing; see the test below")
    DAMAGE[damage](tmp_path / "step-000002" / name)
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None and found.step == 1
    assert len(said) == 1 and name in said[0] and "step-000002" in said[0]


def test_any_flipped_bit_of_the_listing_is_harmless_or_noticed(tmp_path: Path) -> None:
    _two(tmp_path)
    listing = tmp_path / "step-000002" / "hashes.json"
    good = listing.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1
        listing.write_bytes(bad)
        found = checkpoint.newest(tmp_path, lambda _: None)
        assert found is not None
        if found.step == 2:
            assert json.loads(bad) == json.loads(good)


def test_foreign_files_and_renamed_steps_are_passed_over(tmp_path: Path) -> None:
    _two(tmp_path)
    (tmp_path / "step-000002" / "optimizer.pt").write_bytes(b"pickle")
    shutil.copytree(tmp_path / "step-000001", tmp_path / "step-000009")
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None and found.step == 1
    assert "of step 1" in said[0] and "optimizer.pt" in said[1]


def test_a_listing_cannot_point_outside(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", 1, TENSORS, {}, keep=1)
    (tmp_path / "secret").write_text("x")
    listing = tmp_path / "c" / "step-000001" / "hashes.json"
    content = json.loads(listing.read_text())
    content["files"]["../../secret"] = {"sha256": "", "bytes": 1}
    listing.write_text(json.dumps(content))
    assert checkpoint.newest(tmp_path / "c", lambda _: None) is None


def test_a_save_that_fails_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, TENSORS, {}, keep=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, TENSORS, {}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    found = checkpoint.newest(tmp_path, lambda _: None)
    assert found is not None and found.step == 1


def test_an_optimizer_goes_on_with_the_same_bits() -> None:
    def make() -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2))]
        return parameters, torch.optim.AdamW(parameters, lr=0.1)

    def step(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        sum(p.square().sum() for p in parameters).backward()
        optimizer.step()
        optimizer.zero_grad()

    parameters, optimizer = make()
    step(parameters, optimizer)
    others, other = make()
    checkpoint.load_into(
        dict(enumerate_names(others)), {n: p.detach().clone() for n, p in enumerate_names(parameters)}, "it"
    )
    checkpoint.load_optimizer(
        other, {k: v.clone() for k, v in checkpoint.optimizer_tensors(optimizer).items()}
    )
    step(parameters, optimizer)
    step(others, other)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def enumerate_names(parameters: list[torch.nn.Parameter]) -> list[tuple[str, torch.nn.Parameter]]:
    return [(str(i), p) for i, p in enumerate(parameters)]


def test_a_state_of_another_shape_is_refused() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter])
    with pytest.raises(AlignError, match=r"0\.exp_avg"):
        checkpoint.load_optimizer(optimizer, {"0.exp_avg": torch.zeros(4)})
    with pytest.raises(AlignError, match="does not fit"):
        checkpoint.load_into({"a": parameter}, {"a": torch.zeros(4)}, "the checkpoint")
