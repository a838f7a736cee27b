"""Checkpoints: safetensors and JSON in one folder, complete or absent, verified before they are used.

    checkpoints/step-000120/  policy.safetensors … state.json … hashes.json

`hashes.json` is written last. It lists every other file with its SHA-256 and size, so that a torn,
truncated or altered checkpoint is noticed, and says which stage, recipe, base and data it is of. What
is not whole, or of something else, is named and passed over, and the one before is used.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.errors import AlignError
from align.run.files import read_json, sha256, to_json, whole_folder

_HASHES = "hashes.json"
_ADAMW = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter; all but step are like it
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `step` steps (or iterations) are done."""

    path: Path
    step: int

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Raises AlignError where there are none."""
        return read_tensors(self.path / f"{name}.safetensors")

    def document(self, name: str) -> Any:
        """Raises AlignError where there is none."""
        path = self.path / f"{name}.json"
        try:
            return read_json(path)
        except (OSError, ValueError) as error:
            raise AlignError(f"{path} cannot be read: {error}") from error


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    keep: int,
    of: Mapping[str, str] | None = None,
) -> Path:
    """Write the checkpoint of `step`, then remove all but the newest `keep` up to it.

    A later one that is there was passed over as damaged, so it does not count. Every entry of
    `tensors` becomes NAME.safetensors, every entry of `documents` NAME.json. `of`: what it belongs to,
    {"stage": "rm", "base": …}; it is good only where the same is said again.

    Raises OSError when the disk fails; the earlier checkpoints are then untouched.
    """
    final = folder / name(step)
    with whole_folder(final) as aside:
        for key, group in tensors.items():
            save_file(
                {k: v.detach().contiguous().cpu() for k, v in group.items()}, aside / f"{key}.safetensors"
            )
        for key, document in documents.items():
            (aside / f"{key}.json").write_text(to_json(document), encoding="utf-8")
        hashes = {p.name: {"sha256": sha256(p), "bytes": p.stat().st_size} for p in sorted(aside.iterdir())}
        (aside / _HASHES).write_text(
            to_json({"step": step, "of": dict(of or {}), "files": hashes}), encoding="utf-8"
        )
    for _, old in [found for found in _found(folder) if found[0] <= step][:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def name(step: int) -> str:
    """Of a checkpoint's folder."""
    return f"step-{step:06d}"


def at(folder: Path, step: int, of: Mapping[str, str] | None = None) -> Checkpoint:
    """The checkpoint of exactly this step; raises AlignError when it is not there whole."""
    path = folder / name(step)
    fault = _fault(path, step, of or {})
    if fault is not None:
        raise AlignError(f"checkpoint {path} cannot be used: {fault}")
    return Checkpoint(path, step)


def newest(
    folder: Path, say: Callable[[str], None], of: Mapping[str, str] | None = None
) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written; `say` is called for each that is not."""
    for step, path in reversed(_found(folder)):
        fault = _fault(path, step, of or {})
        if fault is None:
            return Checkpoint(path, step)
        say(f"checkpoint {path} is passed over: {fault}")
    return None


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoint folders, oldest first."""
    if not folder.is_dir():
        return []
    matches = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in matches if path.is_dir())


def _fault(path: Path, step: int, of: Mapping[str, str]) -> str | None:
    """What is wrong with the checkpoint, or None."""
    try:
        listing = read_json(path / _HASHES)
        if listing["step"] != step:
            return f"it says that it is of step {listing['step']}"
        theirs: dict[str, str] = listing["of"]
        for key in sorted({*of, *theirs}, key=lambda key: (key != "stage", key)):
            if theirs.get(key) != of.get(key):
                return f"it is of another {key}: {theirs.get(key)}, and this one is {of.get(key)}"
        files: dict[str, Any] = listing["files"]
        for name, expected in files.items():
            if Path(name).name != name or (path / name).is_symlink():
                return f"it lists a file outside its folder: {name}"
            if not (path / name).is_file():
                return f"{name} is missing"
            if (path / name).stat().st_size != expected["bytes"]:
                return f"{name} has {(path / name).stat().st_size} bytes, not {expected['bytes']}"
            if sha256(path / name) != expected["sha256"]:
                return f"{name} is not what was written (its SHA-256 differs)"
        extra = sorted({p.name for p in path.iterdir()} - {*files, _HASHES})
        if extra:
            return f"it holds files that were not written with it: {', '.join(extra)}"
    except FileNotFoundError:
        return f"{_HASHES} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_HASHES} cannot be read ({error})"
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, one tensor per parameter (by its position) and name: "3.exp_avg"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, for an optimizer over the same parameters in the same order.

    Raises AlignError where the state does not belong to these parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        number = int(index) if index.isdecimal() else len(parameters)
        fits = number < len(parameters) and name in _ADAMW
        if not fits or value.shape != (parameters[number].shape if name != "step" else torch.Size()):
            raise AlignError(
                f"the checkpoint's optimizer state {key} does not fit the parameters of this recipe"
            )
        state.setdefault(number, {})[name] = value
    if half := [number for number, entry in state.items() if len(entry) != len(_ADAMW)]:
        raise AlignError(f"the checkpoint's optimizer state of parameter {half[0]} is incomplete")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def load_into(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy saved tensors into parameters of the same names and shapes.

    Raises AlignError where names or shapes differ.
    """
    if differing := sorted(set(parameters) ^ set(tensors)):
        raise AlignError(
            f"{what} does not fit this model: {', '.join(differing[:5])} are in only one of them"
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise AlignError(
                f"{what} does not fit this model: {name} has shape {list(tensors[name].shape)}, "
                f"not {list(parameter.shape)}"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors; AlignError where it is none."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise AlignError(f"{path} cannot be read as safetensors: {error}") from error
