"""The gradients of a batch of rankings: each response goes through the model once, or in parts that fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.tokenize import Encoded
from align.models.forward import Below, Forward
from align.models.packed import in_parts
from align.models.passes import Layout, passes, rankings
from align.models.scoring import laid_out, ranking_scores, score_rankings, scores_above
from align.objectives.bradley_terry import batch_loss, has_pair, pair_accuracy
from align.processes import distributed
from align.recipe.sections import RM
from align.stages.members import ALONE, Member
from align.stages.ranking_rows import RankingRow, RankingRows


def gradients(
    forward: Forward,
    rows: RankingRows,
    cfg: RM,
    accel: Accelerator,
    members: Sequence[Member] = (ALONE,),
) -> Tensor:
    """Add up the gradients of this process's share of a global batch of rankings, for each member.

    The layers below all adapters run once for all members. Returns the sums [M, 3] of loss, correct
    comparisons and comparisons.
    """
    counts = [sum(has_pair(row.ranks, cfg.ties) and member.learns(row) for row in rows) for member in members]
    sums = torch.zeros(len(members), 3, dtype=torch.float64, device=forward.roles.base.device)
    small, large = _by_size(forward, distributed.share(rows, accel), cfg)
    for part in passes(forward.roles, small, cfg.microbatch_tokens, _rows(forward)):
        encoded = [row.encoded for row in part.items]
        below = forward.below(laid_out(forward, encoded))
        for i, member in enumerate(members):
            sums[i] += _of_member(forward, member, below, part.items, cfg, counts[i]).to(sums)
    for i, member in enumerate(members):
        its = [row for row in large if member.learns(row)]
        elsewhere = forward.roles.more_elsewhere(len(its))
        if its or elsewhere:
            sums[i] += _in_parts(forward, its, cfg, counts[i], member.role).to(sums)
    return sums


def _backward(scores: list[Tensor], rows: RankingRows, cfg: RM, count: int) -> Tensor:
    """Gradients of some rankings' part of the loss by their scores [K], and what is behind these.

    Returns the sums [3] of loss, correct comparisons and comparisons.
    """
    ranks = [row.ranks for row in rows]
    margins = [cfg.margin * row.strength for row in rows]
    weights = [row.weight for row in rows]
    loss = batch_loss(scores, ranks, cfg.ties, cfg.centering_coef, margins, count, weights)
    loss.backward()
    counted = [pair_accuracy(s.detach(), r) for s, r in zip(scores, ranks, strict=True)]
    return torch.tensor([float(loss.detach()), sum(c for c, _ in counted), sum(n for _, n in counted)])


def _in_parts(forward: Forward, rows: RankingRows, cfg: RM, count: int, role: str) -> Tensor:
    """What `gradients` does, for rankings that are larger than a pass may be; all processes call it together.

    A ranking's loss needs all its scores, but backward only d loss / d score of each: so scores come first,
    without a graph, then their slopes, then the gradients of score x slope a part at a time. (The gradient
    cache of Gao et al., arXiv 2101.06983.)
    """
    tokens, share_prompt = cfg.microbatch_tokens, forward.share_prompt
    scores = score_rankings(forward, role, [row.encoded for row in rows], tokens)
    leaves = [s.requires_grad_() for s in scores]
    sums = _backward(leaves, rows, cfg, count) if rows else torch.zeros(3)
    parts: list[tuple[Encoded, Tensor]] = []
    for row, leaf in zip(rows, leaves, strict=True):
        assert leaf.grad is not None
        some = in_parts(row.encoded, tokens, share_prompt)
        parts += zip(some, leaf.grad.split([len(part.responses) for part in some]), strict=True)
    one = rankings(share_prompt)
    layout = Layout[tuple[Encoded, Tensor]](lambda item: one.size(item[0]), (one.empty, torch.zeros(1)))
    for group in passes(forward.roles, parts, tokens, layout):
        found = torch.cat(ranking_scores(forward, role, [part for part, _ in group.items]))
        found.backward(torch.cat([slope for _, slope in group.items]).to(found))
    return sums


def _rows(forward: Forward) -> Layout[RankingRow]:
    """Rankings with their ranks; a response alone has no comparison."""
    layout = rankings(forward.share_prompt)
    return Layout(lambda row: layout.size(row.encoded), RankingRow(layout.empty, (1,)))


def _of_member(
    forward: Forward, member: Member, below: Below, rows: RankingRows, cfg: RM, count: int
) -> Tensor:
    """One member's part in a pass, the sums [3]. Its graph is gone before the next member's begins."""
    scores = scores_above(forward, member.role, below, [row.encoded for row in rows])
    learnt = [place for place, row in enumerate(rows) if member.learns(row)]
    if learnt:
        return _backward([scores[place] for place in learnt], [rows[place] for place in learnt], cfg, count)
    if forward.roles.sharers:  # a pass of one process is a pass of all
        (0 * torch.cat(scores).sum()).backward()
    return torch.zeros(3)


def _by_size(forward: Forward, rows: RankingRows, cfg: RM) -> tuple[list[RankingRow], list[RankingRow]]:
    """Rankings that fit into a pass, and those that are larger."""
    small: list[RankingRow] = []
    large: list[RankingRow] = []
    for row in rows:
        fits = len(in_parts(row.encoded, cfg.microbatch_tokens, forward.share_prompt)) == 1
        (small if fits else large).append(row)
    return small, large
