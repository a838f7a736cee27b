"""Sampling with transformers' own forward pass and cache: the default engine, on any device.

A token is the inverse of its distribution function at a number u(draws, row, position), so
a row's response depends on nothing but its prompt, the policy and that number: not on its batch, not
on the process that samples it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from align.models.passes import microbatches
from align.models.roles import Roles
from align.processes.determinism import lenient
from align.processes.distributed import highest
from align.sampling.cache import Reading, Ways
from align.sampling.filters import narrowed
from align.sampling.params import Draws, Sampled, SamplingParams


@dataclass(frozen=True)
class Hf:
    """The roles themselves sample: there is nothing to hand over.

    ways: how rows are decoded together, as `find_ways` finds them for this base.
    """

    roles: Roles
    ways: Ways = Ways()

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
        with self.roles.gathered():
            return self._sample(prompts, draws, params, role, heard)

    def _sample(
        self,
        prompts: list[list[int]],
        draws: Draws,
        params: SamplingParams,
        role: str,
        heard: Callable[[int], object] | None,
    ) -> list[Sampled]:
        roles, ways = self.roles, self.ways
        roles.activate(role)
        roles.prove_logits()
        numbers = uniforms(draws, params.max_tokens)
        groups = _alike(prompts, params.max_tokens, params.batch_tokens if ways.chooses else 0)
        sizes = [(len(group), len(prompts[group[0]]) + params.max_tokens) for group in groups]
        done: dict[int, Sampled] = {}
        batches = microbatches(sizes, params.batch_tokens, mixed=ways.pads)
        idle = roles.more_elsewhere(len(batches))
        for batch in batches:
            parts = [groups[i] for i in batch]
            rows = [row for part in parts for row in part]
            asked = [(prompts[part[0]], len(part)) for part in parts]
            found = _decode(roles, asked, numbers[rows], params, heard, ways)
            done.update(zip(rows, found, strict=True))
        for _ in range(idle):
            roles.idle()
            _outlast(roles)
        return [done[i] for i in range(len(prompts))]

    def remarks(self) -> list[str]:
        """What is slower on this base than on others."""
        slow = self.ways.remarks(type(self.roles.base).__name__)
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
    asked: list[tuple[list[int], int]],
    draws: Tensor,
    params: SamplingParams,
    heard: Callable[[int], object] | None,
    ways: Ways,
) -> list[Sampled]:
    """Responses to prompts, each asked for so many times in succession.

    Where rows cannot leave the batch, what is drawn for one that has ended belongs to nobody.
    """
    device = roles.base.device
    prompts = [prompt for prompt, count in asked for _ in range(count)]
    draws = draws.to(device)
    reading = Reading(roles, ways, [prompt for prompt, _ in asked], params.pad_id)
    responses: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)  # the response that each row of the batch is of
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)
    head = roles.base.get_output_embeddings()
    for step in range(draws.shape[1]):
        hidden = reading.read()
        if len(hidden) < len(rows):  # after the prompts' pass, a row for each response
            counts = torch.tensor([count for _, count in asked], device=device)
            source = torch.arange(len(asked), device=device).repeat_interleave(counts)
            reading.choose(source)
            hidden = hidden[source]
        logits = roles.last_step.apply_(head(hidden).float())
        tokens, chosen = draw(logits, draws[rows, step], step, params)
        told = zip(rows.tolist(), going.tolist(), tokens.tolist(), chosen.tolist(), strict=True)
        for row, goes, token, logprob in told:
            if goes:
                responses[row].append(token)
                logprobs[row].append(logprob)
                if heard is not None:
                    heard(token)
        going &= tokens != params.eos_id
        if not going.any() or step + 1 == draws.shape[1]:
            break
        _any(True, roles)
        if ways.chooses and not going.all():
            kept = going.nonzero()[:, 0]
            reading.choose(kept)
            rows, tokens, going = rows[kept], tokens[kept], going[kept]
        reading.append(tokens)
    _outlast(roles)
    return [Sampled(p, r, lp) for p, r, lp in zip(prompts, responses, logprobs, strict=True)]


def _outlast(roles: Roles) -> None:
    """With a sharded base, go on until no process has a token to sample in this batch."""
    while _any(False, roles):
        roles.idle()


def _any(samples: bool, roles: Roles) -> bool:
    """Whether a process that shares the base has one more token to sample; every process asks after each."""
    return bool(highest(int(samples), roles.sharers)) if roles.sharers else samples


@lenient()
def draw(logits: Tensor, u: Tensor, step: int | Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Tokens [B] at the distribution function's inverse of u [B], and their log probabilities [B].

    logits [B, V] as the base gives them; step: how many tokens each response has already, one number or [B].
    """
    logits = logits.float() / params.temperature
    if params.min_tokens:
        early = torch.as_tensor(step, device=logits.device) < params.min_tokens
        logits[:, params.eos_id].masked_fill_(early, float("-inf"))
    logprobs = narrowed(logits, params.top_k, params.top_p).log_softmax(-1)
    cdf = logprobs.double().exp_().cumsum(-1)
    tokens = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]
    tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
