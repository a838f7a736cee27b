"""Files and folders that are complete or absent: written aside, fsynced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_ASIDE = re.compile(r"\..+\.\d+")  # .NAME.PROCESS


def sha256(path: Path) -> str:
    """The hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> str:
    """JSON as all files here have it: sorted keys, UTF-8, two spaces."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def json_digest(value: Any) -> str:
    """A short hash of a value's JSON."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()[:32]


def write_text(path: Path, text: str) -> None:
    """Replace a file by one with this text, or leave it as it was."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by one with this content, or leave it as it was."""
    with _becomes(path) as aside:
        aside.write_bytes(content)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """Yield a text file to fill; it becomes `path` when the block ends, and vanishes when it raises."""
    with _becomes(path) as aside, aside.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def _becomes(path: Path) -> Iterator[Path]:
    """Yield where to write a file that becomes `path` when the block ends, and vanishes when it raises."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        fsync(aside)
        aside.replace(path)
        fsync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Raises OSError, or ValueError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yield a folder to fill; it becomes `final` when the block ends, and vanishes when it raises.

    A `final` that is there already is replaced: the old one is renamed away first, so a kill between
    the two renames leaves `final` absent, never mixed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        for path in sorted(aside.rglob("*")):
            path.chmod(_mode(path))
            fsync(path)
        fsync(aside)
        if final.exists():
            old = final.with_name(f".{final.name}.old.{os.getpid()}")
            final.rename(old)
            aside.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            aside.rename(final)
        fsync(final.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process had written aside here; nobody else may be writing there."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _ASIDE.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _mode(path: Path) -> int:
    """The mode that the umask gives new files; safetensors and temporary folders are stricter."""
    mask = os.umask(0)
    os.umask(mask)
    return (0o777 if path.is_dir() else 0o666) & ~mask
