"""Judges of text: a person's function, a service, and a reward model that has a base of its own."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import httpx2
import torch
from torch import Tensor

from align.data import imports
from align.data.imports import last_line, place
from align.data.tokenize import opening
from align.errors import AlignError, UserError
from align.messages import Messages
from align.recipe.ppo import Reward
from align.rewards import service
from align.run.manifest import ParentRef


@dataclass(frozen=True)
class Texts:
    """Responses of this process as text, with what was asked and whether each ended by itself."""

    prompts: Sequence[str | Messages]
    responses: Sequence[str]
    ended: Sequence[bool]

    def plain(self) -> list[str | list[dict[str, str]]]:
        """The prompts as JSON has them: a text, or a list of messages."""
        return [prompt if isinstance(prompt, str) else list(prompt) for prompt in self.prompts]


ScoreTexts = Callable[[Texts], Tensor]


def scorer_of(reward: Reward) -> tuple[ScoreTexts, ParentRef | None]:
    """What scores texts for a source that is no reward model, and what a run notes of it, if it can be told.

    Raises UserError where a function cannot be used.
    """
    if reward.function is None:
        return Service(str(reward.url), reward.timeout).scores, None
    name, function = reward.function, load_function(reward.function)
    digest = imports.digest(name, function)
    return partial(by_function, name, function), ParentRef(
        kind="function", name=f"reward/{reward.label}", digest=digest
    )


def load_function(name: str) -> Callable[..., Any]:
    """A person's function of prompts and responses; UserError where it cannot be loaded or called so."""
    return imports.load_judge(name, "ppo.rewards: ")


def by_function(name: str, function: Callable[..., Any], texts: Texts) -> Tensor:
    """Scores [B] of a person's function; UserError that says what it did wrong."""
    who = f"ppo.rewards: the function {name}"
    try:
        given = function(texts.plain(), list(texts.responses))
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{who} raised {last_line(error)} ({place(error)}; for {len(texts.prompts)} responses, the first "
            f"prompt is {opening(texts.prompts[0])})"
        ) from error
    return _numbers(given, texts, who, UserError)


_GOOD = "The last checkpoint is good, and the same command goes on from it"


@dataclass(frozen=True)
class Service:
    """A service that scores texts; `timeout`: seconds that it may take to answer."""

    url: str
    timeout: float

    @cached_property
    def _http(self) -> httpx2.Client:
        return service.client(self.timeout)

    def scores(self, texts: Texts) -> Tensor:
        """Scores [B]; AlignError where it is not there, fails, or answers something else."""
        who = f"ppo.rewards: {self.url}"
        body = json.dumps({"prompts": texts.plain(), "responses": list(texts.responses)})
        slow = f"{self.timeout:g} s (`timeout` of the source)"
        reply = service.post(self._http, self.url, body, who, slow, _GOOD)
        if reply.refused:
            raise AlignError(f"{who} answered {reply.code} ({reply.reason}). {_GOOD}")
        try:
            given = json.loads(reply.content)["scores"]
        except (ValueError, TypeError, KeyError, RecursionError):
            wrong = f"answered {reply.start[:60]!r}"
            raise AlignError(f'{who} {wrong}, not {{"scores": [numbers]}}. {_GOOD}') from None
        return _numbers(given, texts, who, AlignError)


def _numbers(given: Any, texts: Texts, who: str, error: type[AlignError]) -> Tensor:
    """What was given as float32 scores [B]: a list, an array or a tensor of one number a response.

    One that is not finite, or too large for float32, is a number too: PPO does not apply that step.
    """
    count = len(texts.responses)
    if callable(getattr(given, "tolist", None)):  # an array or a tensor
        given = given.tolist()
    if not isinstance(given, (list, tuple)):
        raise error(f"{who} gave {_shown(given)}; a list of {count} numbers is needed, one a response")
    if len(given) != count:
        raise error(f"{who} gave {len(given)} scores for {count} responses; one a response is needed")
    scores = []
    for i, value in enumerate(given):
        where = f"for the response {_short(texts.responses[i])} to {opening(texts.prompts[i])}"
        if not isinstance(value, numbers.Real) and callable(getattr(value, "item", None)):
            try:
                value = value.item()
            except (ValueError, RuntimeError):  # several numbers
                raise error(f"{who} gave an array {where}; one number is needed") from None
        if not isinstance(value, numbers.Real):
            raise error(f"{who} gave {_shown(value)} {where}; a number is needed")
        try:
            scores.append(float(value))
        except OverflowError:  # a whole number beyond every float
            scores.append(math.inf)
    return torch.tensor(scores)


def _short(text: str) -> str:
    words = " ".join(text[:1000].split())
    return repr(words if len(words) <= 50 else words[:50] + "…")


def _shown(value: Any) -> str:
    if value is None:
        return "None"
    return f"the text {_short(value)}" if isinstance(value, str) else f"a {type(value).__name__}"
