"""Every process goes through as many passes as the one with the most, and what is empty counts nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from align.data.tokenize import Encoded
from align.models.batch import collate, stack
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.passes import PAIRS, passes, rankings, states
from align.models.roles import Roles
from align.models.scoring import ranking_scores, score_pairs, score_rankings, score_states
from align.objectives.bradley_terry import batch_loss
from align.recipe.sections import Lora

SEQUENCES = [([5, 6, 7], [8, 9]), ([5], [6, 7, 8, 9, 10]), ([11, 12], [13])]


def elsewhere(more: int) -> Any:
    """Roles on a base that is sharded with a process that has so many more passes."""
    return SimpleNamespace(more_elsewhere=lambda own: more)


@pytest.fixture(scope="module", params=[None, 1])
def forward(request: pytest.FixtureRequest, tiny_base: Path) -> Forward:
    roles = Roles(AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32))
    lora = Lora(targets=["q_proj", "v_proj"], rank=4, layers=request.param)
    torch.manual_seed(0)
    for role in ("policy", "reward"):
        roles.add(role, lora_config(lora, roles.base), trains=True)
        roles.add_head(role, torch.Generator().manual_seed(1))
        with torch.no_grad():
            for parameter in roles.parameters_of(role).values():
                parameter.add_(0.02)
    return Forward(roles)


def test_who_has_fewer_goes_along_on_empty_rows() -> None:
    found = list(passes(elsewhere(2), SEQUENCES, 7, PAIRS))
    assert [part.rows for part in found] == [[1], [0], [2], [], []]
    assert found[0].items == [SEQUENCES[1]] and found[-1].items == [PAIRS.empty]
    assert [part.rows for part in passes(elsewhere(0), [], 7, PAIRS)] == [[]]


def test_what_an_empty_pass_takes_has_no_token() -> None:
    (empty,) = passes(elsewhere(0), [], 7, PAIRS)
    assert empty.take(torch.ones(3, 4), 0).shape == (1, 0)
    (part,) = passes(elsewhere(0), SEQUENCES[:2], 100, PAIRS)
    values = torch.arange(8.0).view(2, 4)
    assert torch.equal(part.take(values, 3), values[[1, 0], :3])  # the longest first


@pytest.mark.parametrize("kind", ["pairs", "states", "rankings", "packed"])
def test_an_empty_row_gives_a_loss_of_0_and_gradients_of_0(forward: Forward, kind: str) -> None:
    """Through every adapter, so that a sharded base's layers are put together in the backward pass too."""
    forward.share_prompt = kind == "packed"
    layout: Any = {"pairs": PAIRS, "states": states(forward)}.get(kind, rankings(kind == "packed"))
    (part,) = passes(forward.roles, [], 100, layout)
    role = "reward"
    if kind in ("pairs", "states"):
        prefix = forward.prefix(collate(part.items)) if kind == "pairs" else stack(part.items)
        logprobs, entropies, mask = forward.logprobs(role, prefix, 1.0, entropy_gradient=True)
        assert logprobs.shape == entropies.shape == mask.shape == (1, 0)
        loss = logprobs.sum() + entropies.sum() + forward.values(role, prefix).sum()
    else:
        loss = batch_loss(ranking_scores(forward, role, part.items), [(1,)], centering_coef=1.0, count=3)
    loss.backward()
    assert loss.item() == 0
    gradients = [p.grad for name, p in forward.roles.parameters_of(role).items() if "lora" in name]
    assert gradients and all(g is not None and not g.any() for g in gradients)
    forward.roles.zero_grad()


def test_scores_are_the_same_by_pairs_by_states_and_by_rankings(forward: Forward) -> None:
    encoded = [Encoded([5, 6, 7], [[8, 9], [10], [8, 11, 12]]), Encoded([5], [[6, 7, 8, 9, 10]])]
    pairs = [(one.prompt, response) for one in encoded for response in one.responses]
    counts: list[int] = []
    expected = score_pairs(forward, "reward", pairs, 9, counts.append)
    assert sum(counts) == len(pairs) and len(counts) > 1
    rows = [row for pair in pairs for row in forward.prefix(collate([pair])).rows()]
    torch.testing.assert_close(score_states(forward, "reward", rows, 9), expected)
    for shared in (False, True):
        forward.share_prompt = shared
        scores = score_rankings(forward, "reward", encoded, 12)
        assert [len(s) for s in scores] == [3, 1]
        torch.testing.assert_close(torch.cat(scores), expected)
    forward.roles.activate("reward")
    for (prompt, response), score in zip(pairs, expected, strict=True):
        hidden = forward.roles.base.base_model(input_ids=torch.tensor([prompt + response])).last_hidden_state
        by_hand = hidden[0, -1] @ forward.roles.parameters_of("reward")["head.weight"]
        assert float(score) == pytest.approx(float(by_hand), abs=1e-5)
