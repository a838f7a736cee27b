"""Scores have no zero of their own: they are shifted until demonstrations score 0 in the mean.

(As in 2009.01325, section 3.4, and 2203.02155, section 3.5.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from align.data.tokenize import encode_demonstrations
from align.models.forward import Forward
from align.models.heads import ScalarHead, centre, difference_rms
from align.models.packed import in_parts
from align.models.passes import passes, rankings
from align.models.scoring import last_states, score_rankings
from align.processes import distributed
from align.recipe.sections import RM, Recipe
from align.records import Demonstration
from align.seeds import order
from align.stages.frame import Setup
from align.stages.ranking_rows import RankingRow, RankingRows, best_alone
from align.stats.rankings import comparisons

_COMPARED = 64  # rankings whose responses' differences are to stay
_CENTRING_ROWS = 256  # demonstrations whose mean score becomes 0: its standard error is std/16


def centring_rows(
    demonstrations: Sequence[Demonstration] | None, train: RankingRows, recipe: Recipe, setup: Setup
) -> RankingRows:
    """Demonstrations, or without them best-ranked responses, as rankings of one: a draw from all of them."""
    if demonstrations is None:
        deciding = [i for i, row in enumerate(train) if comparisons(row.ranks)] or range(len(train))
        return [best_alone(train[deciding[i]]) for i in _draw(len(deciding), recipe)]
    records = [demonstrations[i] for i in _draw(len(demonstrations), recipe)]
    spec = recipe.data.demonstrations
    skip = spec is not None and spec.on_bad_record == "skip"
    encoded = encode_demonstrations(
        setup.template, records, recipe.sft.max_length, "data.demonstrations", skip=skip
    )
    return [RankingRow(one, (1,)) for one in encoded]


def compared_rows(train: RankingRows, recipe: Recipe) -> RankingRows:
    """Some of the rankings that the scores are there for, drawn from all of them."""
    return [train[i] for i in _draw(len(train), recipe)[:_COMPARED]]


def _draw(count: int, recipe: Recipe) -> list[int]:
    return order(recipe.run.seed, "rm centring", 0, count)[:_CENTRING_ROWS]


@torch.no_grad()
def centred(
    forward: Forward,
    rows: RankingRows,
    compared: RankingRows,
    probes: RankingRows,
    cfg: RM,
    setup: Setup,
    role: str = "reward",
) -> dict[str, Any]:
    """Let the rows' responses score 0 in the mean; gives what that did.

    compared: rankings between whose responses the scores' differences are to stay. The error is measured
    on the probes, which the constant direction was not fitted to.
    """
    head = forward.roles.heads[role]
    assert isinstance(head, ScalarHead)
    hidden, lengths = _states(forward, role, rows, cfg, setup)
    beside, _ = _states(forward, role, compared, cfg, setup)
    if head.length_curve is not None:  # what length adds is 0 in the mean of these too
        head.length_curve -= head.length_bias(lengths.to(head.length_curve.device)).mean()
    encoded = [row.encoded for row in probes]
    before = score_rankings(forward, role, encoded, cfg.microbatch_tokens)
    shift = centre(head, hidden, beside)
    after = score_rankings(forward, role, encoded, cfg.microbatch_tokens)
    scores = head.scores(hidden.to(head.weight.device), lengths).double()
    std = float(scores.std(unbiased=False))
    moved = difference_rms([new - old for new, old in zip(after, before, strict=True)])
    return {
        "mean": float(scores.mean()),
        "std": std,
        "shift": shift,
        "centring_error": moved / std if std else float("nan"),
        "rows": len(rows),
    }


def _states(forward: Forward, role: str, rows: RankingRows, cfg: RM, setup: Setup) -> tuple[Tensor, Tensor]:
    """The last hidden states [N, D] and tokens [N] of the rows' responses; every process has all of them."""
    mine = [row.encoded for row in distributed.share(rows, setup.accel)]
    split = [part for row in mine for part in in_parts(row, cfg.microbatch_tokens, forward.share_prompt)]
    ends: list[tuple[Tensor, Tensor]] = []
    for part in passes(forward.roles, split, cfg.microbatch_tokens, rankings(forward.share_prompt)):
        states = last_states(forward, role, part.items).cpu()
        lengths = torch.tensor([len(response) for one in part.items for response in one.responses])
        ends += [(states, lengths)] if part.rows else []
    everyones = distributed.gather_lists(ends, setup.accel)
    return torch.cat([states for states, _ in everyones]), torch.cat([lengths for _, lengths in everyones])
