"""Scores of responses by a role with a scalar head, whoever asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from align.data.tokenize import Encoded
from align.models.batch import Batch, Pair, PrefixStates, collate, stack
from align.models.forward import Below, Forward
from align.models.packed import Packed, in_parts, pack, separate_rows
from align.models.passes import PAIRS, passes, rankings, states


def score_pairs(
    forward: Forward,
    role: str,
    pairs: Sequence[Pair],
    tokens: int,
    advance: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """The score [N] of each (prompt, response), float32 on the CPU; `tokens` go through the model at a time.

    `advance` is told how many are done after each pass. Every process calls it together.
    """
    return _read(forward, lambda prefix: forward.scores(role, prefix)[None], pairs, tokens, advance)[0]


def score_members(
    forward: Forward,
    role: str,
    pairs: Sequence[Pair],
    tokens: int,
    advance: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """What each member of a reward model says of each (prompt, response), [M, N]; M is 1 of a single one."""
    return _read(forward, lambda prefix: forward.member_scores(role, prefix), pairs, tokens, advance)


@torch.no_grad()
def _read(
    forward: Forward,
    read: Callable[[PrefixStates], Tensor],
    pairs: Sequence[Pair],
    tokens: int,
    advance: Callable[[int], object],
) -> Tensor:
    """What `read` says, [M, b], of the pairs of each pass, as [M, N]."""
    found: dict[int, Tensor] = {}
    for part in passes(forward.roles, pairs, tokens, PAIRS):
        said = read(forward.prefix(collate(part.items))).float().cpu()
        found.update(zip(part.rows, said.unbind(1), strict=False))
        advance(len(part.rows))
    return torch.stack([found[i] for i in range(len(pairs))], dim=1) if found else torch.empty(1, 0)


@torch.no_grad()
def score_states(forward: Forward, role: str, rows: Sequence[PrefixStates], tokens: int) -> Tensor:
    """The same of rows whose lower layers have run."""
    scores = torch.empty(len(rows))
    for part in passes(forward.roles, rows, tokens, states(forward)):
        found = forward.scores(role, stack(part.items))
        scores[part.rows] = found[: len(part.rows)].float().cpu()
    return scores


def last_states(forward: Forward, role: str, part: Sequence[Encoded]) -> Tensor:
    """A role's last hidden states [N, D] at the end of each response of these rankings."""
    return forward.ends(role, laid_out(forward, part))


def laid_out(forward: Forward, part: Sequence[Encoded]) -> Packed | Batch:
    """Rankings as a pass takes them: packed where prompts are shared, else a row a response."""
    return pack(part) if forward.share_prompt else separate_rows(part)


def ranking_scores(forward: Forward, role: str, part: Sequence[Encoded]) -> list[Tensor]:
    """A [K] tensor of scores for each ranking; all responses go through the model in one pass."""
    below = forward.below(laid_out(forward, part))
    ensemble = forward.roles.ensembles.get(role)
    if ensemble is None:
        return scores_above(forward, role, below, part)
    members = [
        [factor * s for s in scores_above(forward, one, below, part)] for one, factor in ensemble.members
    ]
    return [ensemble.reduced(torch.stack(scores)) for scores in zip(*members, strict=True)]


def scores_above(forward: Forward, role: str, below: Below, part: Sequence[Encoded]) -> list[Tensor]:
    """The same of one role, where the layers below all adapters have run."""
    head: Any = forward.roles.heads[role]
    lengths = torch.tensor([len(response) for ranking in part for response in ranking.responses])
    scores: Tensor = head.scores(forward.above(role, below), lengths)
    return list(scores.split([len(ranking.responses) for ranking in part]))


@torch.no_grad()
def score_rankings(forward: Forward, role: str, encoded: Sequence[Encoded], tokens: int) -> list[Tensor]:
    """A [K] tensor of scores for each of all rankings, on the CPU. Every process calls it together.

    A ranking that is larger than `tokens` goes through the model a part of its responses at a time.
    """
    split = [in_parts(ranking, tokens, forward.share_prompt) for ranking in encoded]
    found: dict[int, Tensor] = {}
    parts = [part for one in split for part in one]
    for some in passes(forward.roles, parts, tokens, rankings(forward.share_prompt)):
        scores = ranking_scores(forward, role, some.items)
        found.update(zip(some.rows, (s.cpu() for s in scores), strict=False))
    in_order = iter(found[i] for i in range(len(parts)))
    return [torch.cat([next(in_order) for _ in one]) for one in split]
