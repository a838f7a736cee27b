"""Opens the engine that samples responses: one protocol, an engine a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console

from align.data.template import response_end
from align.errors import UserError
from align.models.base import BaseCheckpoint
from align.models.roles import Roles
from align.processes.hardware import gpu_memory
from align.recipe import EngineName
from align.recipe.ppo import PPO
from align.run.installed import check_engine
from align.run.progress import say
from align.sampling.params import Engine, SamplingParams

_CPU = torch.device("cpu")
_CACHE_SHARE = 8  # keys and values of a decoding batch may take this part of a GPU's memory


def batch_tokens(cfg: PPO, base: BaseCheckpoint, device: torch.device) -> int:
    """How many tokens are decoded together: what the recipe says, or four microbatches, as a pass that keeps
    no activations holds; on a GPU, where every step reads all weights, as many as it has memory for.

    The whole memory counts, never what is free just now: a run that goes on has the same batches.
    """
    if cfg.sampling_tokens is not None:
        return cfg.sampling_tokens
    bytes_each = base.cache_bytes(device) if cfg.engine == "hf" else None
    cached = gpu_memory(device) // _CACHE_SHARE // bytes_each if bytes_each else 0
    return max(4 * cfg.microbatch_tokens, cached)


def sampling_params(cfg: PPO, base: BaseCheckpoint) -> SamplingParams:
    """What a recipe says of sampling."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else _CPU
    return SamplingParams(
        temperature=cfg.temperature,
        eos_id=response_end(base.tokenizer),
        pad_id=base.pad_id,
        max_tokens=cfg.max_response_tokens,
        batch_tokens=batch_tokens(cfg, base, device),
        min_tokens=cfg.min_response_tokens,
    )


def check_servers(cfg: PPO) -> list[str]:
    """Which of the vLLM servers that ppo samples on are not there, a sentence each.

    For commands in which ppo comes later; nothing changes in a server. Raises UserError where none is there,
    or one takes no adapters.
    """
    if cfg.engine != "vllm":
        return []
    from align.sampling.servers import check_there

    return check_there(cfg.engine_url or ())


def open_engine(
    name: EngineName,
    roles: Roles,
    accel: Accelerator,
    *,
    urls: Sequence[str] = (),
    folder: Path | None = None,
    sleep: bool = False,
) -> Engine:
    """The engine of this name, which samples from `roles`; all processes open it together.

    urls: where vLLM servers listen. folder: where adapters are written for them. sleep: whether they sleep
    between calls. Raises UserError where the engine cannot be used.
    """
    check_engine(name)
    if name == "paged":
        if roles.shard_group:
            raise UserError(
                "engine paged cannot sample from a base that is sharded: its scheduler decides for each "
                "process alone when there is a pass, and a pass here is one of all processes. Use hf or "
                "vllm, or distributed_type MULTI_GPU"
            )
        from align.sampling.paged import Paged, check_paged

        check_paged(roles)
        return Paged(roles)
    if name == "vllm":
        from align.sampling.vllm import Vllm

        configs = roles.peft.peft_config.values() if roles.peft else ()
        for key in ("use_dora", "modules_to_save"):
            if any(getattr(config, key) for config in configs):
                raise UserError(
                    f"engine vllm takes plain LoRA alone, and this run has lora.{key}: use engine hf"
                )
        assert folder is not None
        console = Console(stderr=True)
        return Vllm(roles, urls, folder, accel, lambda text: say(console, text), sleep)
    from align.sampling.cache import Ways, find_ways
    from align.sampling.lean import find_lean
    from align.sampling.sampler import Hf

    lean = find_lean(roles)
    return Hf(roles, find_ways(roles) if lean is None else Ways(), lean)
