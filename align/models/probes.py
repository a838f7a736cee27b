"""Whether a base gives the same numbers when a ranking's prompt is encoded once."""

from __future__ import annotations

from typing import Any

import torch

from align.data.tokenize import Encoded
from align.models.forward import Forward, agree
from align.models.packed import pack, separate_rows

_ISOLATION = 1e-6  # what one response may change in another: nothing, in any precision
# What models raise that do not know a mask of four dimensions, or positions.
_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError)
# Where configurations say how far back some layers see.
_WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "window_size",
    "attention_window",
    "attention_window_size",
    "attention_chunk_size",
    "local_attention",
)


def share_prompts(forward: Forward, role: str, longest: int) -> str | None:
    """Let `forward` read a ranking's prompt once, if the model allows it; else give the reason.

    longest: the tokens of the longest prompt with one response. A probe goes through the model both ways.
    """
    reason = _unsuitable(forward.roles.base.config, longest) or _disagreement(forward, role)
    forward.share_prompt = reason is None
    return reason


def _unsuitable(config: Any, longest: int) -> str | None:
    """What a short probe cannot see."""
    config = config.get_text_config()
    kernel = str(getattr(config, "_attn_implementation", ""))
    if "flash" in kernel:
        return f"{kernel} attention accepts no custom mask (base.attention: sdpa does)"
    windows = [w for name in _WINDOWS if isinstance(w := getattr(config, name, None), int)]
    if windows and min(windows) < longest:
        return f"some layers see {min(windows)} tokens back, and a sequence may have {longest} (max_length)"
    return None


@torch.no_grad()
def _disagreement(forward: Forward, role: str) -> str | None:
    name = type(forward.roles.base).__name__
    first = Encoded([1, 2, 3, 4, 5], [[6, 7, 8], [9], [8, 6]])
    second = Encoded([3, 1], [[2, 9, 4, 7], [5, 5]])
    other = Encoded(first.prompt, [[9, 9, 9], *first.responses[1:]])
    try:
        packed = forward.ends(role, pack([first, second]))
        changed = forward.ends(role, pack([other, second]))
    except _REFUSALS as error:
        return f"{name} accepts no custom mask or positions ({type(error).__name__})"
    separate = forward.ends(role, separate_rows([first, second]))
    if not agree(packed, separate):
        return f"with a custom mask and positions {name} gives other numbers"
    if not (packed - changed)[1:].float().norm() <= _ISOLATION * separate.float().norm():
        return f"{name} lets one response see another"
    return None
