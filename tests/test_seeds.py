"""Orders, steps and generators: functions of their arguments, whatever was drawn before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.seeds import generator, order, step_rows

quick = settings(deadline=None, max_examples=60)
small = st.integers(1, 40)


@quick
@given(st.integers(0, 2**63), st.integers(0, 100), small)
def test_an_order_is_a_permutation_and_a_function_of_its_arguments(seed: int, epoch: int, n: int) -> None:
    first = order(seed, "sft", epoch, n)
    torch.manual_seed(seed % 1000)
    torch.rand(3)
    assert order(seed, "sft", epoch, n) == first
    assert sorted(first) == list(range(n))


def test_seed_stage_and_epoch_each_give_another_order() -> None:
    orders = [order(0, "sft", 0, 50), order(1, "sft", 0, 50), order(0, "rm", 0, 50), order(0, "sft", 1, 50)]
    assert len({tuple(one) for one in orders}) == 4


@quick
@given(st.integers(0, 99), small, small, st.integers(1, 4))
def test_steps_cut_the_epochs_one_behind_the_other(seed: int, n: int, batch_size: int, epochs: int) -> None:
    steps = -(-epochs * n // batch_size)
    rows = [row for step in range(steps) for row in step_rows(seed, "rm", step, batch_size, n)]
    assert len(rows) == steps * batch_size
    for epoch in range(epochs):
        assert rows[epoch * n : (epoch + 1) * n] == order(seed, "rm", epoch, n)


def test_a_late_step_needs_no_earlier_one() -> None:
    assert step_rows(3, "rm", 10**6, 7, 10) == [
        (order(3, "rm", 700_000 + i // 10, 10))[i % 10] for i in range(7)
    ]


@pytest.mark.parametrize(("batch_size", "n"), [(4, 0), (0, 4)])
def test_no_rows_and_no_batch_are_refused(batch_size: int, n: int) -> None:
    with pytest.raises(ValueError, match="n >= 1 and batch_size >= 1"):
        step_rows(0, "sft", 0, batch_size, n)


def test_generators_are_told_apart_by_every_name() -> None:
    names: list[tuple[int, tuple[str | int, ...]]] = [
        (0, ()),
        (1, ()),
        (0, (0,)),
        (0, ("0",)),
        (0, (0, 0)),
        (0, ("a", "b")),
        (0, ("b", "a")),
        (0, ("ab",)),
        (0, (1, 23)),
        (0, (12, 3)),
    ]
    draws = [tuple(torch.rand(4, generator=generator(seed, *rest)).tolist()) for seed, rest in names]
    assert len(set(draws)) == len(names)
    torch.rand(5)
    again = torch.rand(4, generator=generator(0, "a", "b"))
    assert tuple(again.tolist()) == draws[5]


def test_a_generator_is_the_same_on_every_machine() -> None:
    # The first 4 bytes of: printf '%s' '[7, "ppo", 3]' | sha256sum
    assert generator(7, "ppo", 3).initial_seed() == 0x64222A0A
