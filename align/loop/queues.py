"""Where sampled tasks go: the labeling database, a file for `align label --import`, or a running app."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from align.errors import AlignError, UserError
from align.recipe import Recipe
from align.records import Prompt, RecordError, prompt_key
from align.runtime.files import fsync

TOKEN = "ALIGN_LABELING_TOKEN"
_TIMEOUT = 60.0  # seconds
_PAGE = 1000  # tasks asked for at a time


class Queue(Protocol):
    """Tasks that people will get."""

    place: str

    def known(self, origin: str) -> set[str]:
        """The keys of the prompts that have a task with a response of this policy."""

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add tasks, all or none; when this returns they are kept."""

    def close(self) -> None:
        """Give back what is held."""


def open_queue(recipe: Recipe, to: Path | None = None, url: str | None = None) -> Queue:
    """The one that is asked for; raises UserError where it cannot be used."""
    if to is not None and url is not None:
        raise UserError("--to and --url both say where tasks go; keep one")
    if url is not None:
        return _Api(url)
    return _File(to) if to is not None else _Database(recipe)


def _of_origin(rows: Iterator[tuple[Any, Sequence[str | None]]], origin: str) -> set[str]:
    return {prompt_key(Prompt.from_dict({"prompt": prompt}).prompt) for prompt, by in rows if origin in by}


class _Database:
    """The recipe's labeling database."""

    def __init__(self, recipe: Recipe) -> None:
        labeling = labeling_package("labeling.serve")
        self.config = labeling.make_config(recipe)
        self.place = labeling.make_url_shown(self.config)

    def known(self, origin: str) -> set[str]:
        from labeling.store.sampled import prompts_of

        with self.config.store.read() as session:
            return _of_origin(((prompt, [origin]) for prompt in prompts_of(session, origin)), origin)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from labeling.store.items import add_items

        with self.config.store.write() as session:
            add_items(session, rows, self.config.settings.overlap)

    def close(self) -> None:
        self.config.store.close()


class _File:
    """JSON Lines; a line that a kill tore is taken away."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, str(path)
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--to {path}: name a file in a folder that is there")
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with path.open("r+b") as file:
                    file.truncate(whole)

    def known(self, origin: str) -> set[str]:
        def rows() -> Iterator[tuple[Any, Sequence[str | None]]]:
            if not self.path.exists():
                return
            with self.path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    try:
                        row = json.loads(line)
                        yield row["prompt"], [part.get("origin") for part in row["responses"]]
                    except (ValueError, TypeError, KeyError, AttributeError, RecordError) as error:
                        raise UserError(
                            f"{self.path}:{number}: is not a task that was sampled: name another --to"
                        ) from error

        return _of_origin(rows(), origin)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        fsync(self.path)

    def close(self) -> None:
        """Nothing is held."""


class _Api:
    """A running labeling app, by its REST interface."""

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        if not self.place.startswith(("http://", "https://")):
            raise UserError(f"--url {url}: it starts with http:// or https://")
        self._token = os.environ.get(TOKEN, "")
        if not self._token.isascii() or not self._token.strip():
            raise UserError(f"--url needs a machine's token, which an admin makes under People: set {TOKEN}")

    def known(self, origin: str) -> set[str]:
        def rows() -> Iterator[tuple[Any, Sequence[str | None]]]:
            after = 0
            while True:
                page = self._ask(f"?after={after}&limit={_PAGE}")
                yield from ((task["prompt"], task["origins"]) for task in page["tasks"])
                if len(page["tasks"]) < _PAGE:
                    return
                after = page["next"]

        return _of_origin(rows(), origin)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._ask("", json.dumps(list(rows)).encode())

    def close(self) -> None:
        """Nothing is held."""

    def _ask(self, query: str, body: bytes | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token.strip()}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.place}/api/v1/tasks{query}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(300).decode(errors="replace").split())
            error.close()
            kind = UserError if error.code < 500 else AlignError
            raise kind(f"--url {self.place} answered {error.code}: {said}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise AlignError(
                f"--url {self.place} cannot be used: {reason}. What is done is kept; the same command goes on"
            ) from error


def labeling_package(module: str) -> Any:
    """A module of the labeling app, which needs libraries of its own; raises UserError without them."""
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"this needs {error.name}, which is not installed. What to do: pip install 'align-rlhf[labeling]'"
        ) from error
