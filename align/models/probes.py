"""Whether a base gives the same numbers when a ranking's prompt is encoded once, and by blocks of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from align.data.tokenize import Encoded
from align.errors import ran_out_of_memory
from align.models.batch import Batch
from align.models.block_attention import BLOCK, LONG
from align.models.forward import Forward, agree, noise
from align.models.packed import Packed, pack, separate_rows
from align.models.probe_ids import probe_ids
from align.run.hub import first_line

_WITH_BLOCKS = ("cuda",)  # where torch compiles attention by blocks, forward and backward
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


def attend_in_blocks(forward: Forward, role: str, longest: int) -> str | None:
    """Let long packed rows leave out blocks of tokens that do not see each other, on a GPU where that gives
    the same numbers; else give the reason. Nothing is said where it would save nothing.

    longest: the tokens of the longest ranking in a row. A probe goes through the model both ways, and back.
    """
    device, config = forward.roles.base.device, forward.roles.decoder.config
    if not forward.share_prompt or longest < LONG or device.type not in _WITH_BLOCKS:
        return None
    kernel = getattr(config, "_attn_implementation", "")
    if kernel != "sdpa":
        reason: str | None = f"base.attention is {kernel}"
    elif forward.roles.shard_group:
        reason = "the base is sharded"
    else:
        reason = _blocks_disagree(forward, role)
    forward.refuse_blocks(reason, LONG)
    return reason


def _blocks_disagree(forward: Forward, role: str) -> str | None:
    """Why not; one row and two, with gradients and without, and two lengths: each is compiled apart."""
    name = type(forward.roles.base).__name__
    words = probe_ids(forward.roles.base, 15).tolist()
    one = Encoded(words[:5], [words[5:8], words[8:9]])
    longer = Encoded(words[9:11] * (BLOCK // 2), [words[11:13], words[13:15]])
    for rankings in ([one], [longer], [one, longer]):
        forward.blocks_from = None
        own, alone = (_pulled(forward, role, make(rankings)) for make in (pack, separate_rows))
        forward.blocks_from = 1
        try:
            found = _pulled(forward, role, pack(rankings))
            with torch.no_grad():
                forward.ends(role, pack(rankings))
        except Exception as error:  # compilers raise of their own kinds
            if ran_out_of_memory(error):
                raise
            return f"its kernel fails ({type(error).__name__}: {first_line(error)})"
        if not all(agree(a, b, noise(c, b)) for a, b, c in zip(found, own, alone, strict=True)):
            return f"by blocks {name} gives other numbers"
    return None


def _pulled(forward: Forward, role: str, batch: Batch | Packed) -> tuple[Tensor, Tensor]:
    """The last hidden states at the ends, and the gradients of a weighted sum of them, flat."""
    adapter = [p for p in forward.roles.parameters_of(role).values() if p.requires_grad]
    with torch.enable_grad():
        ends = forward.ends(role, batch)
        weights = torch.linspace(-1, 2, ends.numel(), device=ends.device).view_as(ends)
        slopes = torch.autograd.grad((ends.float() * weights).sum(), adapter, allow_unused=True)
    return ends.detach(), torch.cat([slope.flatten() for slope in slopes if slope is not None])


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
