"""Orders, steps and padding: functions of their arguments, whatever was drawn before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.batches import collate, generator, microbatches, order, step_rows

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


def test_collate_pads_on_the_right() -> None:
    batch = collate([([5, 6], [7]), ([8], [9, 10, 11, 0])], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 0, 0], [8, 9, 10, 11, 0]]
    assert batch.attention_mask.tolist() == [[True, True, True, False, False], [True] * 5]
    assert batch.prompt_lengths.tolist() == [2, 1]
    assert batch.lengths.tolist() == [3, 5]
    types = (
        batch.input_ids.dtype,
        batch.attention_mask.dtype,
        batch.prompt_lengths.dtype,
        batch.lengths.dtype,
    )
    assert types == (torch.int64, torch.bool, torch.int64, torch.int64)


@quick
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9), min_size=1)),
        min_size=1,
    )
)
def test_what_was_collated_can_be_cut_out_again(pairs: list[tuple[list[int], list[int]]]) -> None:
    batch = collate(pairs, pad_id=3)
    for row, (prompt, response) in enumerate(pairs):
        real = batch.input_ids[row][batch.attention_mask[row]].tolist()
        assert real[: batch.prompt_lengths[row]] == prompt
        assert real[batch.prompt_lengths[row] :] == response
        assert batch.lengths[row] == len(real)
        assert (batch.input_ids[row][~batch.attention_mask[row]] == 3).all()


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([], 0)


@quick
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 300)), max_size=40), st.integers(1, 2000))
def test_microbatches_hold_each_item_once_within_the_budget(
    sizes: list[tuple[int, int]], tokens: int
) -> None:
    groups = microbatches(sizes, tokens)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        cost = sum(sizes[i][0] for i in group) * max(sizes[i][1] for i in group)
        assert cost <= tokens or len(group) == 1
    longest = [sizes[i][1] for group in groups for i in group]
    assert longest == sorted(longest, reverse=True)


def test_microbatches_by_hand() -> None:
    sizes = [(1, 10), (1, 40), (1, 12), (1, 30), (1, 100)]
    assert microbatches(sizes, 60) == [[4], [1], [3, 2], [0]]
    assert microbatches(sizes, 80) == [[4], [1, 3], [2, 0]]
    assert microbatches([(4, 10), (2, 10), (1, 10)], 60) == [[0, 1], [2]]
    assert microbatches([], 60) == []
