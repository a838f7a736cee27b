"""PPO's rewards and losses against rlax's golden numbers, hand sums and identities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.objectives.kl import k1
from align.objectives.masked import masked_sum
from align.objectives.ppo import policy_loss, token_rewards, value_loss

quietly = settings(deadline=None, derandomize=True)  # no failures by load or by luck

MASK = torch.tensor([[True, True, True, False], [True, True, False, False], [True, True, True, True]])
COUNT = 9
RUBBISH = [3.0, float("nan"), float("inf"), float("-inf")]


def random(*seeds: int) -> list[Tensor]:
    """A float64 [3, 4] tensor a seed."""
    return [torch.randn(3, 4, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]


def spoiled(x: Tensor, rubbish: float) -> Tensor:
    return x.detach().masked_fill(~MASK, rubbish)


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers])


# --- rewards ---------------------------------------------------------------------------------------


def test_rewards_by_hand() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, 9.0]])
    ref_logprobs = torch.tensor([[-2.0, -2.0, -1.0], [-1.0, -3.0, 7.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rewards = token_rewards(torch.tensor([5.0, -1.0]), logprobs, ref_logprobs, mask, kl_coef=0.1)
    expected = torch.tensor([[-0.1, 0.0, 0.2 + 5.0], [0.0, -0.2 - 1.0, 0.0]])
    torch.testing.assert_close(rewards, expected)


@quietly
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.floats(0, 1))
def test_rewards_of_a_response_sum_to_its_score_less_its_kl(lengths: list[int], kl_coef: float) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (len(lengths), 6)
    logprobs = torch.randn(shape, generator=generator, dtype=torch.float64)
    ref_logprobs = torch.randn(shape, generator=generator, dtype=torch.float64)
    scores = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    rewards = token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef)
    kl = masked_sum(k1(logprobs, ref_logprobs), mask, dim=1)
    torch.testing.assert_close(rewards.sum(1), scores - kl_coef * kl)
    without = token_rewards(torch.zeros_like(scores), logprobs, ref_logprobs, mask, kl_coef)
    places = ((rewards - without).abs() > 1e-12).nonzero().tolist()
    assert places == [[b, length - 1] for b, length in enumerate(lengths)]


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rewards_know_no_padding_and_a_bad_score_stays_in_its_row(rubbish: float) -> None:
    logprobs, ref_logprobs = random(1, 2)
    scores = torch.tensor([1.0, rubbish, 3.0])
    clean = token_rewards(scores, logprobs, ref_logprobs, MASK, 0.1)
    rewards = token_rewards(scores, spoiled(logprobs, rubbish), spoiled(ref_logprobs, rubbish), MASK, 0.1)
    torch.testing.assert_close(rewards, clean, rtol=0, atol=0, equal_nan=True)
    assert rewards[[0, 2]].isfinite().all()
    assert rewards[1, [0, 2, 3]].isfinite().all()


def test_rewards_are_constants_in_at_least_float32() -> None:
    logprobs = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    rewards = token_rewards(torch.ones(3, requires_grad=True), logprobs, logprobs, MASK, 0.1)
    assert not rewards.requires_grad
    assert rewards.dtype == torch.float32


def test_a_response_without_tokens_is_refused() -> None:
    mask = torch.tensor([[True], [False]])
    with pytest.raises(ValueError, match="without a real token"):
        token_rewards(torch.ones(2), torch.ones(2, 1), torch.ones(2, 1), mask, 0.1)
    with pytest.raises(ValueError, match="scores has shape"):
        token_rewards(torch.ones(2, 1), torch.ones(2, 1), torch.ones(2, 1), mask, 0.1)


# --- the policy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "expected"), [(1.0, -0.17117467), (-1.0, 0.19333333)])
def test_rlax_clipped_surrogate(sign: float, expected: float) -> None:
    """The two rows of rlax's policy_gradients_test.py (DeepMind)."""
    logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-1.0, -2.0, -3.0]])
    old_logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [-3.0, -2.0, -1.0]])
    drawn = torch.arange(3)  # tokens 0, 1, 2
    logprobs, old_logprobs = (x.log_softmax(-1)[drawn, drawn].unsqueeze(0) for x in (logits, old_logits))
    advantages = sign * row(0.3, 0.2, 0.1)
    loss, _ = policy_loss(logprobs, old_logprobs, advantages, torch.ones(1, 3, dtype=torch.bool), 0.2, 3)
    assert loss.item() == pytest.approx(expected, abs=1e-5)  # rlax allows 1e-4


# advantage, ratio -> loss of the token, its gradient with respect to the log probability, clipped?
@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "gradient", "clipped"),
    [
        (2.0, 1.1, -2.2, -2.2, 0),
        (2.0, 1.5, -2.4, 0.0, 1),
        (2.0, 0.5, -1.0, -1.0, 0),
        (-2.0, 1.5, 3.0, 3.0, 0),
        (-2.0, 0.9, 1.8, 1.8, 0),
        (-2.0, 0.5, 1.6, 0.0, 1),
        (0.0, 3.0, 0.0, 0.0, 0),
    ],
)
def test_the_six_cases_of_the_ppo_papers_figure(
    advantage: float, ratio: float, loss: float, gradient: float, clipped: int
) -> None:
    logprobs = row(math.log(ratio) - 1).requires_grad_()
    mask = torch.tensor([[True]])
    result, stats = policy_loss(logprobs, row(-1.0), row(advantage), mask, 0.2, 1)
    result.backward()
    assert result.item() == pytest.approx(loss, abs=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert stats.clip_fraction_sum.item() == clipped
    assert stats.approx_kl_sum.item() == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)


