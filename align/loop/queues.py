"""Where things go that people label, or have written: the labeling database, a file, or a running app."""

from __future__ import annotations

import importlib.util
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from align.errors import UserError
from align.loop.labeling_app import connected
from align.recipe.sections import Recipe
from align.records import Demonstration, Prompt, prompt_key
from align.run.files import fsync
from align.values import RecordError
from labeling.client import Client


class Queue(Protocol):
    """Tasks that people will get."""

    place: str

    def known(self, origin: str) -> set[str]:
        """The keys of the prompts that have a task with a response of this policy."""

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add tasks, all or none; when this returns they are kept."""


class Keeper(Protocol):
    """Keeps answers that people corrected in a conversation; when `keep` returns they are on the disk."""

    place: str

    def keep(self, prompt: Any, answer: str, text: str, origin: str, seconds: float) -> None:
        """`text` in place of the policy's `answer`; raises UserError where it is no response."""


@contextmanager
def open_queue(
    recipe: Recipe, to: Path | None = None, url: str | None = None, token_file: Path | None = None
) -> Iterator[Queue]:
    """The one that is asked for; raises UserError where it cannot be used."""
    if to is not None and url is not None:
        raise UserError("--to and --url both say where tasks go; keep one")
    if url is not None:
        with connected(url, token_file) as client:
            yield _Api(client)
    elif to is not None:
        yield _Tasks(to)
    else:
        queue = _Database(recipe)
        with closing(queue.config.store):
            yield queue


def open_keeper(recipe: Recipe) -> Keeper:
    """The run's labeling database; without the labeling app's libraries, a file in the run folder."""
    if importlib.util.find_spec("sqlalchemy") is None:
        return _Demonstrations(recipe.run.path / "chat.jsonl")
    return _Database(recipe)


def _of_origin(rows: Iterator[tuple[Any, Sequence[str | None]]], origin: str) -> set[str]:
    return {prompt_key(Prompt.from_dict({"prompt": prompt}).prompt) for prompt, by in rows if origin in by}


class _Database:
    """The recipe's labeling database."""

    def __init__(self, recipe: Recipe) -> None:
        labeling = labeling_package("labeling.serve")
        self.config = labeling.make_config(recipe)
        self.place = self.config.store.shown

    def known(self, origin: str) -> set[str]:
        from labeling.store.items import prompts_of

        with self.config.store.read() as session:
            return _of_origin(((prompt, [origin]) for prompt in prompts_of(session, origin)), origin)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from labeling.store.items import add_items

        with self.config.store.write() as session:
            add_items(session, rows, self.config.settings.overlap)

    def keep(self, prompt: Any, answer: str, text: str, origin: str, seconds: float) -> None:
        """A label of the first admin, who is the one that may read the database's file."""
        from labeling.store.corrections import keep_correction
        from labeling.store.people import admin_for_link

        with self.config.store.write() as session:
            keep_correction(
                session,
                admin_for_link(session),
                prompt=prompt,
                answer=answer,
                text=text,
                origin=origin,
                guideline=self.config.guideline(),
                seconds=seconds,
                secret=self.config.secret,
                submission=secrets.token_hex(16),
            )


class _Demonstrations:
    """JSON Lines with a demonstration each; a line that a kill tore is left, and ended."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, str(path)

    def keep(self, prompt: Any, answer: str, text: str, origin: str, seconds: float) -> None:
        row = Demonstration.from_dict({"prompt": prompt, "response": text}).to_dict()
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(row, ensure_ascii=False) + "\n")
        fsync(self.path)


class _Tasks:
    """JSON Lines with a task each; a line that a kill tore is taken away."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, str(path)
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--to {path}: name a file in a folder that exists")
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
                            f"{self.path}:{number}: this line is not a sampled task: choose another --to"
                        ) from error

        return _of_origin(rows(), origin)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        fsync(self.path)


class _Api:
    """A running labeling app."""

    def __init__(self, client: Client) -> None:
        self.place = client.url
        self._client = client

    def known(self, origin: str) -> set[str]:
        return _of_origin(((task["prompt"], task["origins"]) for task in self._client.tasks()), origin)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._client.add_tasks(rows)


def labeling_package(module: str) -> Any:
    """A module of the labeling app, which needs libraries of its own; raises UserError without them."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the labeling app needs {error.name}, which is not installed: pip install 'align-rlhf[labeling]'"
        ) from error
