"""What a model does with its logits after the output layer: nothing, or a scale and a cap, as it says itself.

Gemma caps (c tanh(z / c)), Cohere, Granite, Falcon-H1 and MiniCPM scale. The step is read from the model's
configuration and compared with the model's own logits, so that a new kind is refused and never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.errors import UserError
from align.models.probe_ids import probe_ids

# The fields by which configurations say it: a factor, a factor or divisor, a bound.
_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
_DIVISORS = ("logits_scaling",)
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_LARGE = 4.0  # how many times a cap the largest logit of a probe is


@dataclass(frozen=True)
class LastStep:
    """cap * tanh(scale * x / cap) of what the output layer gives; without a cap, scale * x."""

    scale: float = 1.0
    cap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether logits are what the output layer gives."""
        return self.scale == 1 and self.cap is None

    def apply_(self, logits: Tensor) -> Tensor:
        """The model's logits in place of the output layer's, which are overwritten."""
        if self.scale != 1:
            logits.mul_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def slopes(self, logits: Tensor) -> Tensor:
        """d logit / d output where there is a cap, from what `apply_` gave: scale (1 - (y / cap)^2)."""
        assert self.cap is not None
        return (logits / self.cap).square_().neg_().add_(1).mul_(self.scale)


@torch.no_grad()
def last_step(model: PreTrainedModel, decoder: nn.Module) -> LastStep:
    """The model's last step, proved on a probe; raises UserError where it is none of those that are known.

    decoder: the model without its output layer.

    The probe goes through the model twice: as it is, and with the output layer's result so large that a cap
    shows, as it does not on small logits.
    """
    ids, mask = probe(model)
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"base: {type(model).__name__} has no output layer: it is no causal language model")
    hidden = decoder(input_ids=ids, attention_mask=mask, use_cache=False, return_dict=True).last_hidden_state
    raw: Tensor = head(hidden.to(head.weight.dtype))[mask]
    steps = list(_candidates(model.config.get_text_config()))
    size = max((step.cap or 1.0) / abs(step.scale or 1.0) for step in steps) * _LARGE
    factor = max(1.0, size / float(raw.float().abs().max().clamp(min=1e-6)))
    own = _logits(model, head, ids, mask, 1.0)
    large = own if len(steps) == 1 else _logits(model, head, ids, mask, factor)
    for step in steps:
        if _same(step, raw, own) and (len(steps) == 1 or _same(step, raw * factor, large)):
            return step
    raise UserError(
        f"base: {type(model).__name__} gives other logits than its output layer (it scales or caps them, or "
        "more), in a way that is not supported: choose a base whose output layer is its last step (Llama and "
        "Qwen, say), or that scales or caps as Granite, Cohere or Gemma do"
    )


def said_step(config: Any) -> LastStep:
    """What the configuration says of the last step, unproved."""
    return next(_candidates(config))


@torch.no_grad()
def check_trainer(model: nn.Module, base: PreTrainedModel) -> None:
    """Raise UserError unless the log probabilities of TRL, which sft trains with, are those of the base.

    model: takes `labels` and `fused_lm_head=True`, as TRL's `add_fused_lm_head` lets the base.
    """
    ids, mask = probe(base)
    own = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    labels = ids.masked_fill(~mask, -100)
    theirs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs.float()
    ours = own.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    apart = float((ours - theirs)[mask[:, 1:]].abs().max())
    coarse = 5e-2 if base.dtype.itemsize < 4 else 1e-3
    if not apart <= coarse * max(1.0, float(own.abs().max())):
        raise UserError(
            f"base: TRL's log probabilities are not those of {type(base).__name__}'s own logits (they are "
            f"{apart:.2g} apart), so sft would train another model. If config.json was changed by "
            "hand, restore what it says of logits; else choose a base of another kind, such as Llama or Qwen"
        )


def probe(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Two short rows of different lengths: ids and mask [2, 5]."""
    ids = probe_ids(model, 10).view(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool, device=ids.device)
    return ids, mask


def _candidates(config: Any) -> Iterator[LastStep]:
    """What the configuration may mean, all that it says first; at last, that it says nothing of logits."""

    def found(names: tuple[str, ...]) -> list[float]:
        values = [getattr(config, name, None) for name in names]
        return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v]

    divisors = found(_DIVISORS)
    scales = [*found(_FACTORS), *(1 / v for v in divisors), *divisors, 1.0]
    caps = [*found(_CAPS), None]
    yield from dict.fromkeys(LastStep(scale, cap) for cap in caps for scale in scales)


def _logits(model: PreTrainedModel, head: nn.Module, ids: Tensor, mask: Tensor, factor: float) -> Tensor:
    """The model's own logits at the probe, its output layer's result multiplied by the factor."""
    handle = head.register_forward_hook(
        lambda module, given, result: result * factor if factor != 1 else result
    )
    try:
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask]
    finally:
        handle.remove()
    return logits


def _same(step: LastStep, raw: Tensor, own: Tensor) -> bool:
    """Whether the step makes the model's own logits of the output layer's result."""
    if raw.shape != own.shape:
        return False
    ours, own = step.apply_(raw.float().clone()), own.float()
    tolerance, size = 1e-3, 1.0
    if (
        raw.dtype.itemsize < 4 and not step.plain
    ):  # there the model rounds after each operation, we at the end
        tolerance, size = 2e-2, float(own.abs().max())
    return torch.allclose(own, ours, rtol=tolerance, atol=tolerance * size)
