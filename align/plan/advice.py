"""What to change where a stage does not fit, in order of what it costs: time first, then what is learned."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from align.errors import UserError
from align.plan.lengths import limits
from align.plan.memory import Question
from align.plan.responses import Responses
from align.plan.shares import batch_of
from align.plan.stage import StagePlan, set_in, stage_plan, with_machine

_GPUS = (2, 4, 8, 16)


@dataclass(frozen=True)
class Advice:
    """A change, on top of those before it; bytes that it saves, and the peak after it."""

    change: str
    costs: str
    saves: int
    peak: int
    fits: bool


Change = tuple[str, str, Question]  # what is changed, what it costs, and what is asked then


def advise(asked: Question, found: StagePlan, until: float = math.inf) -> list[Advice]:
    """Changes that together let the stage fit; all that there are, where it does not fit with them either.

    What leaves the result as it is comes first, but for passes that no size would help: where what is held
    alone is too much. until: of `time.monotonic`; after it no other change is counted.
    """
    advice: list[Advice] = []
    passes, base = [_microbatch, _checkpointing], [_quantized, _spread]
    if asked.machine.processes > 1:  # the cards are there, and sharding changes no number
        base.reverse()
    too_much = found.memory.static + asked.machine.fixed > found.room
    for next_change in [*(base + passes if too_much else passes + base), _layers, _lengths]:
        for change, costs, then in next_change(asked, found):
            if time.monotonic() > until:
                return advice
            try:
                after = stage_plan(then, found.stage)
            except UserError:
                continue
            saves = found.memory.peak - after.memory.peak
            if saves <= 0:
                continue
            advice.append(Advice(change, costs, saves, after.memory.peak, after.fits))
            asked, found = then, after
            if after.fits:
                return advice
            break
    return advice


def _microbatch(asked: Question, found: StagePlan) -> Iterator[Change]:
    """A smaller pass, as far as it helps: to what there is room for, or to one row."""
    stage, recipe, costs = found.stage, asked.recipe, "more, smaller passes; the same result"
    room = found.room - found.memory.static - found.memory.margin
    share = max(room, 0) / found.memory.largest.size * 0.9
    if stage in ("sft", "dpo"):
        cfg = recipe.sft if stage == "sft" else recipe.dpo
        mine = asked.share(cfg.batch_size)
        rows = min(cfg.microbatch_size or cfg.batch_size, mine)
        divisors = [n for n in range(1, rows) if mine % n == 0]
        size = max([n for n in divisors if n <= rows * share], default=1)
        if size < rows:
            then = replace(asked, recipe=set_in(recipe, stage, microbatch_size=size))
            yield f"{stage}.microbatch_size: {size}", costs, then
        return
    lengths = asked.lengths
    one = (
        lengths.rm.prompt + lengths.rm.response
        if stage == "rm"
        else lengths.ppo.prompt + lengths.ppo.response
    )
    now: int = getattr(recipe, stage).microbatch_tokens
    tokens = max(one, int(now * share) // 256 * 256)
    if tokens < now:
        then = replace(asked, recipe=set_in(recipe, stage, microbatch_tokens=tokens))
        yield f"{stage}.microbatch_tokens: {tokens}", costs, then


def _checkpointing(asked: Question, found: StagePlan) -> Iterator[Change]:
    if not found.memory.checkpointing:
        then = replace(asked, recipe=set_in(asked.recipe, found.stage, gradient_checkpointing=True))
        costs = "the trained passes run forward twice: a third of their time more; the same result"
        yield f"{found.stage}.gradient_checkpointing: true", costs, then


def _quantized(asked: Question, found: StagePlan) -> Iterator[Change]:
    spec = asked.base.spec
    if asked.machine.device != "gpu" or spec.quantize or asked.machine.shards:
        return
    smaller = spec.model_copy(update={"quantize": "4bit"})
    base = replace(asked.base, spec=smaller)
    then = replace(asked, base=base, recipe=asked.recipe.model_copy(update={"base": smaller}))
    yield (
        "base.quantize: 4bit",
        "slower passes, and a base that is rounded; from sft on, for all stages",
        then,
    )


def _spread(asked: Question, found: StagePlan) -> Iterator[Change]:
    """The base's layers shared out among the cards that there are, or among more."""
    machine = asked.machine
    if machine.device != "gpu" or asked.base.spec.quantize:
        return
    counts = [machine.processes] if machine.processes > 1 else []
    if machine.shards:
        counts = [n for n in _GPUS if n > machine.processes]
    rows = batch_of(asked.recipe, found.stage)
    counts = [count for count in counts or _GPUS if rows % count == 0]
    for count in counts:
        then = with_machine(asked, processes=count, sharded="fsdp2")
        parts = stage_plan(then, found.stage)
        if parts.fits or count == counts[-1]:
            change = f"--gpus {count} --accelerate-config recipes/accelerate/fsdp2.yaml"
            yield change, "layers are sent to all cards for each pass; the same result", then
            return


def _layers(asked: Question, found: StagePlan) -> Iterator[Change]:
    now = asked.recipe.lora.layers or asked.base.layers
    for layers in (now // 2, now // 4):
        if layers:
            then = replace(asked, recipe=set_in(asked.recipe, "lora", layers=layers))
            yield f"lora.layers: {layers}", "adapters on the upper layers alone: another result", then
            return


def _lengths(asked: Question, found: StagePlan) -> Iterator[Change]:
    field = "max_response_tokens" if found.stage == "ppo" else "max_length"
    now: int = getattr(getattr(asked.recipe, found.stage), field)
    if found.stage != "ppo":
        now = min(now, asked.base.positions or now)
    if now > 64:
        recipe = set_in(asked.recipe, found.stage, **{field: now // 2})
        rankings = asked.lengths.rm
        then = replace(
            asked,
            recipe=recipe,
            lengths=limits(recipe, Responses(rankings.typical, rankings.responses), asked.base.positions),
        )
        yield (
            f"{found.stage}.{field}: {now // 2}",
            "longer records are left out, responses cut: another result",
            then,
        )
