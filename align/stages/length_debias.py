"""What rm.length_debias does: a curve of length taken off the scores, or a second head that learns length.

`linear` and `lowess` fit, after training, what length adds to the scores of training responses (post-hoc
reward calibration, 2409.17407); the head keeps the curve, so it holds wherever the run's reward is read.
`odin` trains a head for quality and one for length on the same states (2402.07319); only the first is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.tokenize import Encoded
from align.evaluation.length_bias import LengthReport, length_report, with_scores
from align.evaluation.reward import ScoredRanking
from align.models.forward import Forward
from align.models.heads import ScalarHead
from align.models.packed import in_parts
from align.models.passes import Layout, passes, rankings
from align.models.roles import Roles
from align.models.scoring import last_states, score_rankings
from align.objectives.bradley_terry import batch_loss, has_pair, pair_accuracy
from align.objectives.length_bias import correlation, cosine_size, disentangled, linear_bias, lowess_bias
from align.processes import distributed
from align.recipe.sections import RM, Recipe
from align.seeds import generator, order
from align.stages.members import LENGTH, TOGETHER
from align.stages.ranking_rows import RankingRow, RankingRows

_RANKINGS = 2000  # that the curve is fitted on, at most: a draw from all


# A curve, fitted after training


def fit_curve(
    forward: Forward, train: RankingRows, recipe: Recipe, accel: Accelerator, role: str = "reward"
) -> str:
    """Give the head the curve of length that training responses show; returns what is said of it."""
    cfg = recipe.rm
    chosen = order(recipe.run.seed, "rm length", 0, len(train))[:_RANKINGS]
    encoded = [train[i].encoded for i in chosen]
    mine = distributed.share(encoded, accel)
    scores = distributed.gather_lists(score_rankings(forward, role, mine, cfg.microbatch_tokens), accel)
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(tuple(one.prompt) for one in encoded))}
    prompts = torch.tensor([numbers[tuple(one.prompt)] for one in encoded for _ in one.responses])
    lengths = _lengths(encoded)
    fit = linear_bias if cfg.length_debias == "linear" else lowess_bias
    places, curve = fit(torch.cat(scores), lengths, prompts)
    head = _head(forward.roles, role)
    head.debias(places, curve)
    low, high = (int(end) for end in lengths.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)))
    ends = head.length_bias(torch.tensor([low, high]).to(places.device)).tolist()
    return (
        f"length_debias: {cfg.length_debias}: from {low} to {high} tokens length adds "
        f"{ends[1] - ends[0]:+.3f} to a score, by {len(lengths):,} responses of {len(encoded):,} training "
        "rankings; it is taken off wherever this reward model scores"
    )


def _lengths(encoded: Iterable[Encoded]) -> Tensor:
    return torch.tensor([len(r) for one in encoded for r in one.responses], dtype=torch.float64)


def _head(roles: Roles, role: str) -> ScalarHead:
    head = roles.heads[role]
    assert isinstance(head, ScalarHead)
    return head


# Two heads (ODIN)


def add_length_head(roles: Roles, seed: int, std: float | None) -> None:
    """A second head on the reward's adapter, drawn apart from the first."""
    roles.share(LENGTH, "reward", trains=True)
    roles.add_head(LENGTH, generator(seed, "rm", "length head"), std=std)


def odin_gradients(
    forward: Forward, rows: RankingRows, cfg: RM, accel: Accelerator
) -> tuple[Tensor, dict[str, float]]:
    """What `ranking_gradients.gradients` does, with both heads: the sums [1, 3], and metrics of the heads.

    The correlations are of the whole batch, over all processes. So both heads' scores come first, without a
    graph, then the slope of the loss by each, then the gradients of score x slope, a pass at a time.
    """
    mine, tokens = distributed.share(rows, accel), cfg.microbatch_tokens
    parts = [
        (i, some)
        for i, row in enumerate(mine)
        for some in in_parts(row.encoded, tokens, forward.share_prompt)
    ]
    own = _two_scores(forward, len(mine), parts, tokens)
    everyones = distributed.gather_lists(own, accel)
    leaves = [both.clone().requires_grad_() for both in everyones]
    loss, metrics = _odin_loss(leaves, rows, cfg)
    loss.backward()
    slopes = [leaf.grad for leaf in distributed.share(leaves, accel)]
    _backward(forward, parts, slopes, tokens)
    if accel.is_main_process:  # gradients are added up over processes
        (cfg.orthogonal_coef * _heads_cosine(forward.roles)).backward()
    counted = [pair_accuracy(both.detach()[0], row.ranks) for both, row in zip(own, mine, strict=True)]
    right, pairs = sum(c for c, _ in counted), sum(n for _, n in counted)
    metrics["train/heads_cosine"] = float(_heads_cosine(forward.roles).detach())
    main = float(loss.detach()) if accel.is_main_process else 0.0
    return torch.tensor([[main, right, pairs]], dtype=torch.float64, device=accel.device), metrics


