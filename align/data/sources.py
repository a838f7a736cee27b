"""Which files an entry of the recipe means: one file, a glob's, a folder's, or a Hub data set's."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from align.data.rows import KINDS, PACKED, WORKBOOK, WORKBOOKS, FileError, kind_of
from align.data.store import in_cache
from align.recipe.data import Entry
from align.run.files import read_json, to_json, write_text
from align.run.hub import refused

_STATE = "state.json"  # of what `datasets` saves: which files it made
_NO_RECORDS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", _STATE}
_SPLITS = ("train", "validation", "valid", "val", "dev", "test", "eval")
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")
_PREFERRED = (
    ".parquet",
    ".arrow",
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
)  # where a Hub data set has one table in several kinds
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 10  # seconds


@dataclass(frozen=True)
class File:
    """A file on this machine, and its name in messages."""

    path: Path
    shown: str


def files_of(entry: Entry, cache: Path | None = None) -> list[File]:
    """The files of an entry, in the order of their names; Hub files are downloaded.

    `cache`: where a Hub data set's list of files is kept, to find its files again without a network.
    Raises FileError where there are none.
    """
    path = Path(entry.path).expanduser()
    try:
        if path.is_dir():
            names = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
            names = _without_caches(path, names)
            _no_revision(entry)
            return [File(path / name, str(path / name)) for name in _one_kind_each(_chosen(entry, names))]
        there = path.exists()
    except (OSError, ValueError) as error:  # no permission; a name that is too long, or has a NUL in it
        raise FileError("", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    found = [path] if there else _matching(path) if glob.has_magic(str(path)) else []
    if not found and entry.may_be_hub_id:
        return _from_hub(entry, cache)
    if not found:
        raise FileError("", "no file has this name" if glob.has_magic(str(path)) else _missing(path))
    _no_revision(entry)
    if entry.split is not None or entry.subset is not None:
        raise FileError("", "`split` and `subset` choose among the files of a folder or a Hub data set")
    return [File(p, str(p)) for p in found]


def _matching(path: Path) -> list[Path]:
    """The files that a pattern means.

    A folder that is there as it is written means itself, brackets and all; brackets behind it are names
    where they match nothing as a pattern.
    """
    there = next((p for p in path.parents if p.exists()), Path())
    rest = str(path.relative_to(there))
    for pattern in (rest, rest.replace("[", "[[]")):
        matching = sorted(glob.glob(str(Path(glob.escape(str(there)), pattern)), recursive=True))
        if found := [p for p in map(Path, matching) if p.is_file()]:
            return found
    return []


def _without_caches(folder: Path, names: Sequence[str]) -> list[str]:
    """Without the Arrow files that `datasets` left beside a data set that it saved: state.json names its own.

    Raises FileError where the saved rows are a selection that only `datasets` can follow.
    """
    saved: dict[str, set[str]] = {}
    for name in names:
        if name.rpartition("/")[2] == _STATE:
            state = _object(folder / name) or {}
            if state.get("_indices_data_files"):
                raise FileError(
                    "", f"{name} selects rows of its files: save it again with a newer `datasets`"
                )
            if files := state.get("_data_files"):
                saved[name.rpartition("/")[0]] = {str(file["filename"]) for file in files}
    return [
        name
        for name in names
        for inside, _, file in [name.rpartition("/")]
        if kind_of(file) != ".arrow" or inside not in saved or file in saved[inside]
    ]


def _missing(path: Path) -> str:
    try:
        near = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1)
    except OSError:
        near = []
    return "no such file" + (f"; did you mean {near[0]}?" if near else "")


def _no_revision(entry: Entry) -> None:
    if entry.revision is not None:
        raise FileError("", "`revision` is for data sets on the Hub, and this is on your machine")


def _chosen(entry: Entry, names: Sequence[str]) -> list[str]:
    """Those names (relative to the folder or data set) that hold records, of the wanted subset and split."""
    files = [name for name in names if kind_of(name) and not _hidden(name)]
    if not files and any(name.lower().endswith(WORKBOOKS) for name in names):
        raise FileError("", f"holds nothing but what {WORKBOOK}")
    if not files:
        script = ", only a script, which is never run" if any(n.endswith(".py") for n in names) else ""
        raise FileError("", f"holds no {', '.join(KINDS[:-1])} or {KINDS[-1]} file{script}")
    if entry.subset is not None:
        inside = [name for name in files if f"/{entry.subset}/" in f"/{name}"]
        if not inside:
            folders = sorted({name.rpartition("/")[0] for name in files} - {""})
            raise FileError("", f"has no folder `{entry.subset}`; it has {', '.join(folders) or 'none'}")
        files = inside
    if entry.split is not None:
        of_split = _of_split(files, entry.split)
        if not of_split:
            stems = sorted({_stem(name) for name in files})
            raise FileError("", f"has no file of a split `{entry.split}`; it has {', '.join(stems[:8])}")
        return of_split
    splits = [split for split in _SPLITS if _of_split(files, split)]
    if "train" in splits and len(splits) > 1:
        raise FileError("", f"has several splits ({', '.join(splits)}): name one by `split`")
    return files


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2] in _NO_RECORDS or any(part.startswith(".") for part in name.split("/"))


def _of_split(files: Sequence[str], split: str) -> list[str]:
    """The files that are called after a split; those that have it as a part of their name if there are none.

    So `train` does not mean `train_sft` where there is a `train`.
    """
    exact = [name for name in files if split in (*name.split("/")[:-1], _stem(name))]
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(split)}(?![A-Za-z0-9])")
    return exact or [name for name in files if word.search(name)]


def _stem(name: str) -> str:
    """`data/train-00000-of-00002.parquet` is `train`."""
    return _SHARD.sub("", _bare(name).rpartition("/")[2])


def _bare(name: str) -> str:
    for suffix in (*PACKED, kind_of(name) or ""):
        if name.lower().endswith(suffix):
            name = name[: len(name) - len(suffix)]
    return name


def _one_kind_each(names: list[str], prefer: bool = False) -> list[str]:
    """Refuse, or choose from, files that differ in nothing but their kind: the same records twice."""
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(_bare(name), []).append(name)
    for same in by_name.values():
        if len(same) > 1 and not prefer:
            raise FileError("", f"has {' and '.join(same)}: if they hold the same records, name one of them")
        same.sort(key=lambda name: _PREFERRED.index(kind_of(name) or ""))
    return [same[0] for same in by_name.values()]


# The Hub


def _from_hub(entry: Entry, cache: Path | None) -> list[File]:
    """The wanted files of a data set at one commit; data files only, a loading script is never run."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    name, otherwise = f"no such file or folder, and the data set {entry.path}", "not complete in the cache"
    try:
        commit, files, offline = _listed(entry, cache)
        wanted = _one_kind_each(_chosen(entry, files), prefer=True)
        return [
            File(
                Path(
                    hf_hub_download(
                        entry.path, file, repo_type="dataset", revision=commit, local_files_only=offline
                    )
                ),
                f"{entry.path}/{file}",
            )
            for file in wanted
        ]
    except FileError:
        raise
    except HFValidationError as error:
        raise FileError("", "no such file or folder, and not a valid id of a data set") from error
    except Exception as error:
        raise FileError("", str(refused(error, name, otherwise))) from error


