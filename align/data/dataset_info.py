"""LLaMA-Factory's dataset_info.json as an entry's path: the file that it describes, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from align.data.formats import Format
from align.data.formats.llamafactory import described
from align.data.rows import FileError
from align.errors import UserError
from align.recipe.data import Entry

NAME = "dataset_info.json"
HUBS = {
    "hf_hub_url": "on the Hub",
    "ms_hub_url": "on ModelScope",
    "om_hub_url": "on OpenMind",
    "script_url": "made by a script, which is never run",
    "cloud_file_name": "in a cloud",
}


def look_up(entry: Entry) -> tuple[Entry, Format] | None:
    """The entry of the data set that `subset` names in a dataset_info.json, and its format.

    None where the entry is no such file. Raises FileError.
    """
    path = Path(entry.path).expanduser()
    if path.name != NAME or not path.is_file():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError("", f"cannot be read as JSON: {str(error)[:200]}") from error
    if not _is_llamafactorys(known):
        raise FileError(
            "",
            "is no dataset_info.json of LLaMA-Factory, which has an object for each data set: give the "
            "folder, or the data's own file, as the path",
        )
    name = entry.subset
    if name is None or name not in known:
        near = get_close_matches(name or "", list(known), n=1)
        hint = f"it has no {name}; " + (f"did you mean {near[0]}? " if near else "") if name else ""
        raise FileError("", f"{hint}name one of its data sets by `subset`: {', '.join(list(known)[:30])}")
    try:
        return _of(entry, path, known[name]), described(known[name])
    except UserError as error:
        raise FileError(f": {name}", str(error)) from error


def _is_llamafactorys(known: Any) -> bool:
    return (
        isinstance(known, Mapping)
        and bool(known)
        and all(isinstance(about, Mapping) for about in known.values())
        and any({"file_name", *HUBS} & set(about) for about in known.values())
    )


def _of(entry: Entry, path: Path, about: Mapping[str, Any]) -> Entry:
    """The entry with the file's own path; raises UserError where the data are somewhere else."""
    for key, where in HUBS.items():
        if not about.get(key):
            continue
        more = {"path": about[key]} | {key: about[key] for key in ("subset", "split") if about.get(key)}
        written = ", ".join(f"{key}: {value}" for key, value in more.items())
        advice = f"write its id as the path: {{{written}}}" if key == "hf_hub_url" else "download it first"
        raise UserError(f"is {where}: {advice}")
    if not isinstance(about.get("file_name"), str):
        raise UserError("has no file_name")
    file = path.parent / about["file_name"]
    return entry.model_copy(update={"path": str(file), "subset": None})
