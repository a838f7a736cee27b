"""Padding, and batches within a budget of tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.models.batch import collate
from align.models.passes import microbatches

quick = settings(deadline=None, max_examples=60)


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
