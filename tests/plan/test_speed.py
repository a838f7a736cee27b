"""What a step computes, by hand."""

from __future__ import annotations

import pytest
import torch

from align.data.tokenize import Encoded
from align.plan.flops import Work
from align.plan.speed import (
    Computed,
    of_demonstrations,
    of_rankings,
    of_sampling,
    of_scoring,
    of_updates,
    peak_memory,
    speed,
)

# Lower layers 10 weights, upper 20, an adapter 3; a pair costs 1 below and 2 above; the output layer 100.
WORK = Work(lower=10, upper=20, adapter=3, lower_pair=1, upper_pair=2, output=100)


def test_a_ranking_with_its_prompt_read_once() -> None:
    ranking = Encoded([1, 2, 3], [[4, 5], [6]])
    done = of_rankings(WORK, [ranking], share_prompt=True)
    # 3 + 2 + 1 tokens; pairs: prompt 6, responses 3 and 1, each response token sees the 3 of the prompt: 9
    pairs = 6 + 3 + 1 + 9
    forward = 6 * 33 + 3 * pairs
    backward = 6 * (20 + 2 * 3) + 2 * 2 * pairs
    assert done == Computed(6, 2 * (forward + backward))


def test_a_ranking_with_a_prompt_for_each_response() -> None:
    ranking = Encoded([1, 2, 3], [[4, 5], [6]])
    done = of_rankings(WORK, [ranking], share_prompt=False)
    pairs = 15 + 10  # rows of 5 and of 4
    assert done == Computed(9, 2 * (9 * 33 + 3 * pairs + 9 * 26 + 4 * pairs))


def test_demonstrations_read_logits_where_they_learn() -> None:
    done = of_demonstrations(WORK, [2, 1], learned=2)
    pairs = 3 + 1
    assert done == Computed(3, 2 * (3 * 33 + 3 * pairs + 200 + 3 * 26 + 4 * pairs + 200))


def test_scoring_runs_the_lower_layers_once_where_they_are_split() -> None:
    upper, pairs = 3 * 23 + 2 * 6, 6  # one prompt of 2 with a response of 1
    logits = 100
    lower = 3 * 10 + pairs
    one = of_scoring(WORK, [(2, 1)], roles=4, read=2, split=True)
    assert one == Computed(3, 2 * (4 * upper + 2 * logits + lower))
    whole = of_scoring(WORK, [(2, 1)], roles=4, read=2, split=False)
    assert whole == Computed(3, 2 * (4 * upper + 2 * logits + 4 * lower))


def test_sampling_reads_a_prompt_once_for_its_responses() -> None:
    done = of_sampling(WORK, [(2, 1), (2, 3)], each=2)
    tokens, pairs = 2 + 4, 3 + (6 - 3) + (15 - 3)  # one prompt, what the two responses add
    assert done == Computed(4, 2 * (33 * tokens + 3 * pairs + 100 * 4))


def test_updates_count_what_trains() -> None:
    lengths, pairs = [(2, 1)], 6
    one = 3 * 23 + 2 * pairs + 3 * 26 + 4 * pairs
    both = of_updates(WORK, lengths, 2, policy=True, value=True, split=True)
    assert both == Computed(6, 2 * 2 * (2 * one + 2 * 100))
    value = of_updates(WORK, lengths, 1, policy=False, value=True, split=True)
    assert value == Computed(3, 2 * one)


def test_operations_are_those_of_one_process() -> None:
    found = speed(Computed(1000, 6e12), 2.0, processes=3, device=torch.device("cpu"), part="update")
    flops = found.pop("perf/update_flops")  # of all processes
    assert found == {"perf/update_tokens_per_second": 500.0, "perf/update_tflops": 1.0} and flops == 6e12


def test_the_share_of_a_known_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    found = speed(Computed(10, 989.4e12), 2.0, processes=1, device=torch.device("cuda"))
    assert found["perf/mfu"] == pytest.approx(0.5)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Unheard Of")
    assert "perf/mfu" not in speed(Computed(10, 1e12), 2.0, processes=1, device=torch.device("cuda"))


def test_a_cpu_tells_no_peak() -> None:
    assert peak_memory(torch.device("cpu")) == {}
