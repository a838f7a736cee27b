"""Sums, means and variances over the real elements of a padded tensor, and whitening with them.

Whitening over all processes needs one sum over processes in between:

    mine = torch.stack(moments(advantages, mask))          # count, sum, sum of squares: they add up
    all_of_us = accelerator.reduce(mine, reduction="sum")
    advantages = whiten_with(advantages, mask, *mean_and_var(*all_of_us))
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8  # added to a variance before its root, as in lm-human-preferences (Ziegler et al. 2019)


def at_least_float32(x: Tensor) -> Tensor:
    """Upcast half precision (and integers) to float32; float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def fill_padding(mask: Tensor, **tensors: Tensor) -> tuple[Tensor, ...]:
    """Give the tensors back in at least float32 with 0 where the mask is False.

    Filling before computing is what keeps nan and inf out of gradients too: multiplying by the mask
    afterwards would turn them into nan.

    Raises ValueError, with the tensor's name, if the mask is not boolean or a shape is not the mask's.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean (True = real), not {mask.dtype}")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the mask has {tuple(mask.shape)}")
    return tuple(at_least_float32(tensor).masked_fill(~mask, 0.0) for tensor in tensors.values())


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum the real elements, over everything or along `dim`."""
    (x,) = fill_padding(mask, x=x)
    return x.sum() if dim is None else x.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Average the real elements, over everything or along `dim`; 0 where there is no real element."""
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_var(x: Tensor, mask: Tensor, unbiased: bool = False) -> Tensor:
    """Give the variance of the real elements: divided by n, or by n - 1 if `unbiased`.

    It is 0 if there are too few elements to have one.
    """
    (x,) = fill_padding(mask, x=x)
    deviations = (x - masked_mean(x, mask)).masked_fill(~mask, 0.0)
    return deviations.square().sum() / (mask.sum() - int(unbiased)).clamp(min=1)


def moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give count, sum and sum of squares of the real elements: float64 scalars that add over processes.

    They are float64 because a variance taken from float32 sums of squares is noise once the mean is
    large against the spread. (Apple's GPUs have no float64: there they lie on the CPU.)
    """
    (x,) = fill_padding(mask, x=x)
    x = (x.cpu() if x.device.type == "mps" else x).double()
    return mask.sum().to(x), x.sum(), x.square().sum()


def mean_and_var(count: Tensor, total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean and variance (divided by n) of what `moments` summed up; 0 and 0 if that was nothing."""
    count = count.clamp(min=1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)


def whiten_with(x: Tensor, mask: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Give (x - mean) / sqrt(var + 1e-8), and 0 at padding: whitening with somebody else's moments."""
    (x,) = fill_padding(mask, x=x)
    whitened = (x - mean.to(x)) * torch.rsqrt(var + EPSILON).to(x)
    return whitened.masked_fill(~mask, 0.0)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale the real elements to mean 0 and variance 1 (divided by n); padding becomes 0."""
    return whiten_with(x, mask, *mean_and_var(*moments(x, mask)))


def scale_to_unit_variance(x: Tensor, mask: Tensor) -> Tensor:
    """Scale the real elements about their mean to variance 1; the mean stays, padding becomes 0.

    Source: lm-human-preferences' whitening of rewards, which adds the mean back.
    """
    mean, var = mean_and_var(*moments(x, mask))
    return (whiten_with(x, mask, mean, var) + mean.to(x)).masked_fill(~mask, 0.0)
