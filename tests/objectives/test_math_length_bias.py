"""What length adds to scores: against statsmodels' LOWESS and least squares, and numpy's correlations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from align.objectives.length_bias import (
    correlation,
    cosine_size,
    disentangled,
    linear_bias,
    lowess,
    lowess_bias,
    piecewise,
)

X = torch.tensor([3, 5, 8, 9, 12, 15, 17, 21, 26, 30, 34, 41], dtype=torch.float64)
Y = torch.tensor([-1.2, -0.4, 0.1, -0.3, 0.6, 0.2, 0.9, 1.4, 3.9, 1.1, 1.6, 1.2], dtype=torch.float64)

# statsmodels 0.15, nonparametric.lowess(y, x, frac, it, delta=0)
SMOOTH = {
    (2 / 3, 0): [
        -0.8918764385713296, -0.6152717961215728, -0.21539819909993616, -0.08497920653863593,
        0.2690396875638439, 0.6071213025043434, 0.9804648833936079, 1.6776117169874034,
        1.8672407710563932, 1.8300651124317393, 1.6513090119192921, 1.2356898228039404,
    ],
    (2 / 3, 3): [
        -0.8919525014167684, -0.6150261449588511, -0.21426847069357968, -0.08355883702432992,
        0.2716007502684291, 0.6107240435682102, 0.8400965978220093, 1.038770064970857,
        1.2100734970793547, 1.2812741705876423, 1.297574366289699, 1.324348930776476,
    ],
    (0.5, 2): [
        -1.0096380040968451, -0.6512675015671704, -0.11456515870748187, 0.04145441939757333,
        0.2667657887104728, 0.5785946505069341, 0.8278142557466712, 1.4346522114599054,
        1.2703784756432623, 1.3361266986768863, 1.3153336035709662, 1.288879931701584,
    ],
}  # fmt: skip


@pytest.mark.parametrize("asked", SMOOTH)
def test_lowess_is_that_of_statsmodels(asked: tuple[float, int]) -> None:
    assert lowess(X, Y, X, *asked).tolist() == pytest.approx(SMOOTH[asked], abs=1e-9)


def test_the_line_has_a_level_for_each_prompt() -> None:
    """The slope is statsmodels' OLS with a dummy for each prompt; levels of the prompts change nothing."""
    prompts = torch.arange(4).repeat_interleave(3)
    for levels in (0.0, 3.0, -50.0):
        places, curve = linear_bias(Y + levels * prompts, X, prompts)
        assert places.tolist() == [3, 41]
        assert float((curve[1] - curve[0]) / 38) == pytest.approx(0.13975, abs=1e-10)
        at = piecewise(X, places, curve)
        assert float(at.mean()) == pytest.approx(0, abs=1e-12)
        assert piecewise(torch.tensor([100.0]), places, curve).item() == pytest.approx(
            0.13975 * (100 - X.mean().item()), abs=1e-9
        )


def test_a_bent_curve_is_found_beside_levels_that_go_against_it() -> None:
    """Long answers belong to prompts that score low: without levels, length would seem to do harm."""
    random = np.random.default_rng(0)
    prompts = np.repeat(np.arange(200), 4)
    lengths = np.round(20 + 0.5 * prompts + random.uniform(-18, 18, 800))
    truth = np.minimum(lengths, 80) / 20  # rises, then is flat
    scores = truth - 0.08 * prompts + random.normal(0, 0.05, 800)
    found = lowess_bias(*map(torch.tensor, (scores, lengths, prompts)))
    at = piecewise(torch.tensor([30.0, 60.0, 100.0, 120.0, 500.0]), *found)
    assert float(at[1] - at[0]) == pytest.approx(1.5, abs=0.3)
    assert float(at[3] - at[2]) == pytest.approx(0.0, abs=0.3)
    assert at[4] == found[1][-1]  # level beyond the longest
    assert np.corrcoef(scores, lengths)[0, 1] < -0.5
    straight = linear_bias(*map(torch.tensor, (scores, lengths, prompts)))
    assert straight[1][1] > straight[1][0]


@pytest.mark.parametrize("fit", [linear_bias, lowess_bias])
def test_without_two_lengths_to_a_prompt_nothing_is_taken_off(fit) -> None:  # type: ignore[no-untyped-def]
    alone = fit(Y, X, torch.arange(12))
    assert piecewise(X, *alone).abs().max() < 1e-9
    same = fit(Y, torch.full_like(X, 7), torch.arange(12) // 3)
    assert piecewise(torch.tensor([1.0, 7.0, 9.0]), *same).abs().max() < 1e-9


def test_odins_losses_by_numpy() -> None:
    quality = torch.tensor([0.3, -1.0, 2.0, 0.5], requires_grad=True)
    length = torch.tensor([1.0, 2.0, 2.5, 7.0], requires_grad=True)
    tokens = torch.tensor([10, 4, 30, 12])
    q, n = (np.corrcoef(x.detach().numpy(), tokens.numpy())[0, 1] for x in (quality, length))
    loss = disentangled(quality, length, tokens, 2.0)
    assert loss.item() == pytest.approx(2 * (abs(q) - n), abs=1e-6)
    loss.backward()
    assert quality.grad is not None and quality.grad.abs().max() > 0
    assert correlation(torch.ones(3), torch.arange(3.0)) == 0
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([-4.0, 0.0])
    assert cosine_size(a, b).item() == pytest.approx(0.6)
    assert cosine_size(a, torch.zeros(2)) == 0
