"""Calibration against sums by hand, closed solutions, and scipy."""

from __future__ import annotations

import math

import pytest
import torch

from align.evaluation.calibration import calibrate, fit, fit_temperature, reliability

LN3, LN9 = math.log(3), math.log(9)


def _z(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_log_loss_and_brier_by_hand() -> None:
    # p = 3/4, 3/4, 1/4: (-2 ln 0.75 - ln 0.25) / 3 and (2 (1/4)^2 + (3/4)^2) / 3.
    found = fit(_z(LN3, LN3, -LN3), [0, 1, 2], seed=0)
    assert found.log_loss.value == pytest.approx(0.6538862, abs=1e-7)
    assert found.brier.value == pytest.approx(0.2291667, abs=1e-7)
    assert found.log_loss.count == 3


def test_a_model_that_guesses_has_ln_2_and_a_quarter() -> None:
    found = fit(_z(0, 0, 0), [0, 1, 2], seed=0)
    assert (found.log_loss.value, found.brier.value, found.ece) == (
        pytest.approx(math.log(2)),
        pytest.approx(0.25),
        pytest.approx(0.0),
    )


def test_calibration_error_by_hand() -> None:
    """Says 0.9, is right 3 times of 4: |0.9 - 0.75| in the bin of 0.9, and the same in its mirror image."""
    found = fit(_z(LN9, LN9, LN9, -LN9), [0, 1, 2, 3], seed=0)
    assert found.ece == pytest.approx(0.15)
    filled = {i: b for i, b in enumerate(found.bins) if b.count}
    assert sorted(filled) == [1, 13]  # 0.1 * 15 = 1.5 and 0.9 * 15 = 13.5
    assert (filled[13].count, filled[1].count) == (4, 4)
    assert (filled[13].probability, filled[13].observed) == (pytest.approx(0.9), pytest.approx(0.75))
    assert (filled[1].probability, filled[1].observed) == (pytest.approx(0.1), pytest.approx(0.25))
    assert filled[13].observed_low < 0.75 < filled[13].observed_high <= 1


def test_bins_mirror_each_other_and_lie_side_by_side() -> None:
    z = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.7
    bins = reliability(z, list(range(500)), seed=0)
    assert len(bins) == 15
    assert (bins[0].low, bins[14].high) == (0.0, 1.0)
    assert sum(b.count for b in bins) == 1000
    for one, mirror in zip(bins, reversed(bins), strict=True):
        assert one.count == mirror.count
        if one.count:
            assert one.probability == pytest.approx(1 - mirror.probability)
            assert one.observed == pytest.approx(1 - mirror.observed)
            assert one.low - 1e-9 <= one.probability <= one.high + 1e-9
    for one, following in zip(bins, bins[1:], strict=False):
        assert one.high == following.low


def test_certain_scores_fall_into_the_outermost_bins() -> None:
    bins = reliability(_z(800.0, -800.0), [0, 1], seed=0)
    assert (bins[14].count, bins[14].observed, bins[0].count) == (2, 0.5, 2)


def test_the_temperature_of_margins_of_one_size() -> None:
    """k of n right at the same margin d: sigmoid(d / T) = k / n, so T = d / ln(k / (n - k))."""
    assert fit_temperature(_z(LN9, LN9, LN9, -LN9)) == (pytest.approx(2.0, rel=1e-12), False)
    temperature, _ = fit_temperature(_z(*[0.5] * 9, -0.5))
    assert temperature == pytest.approx(0.5 / LN9, rel=1e-12)
    temperature, _ = fit_temperature(_z(*[1e4] * 9, -1e4))  # whatever the scores' unit
    assert temperature == pytest.approx(1e4 / LN9, rel=1e-12)


def test_the_temperature_is_scipys() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    draws = torch.Generator().manual_seed(3)
    for shift, size in ((0.3, 1.0), (1.0, 0.2), (0.05, 30.0)):
        margins = size * (torch.randn(400, dtype=torch.float64, generator=draws) + shift)
        theirs = optimize.minimize_scalar(
            lambda a, m=margins: float(torch.nn.functional.softplus(-a * m).mean()),
            bounds=(1e-4 / size, 1e2 / size),
            method="bounded",
            options={"xatol": 1e-12},
        ).x
        assert fit_temperature(margins)[0] == pytest.approx(1 / theirs, rel=1e-4)


def test_without_a_best_temperature_it_is_the_bound() -> None:
    temperature, at_bound = fit_temperature(_z(2.0, 2.0))  # all right: the smaller the better
    assert (temperature, at_bound) == (pytest.approx(2.0 / 100), True)
    temperature, at_bound = fit_temperature(_z(2.0, -2.0, -2.0))  # worse than chance: the larger the better
    assert (temperature, at_bound) == (pytest.approx(2.0 / 0.01), True)
    assert fit_temperature(_z(0.0, 0.0)) == (1.0, True)
    assert math.isnan(fit_temperature(_z())[0])


def test_the_temperature_is_measured_on_the_half_that_did_not_give_it() -> None:
    """Two prompts, three of four right: margins of ln 9 want T = 2, margins of 2 ln 9 want T = 4."""
    margins = [LN9, LN9, LN9, -LN9, 2 * LN9, 2 * LN9, 2 * LN9, -2 * LN9]
    found = calibrate(margins, [0] * 4 + [1] * 4, seed=0)
    assert found.halves is not None and found.scaled is not None
    assert sorted(found.halves) == [pytest.approx(2.0), pytest.approx(4.0)]

    def loss(z: float) -> float:
        return 0.75 * math.log1p(math.exp(-z)) + 0.25 * math.log1p(math.exp(z))

    assert found.scaled.log_loss.value == pytest.approx((loss(LN9 / 4) + loss(2 * LN9 / 2)) / 2)
    assert found.raw.log_loss.value == pytest.approx((loss(LN9) + loss(2 * LN9)) / 2)


def test_scaling_mends_overconfidence() -> None:
    """Every prompt is 3 of 4 right at 0.9: with T = 2 the model says 0.75, and its loss is the entropy."""
    found = calibrate([LN9, LN9, LN9, -LN9] * 20, [i // 4 for i in range(80)], seed=0)
    assert found.scaled is not None
    assert found.raw.ece == pytest.approx(0.15)
    assert found.scaled.ece == pytest.approx(0.0, abs=1e-9)
    assert found.scaled.log_loss.value == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert found.temperature == pytest.approx(2.0)


def test_a_single_prompt_cannot_be_split_and_none_is_nothing() -> None:
    assert calibrate([1.0, -0.5], [0, 0], seed=0).scaled is None
    empty = calibrate([], [], seed=0)
    assert empty.scaled is None and math.isnan(empty.raw.ece) and math.isnan(empty.temperature)
