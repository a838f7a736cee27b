"""Judges of text: a person's function, a service, and a reward model that has a base of its own."""

from __future__ import annotations

import json
import math
import numbers
import time
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
from align.run.manifest import ParentRef

TRIES = 3
PAUSE = 1.0  # seconds before the second try; each further pause is four times as long
_MOST_BYTES = 2**26


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


# http_proxy, which clusters set, is not for this machine itself
_NO_PROXY: dict[str, None] = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
_GOOD = "The last checkpoint is good, and the same command goes on from it"


@dataclass(frozen=True)
class Service:
    """A service that scores texts; `timeout`: seconds that it may take to answer."""

    url: str
    timeout: float

    @cached_property
    def _http(self) -> httpx2.Client:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return httpx2.Client(timeout=self.timeout, headers=headers, follow_redirects=True, mounts=_NO_PROXY)

    def scores(self, texts: Texts) -> Tensor:
        """Scores [B]; AlignError where it is not there, fails, or answers something else."""
        who = f"ppo.rewards: {self.url}"
        raw = self._post(json.dumps({"prompts": texts.plain(), "responses": list(texts.responses)}), who)
        try:
            given = json.loads(raw)["scores"]
        except (ValueError, TypeError, KeyError, RecursionError):
            start = " ".join(raw[:200].decode(errors="replace").split())[:60]
            raise AlignError(f'{who} answered {start!r}, not {{"scores": [numbers]}}. {_GOOD}') from None
        return _numbers(given, texts, who, AlignError)

    def _post(self, body: str, who: str) -> bytes:
        """The service's answer; what may pass (no connection, too slow, busy, 5xx) is tried again."""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE * 4 ** (attempt - 1))
            try:
                with self._http.stream("POST", self.url, content=body) as reply:
                    if reply.is_success:
                        return next(reply.iter_bytes(_MOST_BYTES), b"")
                wrong = f"answered {reply.status_code} ({reply.reason_phrase})"
                if reply.status_code < 500 and reply.status_code not in (408, 429):
                    raise AlignError(f"{who} {wrong}. {_GOOD}")
            except httpx2.TimeoutException:
                wrong = f"did not answer within {self.timeout:g} s (`timeout` of the source)"
            except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, ImportError) as error:
                wrong = f"cannot be reached: {str(error).rpartition('] ')[2] or type(error).__name__}"
        raise AlignError(f"{who} {wrong}, {TRIES} times. {_GOOD}")


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
