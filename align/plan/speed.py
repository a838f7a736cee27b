"""How fast a step was, for metrics.jsonl: tokens and operations a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from align.data.tokenize import Encoded
from align.plan.flops import Work, pairs_of, pass_flops
from align.plan.gpus import Gpu, like


@dataclass(frozen=True)
class Computed:
    """Tokens that went through the model, each counted once, and the operations of all passes over them."""

    tokens: float = 0
    flops: float = 0


def speed(
    done: Computed,
    seconds: float,
    processes: int,
    device: torch.device,
    part: str = "",
    rated: bool = True,
) -> dict[str, float]:
    """Metrics of what all processes computed together in so many seconds; rates are of one process.

    part: what of a step this is, as "update"; it begins the metrics' names. rated: whether operations bound
    it, so that their rate says something: sampling is bound by memory. With the share of the card's rate
    (MFU, arXiv 2204.02311, appendix B) where the device is a card whose data sheet is known.
    """
    name = f"perf/{part}_" if part else "perf/"
    found = {f"{name}tokens_per_second": done.tokens / seconds}
    if done.flops:
        found[f"{name}flops"] = done.flops
    if done.flops and rated:
        rate = done.flops / seconds / processes
        found[f"{name}tflops"] = rate / 1e12
        if card := card_of(device):
            found[f"{name}mfu"] = rate / card.flops
    return found


def card_of(device: torch.device) -> Gpu | None:
    """The graphics card that a device is, where its data sheet is known."""
    return like(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_memory(device: torch.device) -> dict[str, float]:
    """GiB that tensors took at most since the last call, on a GPU; a CPU does not count them."""
    if device.type != "cuda":
        return {}
    found = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return {"memory/peak": found}


def of_rankings(
    work: Work, rankings: Iterable[Encoded], share_prompt: bool, members: int = 1, split: bool = False
) -> Computed:
    """A step over rankings, forward and backward; with share_prompt each prompt once for all responses.

    members: how many adapters learn from them; with split the layers below all of these run once.
    """
    tokens = pairs = 0
    for one in rankings:
        prompt, responses = len(one.prompt), [len(response) for response in one.responses]
        if share_prompt:
            tokens += prompt + sum(responses)
            pairs += pairs_of([prompt, *responses]) + prompt * sum(responses)
        else:
            rows = [prompt + length for length in responses]
            tokens, pairs = tokens + sum(rows), pairs + pairs_of(rows)
    first = pass_flops(work, tokens, pairs, backward=True)
    more = pass_flops(work, tokens, pairs, backward=True, lower=not split)
    return Computed(tokens, first + (members - 1) * more)


def of_demonstrations(work: Work, lengths: Sequence[int], learned: int) -> Computed:
    """Some rows forward and backward, whose logits are read where a token is learned."""
    tokens = sum(lengths)
    return Computed(tokens, pass_flops(work, tokens, pairs_of(lengths), read=learned, backward=True))


def of_pairs(work: Work, lengths: Sequence[int], learned: int) -> Computed:
    """Some rows forward and backward by the policy, forward by its reference; learned: in responses."""
    tokens, pairs = sum(lengths), pairs_of(lengths)
    reference = pass_flops(work, tokens, pairs, read=learned)
    return Computed(tokens, reference + pass_flops(work, tokens, pairs, read=learned, backward=True))


def of_sampling(work: Work, lengths: Sequence[tuple[int, int]], each: int) -> Computed:
    """Responses token by token with a cache: `each` responses to a prompt share the pass over it.

    Tokens are those sampled, as what a second of sampling gives.
    """
    prompts, answered = [prompt for prompt, _ in lengths], sum(response for _, response in lengths)
    tokens = sum(prompts) / each + answered
    before = pairs_of(prompts)
    pairs = before / each + pairs_of([prompt + response for prompt, response in lengths]) - before
    return Computed(answered, pass_flops(work, round(tokens), round(pairs), read=answered))


def of_scoring(
    work: Work, lengths: Sequence[tuple[int, int]], roles: int, read: int, split: bool
) -> Computed:
    """One pass of each role over prompts and responses of these lengths; `read` roles give log probabilities.

    split: the layers below all adapters run once for all roles.
    """
    rows = [prompt + response for prompt, response in lengths]
    tokens, pairs, answered = sum(rows), pairs_of(rows), sum(response for _, response in lengths)
    flops = sum(
        pass_flops(work, tokens, pairs, read=answered if i < read else 0, lower=i == 0 or not split)
        for i in range(roles)
    )
    return Computed(tokens, flops)


def of_updates(
    work: Work, lengths: Sequence[tuple[int, int]], epochs: float, policy: bool, value: bool, split: bool
) -> Computed:
    """Epochs of updates over prompts and responses of these lengths, forward and backward.

    policy, value: which of the two are trained; split: the layers below all adapters have run already.
    """
    rows = [prompt + response for prompt, response in lengths]
    tokens, pairs, answered = sum(rows), pairs_of(rows), sum(response for _, response in lengths)
    reads = [answered] * policy + [0] * value
    flops = sum(pass_flops(work, tokens, pairs, read=read, backward=True, lower=not split) for read in reads)
    return Computed(tokens * epochs, flops * epochs)
