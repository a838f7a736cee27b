"""A ranking that is larger than a pass may be: the loss and gradients of one piece, within the budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from test_packed import model, with_reward
from torch import Tensor

from align.data.tokenize import Encoded
from align.models.batch import Batch
from align.models.forward import Forward
from align.models.packed import Packed, in_parts, size
from align.models.scoring import score_rankings
from align.recipe.sections import RM
from align.stages.ranking_gradients import gradients
from align.stages.ranking_rows import RankingRow

# Six responses with a tie and one that nobody ranked, two small rankings, and one that is all ties.
LONG = Encoded(
    [5, 6, 7, 30], [[8, 9, 10, 1], [11, 1], [12, 13, 14, 15, 16, 1], [17, 1], [18, 19, 1], [20, 1]]
)
SHORT = Encoded([20, 21], [[22, 23, 1], [24, 1]])
TIED = Encoded([40], [[41, 42, 43, 44, 45, 46, 47, 1], [33, 34, 35, 36, 1], [37, 1]])
ROWS = [
    RankingRow(SHORT, (1, 2), 1.0),
    RankingRow(LONG, (2, 1, 3, 3, None, 4), 2.0, 1.5),
    RankingRow(TIED, (1, 1, 1), 0.5),
    RankingRow(SHORT, (2, 1)),
]
TOKENS = 14  # LONG takes 23 packed and 60 in rows of their own; TIED 16 and 27; SHORT 7 and 10


def learned(forward: Forward, rows: list[RankingRow] = ROWS, **fields: Any) -> tuple[Tensor, Tensor]:
    """The sums that `gradients` returns, and the gradients in one vector."""
    forward.roles.zero_grad()
    cfg = RM.model_validate({"batch_size": len(rows), **fields})
    (sums,) = gradients(forward, rows, cfg, Accelerator(cpu=True))
    named = forward.roles.parameters_of("reward").values()
    return sums, torch.cat([p.grad.flatten() for p in named if p.grad is not None])


def reward(share_prompt: bool, dtype: torch.dtype = torch.float32) -> Forward:
    forward = with_reward(model("llama").to(dtype))
    forward.share_prompt = share_prompt
    return forward


# Rows of another length are summed in another order: in float32 that alone is 1.5e-6 of the gradient's norm.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 3e-7)])
@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize(
    "fields", [{}, {"ties": "half"}, {"margin": 0.7}, {"ties": "half", "margin": 0.7, "centering_coef": 0.1}]
)
def test_loss_and_gradients_are_those_of_one_piece(
    fields: dict[str, Any], share_prompt: bool, dtype: torch.dtype, tolerance: float
) -> None:
    forward = reward(share_prompt, dtype)
    sums, expected = learned(forward, **fields, microbatch_tokens=10**6)
    found_sums, found = learned(forward, **fields, microbatch_tokens=TOKENS)
    torch.testing.assert_close(found_sums, sums, rtol=1e-6, atol=0.0)
    assert float(expected.norm()) > 1e-2
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())


def test_a_share_of_large_rankings_alone() -> None:
    forward = reward(True, torch.float64)
    rows = [ROWS[1], ROWS[1]]
    sums, expected = learned(forward, rows)
    found_sums, found = learned(forward, rows, microbatch_tokens=TOKENS)
    torch.testing.assert_close(found_sums, sums, rtol=1e-6, atol=0.0)
    assert float((found - expected).norm()) <= 1e-6 * float(expected.norm())


@pytest.mark.parametrize("share_prompt", [True, False])
def test_no_pass_is_larger_than_the_budget(share_prompt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, sizes = reward(share_prompt), []
    below = Forward.below

    def watched(self: Forward, batch: Batch | Packed) -> Any:
        sizes.append(batch.input_ids.numel())
        return below(self, batch)

    monkeypatch.setattr(Forward, "below", watched)
    learned(forward, microbatch_tokens=TOKENS)
    score_rankings(forward, "reward", [LONG, SHORT, TIED], TOKENS)
    assert max(sizes) <= TOKENS


@pytest.mark.parametrize("share_prompt", [True, False])
def test_scores_are_those_of_one_piece_in_order(share_prompt: bool) -> None:
    forward = reward(share_prompt)
    whole = score_rankings(forward, "reward", [LONG, SHORT, TIED], 10**6)
    parts = score_rankings(forward, "reward", [LONG, SHORT, TIED], TOKENS)
    assert [len(scores) for scores in parts] == [6, 2, 3]
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_what_fits_goes_through_once_and_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = reward(True), []
    below = Forward.below
    monkeypatch.setattr(Forward, "below", lambda self, batch: (calls.append(batch), below(self, batch))[1])
    learned(forward, microbatch_tokens=53)  # all four rankings: 23 + 7 + 16 + 7, padded to more
    assert len([batch for batch in calls if isinstance(batch, Packed)]) == 2
    assert sum(len(batch.rows) for batch in calls) == 6 + 2 + 3 + 2


@pytest.mark.parametrize(("share_prompt", "tokens"), [(True, 14), (True, 1), (False, 20), (False, 1)])
def test_parts_are_in_order_and_as_large_as_fits(share_prompt: bool, tokens: int) -> None:
    parts = in_parts(LONG, tokens, share_prompt)
    assert [response for part in parts for response in part.responses] == LONG.responses
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        rows, longest = size(part, share_prompt)
        assert rows * longest <= tokens or len(part.responses) == 1
        if following is not None:
            wider = Encoded(LONG.prompt, [*part.responses, following.responses[0]])
            rows, longest = size(wider, share_prompt)
            assert rows * longest > tokens
