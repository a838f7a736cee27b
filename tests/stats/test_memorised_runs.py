"""The longest run in common, and what counts as repeated exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.stats.memorised import is_extracted, longest_common_run

tokens = st.lists(st.integers(0, 3), max_size=12)


def naive(found: list[int], true: list[int]) -> int:
    """Every run of `found`, looked for everywhere in `true`."""
    runs = [found[a:b] for a in range(len(found)) for b in range(a + 1, len(found) + 1)]
    places = range(len(true))
    return max((len(run) for run in runs if any(true[i : i + len(run)] == run for i in places)), default=0)


@given(tokens, tokens)
def test_the_run_is_the_longest_that_stands_in_both(found: list[int], true: list[int]) -> None:
    length, start = longest_common_run(found, true)
    run = found[start : start + length]
    assert length == naive(found, true) == len(run)
    assert not run or any(true[i : i + length] == run for i in range(len(true)))


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ([1, 2, 3, 4], [9, 2, 3, 8], (2, 1)),
        ([5, 1, 2, 3], [1, 2, 3, 5], (3, 1)),
        ([1, 1, 1], [1, 1], (2, 0)),
        ([7, 1, 7, 2], [1, 3, 2], (1, 1)),  # of two runs of one token the first
        ([1, 2], [3, 4], (0, 0)),
        ([], [1], (0, 0)),
        ([1], [], (0, 0)),
    ],
)
def test_runs_by_hand(found: list[int], true: list[int], expected: tuple[int, int]) -> None:
    assert longest_common_run(found, true) == expected


@pytest.mark.parametrize(
    ("found", "true", "tokens", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 3, True),
        ([1, 2, 3, 4], [1, 2, 3], 50, True),  # all of a text that is shorter
        ([1, 2, 9], [1, 2, 3], 2, True),  # no more than the first tokens count
        ([1, 2, 9], [1, 2, 3], 3, False),
        ([1, 2], [1, 2, 3], 3, False),
        ([9, 1, 2], [1, 2], 2, False),
        ([1], [], 3, False),
    ],
)
def test_repeated_exactly(found: list[int], true: list[int], tokens: int, expected: bool) -> None:
    assert is_extracted(found, true, tokens) is expected
