"""PPO-ptx, by hand, without a model: which demonstrations, and what of their likelihood."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from align.data.tokenize import Encoded
from align.ppo import ptx
from align.ppo.ptx import ptx_backward, with_demonstrations
from align.recipe.ppo import PPO

SIZES = {"rollout_batch_size": 8, "minibatch_size": 2, "ppo_epochs": 1, "temperature": 0.5}


def prepared(asked: list[Any], **fields: Any) -> tuple[Any, torch.Tensor]:
    """A policy that gives every response token the log probability w; demonstration i has i + 1 of them."""
    w = torch.tensor(-3.0, requires_grad=True)

    def logprobs(role: str, batch: Any, temperature: float, end_anywhere: bool) -> Any:
        asked.append((role, temperature, end_anywhere))
        count = batch.lengths - batch.prompt_lengths
        mask = torch.arange(int(count.max())) < count[:, None]
        return w * mask, None, mask

    forward = SimpleNamespace(
        prefix=lambda batch: batch,
        logprobs=logprobs,
        more_elsewhere=lambda passes: 0,
        idle=lambda *_: None,
        roles=SimpleNamespace(base=SimpleNamespace(device=torch.device("cpu")), more_elsewhere=lambda own: 0),
    )
    context = SimpleNamespace(
        cfg=PPO(ptx_coef=0.5, **{**SIZES, **fields}),
        seed=0,
        demonstrations=[Encoded([9], [[7] * (i + 1)]) for i in range(8)],
        forward=forward,
        accel=SimpleNamespace(num_processes=1, process_index=0),
        setup=SimpleNamespace(base=SimpleNamespace(pad_id=0)),
    )
    return context, w


@pytest.mark.parametrize("microbatch_tokens", [1, 1000])
def test_the_loss_and_its_gradient(microbatch_tokens: int) -> None:
    """A mean over tokens, so 3 nats however they are spread; its gradient by w is -1, weighted by 0.5."""
    asked: list[Any] = []
    context, w = prepared(asked, microbatch_tokens=microbatch_tokens)
    assert ptx_backward(context, 0, 0).item() == pytest.approx(3.0)
    assert w.grad is not None and w.grad.item() == pytest.approx(-0.5)
    assert set(asked) == {("policy", 1.0, True)}  # as sft trains: no temperature, EOS anywhere


@pytest.mark.parametrize(("size", "rows"), [(None, 2), (3, 3)])
def test_how_many_and_which(monkeypatch: pytest.MonkeyPatch, size: int | None, rows: int) -> None:
    """A minibatch's number without ptx_batch_size; four updates an iteration, none like another."""
    drawn: list[tuple[int, int]] = []
    original = ptx.ptx_rows

    def spy(seed: int, update: int, size: int, rows: Any) -> Any:
        drawn.append((update, size))
        return original(seed, update, size, rows)

    monkeypatch.setattr(ptx, "ptx_rows", spy)
    context, _ = prepared([], ptx_batch_size=size)
    for iteration, step in ((0, 0), (0, 3), (1, 0), (2, 1)):
        ptx_backward(context, iteration, step)
    assert drawn == [(0, rows), (3, rows), (4, rows), (9, rows)]


@pytest.mark.parametrize("on_bad_record", ["fail", "skip"])
def test_demonstrations_are_read_as_sft_reads_them(
    monkeypatch: pytest.MonkeyPatch, on_bad_record: str
) -> None:
    seen: list[Any] = []

    def encode(*arguments: Any, skip: bool) -> Any:
        seen.append((*arguments, skip))
        return [Encoded([1], [[2]])]

    monkeypatch.setattr(ptx, "encode_demonstrations", encode)
    monkeypatch.setattr(ptx, "replace", lambda context, demonstrations: demonstrations)
    data = SimpleNamespace(demonstrations=SimpleNamespace(on_bad_record=on_bad_record), cache_folder="cache")
    recipe: Any = SimpleNamespace(data=data, sft=SimpleNamespace(max_length=77))
    context: Any = SimpleNamespace(setup=SimpleNamespace(template="template"))
    split: Any = SimpleNamespace(train=["train"], held_out=["held out"])
    assert with_demonstrations(context, recipe, split) == [Encoded([1], [[2]])]
    skip = on_bad_record == "skip"
    assert seen == [("template", ["train"], 77, "data.demonstrations", "cache", skip)]