Part = tuple[int, Encoded]  # which ranking, and some of its responses


def _layout(forward: Forward) -> Layout[tuple[Part, Tensor]]:
    one = rankings(forward.share_prompt)
    return Layout(lambda item: one.size(item[0][1]), ((0, one.empty), torch.zeros(2, 1)))


def _both(forward: Forward, some: Sequence[Encoded]) -> Tensor:
    """What the heads for quality and for length say of these responses, [2, N]."""
    states = last_states(forward, "reward", some)
    return torch.stack([forward.roles.heads[role](states) for role in ("reward", LENGTH)])


@torch.no_grad()
def _two_scores(forward: Forward, count: int, parts: Sequence[Part], tokens: int) -> list[Tensor]:
    """Both heads' scores of each ranking, [2, K]."""
    found: dict[int, Tensor] = {}
    items = [(part, torch.zeros(2, 1)) for part in parts]
    for group in passes(forward.roles, items, tokens, _layout(forward)):
        sizes = [len(some.responses) for (_, some), _ in group.items]
        scores = _both(forward, [some for (_, some), _ in group.items]).split(sizes, dim=1)
        found.update(zip(group.rows, scores, strict=False))
    rows: list[list[Tensor]] = [[] for _ in range(count)]
    for place, (row, _) in enumerate(parts):
        rows[row].append(found[place])
    return [torch.cat(pieces, dim=1).cpu() for pieces in rows]


def _odin_loss(
    scores: Sequence[Tensor], rows: Sequence[RankingRow], cfg: RM
) -> tuple[Tensor, dict[str, float]]:
    """Rankings are told by the sum of both heads; the first is to know nothing of length, the second all."""
    ranks, weights = [row.ranks for row in rows], [row.weight for row in rows]
    margins, count = (
        [cfg.margin * row.strength for row in rows],
        sum(has_pair(r.ranks, cfg.ties) for r in rows),
    )
    total = [both.sum(0) for both in scores]
    loss = batch_loss(total, ranks, cfg.ties, cfg.centering_coef, margins, count, weights)
    quality, length = torch.cat(list(scores), dim=1).unbind(0)
    lengths = _lengths(row.encoded for row in rows)
    loss = loss + disentangled(quality, length, lengths, cfg.length_coef)
    said = {"quality": quality, "length": length}
    return loss, {
        f"train/length_in_{name}": float(correlation(head.detach().double(), lengths))
        for name, head in said.items()
    }


def _backward(forward: Forward, parts: Sequence[Part], slopes: Sequence[Tensor | None], tokens: int) -> None:
    """The gradients of score x slope [2, K] of these rankings, a pass at a time."""
    items: list[tuple[Part, Tensor]] = []
    done = [0] * len(slopes)
    for row, some in parts:
        slope, size = slopes[row], len(some.responses)
        assert slope is not None
        items.append(((row, some), slope[:, done[row] : done[row] + size]))
        done[row] += size
    for group in passes(forward.roles, items, tokens, _layout(forward)):
        found = _both(forward, [some for (_, some), _ in group.items])
        slope = torch.cat([slope for _, slope in group.items], dim=1)
        found.backward(slope.to(found))


def _heads_cosine(roles: Roles) -> Tensor:
    quality, length = (roles.parameters_of(role)["head.weight"] for role in ("reward", LENGTH))
    return cosine_size(quality, length)


# What it did


def reports(
    forward: Forward,
    scored: Sequence[ScoredRanking],
    held_out: RankingRows,
    recipe: Recipe,
    accel: Accelerator,
) -> tuple[LengthReport, LengthReport | None]:
    """Of the scores as they are, and as they would be without debiasing, where there is one."""
    cfg, seed = recipe.rm, recipe.run.seed
    now = length_report(scored, seed)
    if cfg.length_debias == "none":
        return now, None
    encoded = [row.encoded for row in held_out]
    if cfg.length_debias == "odin":
        mine = distributed.share(encoded, accel)
        taken = distributed.gather_lists(score_rankings(forward, LENGTH, mine, cfg.microbatch_tokens), accel)
    else:
        taken = [_taken(forward.roles, _lengths([one]).to(accel.device)).cpu() for one in encoded]
    before = [torch.tensor(one.scores) + more for one, more in zip(scored, taken, strict=True)]
    return now, length_report(with_scores(scored, before), seed)


def _taken(roles: Roles, lengths: Tensor) -> Tensor:
    """What is taken off the scores of responses of these lengths [K]; of several members in the mean."""
    together = roles.ensembles.get(TOGETHER)
    members = [("reward", 1.0)] if together is None else together.members
    return torch.stack([factor * _head(roles, role).length_bias(lengths) for role, factor in members]).mean(0)
