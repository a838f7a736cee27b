"""The learning rate at the places that one can compute by hand."""

from __future__ import annotations

import pytest

from align.models.optimizer import learning_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]),
    ],
)
def test_ten_steps_with_two_of_warmup(schedule: str, expected: list[float]) -> None:
    rates = [learning_rate(1.0, step, 10, 0.2, schedule) for step in range(10)]  # type: ignore[arg-type]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_a_single_step_is_not_lost() -> None:
    assert learning_rate(1.0, 0, 1, 0.0, "linear") == 1.0
    assert learning_rate(1.0, 0, 1, 0.05, "linear") > 0
