"""Log probabilities of the tokens that are there, in chunks, without a [B, T, V] tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from align.models.logits import LastStep

_PLAIN = LastStep()
_CHUNK_ELEMENTS = 2**25  # logits computed at a time: 128 MiB in float32
LOGIT_BYTES = (
    16  # a logit takes at most while its chunk is computed: float32 twice, rounded, and a cap's slope
)
_SHARE = 32  # of a GPU's memory, for a chunk
_LEAST, _MOST = 2**22, 2**28  # logits in a GPU's chunk
_TILE = 128  # rows that a GPU multiplies together


def logit_chunk(device: torch.device, vocab: int) -> int:
    """How many tokens' logits are computed at a time; each takes vocab * LOGIT_BYTES bytes meanwhile.

    On a GPU as many as fit a 32nd of its memory: few large products instead of many small ones. Another
    number may round in another way, so it depends on the memory that the device has, and never on what is
    free, which a resumed run would find different.
    """
    if device.type != "cuda":
        return max(1, _CHUNK_ELEMENTS // vocab)
    memory = torch.cuda.get_device_properties(device).total_memory
    # A power of two, as cards of one kind differ by some pages.
    elements = 1 << max(1, memory // (_SHARE * LOGIT_BYTES)).bit_length() - 1
    tokens = max(1, min(max(elements, _LEAST), _MOST) // vocab)
    return tokens // _TILE * _TILE or tokens


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperature: float,
    entropy_gradient: bool = False,
    barred: tuple[Tensor, int] | None = None,
    step: LastStep = _PLAIN,
) -> tuple[Tensor, Tensor]:
    """log softmax(step(hidden @ weight.T) / temperature) at the labels, and entropies, in float32 at least.

    hidden [N, D], weight [V, D] (frozen), labels [N] -> [N], [N]. The gradient reaches `hidden` only,
    through the log probabilities and, with entropy_gradient, the entropies. barred: places [N] bool at
    which an id has probability 0, and the id. step: what the model does with its logits at last.
    """
    result: tuple[Tensor, Tensor] = _TokenLogprobs.apply(
        hidden, weight, bias, labels, temperature, entropy_gradient, barred, step
    )
    return result


def _product(factors: Tensor, bends: Tensor | None, weight: Tensor, divisor: Tensor) -> Tensor:
    """factors [n, V] (overwritten), times the logits' slopes where there is a cap, @ weight: [n, D]."""
    if bends is not None:
        factors.mul_(bends)
    return (factors.to(weight.dtype) @ weight).div_(divisor)


class _TokenLogprobs(torch.autograd.Function):
    """d log p(y) / d h = sum_v ([v = y] - p_v) W_v / temperature is as large as h, so it is computed in the
    forward pass, a chunk of tokens at a time, and no logits are kept. So is the entropy's, where it is
    asked for: d H / d h = -sum_v p_v (log p_v + H) W_v / temperature. Where logits are scaled or capped, the
    step's slope at v belongs to each W_v."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        temperature: float,
        entropy_gradient: bool,
        barred: tuple[Tensor, int] | None,
        step: LastStep,
    ) -> tuple[Tensor, Tensor]:
        size = logit_chunk(hidden.device, weight.shape[0])
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        entropy_slopes = torch.empty_like(hidden) if slopes is not None and entropy_gradient else None
        logprobs = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        entropies = torch.empty_like(logprobs)
        # d logit / d output is the same everywhere where there is no cap.
        divisor = temperature if step.cap is not None else temperature / step.scale
        for start in range(0, hidden.shape[0], size):
            part = slice(start, start + size)
            logits = nn.functional.linear(hidden[part], weight, bias).to(dtype)
            logits = step.apply_(logits)
            bends = step.slopes(logits) if slopes is not None and step.cap is not None else None
            if temperature != 1:
                logits.div_(temperature)
            if barred is not None:  # the lowest number, not -inf: 0 * -inf has no entropy
                places, token = barred
                logits[:, token].masked_fill_(places[part], torch.finfo(dtype).min)
            logits.sub_(logits.amax(-1, keepdim=True))
            shares = logits.exp()  # of the sum below
            total = shares.sum(-1, keepdim=True)
            normal = total.log()
            logprobs[part] = (logits.gather(-1, labels[part, None]) - normal)[:, 0]
            entropies[part] = (normal - torch.linalg.vecdot(shares, logits)[:, None] / total)[:, 0]
            if slopes is None:
                continue
            if entropy_slopes is not None:
                surprise = logits.sub_(normal).add_(entropies[part, None]).mul_(shares)
                entropy_slopes[part] = _product(surprise, bends, weight, total * -divisor)
            # 1 - p of the label stands in float32: W_y - sum_v p_v W_v would be a difference of two vectors
            # in the weight's precision, which are the same where p is close to 1.
            shares.scatter_add_(-1, labels[part, None], -total)
            slopes[part] = _product(shares, bends, weight, total * -divisor)
        if slopes is not None:
            ctx.save_for_backward(slopes, entropy_slopes)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slopes, entropy_slopes = ctx.saved_tensors
        gradient = (gradients[0][:, None] * slopes).to(slopes.dtype)
        if entropy_slopes is not None:
            gradient += (gradients[1][:, None] * entropy_slopes).to(slopes.dtype)
        return gradient, None, None, None, None, None, None, None