def test_equal_policies_give_reinforce() -> None:
    logprobs, advantages = random(1, 2)
    logprobs.requires_grad_()
    loss, stats = policy_loss(logprobs, logprobs, advantages, MASK, 0.2, COUNT)
    loss.backward()
    assert loss.item() == pytest.approx(-advantages[MASK].mean().item())
    torch.testing.assert_close(logprobs.grad, -advantages * MASK / COUNT)
    assert (stats.clip_fraction_sum.item(), stats.approx_kl_sum.item()) == (0, 0)


def test_statistics_are_sums_over_real_tokens() -> None:
    logprobs, old_logprobs = random(1)[0], torch.zeros(3, 4, dtype=torch.float64)
    _, stats = policy_loss(logprobs, old_logprobs, torch.ones(3, 4), MASK, 0.2, 1000)
    real = logprobs[MASK].tolist()
    assert stats.clip_fraction_sum.item() == sum(x > math.log(1.2) for x in real)
    assert stats.approx_kl_sum.item() == pytest.approx(sum(math.exp(x) - 1 - x for x in real))


def test_only_the_new_log_probabilities_get_a_gradient() -> None:
    for function in (policy_loss, value_loss):
        new, old, target = (x.requires_grad_() for x in random(1, 2, 3))
        function(new, old, target, MASK, 0.2, COUNT)[0].backward()
        assert [x.grad is not None for x in (new, old, target)] == [True, False, False]


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
def test_a_policy_that_ran_away_gives_no_nan(advantage: float) -> None:
    logprobs = row(-1.0, -200.0).requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss, _ = policy_loss(logprobs, row(-200.0, -1.0), row(advantage, advantage), mask, 0.2, 2)
    loss.backward()
    assert loss.isfinite()
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()


# --- the value -------------------------------------------------------------------------------------


# value, old value, return -> loss of the token, its gradient, clipped? (value_clip_range 0.2)
@pytest.mark.parametrize(
    ("value", "old_value", "target", "loss", "gradient", "clipped"),
    [
        (1.1, 1.0, 2.0, 0.405, -0.9, 0),
        (1.5, 1.0, 2.0, 0.320, 0.0, 1),  # already moved towards the return: the clip holds it
        (0.5, 1.0, 2.0, 1.125, -1.5, 0),
        (1.0, 1.0, 1.0, 0.0, 0.0, 0),
    ],
)
def test_value_loss_by_hand(
    value: float, old_value: float, target: float, loss: float, gradient: float, clipped: int
) -> None:
    values = row(value).requires_grad_()
    result, stats = value_loss(values, row(old_value), row(target), torch.tensor([[True]]), 0.2, 1)
    result.backward()
    assert result.item() == pytest.approx(loss, abs=1e-6)
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(gradient, abs=1e-6)
    assert stats.clip_fraction_sum.item() == clipped


def test_a_wide_clip_range_is_half_the_mean_squared_error() -> None:
    values, old_values, returns = random(1, 2, 3)
    loss, _ = value_loss(values, old_values, returns, MASK, 1e9, COUNT)
    expected = torch.nn.functional.mse_loss(values[MASK], returns[MASK]) / 2
    torch.testing.assert_close(loss, expected)


# --- both ------------------------------------------------------------------------------------------

LOSSES = pytest.mark.parametrize("function", [policy_loss, value_loss])


@LOSSES
@pytest.mark.parametrize("rubbish", RUBBISH)
def test_padding_changes_neither_loss_nor_gradient(function, rubbish: float) -> None:  # type: ignore[no-untyped-def]
    first, *others = random(1, 2, 3)
    clean, dirty = first.clone().requires_grad_(), spoiled(first, rubbish).requires_grad_()
    loss, stats = function(clean, *others, MASK, 0.2, COUNT)
    dirty_loss, dirty_stats = function(dirty, *(spoiled(x, rubbish) for x in others), MASK, 0.2, COUNT)
    loss.backward()
    dirty_loss.backward()
    assert (dirty_loss, *dirty_stats) == (loss, *stats)
    assert dirty.grad is not None
    assert clean.grad is not None
    assert torch.equal(dirty.grad, clean.grad)
    assert not dirty.grad[~MASK].any()


@LOSSES
def test_microbatches_and_processes_add_up_to_the_whole(function) -> None:  # type: ignore[no-untyped-def]
    first, *others = random(1, 2, 3)
    whole, parts = first.clone().requires_grad_(), first.clone().requires_grad_()
    loss, stats = function(whole, *others, MASK, 0.2, COUNT)
    loss.backward()
    pieces = []
    for rows in (slice(0, 1), slice(1, 3)):  # three real tokens, then six
        piece, piece_stats = function(parts[rows], *(x[rows] for x in others), MASK[rows], 0.2, COUNT)
        piece.backward()
        pieces.append(torch.stack([piece.detach(), *piece_stats]))
    torch.testing.assert_close(sum(pieces), torch.stack([loss.detach(), *stats]))
    torch.testing.assert_close(parts.grad, whole.grad)


@LOSSES
def test_gradients_agree_with_finite_differences(function) -> None:  # type: ignore[no-untyped-def]
    first, *others = random(1, 2, 3)
    assert torch.autograd.gradcheck(
        lambda x: function(x, *others, MASK, 0.2, COUNT)[0], (first.requires_grad_(),)
    )


@LOSSES
def test_mistakes_are_told(function) -> None:  # type: ignore[no-untyped-def]
    x = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="count"):
        function(x, x, x, MASK, 0.2, 0)
    with pytest.raises(ValueError, match="boolean"):
        function(x, x, x, MASK.long(), 0.2, COUNT)
    with pytest.raises(ValueError, match="has shape"):
        function(x, x, x[:, :3], MASK, 0.2, COUNT)
    assert function(x.bfloat16(), x, x, MASK, 0.2, COUNT)[0].dtype == torch.float32
