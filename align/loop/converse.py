"""A conversation with a policy: what it is asked, and its answer piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.errors import UserError
from align.loop.policy import Drawing, Policy, open_policy
from align.recipe import Recipe
from align.records import Prompt
from align.runtime.lineage import as_trained

_HALF = "\ufffd"  # what the bytes of half a character decode to


@dataclass(frozen=True)
class Partner:
    """A policy to talk to, with the recipe of its run. A plain template knows no earlier messages."""

    policy: Policy
    recipe: Recipe

    @property
    def remembers(self) -> bool:
        return self.recipe.data.template == "chat"

    def prompt(self, messages: Sequence[dict[str, str]]) -> Any:
        """The prompt that a conversation is, as a record has it: text where there is one message."""
        last = [dict(message) for message in messages] if self.remembers else [dict(messages[-1])]
        found = last[0]["content"] if len(last) == 1 else last
        return Prompt.from_dict({"prompt": found}).to_dict()["prompt"]

    def answer(
        self, messages: Sequence[dict[str, str]], turn: int, heard: Callable[[str], object] | None = None
    ) -> str:
        """The policy's answer; `heard` is told each piece of it. Another `turn` draws other tokens.

        Raises UserError where the conversation is too long for the base, or none.
        """
        prompt = Prompt.from_dict({"prompt": self.prompt(messages)}).prompt
        policy = self.policy
        ids = policy.setup.template.prompt_ids(prompt)
        room = policy.setup.template.positions
        if room is not None and len(ids) + policy.terms.max_tokens > room:
            raise UserError(
                f"this has {len(ids)} tokens, and with {policy.terms.max_tokens} for the answer the base "
                f"reads at most {room}: begin a new conversation"
            )
        pieces = Pieces(policy, heard)
        (sampled,) = policy.sample([ids], [("chat", turn)], pieces.add)
        pieces.end()
        return policy.text(sampled.response).replace("\0", "")  # which no record may hold


class Pieces:
    """Text that grows by tokens; no half characters are told."""

    def __init__(self, policy: Policy, heard: Callable[[str], object] | None) -> None:
        self._policy, self._heard = policy, heard
        self._ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> None:
        self._ids.append(token)
        text = self._policy.text(self._ids)
        if not text.endswith(_HALF):
            self._tell(text)

    def end(self) -> None:
        self._tell(self._policy.text(self._ids))

    def _tell(self, text: str) -> None:
        if self._heard is not None and text.startswith(self.text) and text != self.text:
            self._heard(text[len(self.text) :])
        self.text = text


def open_partner(
    run: Path, stage: Literal["sft", "ppo"] | None, drawing: Drawing, base: Path | None = None
) -> Partner:
    """The policy of a run folder: the stage's, or the latest. `base`: where the base lies now.

    Raises MissingStage where there is none yet, UserError where the folder is no run's.
    """
    stage = stage or ("ppo" if (run / "ppo" / "final").is_dir() else "sft")
    recipe, _ = as_trained(run, stage, base)
    place = run.absolute()  # a run that was moved keeps its labels where it lies now
    here = recipe.run.model_copy(update={"folder": str(place.parent), "name": place.name})
    recipe = recipe.model_copy(update={"run": here})
    return Partner(open_policy(recipe, stage, drawing, run), recipe)
