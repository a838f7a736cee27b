"""The passes of the three stages on a base without weights, each counted by what it has in memory at most.

Everything here calls what the stages call: adapters by `Roles` and PEFT, passes by `Forward` and by TRL's
fused output layer, sampling by `Steps`. Bytes are those beside weights, gradients and optimizer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn

from align.data.tokenize import Encoded
from align.errors import UserError
from align.models.adapter_products import multiply_in_input_dtype
from align.models.batch import PrefixStates, collate
from align.models.experts import balances
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.models.saved_modules import let_train, saved_paths
from align.models.scoring import ranking_scores
from align.plan.base import PlannedBase
from align.plan.count import counted, without_casts
from align.recipe.sections import Lora
from align.sampling.steps import Steps

META = torch.device("meta")


@dataclass(frozen=True)
class Depth:
    """A model to count: so many layers, of which the upper ones have adapters."""

    layers: int
    adapted: int


@dataclass(frozen=True)
class Model:
    """A base of some depth, with adapters for it, in a precision; plain: without lean passes."""

    base: PlannedBase
    lora: Lora
    dtype: torch.dtype
    depth: Depth
    plain: bool = False

    def adapters(self) -> Lora:
        """The recipe's adapters on a model of this depth."""
        layers = self.depth.adapted if self.depth.adapted < self.depth.layers else None
        return self.lora.model_copy(update={"layers": layers})

    def roles(self, role: str, others: Iterable[str] = (), heads: Iterable[str] = ()) -> Roles:
        """A role that trains, with its gradients. Others read its adapter, as theirs have the same shapes."""
        with META, without_casts(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self.base.model(self.dtype, self.depth.layers)
            roles = Roles(model)
            roles.add(role, lora_config(self.adapters(), model), trains=True)
            for other in others:
                roles.share(other, role, trains=False)
            for name in heads:
                roles.heads[name] = Head(roles.width)
        _with_gradients(roles)
        return roles

    def forward(self, roles: Roles, checkpointing: bool, logits: bool) -> Forward:
        """The stages' passes; raises UserError where gradient checkpointing is not possible."""
        forward = Forward(roles, logits=logits, gradient_checkpointing=checkpointing, proof=False)
        forward.share_prompt = True
        forward.fused = forward.fused and not self.plain and not self.base.spec.quantize
        return forward


class Head(nn.Module):
    """Computes what ScalarHead does; its weights need no drawing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, device=META))

    def forward(self, hidden: Tensor) -> Tensor:
        scalars: Tensor = hidden.float() @ self.weight
        return scalars

    def scores(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """The same; what length adds is one number a response."""
        return self.forward(hidden)


def _with_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)


def held_by(module: nn.Module) -> list[Tensor]:
    """What a model holds whatever runs: parameters, their gradients, buffers."""
    parameters = list(module.parameters())
    return [*parameters, *(p.grad for p in parameters if p.grad is not None), *module.buffers()]


def peak(module: nn.Module, run: Callable[[], Any], number: int = 0, gpu: bool = True) -> int:
    """The most bytes that are alive while `run` goes on, beside what the module holds."""
    with counted(held_by(module), number, gpu) as live:
        run()
    return live.peak


# sft


def sft_model(model: Model) -> Any:
    """What TRL's trainer makes of the base."""
    from trl.trainer.utils import add_fused_lm_head

    with META, without_casts(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = model.base.model(model.dtype, model.depth.layers)
        adapted: Any = get_peft_model(base, lora_config(model.adapters(), base))
        multiply_in_input_dtype(adapted)
        let_train(adapted, "default", saved_paths(model.lora.modules_to_save or (), base))
    add_fused_lm_head(adapted.get_base_model(), outputs=("log_probs", "entropy", "is_top1"))
    _with_gradients(adapted)
    return adapted.train()


def sft_pass(
    adapted: Any, rows: int, length: int, packing: bool, checkpointing: bool, gpu: bool = True
) -> int:
    """A microbatch of the trainer, forward and backward, dropout included; `gpu`: see `counted`."""
    base = adapted.get_base_model()
    if checkpointing:
        if not base.supports_gradient_checkpointing:
            raise UserError(f"sft.gradient_checkpointing: {type(base).__name__} does not support it")
        adapted.activation_checkpointing_enable(None)
        adapted.enable_input_require_grads()
    shape = (1, rows * length) if packing else (rows, length)
    ids = torch.zeros(shape, dtype=torch.int64, device=META)
    second = torch.zeros_like(ids) if packing else torch.ones_like(ids)
    inputs = {"position_ids" if packing else "attention_mask": second}
    balanced = {"output_router_logits": True} if balances(base.config) else {}

    def run() -> None:
        found = adapted(input_ids=ids, labels=torch.zeros_like(ids), fused_lm_head=True, **inputs, **balanced)
        loss = -found.log_probs.sum() / found.label_mask.sum()
        (loss + found.aux_loss if balanced else loss).backward()

    return peak(adapted, run, gpu=gpu)


# rm


def ranking_pass(forward: Forward, rankings: Sequence[Encoded], gpu: bool = True) -> int:
    """Rankings that share a pass, forward and backward."""

    def run() -> None:
        scores = torch.cat(ranking_scores(forward, "reward", rankings))
        nn.functional.logsigmoid(scores[:, None] - scores[None]).sum().backward()

    return peak(forward.roles, run, gpu=gpu)


# ppo


@dataclass(frozen=True)
class Rows:
    """Rows of one pass, all as long as the longest: a prompt and a response each."""

    count: int
    prompt: int
    response: int

    @property
    def tokens(self) -> int:
        """Of all rows, prompts included."""
        return self.count * (self.prompt + self.response)

    def prefix(self, forward: Forward) -> PrefixStates:
        """What all roles have in common of them."""
        return forward.prefix(collate([([0] * self.prompt, [0] * self.response)] * self.count))


def scoring_pass(forward: Forward, rows: Rows, rewards: Sequence[str], shared: bool, gpu: bool = True) -> int:
    """What a rollout's rows are scored with: every role, no gradients."""

    @torch.no_grad()
    def run() -> None:
        prefix = rows.prefix(forward)
        if shared:
            forward.logprobs_and_values("policy", "value", prefix, 1.0)
        else:
            forward.logprobs("policy", prefix, 1.0)
            if "value" in forward.roles.heads:
                forward.values("value", prefix)
        forward.logprobs("reference", prefix, 1.0)
        for role in rewards:
            forward.scores(role, prefix)

    return peak(forward.roles, run, rows.response, gpu)


def update_pass(
    forward: Forward, rows: Rows, role: str, entropy: bool, shared: bool, gpu: bool = True
) -> int:
    """An update's microbatch of one trained role, forward and backward."""
    with counted((), rows.response, gpu), torch.no_grad():
        prefix = rows.prefix(forward)
    before = [prefix.input_ids, prefix.attention_mask]
    before += [] if prefix.hidden is None else [prefix.hidden]  # the rollout's, which is held

    def run() -> None:
        part = stacked(prefix)
        if shared:
            logprobs, entropies, _, values = forward.logprobs_and_values(
                "policy", "value", part, 1.0, entropy
            )
            loss = _token_loss(logprobs, entropies, entropy) + values.square().sum()
        elif role == "value":
            loss = forward.values("value", part).square().sum()
        else:
            logprobs, entropies, _ = forward.logprobs("policy", part, 1.0, entropy)
            loss = _token_loss(logprobs, entropies, entropy)
        loss.backward()

    with counted([*held_by(forward.roles), *before], rows.response, gpu) as live:
        run()
    return live.peak


def stacked(prefix: PrefixStates) -> PrefixStates:
    """A copy of the rows, as `stack` makes it of a rollout's, whose lengths are numbers."""
    hidden = None if prefix.hidden is None else prefix.hidden.clone()
    ids, mask = prefix.input_ids.clone(), prefix.attention_mask.clone()
    return PrefixStates(ids, mask, prefix.prompt_lengths, prefix.lengths, hidden)


def _token_loss(logprobs: Tensor, entropies: Tensor, entropy: bool) -> Tensor:
    ratio = logprobs.exp()
    loss = torch.maximum(-ratio, -ratio.clamp(0.8, 1.2)).sum()
    return loss - entropies.sum() if entropy else loss


def sampling_passes(roles: Roles, prompts: int, rows: Rows, gpu: bool = True) -> tuple[int, int]:
    """The pass of so many prompts, and that of these rows' last token; each with what is in the cache."""
    with counted(held_by(roles), gpu=gpu) as live:
        Steps(roles, prompts, rows.prompt).step()
    first = live.peak
    with counted(held_by(roles), gpu=gpu) as live:
        steps = Steps(roles, rows.count, max(1, rows.prompt + rows.response - 1))
        steps.fill()
        live.rest()
        steps.step()
    return first, live.peak
