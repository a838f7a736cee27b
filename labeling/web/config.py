"""What the running app knows; made once at the start."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fastapi import Request

from align.recipe.labeling import Labeling
from labeling.companion import Companion
from labeling.guideline import read_guideline
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

    @property
    def rules(self) -> Rules:
        """How the queue behaves."""
        audit = self.settings.audit if self.settings.suggestions == "machine" else None
        first = Standard(self.settings.calibration, self.settings.pass_mark)
        return Rules(
            timedelta(minutes=self.settings.lease), self.settings.gold_every, audit, self.secret, first
        )

    def guideline(self) -> str:
        """The guideline's text as it is now; raises UserError where it can't be read."""
        return read_guideline(Path(self.settings.guideline) if self.settings.guideline else None)


def config_of(request: Request) -> Config:
    """The config of the app that a request comes to."""
    config: Config = request.app.state.config
    return config
