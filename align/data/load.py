"""From files to records: read, check every line, and split into what trains and what is held out.

A row becomes a record in `_read`, through `kind.from_dict`; files are JSON Lines, gzipped or not.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from align.errors import UserError
from align.recipe import Source
from align.records import Demonstration, Prompt, Ranking, RecordError, prompt_key

T = TypeVar("T", Prompt, Demonstration, Ranking)
SHOWN = 20  # problems that are printed one by one; the others are counted


@dataclass(frozen=True)
class Split(Generic[T]):
    """Records that train, records that are held out, and a sha256 over both in their order."""

    train: list[T]
    held_out: list[T]
    fingerprint: str


@dataclass(frozen=True)
class _Located(Generic[T]):
    record: T
    place: str  # "file:line"
    key: str  # of the prompt


def load(kind: type[T], source: Source, name: str) -> Split[T]:
    """Read and split the records of `data.<name>`.

    No prompt is on both sides. With a share, the prompt's hash alone decides its side: it stays there when
    records are added, and it is the same side for demonstrations, rankings and prompts of one share.
    Raises UserError that names file, line and field of up to 20 problems and counts the others.
    """
    problems: list[str] = []
    train = _read(kind, source.train, problems)
    if isinstance(source.held_out, list):
        held_out = _read(kind, source.held_out, problems)
        problems += _on_both_sides(train, held_out)
        _refuse(problems, name)
    else:
        _refuse(problems, name)
        train, held_out = _split(train, source.held_out, name)
    return _finish([part.record for part in train], [part.record for part in held_out])


def _finish(train: list[T], held_out: list[T]) -> Split[T]:
    digest = hashlib.sha256()
    for side in (train, held_out):
        digest.update(f"{len(side)} records\n".encode())
        for record in side:
            digest.update(json.dumps(record.to_dict(), sort_keys=True).encode() + b"\n")
    return Split(train, held_out, digest.hexdigest())


def _refuse(problems: list[str], name: str) -> None:
    if not problems:
        return
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [
        f"data.{name}: {count} in the records. Correct the files or their paths in the recipe, then rerun."
    ]
    lines += [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  … and {len(problems) - SHOWN} more")
    raise UserError("\n".join(lines))


def _on_both_sides(train: list[_Located[T]], held_out: list[_Located[T]]) -> list[str]:
    seen = {part.key: part.place for part in reversed(train)}
    return [
        f"{part.place}: `prompt` is held out and also trains ({seen[part.key]}): keep it in one of the two"
        for part in held_out
        if part.key in seen
    ]


def _draw(key: str) -> float:
    """A prompt's uniform number in [0, 1), a function of its text only."""
    return int(key[:13], 16) / 16**13  # 52 bits: exact in a float


def _split(parts: list[_Located[T]], share: float, name: str) -> tuple[list[_Located[T]], list[_Located[T]]]:
    held_out = [part for part in parts if _draw(part.key) < share]
    train = [part for part in parts if _draw(part.key) >= share]
    if share > 0 and not (held_out and train):
        draws = sorted({_draw(part.key) for part in parts})
        side = "nothing to train on" if held_out else "nothing held out"
        others = "name held-out files, or 0.0 to hold nothing out"
        if len(draws) > 1:
            wanted = min(len(draws) - 1, max(1, round(share * len(draws))))
            others = f"set {(draws[wanted - 1] + draws[wanted]) / 2:.4g} (holds out {wanted}), {others}"
        raise UserError(
            f"data.{name}.held_out: a share of {share} of {len(draws)} different prompts leaves {side} "
            f"(each prompt's side is drawn by its hash). What to do: {others}."
        )
    return train, held_out


def _read(kind: type[T], files: list[str], problems: list[str]) -> list[_Located[T]]:
    """The good records of all files; what is wrong is added to `problems`."""
    parts: list[_Located[T]] = []
    for file in files:
        path, found = Path(file).expanduser(), False
        try:
            for number, line in _lines(path):
                found = True
                try:
                    record = kind.from_dict(_row(line))
                    parts.append(_Located(record, f"{path}:{number}", prompt_key(record.prompt)))
                except RecordError as error:
                    problems.append(f"{path}:{number}: {error}")
            if not found:
                problems.append(f"{path}: has no records")
        except UserError as error:
            problems.append(str(error))
    return parts


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1; raises UserError when the file as a whole is no good."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder: name the files in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"{path}: unknown kind of file: records are read from .jsonl and .jsonl.gz")
    number = 0
    try:
        with _open(path) as stream:
            # Bytes are split at \n only: text mode, or splitlines, would also count \r and U+2028.
            for number, line in enumerate(stream, 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                    if line.startswith(b"\x1f\x8b"):
                        raise UserError(f"{path}: is compressed with gzip: name it .jsonl.gz")
                if b"\0" in line:
                    raise UserError(f"{path}:{number}: not a text file in UTF-8 (it holds NUL bytes)")
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        after = f" after line {number}" if number else ""
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read{after}: {reason}") from error


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")
    return path.open("rb")


def _row(line: bytes) -> Any:
    """A line's JSON value; raises RecordError."""
    try:
        return json.loads(
            line.rstrip(b"\r\n").decode("utf-8"),
            object_pairs_hook=_each_key_once,
            parse_constant=_no_such_number,
        )
    except UnicodeDecodeError as error:
        raise RecordError("", f"byte {error.start + 1} is not UTF-8: save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise RecordError("", f"broken JSON at column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise RecordError("", "is nested too deeply") from error
    except ValueError as error:  # a number with thousands of digits
        raise RecordError("", f"broken JSON: {error}") from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:
            raise RecordError(key, "stands twice in one object")
        row[key] = value
    return row


def _no_such_number(text: str) -> Any:
    raise RecordError("", f"{text} is not a number that JSON has")
