"""A policy that answers: the base, or the base with the adapter that sft or ppo left; and talking to it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from align.errors import AlignError, UserError
from align.models.batch import collate
from align.models.forward import Forward
from align.models.roles import Roles
from align.recipe import EngineName
from align.recipe.ppo import PPO, check_urls
from align.recipe.sections import Recipe
from align.records import Prompt
from align.run.lineage import as_trained, parent
from align.run.progress import say
from align.sampling.engines import open_engine, sampling_params
from align.sampling.params import Draws, Engine, SamplingParams
from align.stages.frame import Setup, set_up

PolicyStage = Literal["base", "sft", "ppo"]
_ROLE = "policy"
_BESIDE = "beside"  # the role of a second policy that people talk to
_HASH = 16  # characters of an adapter's hash that name a policy
_HALF = "\ufffd"  # what the bytes of half a character decode to


@dataclass(frozen=True)
class Drawing:
    """How responses are drawn, and by what; None: as the recipe says, or from all tokens."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    engine: EngineName = "hf"
    engine_url: Sequence[str] | None = None


@dataclass(frozen=True)
class OpenPolicy:
    """A policy in memory, and the engine that samples from it. `origin` names it, `role` is its adapter's."""

    origin: str
    setup: Setup
    roles: Roles
    engine: Engine
    params: SamplingParams
    seed: int
    role: str = _ROLE

    def text(self, response: list[int]) -> str:
        """A response's token ids as text, without special tokens."""
        return self.setup.template.text(response)


def check_drawing(drawing: Drawing) -> None:
    """Raises UserError where engine and address don't go together."""
    if drawing.engine != "vllm" and drawing.engine_url:
        raise UserError(f"--engine-url is for --engine vllm, and the engine is {drawing.engine}")
    if drawing.engine != "vllm":
        return
    if not drawing.engine_url:
        raise UserError(
            "--engine vllm samples on a server: say with --engine-url where it listens, such as "
            "http://localhost:8000"
        )
    try:
        check_urls(drawing.engine_url, "--engine-url")
    except ValueError as error:
        raise UserError(str(error)) from None


def check_gap(policy: OpenPolicy, prompt: list[int], cfg: PPO, console: Console) -> None:
    """Warn where a server's probabilities are not the policy's; AlignError beyond ppo.engine_gap_stop."""
    gap = engine_gap(policy, prompt)
    said = (
        f"the server's log probabilities are {gap:.3g} nats a token from those of this policy: another base "
        "or precision, another --logprobs-mode, or an adapter that is left out"
    )
    if gap > cfg.engine_gap_stop:
        limit = f"ppo.engine_gap_stop ({cfg.engine_gap_stop:g})"
        raise AlignError(f"--engine vllm: {said}. That is over {limit}, so nothing was sampled")
    if gap > cfg.engine_gap_warn:
        say(console, f"warning: {said}")


@torch.no_grad()
def engine_gap(policy: OpenPolicy, prompt: list[int]) -> float:
    """How far the engine's log probabilities of a response are from our own: nats, the mean over tokens."""
    whole = replace(policy.params, top_k=None, top_p=None)
    draws = Draws(policy.seed, "gap", policy.origin, [0])
    (one,) = policy.engine.sample([prompt], draws, whole, policy.role)
    forward = Forward(policy.roles, whole.eos_id, whole.min_tokens)
    prefix = forward.prefix(collate([(one.prompt, one.response)], whole.pad_id))
    own, _, _ = forward.logprobs(policy.role, prefix, whole.temperature)
    return float((own[0].cpu() - torch.tensor(one.logprobs)).abs().mean())


def origin_of(run: str, stage: str, digest: str) -> str:
    """What names a policy: its run, its stage, and the beginning of its weights' hash."""
    return f"{run}/{stage} {digest[:_HASH]}"


def open_policy(recipe: Recipe, stage: PolicyStage, drawing: Drawing, run: Path | None = None) -> OpenPolicy:
    """The policy of the recipe's run, or of the run folder `run`, verified as the next stage would.

    Raises MissingStage where the stage has not finished, UserError where it is of another base or template,
    or where the engine cannot be used.
    """
    setup = set_up(recipe)
    place = str(run) if run is not None else recipe.ppo.sft if stage == "sft" else None
    found = None if stage == "base" else parent(recipe, stage, place, setup.lineage)
    roles = Roles(setup.base.load_model(setup.accel.device))
    if found is None:
        roles.share(_ROLE, stage, trains=False)  # no adapter is called so: the base alone answers
    else:
        roles.add(_ROLE, found.final, trains=False)
    name = Path(place).name if place else recipe.run.name
    digest = found.adapter_hash if found else setup.base.fingerprint
    params = replace(sampling_params(recipe.ppo, setup.base), top_k=drawing.top_k, top_p=drawing.top_p)
    if drawing.temperature is not None:
        params = replace(params, temperature=drawing.temperature)
    if drawing.max_tokens is not None:
        params = replace(params, max_tokens=drawing.max_tokens, min_tokens=0)
    seed = recipe.run.seed if drawing.seed is None else drawing.seed
    folder = recipe.run.path / f"engine-{uuid.uuid4().hex[:8]}"
    engine = open_engine(drawing.engine, roles, setup.accel, urls=drawing.engine_url or (), folder=folder)
    return OpenPolicy(origin_of(name, stage, digest), setup, roles, engine, params, seed)


