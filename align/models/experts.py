"""Bases with experts: how sft balances them, and how their weights lie in memory."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedConfig


def balancing_weight(config: PreTrainedConfig) -> float | None:
    """The weight of a loss that balances experts, as TRL is told it; None: as the configuration says.

    It is 0 where TRL cannot compute it, because the configuration counts experts by another name.
    """
    text = config.get_text_config()
    return 0.0 if hasattr(text, "router_aux_loss_coef") and not hasattr(text, "num_experts") else None


def balances(config: PreTrainedConfig) -> bool:
    """Whether TRL adds that loss, and so reads the routers' logits of all layers."""
    text = config.get_text_config()
    weight = balancing_weight(config)
    told = getattr(text, "router_aux_loss_coef", 0.0) if weight is None else weight
    return hasattr(text, "output_router_logits") and told != 0.0


def stacked_experts(model: nn.Module) -> list[Tensor]:
    """The experts' matrices, as transformers keeps them: of a layer in one tensor, in no linear layer."""
    return [
        parameter
        for module in model.modules()
        if not isinstance(module, nn.Conv1d)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim == 3
    ]
