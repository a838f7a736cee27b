"""Where a base lies: in a folder, in the hub's cache, or on the hub. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from align.errors import UserError
from align.recipe.sections import Base as BaseSpec
from align.run.files import read_json
from align.run.hub import refused

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")


def base_folder(spec: BaseSpec) -> Path:
    """The folder of a checkpoint, fetched from the hub where it has to be.

    Raises UserError at once where it is not there, or where there is no network to fetch it.
    """
    folder = Path(spec.name).expanduser()
    if not os.path.isdir(folder):  # unlike Path.is_dir it raises for no name
        if os.path.isfile(folder):
            raise UserError(f"base {spec.name} is a file: name the folder of a transformers checkpoint")
        if folder.is_absolute() or spec.name.startswith((".", "~")) or spec.name.count("/") > 1:
            raise UserError(
                f"base {spec.name}: there is no such folder. Name one that holds a transformers checkpoint, "
                "or a model's id on the hub (owner/name)"
            )
        folder = _from_hub(spec)
    if not (folder / "config.json").is_file():
        raise UserError(f"base {folder} holds no config.json: it is not a transformers checkpoint")
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"base {folder} holds no .safetensors file; weights in other formats are not loaded")
    return folder


def positions_of(folder: Path) -> int | None:
    """How many tokens a base can read, as its config.json says it; None where it does not."""
    config = read_json(folder / "config.json")
    if isinstance(text := config.get("text_config"), dict):  # a base that also sees: its text model's limit
        config = text
    found = config.get("max_position_embeddings", config.get("n_positions"))
    return found if isinstance(found, int) and found > 0 else None


def _from_hub(spec: BaseSpec) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    patterns = [p for p in _FILES if spec.trust_remote_code or p != "*.py"]
    try:
        cached = Path(
            snapshot_download(
                spec.name, revision=spec.revision, allow_patterns=patterns, local_files_only=True
            )
        )
        if _complete(cached):
            return cached
    except HFValidationError as error:
        raise UserError(f"base {spec.name}: no such folder, and not a valid id of a model") from error
    except (LocalEntryNotFoundError, OSError, ValueError):
        pass
    try:
        HfApi().model_info(spec.name, revision=spec.revision, timeout=10)
        return Path(snapshot_download(spec.name, revision=spec.revision, allow_patterns=patterns))
    except Exception as error:
        name, otherwise = f"base {spec.name}", "neither a folder nor complete in the hub's cache"
        raise refused(error, name, otherwise) from error


def _complete(folder: Path) -> bool:
    """Whether a folder of the hub's cache holds a whole checkpoint, not only what some program asked for."""
    shards = set(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        shards |= {folder / name for name in read_json(index)["weight_map"].values()}
    return (folder / "config.json").is_file() and bool(shards) and all(path.is_file() for path in shards)
