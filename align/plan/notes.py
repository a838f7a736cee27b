"""What a plan leaves out or takes for granted, said in its first lines where the recipe meets it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.plan.memory import Question
from align.plan.responses import Responses
from align.plan.show import gib
from align.stage_table import Stage


def notes(asked: Question, stages: Sequence[Stage], responses: Responses) -> list[str]:
    """A sentence each, in the order of their weight."""
    found = [*_of_base(asked), *_of_positions(asked, stages)]
    if "rm" in stages:
        found.append(f"rm: {responses.said}")
    if "ppo" in stages:
        found += _of_ppo(asked)
    return found


def _of_base(asked: Question) -> Iterator[str]:
    base = asked.base
    if base.spec.quantize and (experts := base.weights(asked.dtype).experts):
        dtype = str(asked.dtype).removeprefix("torch.")
        yield (
            f"base.quantize: {gib(experts)} are experts, which transformers stacks and bitsandbytes leaves "
            f"as they are: they stay in {dtype}, and the rest alone is in four bits"
        )
    if base.spec.quantize and asked.machine.shards:
        yield ("base.quantize: a base in four bits is not shared out: stages refuse this configuration")
    if not base.attends:
        yield (
            f"base: layers of {base.config.model_type} are not all attention. They are counted the slow way, "
            "as without their own kernels (mamba-ssm, causal-conv1d, flash-linear-attention), which keep "
            "less: figures of passes are at the most"
        )


def _of_positions(asked: Question, stages: Sequence[Stage]) -> Iterator[str]:
    """Limits of the recipe that no row reaches, as the base has no positions for it."""
    recipe, most = asked.recipe, asked.base.positions
    if most is None:
        return
    for stage, allowed in (("sft", recipe.sft.max_length), ("rm", recipe.rm.max_length)):
        if stage in stages and allowed > most:
            yield (
                f"{stage}.max_length allows {allowed:,} tokens, and the base reads at most {most:,}: longer "
                "records are bad records, and rows are counted at that"
            )
    prompt, room = recipe.ppo.max_prompt_tokens, recipe.ppo.max_response_tokens
    if "ppo" in stages and prompt + room > most:
        yield (
            f"ppo.max_prompt_tokens with ppo.max_response_tokens allows {prompt + room:,} tokens, and the "
            f"base reads at most {most:,}: longer prompts are bad records, and {most - room:,} are counted"
        )


def _of_ppo(asked: Question) -> Iterator[str]:
    cfg = asked.recipe.ppo
    if cfg.engine == "vllm":
        yield "ppo: sampling is the vLLM server's, whose memory and time are not in this plan"
    if cfg.engine == "paged":
        yield "ppo: engine paged is counted as hf is"
    others = [reward for reward in cfg.rewards or () if reward.run is None]
    if others:
        yield "ppo: what functions and services of ppo.rewards take is not in this plan"
