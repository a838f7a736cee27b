"""Whether a base gives the same numbers when a ranking's prompt is encoded once."""

from __future__ import annotations

from typing import Any

import torch

from align.data.tokenize import Encoded
from align.models.forward import Forward, agree, noise
from align.models.packed import pack, separate_rows
from align.models.probe_ids import probe_ids

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
    forward.refuse_sharing(reason)
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
    words = probe_ids(forward.roles.base, 21).tolist()
    first = Encoded(words[:5], [words[5:8], words[8:9], words[9:11]])
    second = Encoded(words[11:13], [words[13:17], words[17:18]])
    other = Encoded(first.prompt, [words[18:21], *first.responses[1:]])
    try:
        packed = forward.ends(role, pack([first, second]))
        changed = forward.ends(role, pack([other, second]))
    except _REFUSALS as error:
        return f"{name} accepts no custom mask or positions ({type(error).__name__})"
    separate = forward.ends(role, separate_rows([first, second]))
    alone = torch.cat([forward.ends(role, separate_rows([one])) for one in (first, second)])
    if not agree(packed, separate, noise(alone, separate)):
        return f"with a custom mask and positions {name} gives other numbers"
    if not (packed - changed)[1:].float().norm() <= _ISOLATION * separate.float().norm():
        return f"{name} lets one response see another"
    return None
