"""Sampling with transformers' own forward pass and cache: the default engine, on any device.

A token is the inverse of its distribution function at a number u(draws, row, position), so
a row's response depends on nothing but its prompt, the policy and that number: not on its batch, not
on the process that samples it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from align.models.passes import microbatches
from align.models.roles import Roles
from align.processes.determinism import lenient
from align.processes.distributed import highest
from align.sampling.cache import Reading, Rows, Ways
from align.sampling.filters import narrowed
from align.sampling.lean import Lean, LeanReading
from align.sampling.params import Draws, Sampled, SamplingParams

Begin = Callable[[list[list[int]]], Rows]

_EVERY = 16  # tokens between two looks at a GPU; a row that ends wastes half of them on average


@dataclass(frozen=True)
class Hf:
    """The roles themselves sample: there is nothing to hand over.

    ways: how rows are decoded together, as `find_ways` finds them for this base. lean: how its lean decoder
    is used, as `find_lean` finds it. every: after so many tokens the host looks at what was drawn, and rows
    that have ended leave the batch; None: after 16 on a GPU, which has to finish for each look, else after 1.
    """

    roles: Roles
    ways: Ways = Ways()
    lean: Lean | None = None
    every: int | None = None

    def update(self) -> None:
        """The roles are the policy."""

    @torch.no_grad()
    def sample(
        self,
        prompts: list[list[int]],
        draws: Draws,
        params: SamplingParams,
        role: str = "policy",
        heard: Callable[[int], object] | None = None,
    ) -> list[Sampled]:
        """As the protocol says; `heard` is told each token as it comes.

        Prompts of like length are decoded together, as many as stay within the budget at full length; rows
        that follow each other with the same prompt share its pass. Finished rows leave the batch. Each of
        these as far as the ways allow it.
        """
        roles, ways = self.roles, self.ways
        numbers = uniforms(draws, params.max_tokens)
        groups = _alike(prompts, params.max_tokens, params.batch_tokens if ways.chooses else 0)
        sizes = [(len(group), len(prompts[group[0]]) + params.max_tokens) for group in groups]
        done: dict[int, Sampled] = {}
        batches = microbatches(sizes, params.batch_tokens, mixed=ways.pads)
        every = 1 if heard else self.every or _looks(roles.base.device)
        with self.session(role, params) as begin:
            idle = roles.more_elsewhere(len(batches))
            for batch in batches:
                parts = [groups[i] for i in batch]
                rows = [row for part in parts for row in part]
                asked = [(prompts[part[0]], len(part)) for part in parts]
                found = _decode(roles, begin, asked, numbers[rows], params, heard, every)
                done.update(zip(rows, found, strict=True))
            for _ in range(idle):
                _outlast(roles)
        return [done[i] for i in range(len(prompts))]

    @contextmanager
    def session(self, role: str, params: SamplingParams) -> Iterator[Begin]:
        """A role's weights stay as they are: whatever is made of them for sampling lasts until the end.

        Gives what begins to read a batch of prompts. All processes that share a base are in it together.
        """
        roles, lean = self.roles, self.lean
        roles.activate(role)
        roles.prove_logits()
        with roles.gathered():
            if lean is None:
                yield partial(Reading, roles, self.ways, pad_id=params.pad_id)
                return
            with lean.decoder(roles) as decoder:
                yield partial(
                    LeanReading, decoder, lean.capture, pad_id=params.pad_id, room=params.max_tokens
                )

    def remarks(self) -> list[str]:
        """What is slower on this base than on others."""
        slow = self.ways.remarks(type(self.roles.base).__name__)
        slow += self.lean.remarks() if self.lean else []
        if self.roles.shard_group is None:
            return slow
        room = self.roles.room
        needed, memory = (f"{count / 2**30:,.1f}" for count in (room.needed, room.memory))
        if room.enough:
            return [*slow, f"the sharded base is put together to sample ({needed} of {memory} GiB)"]
        return [
            *slow,
            f"the sharded base does not fit on a device whole ({needed} of {memory} GiB), so its layers are "
            "put together for each token that is sampled. A vLLM server samples much faster: "
            "`ppo: {engine: vllm, engine_url: URL}`",
        ]

    def close(self) -> None:
        """Nothing is held."""


def _looks(device: torch.device) -> int:
    return _EVERY if device.type == "cuda" else 1


def uniforms(draws: Draws, length: int) -> Tensor:
    """Numbers in [0, 1), float64 [rows, length]."""
    drawn = [torch.rand(length, generator=own, dtype=torch.float64) for own in draws.generators()]
    return torch.stack(drawn) if drawn else torch.empty(0, length, dtype=torch.float64)


def _alike(prompts: list[list[int]], length: int, tokens: int) -> list[list[int]]:
    """Neighbours with the same prompt, no more than fit into the budget together."""
    groups: list[list[int]] = []
    for row, prompt in enumerate(prompts):
        group = groups[-1] if groups else []
        room = (len(group) + 1) * (len(prompt) + length) <= tokens
        if group and room and prompts[group[0]] == prompt:
            group.append(row)
        else:
            groups.append([row])
    return groups


def _decode(
    roles: Roles,
    begin: Begin,
    asked: list[tuple[list[int], int]],
    draws: Tensor,
    params: SamplingParams,
    heard: Callable[[int], object] | None,
    every: int,
) -> list[Sampled]:
    """Responses to prompts, each asked for so many times in succession.

    The host looks at `every` tokens at once. What was drawn after a row's end belongs to nobody.
    """
    device = roles.base.device
    prompts = [prompt for prompt, count in asked for _ in range(count)]
    source = [i for i, (_, count) in enumerate(asked) for _ in range(count)]  # whose prompt each response has
    draws = draws.to(device)
    reading = begin([prompt for prompt, _ in asked])
    found = [Sampled(prompt, [], []) for prompt in prompts]
    rows = list(range(len(prompts)))  # the response that each row of the batch is of
    going = set(rows)
    head, last = roles.base.get_output_embeddings(), draws.shape[1]
    for first in range(0, last, every):
        steps = range(first, min(first + every, last))
        idle = _most(len(steps), roles) - len(steps)
        drawn = []  # tokens and their log probabilities by step, on the device
        for step in steps:
            hidden = reading.read()
            if len(hidden) < len(rows):  # after the prompts' pass, a row for each response
                places = torch.tensor(source, device=device)
                reading.choose(places)
                hidden = hidden[places]
            logits = roles.last_step.apply_(head(hidden).float())
            tokens, chosen = draw(logits, draws[:, step], step, params)
            drawn.append(torch.stack([tokens.double(), chosen.double()]))  # float64 holds both as they are
            if step + 1 < last:
                reading.append(tokens)
        for _ in range(idle):
            roles.idle()
        told = torch.stack(drawn).tolist()  # the one place where the host waits for the device
        for ids, logprobs in told:
            for row, token, logprob in zip(rows, ids, logprobs, strict=True):
                if row in going:
                    _note(found[row], int(token), logprob, heard)
                    if int(token) == params.eos_id:
                        going.remove(row)
        if not going:
            break
        if reading.worth(len(going)) and steps.stop < last:
            kept = [i for i, row in enumerate(rows) if row in going]
            rows = [rows[i] for i in kept]
            places = torch.tensor(kept, device=device)
            reading.choose(places)
            draws = draws[places]
    _outlast(roles)
    return found


def _note(one: Sampled, token: int, logprob: float, heard: Callable[[int], object] | None) -> None:
    one.response.append(token)
    one.logprobs.append(logprob)
    if heard is not None:
        heard(token)


def _outlast(roles: Roles) -> None:
    """With a sharded base, go on until no process has a token to sample in this batch."""
    while passes := _most(0, roles):
        for _ in range(passes):
            roles.idle()


def _most(passes: int, roles: Roles) -> int:
    """How many passes a process that shares the base makes at most before all ask again."""
    return highest(passes, roles.sharers) if roles.sharers else passes


@lenient()
def draw(logits: Tensor, u: Tensor, step: int | Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Tokens [B] at the distribution function's inverse of u [B], and their log probabilities [B].

    logits [B, V] as the base gives them; step: how many tokens each response has already, one number or [B].
    """
    logits = logits.float() / params.temperature
    if isinstance(step, Tensor):
        early = step.to(logits.device) < params.min_tokens
        logits[:, params.eos_id].masked_fill_(early, float("-inf"))
    elif step < params.min_tokens:  # known here, so that nothing is sent to the device
        logits[:, params.eos_id].fill_(float("-inf"))
    logprobs = narrowed(logits, params.top_k, params.top_p).log_softmax(-1)
    cdf = logprobs.double().exp_().cumsum(-1)
    tokens = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]
    tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
