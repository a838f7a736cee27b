"""Centring without a bias: the mean is 0, differences stay, and nothing breaks where it cannot work well."""

from __future__ import annotations

import math

import pytest
import torch

from align.models.heads import ScalarHead, centre, constant_direction, difference_rms


def _head(width: int) -> ScalarHead:
    head = ScalarHead(width, torch.Generator().manual_seed(1))
    with torch.no_grad():
        head.weight.mul_(20)
    return head


def _hidden(rows: int, width: int, seed: int, noise: float = 1.0) -> torch.Tensor:
    """Hidden states with a feature that is nearly always on, as a transformer's have."""
    draws = torch.Generator().manual_seed(seed)
    always = torch.randn(width, generator=torch.Generator().manual_seed(99))
    return 3 * always + noise * torch.randn(rows, width, generator=draws)


def _mean(head: ScalarHead, hidden: torch.Tensor) -> float:
    return float(head(hidden).detach().double().mean())


@pytest.mark.parametrize(("rows", "width"), [(256, 576), (256, 64), (24, 32), (3, 32), (1, 32)])
def test_the_mean_is_zero_afterwards(rows: int, width: int) -> None:
    head, hidden = _head(width), _hidden(rows, width, seed=0)
    before = _mean(head, hidden)
    shift = centre(head, hidden)
    assert abs(before) > 0.1
    assert abs(_mean(head, hidden)) < 1e-5
    assert shift == pytest.approx(-before, abs=1e-4)
    assert bool(torch.isfinite(head.weight).all())


def test_scores_move_together_also_where_nothing_was_fitted() -> None:
    head, fresh = _head(64), _hidden(500, 64, seed=7)
    before = head(fresh).detach()
    shift = centre(head, _hidden(256, 64, seed=0))
    change = head(fresh).detach() - before
    assert float(change.std()) < 0.1 * abs(shift)
    assert float(change.mean()) == pytest.approx(shift, rel=0.05)
    naive = 3 * torch.randn(64, generator=torch.Generator().manual_seed(99))  # the mean hidden state
    by_mean = fresh @ naive / naive.square().sum()
    best = fresh.double() @ constant_direction(_hidden(256, 64, seed=0))
    assert float(best.std()) < 1.1 * float(by_mean.std())


def test_an_exact_constant_is_found() -> None:
    """One feature is 2 everywhere: the direction is half of it, and differences don't change at all."""
    hidden = torch.cat([torch.full((100, 1), 2.0), torch.randn(100, 4)], dim=1)
    direction = constant_direction(hidden)
    torch.testing.assert_close(
        direction, torch.tensor([0.5, 0, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-6
    )
    head = _head(5)
    before = head(hidden).detach()
    centre(head, hidden)
    after = head(hidden).detach()
    torch.testing.assert_close(after - after[0], before - before[0], rtol=0, atol=1e-5)


def test_differences_stay_where_scores_are_compared_though_other_texts_set_the_zero() -> None:
    """The first feature is 1 in demonstrations alone, the second one, less strong, in everything."""
    draws = torch.Generator().manual_seed(0)
    first = torch.cat([torch.ones(24, 1), torch.randn(24, 7, generator=draws)], dim=1)
    compared = torch.randn(200, 8, generator=draws)
    first[:, 1], compared[:, 1] = 0.5, 0.5
    head = _head(8)
    before = head(compared[100:]).detach()
    centre(head, first, compared[:100])
    after = head(compared[100:]).detach()
    torch.testing.assert_close(after - after[0], before - before[0], rtol=0, atol=1e-3)
    assert abs(_mean(head, first)) < 1e-5


def test_many_more_features_than_rows_do_not_fit_the_noise() -> None:
    """Without a penalty 40 rows of 400 features are fitted exactly, and fresh rows far from 1."""
    fitted, fresh = _hidden(40, 400, seed=0, noise=4.0), _hidden(400, 400, seed=1, noise=4.0)
    ours = fresh.double() @ constant_direction(fitted)
    unpenalised = fresh.double() @ torch.linalg.pinv(fitted.double()).sum(1)
    assert float((ours - 1).square().mean()) < float((unpenalised - 1).square().mean())


def test_hidden_states_that_are_zero_or_average_to_it_score_zero_already() -> None:
    for hidden in (torch.zeros(4, 8), torch.tensor([[1.0] * 8, [-1.0] * 8])):
        head = _head(8)
        assert centre(head, hidden) == pytest.approx(0.0, abs=1e-6)
        assert bool(torch.isfinite(head.weight).all())
        assert abs(_mean(head, hidden)) < 1e-5


def test_half_precision_hidden_states_are_centred_too() -> None:
    head, hidden = _head(64), _hidden(50, 64, seed=0).bfloat16()
    centre(head, hidden)
    assert abs(_mean(head, hidden)) < 1e-5


def test_a_head_with_a_bias_is_not_centred() -> None:
    with pytest.raises(ValueError, match="without a bias"):
        centre(ScalarHead(4, torch.Generator(), bias=True), torch.ones(2, 4))


def test_how_much_differences_changed_by_hand() -> None:
    """All three up by 1 but the last, by 4: differences change by 0, 3 and 3; the other ranking's by 2."""
    changes = [torch.tensor([1.0, 1.0, 4.0]), torch.tensor([5.0, 7.0])]
    assert difference_rms(changes) == pytest.approx(math.sqrt((0 + 9 + 9 + 4) / 4))


def test_heads_start_with_std_one_over_root_of_width_plus_one() -> None:
    head = ScalarHead(40_000, torch.Generator().manual_seed(0))
    assert float(head.weight.detach().std()) * math.sqrt(40_001) == pytest.approx(1, abs=0.02)
    assert head.bias is None
    assert [name for name, _ in head.named_parameters()] == ["weight"]


def test_heads_start_with_another_std_where_one_is_given() -> None:
    heads = [ScalarHead(40_000, torch.Generator().manual_seed(0), std=std) for std in (0.02, 0.0)]
    assert float(heads[0].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not heads[1].weight.detach().any()


def test_a_bias_starts_at_zero_and_is_added() -> None:
    head = ScalarHead(2, torch.Generator().manual_seed(0), bias=True)
    assert head.bias is not None and head.bias.item() == 0.0
    with torch.no_grad():
        head.weight.copy_(torch.tensor([1.0, 2.0]))
        head.bias.fill_(0.5)
    assert head(torch.tensor([[3.0, 4.0]])).tolist() == [11.5]
