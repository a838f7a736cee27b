"""The KL of whole distributions, against transformers' logits of merged models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sampled_policy import move, policy_on
from transformers import AutoModelForCausalLM

from align.models.batch import collate
from align.models.forward import Forward
from align.models.roles import Roles
from align.models.token_kl import token_kl

PAIRS = [([5, 6, 7], [8, 9, 10, 1]), ([11], [12, 13])]


def by_hand(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def test_it_is_the_sum_over_the_whole_vocabulary(tiny_base: Path) -> None:
    roles = policy_on(tiny_base)
    forward = Forward(roles)
    found = token_kl(forward, "policy", "reference", forward.prefix(collate(PAIRS)), 0.7)
    assert found.shape == (2, 4)
    for row, (prompt, response) in enumerate(PAIRS):
        logits = {}
        for role in ("policy", "reference"):
            roles.activate(role)
            with torch.no_grad():
                ids = torch.tensor([prompt + response])
                logits[role] = roles.base(ids).logits[0, len(prompt) - 1 : -1] / 0.7
        want = by_hand(logits["policy"], logits["reference"])
        assert found[row, : len(response)].tolist() == pytest.approx(want.tolist(), rel=1e-4)
        assert (found[row, len(response) :] == 0).all()
    assert found[0].min() > 1e-4


def test_a_role_without_an_adapter_is_the_base(tiny_base: Path) -> None:
    roles = policy_on(tiny_base)
    roles.share("plain", "no_adapter", trains=False)
    forward = Forward(roles)
    prefix = forward.prefix(collate(PAIRS))
    plain = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    logprobs, _, _ = forward.logprobs("plain", prefix, 1.0)
    with torch.no_grad():
        ids = torch.tensor([PAIRS[0][0] + PAIRS[0][1]])
        own = plain(ids).logits[0, 2:-1].log_softmax(-1)
    want = own.gather(-1, ids[0, 3:, None])[:, 0]
    assert logprobs[0].tolist() == pytest.approx(want.tolist(), abs=1e-5)
    assert float(token_kl(forward, "policy", "plain", prefix, 1.0).sum()) > 1e-3


def test_where_no_response_may_end_eos_has_no_part_in_it(tiny_base: Path) -> None:
    roles = policy_on(tiny_base)
    forward = Forward(roles, eos_id=1, min_response_tokens=1)
    found = token_kl(forward, "policy", "reference", forward.prefix(collate(PAIRS)), 1.0)
    logits = []
    for role in ("policy", "reference"):
        roles.activate(role)
        with torch.no_grad():
            logits.append(roles.base(torch.tensor([PAIRS[0][0]])).logits[0, -1])
    kept = [i for i in range(len(logits[0])) if i != 1]
    assert float(found[0, 0]) == pytest.approx(float(by_hand(logits[0][kept], logits[1][kept])), rel=1e-4)
    assert found.isfinite().all()


def test_the_log_ratios_of_samples_have_the_same_mean(tiny_base: Path) -> None:
    """E[log p/q] under p of the next token is the exact KL: all tokens, each by its probability."""
    roles: Roles = policy_on(tiny_base)
    move(roles)
    forward = Forward(roles)
    pairs = [([5, 6], [token]) for token in range(2, 40)]
    prefix = forward.prefix(collate(pairs))
    exact = token_kl(forward, "policy", "reference", prefix, 1.0)[:, 0]
    assert exact.std() < 1e-5  # the same place each time
    with torch.no_grad():
        every = [([5, 6], [token]) for token in range(roles.base.config.vocab_size)]
        whole = forward.prefix(collate(every))
        own, _, _ = forward.logprobs("policy", whole, 1.0)
        theirs, _, _ = forward.logprobs("reference", whole, 1.0)
    mean = (own.double().exp() * (own - theirs)).sum()
    assert float(exact[0]) == pytest.approx(float(mean), rel=1e-4)
