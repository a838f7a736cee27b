"""What the running app knows; made once at the start."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from fastapi import Request
from sqlalchemy.orm import Session

from align.errors import UserError
from align.recipe.labeling import Check, Labeling
from labeling.companion import Companion
from labeling.guideline import Told, read_guideline
from labeling.retold import retold
from labeling.store import guidelines
from labeling.store.calibration import Standard
from labeling.store.engine import Store
from labeling.store.queue import Rules


@dataclass(frozen=True)
class Config:
    """The database, the recipe's `labeling` section, and how the app is reached."""

    store: Store
    settings: Labeling
    secret: str  # signs cookies, draws orders
    name: str  # the run's
    address: str = ""  # by which people reach the app: links begin with it, whatever a request says
    secure: bool = False  # behind https: cookies are sent over nothing else
    hosts: tuple[str, ...] = ("*",)  # names by which the app may be called
    companion: Companion | None = None  # the policy that people may talk to
    run: str = ""  # the run's folder, where checks by `run: this` find its reward model
    told: Told = field(default_factory=Told)

    @property
    def checks(self) -> list[Check]:
        """What people may have their own answers checked by."""
        found = self.settings.checks or []
        return [
            check.model_copy(update={"run": self.run, "name": check.label}) if check.run == "this" else check
            for check in found
        ]

    @property
    def rules(self) -> Rules:
        """How the queue behaves."""
        audit = self.settings.audit if self.settings.suggestions == "machine" else None
        first = Standard(self.settings.calibration, self.settings.pass_mark)
        return Rules(
            timedelta(minutes=self.settings.lease), self.settings.gold_every, audit, self.secret, first
        )

    def guideline(self, writing: Session | None = None) -> str:
        """The guideline's text as it is now: the file's, or what was written in the app after it.

        Where the file is gone, the last version holds. In a transaction that writes, the file's change is
        noted as a version. Raises UserError where there is neither file nor version.
        """
        is_template, problem = self._guideline_file is None, None
        try:
            file = read_guideline(self._guideline_file)
        except UserError as error:
            file, problem = None, error
        self.told(str(problem) if problem is not None else None)
        if writing is not None and file is not None:
            guidelines.note_file(writing, file, is_template)
        with nullcontext(writing) if writing is not None else self.store.read() as session:
            kept = guidelines.current(session, file, is_template)
        if kept is None:
            raise problem or UserError("There is no guideline.")
        return kept

    def guideline_problem(self) -> str | None:
        """Why the guideline's file can't be read, if it can't."""
        try:
            read_guideline(self._guideline_file)
        except UserError as error:
            return retold(str(error))
        return None

    @property
    def _guideline_file(self) -> Path | None:
        return Path(self.settings.guideline) if self.settings.guideline else None


def config_of(request: Request) -> Config:
    """The config of the app that a request comes to."""
    config: Config = request.app.state.config
    return config
