"""Where the right answer goes that a person wrote in a conversation: a demonstration either way."""

from __future__ import annotations

import importlib.util
import json
import secrets
from pathlib import Path
from typing import Any, Protocol

from align.errors import UserError
from align.recipe import Recipe
from align.records import Demonstration
from align.runtime.files import fsync


class Keeper(Protocol):
    """Keeps demonstrations; when `keep` returns they are on the disk."""

    place: str

    def keep(self, prompt: Any, answer: str, text: str, origin: str, seconds: float) -> None:
        """`text` in place of the policy's `answer`; raises UserError where it is no response."""


def open_keeper(recipe: Recipe) -> Keeper:
    """The run's labeling database; without the labeling app's libraries, a file in the run folder."""
    if importlib.util.find_spec("sqlalchemy") is None:
        return _File(recipe.run.path / "chat.jsonl")
    return _Database(recipe)


class _File:
    def __init__(self, path: Path) -> None:
        self.path, self.place = path, str(path)

    def keep(self, prompt: Any, answer: str, text: str, origin: str, seconds: float) -> None:
        row = Demonstration.from_dict({"prompt": prompt, "response": text}).to_dict()
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(row, ensure_ascii=False) + "\n")
        fsync(self.path)


class _Database:
    """Labels of the first admin, who is the one that may read the database's file."""

    def __init__(self, recipe: Recipe) -> None:
        try:
            from labeling.serve import make_config
        except ModuleNotFoundError as error:
            raise UserError(
                f"keeping corrections needs {error.name}, which is not installed: "
                "pip install 'align-rlhf[labeling]'"
            ) from error
        self.config = make_config(recipe)
        self.place = self.config.store.shown

    def keep(self, prompt: Any, answer: str, text: str, origin: str, seconds: float) -> None:
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