@dataclass(frozen=True)
class Partner:
    """A policy to talk to, with the recipe of its run. A plain template knows no earlier messages."""

    policy: OpenPolicy
    recipe: Recipe

    @property
    def remembers(self) -> bool:
        """Whether an answer depends on earlier messages."""
        return self.recipe.data.template == "chat"

    def prompt(self, messages: Sequence[dict[str, str]]) -> Any:
        """The prompt that a conversation is, as a record has it: text where there is one message."""
        last = [dict(message) for message in messages] if self.remembers else [dict(messages[-1])]
        found = last[0]["content"] if len(last) == 1 else last
        return Prompt.from_dict({"prompt": found}).to_dict()["prompt"]

    def answer(
        self,
        messages: Sequence[dict[str, str]],
        turn: int,
        heard: Callable[[str], object] | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> str:
        """The policy's answer; `heard` is told each piece of it. Another `turn` draws other tokens.

        When it is not `wanted` any more, which is asked after each token, it is what was said so far. Raises
        UserError where the conversation is too long for the base, or none.
        """
        prompt = Prompt.from_dict({"prompt": self.prompt(messages)}).prompt
        policy = self.policy
        ids = policy.setup.template.prompt_ids(prompt)
        room = policy.setup.template.positions
        if room is not None and len(ids) + policy.params.max_tokens > room:
            raise UserError(
                f"this has {len(ids)} tokens, and with {policy.params.max_tokens} for the answer the base "
                f"reads at most {room}: begin a new conversation"
            )
        pieces = Pieces(policy, heard)

        def hear(token: int) -> None:
            pieces.add(token)
            if not wanted():
                raise _Unwanted

        row = () if policy.role == _ROLE else (policy.role,)  # two policies share no random numbers
        draws = Draws(policy.seed, "chat", turn, [row])
        try:
            (sampled,) = policy.engine.sample([ids], draws, policy.params, policy.role, heard=hear)
        except (_Unwanted, AlignError):  # an engine that samples in a thread tells an error of its own
            if wanted():
                raise
            return pieces.text.replace("\0", "")
        pieces.end()
        return policy.text(sampled.response).replace("\0", "")  # which no record may hold


class _Unwanted(Exception):
    """Nobody wants more of an answer."""


class Pieces:
    """Text that grows by tokens; `heard` is told what is new of it, and no half characters."""

    def __init__(self, policy: OpenPolicy, heard: Callable[[str], object] | None) -> None:
        self._policy, self._heard = policy, heard
        self._ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> None:
        """The next token."""
        self._ids.append(token)
        text = self._policy.text(self._ids)
        if not text.endswith(_HALF):
            self._tell(text)

    def end(self) -> None:
        """No more tokens come: what was held back is told."""
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
    stage = stage or _latest(run)
    recipe, _ = as_trained(run, stage, base)
    place = run.absolute()  # a run that was moved keeps its labels where it lies now
    here = recipe.run.model_copy(update={"folder": str(place.parent), "name": place.name})
    recipe = recipe.model_copy(update={"run": here})
    policy = open_policy(recipe, stage, drawing, run)
    if drawing.engine == "vllm":
        hello = Prompt.from_dict({"prompt": "Hello"}).prompt
        try:
            check_gap(policy, policy.setup.template.prompt_ids(hello), recipe.ppo, Console(stderr=True))
        except AlignError:
            policy.engine.close()
            raise
    return Partner(policy, recipe)


def open_beside(partner: Partner, run: Path, stage: Literal["sft", "ppo"] | None) -> Partner:
    """Another policy on the base that is in memory: one more adapter, to talk to beside the first.

    Raises MissingStage where it has not finished; UserError where it is of another base, tokenizer, template
    or LoRA shape, or is the same policy.
    """
    policy, recipe = partner.policy, partner.recipe
    found = parent(recipe, stage or _latest(run), str(run), policy.setup.lineage)
    origin = origin_of(run.absolute().name, stage or _latest(run), found.adapter_hash)
    if origin.split()[-1] == policy.origin.split()[-1]:
        raise UserError(f"{run} has the same policy as the first run: name another one to compare it with")
    policy.roles.add(_BESIDE, found.final, trains=False)
    return Partner(replace(policy, origin=origin, role=_BESIDE), recipe)


def _latest(run: Path) -> Literal["sft", "ppo"]:
    return "ppo" if (run / "ppo" / "final").is_dir() else "sft"
