"""KL as a loss, the adaptive coefficient and the shaped scores against exact gradients and sums by hand."""

import math

import pytest
import torch

from align.objectives.kl import adaptive_coef, k1, k2, k3, kl_loss
from align.objectives.ppo import shaped_scores, token_rewards, value_loss


def random(seed: int) -> torch.Tensor:
    return torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_gradients() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, old and reference log probabilities of 7 tokens, the exact KL and its gradient."""
    logits = random(0).requires_grad_()
    old, ref = random(1).log_softmax(0), random(2).log_softmax(0)
    policy = logits.log_softmax(0)
    kl = (policy.exp() * (policy - ref)).sum()
    (gradient,) = torch.autograd.grad(kl, logits)
    return logits, old, ref, kl.detach(), gradient


def expected_gradient(per_token: torch.Tensor, weights: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad((weights * per_token).sum(), logits)
    return gradient


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_kl_losss_expected_gradient_is_the_exact_kls(estimator: str, on_policy: bool) -> None:
    """The expectation is taken over all tokens of the vocabulary, drawn from the policy or an older one."""
    logits, old, ref, kl, exact = exact_gradients()
    policy = logits.log_softmax(0)
    drawn_from = policy.detach() if on_policy else old
    loss = kl_loss(policy, drawn_from, ref, estimator)  # type: ignore[arg-type]
    torch.testing.assert_close(expected_gradient(loss, drawn_from.exp(), logits), exact)
    value = (drawn_from.exp() * loss.detach()).sum()
    assert (abs(value.item() - kl.item()) < 1e-12) == (estimator != "k2")


def test_differentiating_an_estimator_is_right_for_k2_alone() -> None:
    """k1: no gradient at all. k3: the gradient of KL(reference || policy). As docs/ppo.md says."""
    logits, _, ref, _, exact = exact_gradients()
    policy = logits.log_softmax(0)
    weights = policy.detach().exp()
    gradients = {
        f.__name__: expected_gradient(f(logits.log_softmax(0), ref), weights, logits) for f in (k1, k2, k3)
    }
    torch.testing.assert_close(gradients["k1"], torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(gradients["k2"], exact)
    forward = (ref.exp() * (ref - policy)).sum()
    torch.testing.assert_close(gradients["k3"], torch.autograd.grad(forward, logits)[0])
    assert (gradients["k3"] - exact).abs().max() > 0.01


def test_zieglers_controller_by_hand() -> None:
    assert adaptive_coef(0.2, 6.6, 6.0, 256, 10_000) == pytest.approx(0.2 * (1 + 0.1 * 0.0256))
    assert adaptive_coef(0.2, 60.0, 6.0, 256, 10_000) == pytest.approx(0.2 * (1 + 0.2 * 0.0256))
    assert adaptive_coef(0.2, -1.0, 6.0, 256, 10_000) == pytest.approx(0.2 * (1 - 0.2 * 0.0256))
    assert adaptive_coef(0.2, 6.0, 6.0, 256, 10_000) == 0.2
    assert adaptive_coef(0.2, 0.0, 6.0, 1000, 100) == 0.0  # never negative


def test_shaped_scores_by_hand() -> None:
    scores = torch.tensor([3.0, -5.0, 0.5])
    lengths, eos = torch.tensor([4, 2, 1]), torch.tensor([True, False, True])
    shaped = shaped_scores(scores, lengths, eos, clip=2.0, length_penalty=0.1, missing_eos_penalty=1.0)
    assert shaped.tolist() == pytest.approx([1.6, -3.2, 0.4])
    plain = shaped_scores(scores, lengths, eos, clip=None, length_penalty=0.0, missing_eos_penalty=0.0)
    assert plain.tolist() == [3.0, -5.0, 0.5]


def test_rewards_with_k3_by_hand() -> None:
    logprobs, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -2.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    rewards = token_rewards(torch.tensor([1.0]), logprobs, ref, mask, 0.5, "k3")
    assert rewards.tolist()[0] == pytest.approx([-0.5 * math.exp(-1), 1.0])


def test_values_without_a_clip_by_hand() -> None:
    values, returns = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss, stats = value_loss(values, torch.tensor([[9.0, 9.0]]), returns, mask, None, 2)
    assert (loss.item(), stats.clip_fraction_sum.item()) == (2.5, 0)