def _listed(entry: Entry, cache: Path | None) -> tuple[str, list[str], bool]:
    """Commit and files of a data set, and whether that was found here because the hub could not be asked.

    A data set at a commit never changes, so the hub is asked once for it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    key = hashlib.sha256(f"{entry.path}@{entry.revision}".encode()).hexdigest()
    note = cache / "hub" / f"{key[:32]}.json" if cache is not None else None
    kept = _noted(note)
    if kept and _COMMIT.fullmatch(entry.revision or ""):
        return kept["commit"], kept["files"], False
    try:
        info = HfApi().dataset_info(entry.path, revision=entry.revision, timeout=_TIMEOUT)
    except HfHubHTTPError:
        raise
    except Exception:
        if kept is None:
            raise
        return kept["commit"], kept["files"], True
    files = sorted(sibling.rfilename for sibling in info.siblings or ())
    if note is not None:
        with in_cache(note):
            write_text(note, to_json({"data_set": entry.path, "commit": info.sha, "files": files}))
    return str(info.sha), files, False


def _noted(note: Path | None) -> dict[str, Any] | None:
    """Commit and files as they were found before; None where that cannot be read."""
    found = _object(note) if note is not None else None
    return found if found is not None and {"commit", "files"} <= set(found) else None


def _object(path: Path) -> dict[str, Any] | None:
    """The object that a file of JSON holds; None where it cannot be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
