"""PPO-ptx: demonstrations in the policy's loss, InstructGPT's cure for the alignment tax (2203.02155)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from align.data.load import Split
from align.data.tokenize import Encoded, encode_demonstrations
from align.errors import UserError
from align.models.batch import collate
from align.models.passes import PAIRS, passes
from align.objectives.masked import masked_sum
from align.ppo.roles import Context
from align.processes import distributed
from align.recipe.sections import Recipe
from align.records import Demonstration
from align.seeds import step_rows
from align.stages.frame import source


def with_demonstrations(context: Context, recipe: Recipe, split: Split[Demonstration] | None) -> Context:
    """The context with the training side's tokens, cut and skipped as sft does."""
    if split is None:
        return context
    encoded = encode_demonstrations(
        context.setup.template,
        split.train,
        recipe.sft.max_length,
        "data.demonstrations",
        recipe.data.cache_folder,
        skip=source(recipe, "demonstrations", "ppo").on_bad_record == "skip",
    )
    if not encoded:
        raise UserError("data.demonstrations: there is none for ppo.ptx_coef")
    return replace(context, demonstrations=encoded)


def ptx_backward(context: Context, iteration: int, step: int) -> Tensor:
    """Backward of ptx_coef times the demonstrations' mean negative log likelihood; gives this process's part.

    The mean is over the response tokens of the update's demonstrations, on all processes. Which they are
    is a function of (seed, iteration, step). Source: 2203.02155, equation 2, with demonstrations for
    pretraining text.
    """
    cfg, rows = context.cfg, context.demonstrations
    updates = cfg.ppo_epochs * (cfg.rollout_batch_size // cfg.minibatch_size)
    drawn = ptx_rows(context.seed, iteration * updates + step, cfg.ptx_batch_size or cfg.minibatch_size, rows)
    count = sum(len(response) for _, response in drawn)
    mine = distributed.share(drawn, context.accel)
    result = torch.zeros((), dtype=torch.float64, device=context.forward.roles.base.device)
    for part in passes(context.forward.roles, mine, cfg.microbatch_tokens, PAIRS):
        prefix = context.forward.prefix(collate(part.items))
        logprobs, _, mask = context.forward.logprobs("policy", prefix, 1.0, end_anywhere=True)
        loss = -masked_sum(logprobs, mask) / count
        (cfg.ptx_coef * loss).backward()
        result += loss.detach()
    return result


def ptx_rows(seed: int, update: int, size: int, rows: Sequence[Encoded]) -> list[tuple[list[int], list[int]]]:
    """Prompt and response of an update's demonstrations, over all processes."""
    drawn = step_rows(seed, "ppo ptx", update, size, len(rows))
    return [(rows[i].prompt, rows[i].responses[0]) for i in drawn]
