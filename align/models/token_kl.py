"""The KL between two roles' whole distributions at each token, in chunks, without a [B, T, V] tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from align.models.batch import PrefixStates, response_positions
from align.models.forward import Forward
from align.models.logprobs import logit_chunk


@torch.no_grad()
def token_kl(forward: Forward, role: str, other: str, prefix: PrefixStates, temperature: float) -> Tensor:
    """KL(role || other) [B, T] in nats, over the whole vocabulary, where each response token is predicted.

    Summed over a response that `role` sampled it estimates the KL of responses as the sum of log ratios does,
    with the same mean and less variance: only the path is drawn, no longer the tokens. 0 at padding. Where no
    response may end yet, EOS has no probability, as in sampling.
    """
    at, mask = response_positions(prefix)
    first, second = (forward.hidden(one, prefix, at)[mask] for one in (role, other))
    least = forward.min_response_tokens
    early = mask.cumsum(1)[mask] <= least if least else None
    output = forward.roles.base.get_output_embeddings()
    size = max(1, logit_chunk(first.device, output.weight.shape[0]) // 2)
    found = []
    for start in range(0, len(first), size):
        part = slice(start, start + size)
        p, q = (
            _log_softmax(forward, output, states[part], None if early is None else early[part], temperature)
            for states in (first, second)
        )
        found.append((p.exp() * (p - q)).sum(-1))
    zeros = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    return zeros.masked_scatter(mask, torch.cat(found).float() if found else zeros[:0])


def _log_softmax(
    forward: Forward, output: nn.Module, states: Tensor, early: Tensor | None, temperature: float
) -> Tensor:
    """[n, V] in float32 at least; the lowest number in place of -inf, as 0 * inf is no number."""
    weight, bias = output.weight, getattr(output, "bias", None)
    assert isinstance(weight, Tensor)
    logits = nn.functional.linear(states.to(weight.dtype), weight, bias)
    logits = forward.roles.last_step.apply_(logits.to(torch.promote_types(states.dtype, torch.float32)))
    logits = logits / temperature
    if early is not None:
        logits[:, forward.eos_id].masked_fill_(early, torch.finfo(logits.dtype).min)
    return logits.log_softmax(-1)
