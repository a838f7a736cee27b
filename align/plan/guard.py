"""Before a stage loads its base: whether it fits, and gradient checkpointing where it has to be on.

Never in the way of what would run: a stage is refused only where the least that it needs is more than there
is at all. Where everything obviously fits, which a bound says at once, nothing is counted; a plan that cannot
be made refuses nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedConfig

from align.errors import UserError
from align.plan.advice import advise
from align.plan.base import PlannedBase, plan_base
from align.plan.lengths import Lengths, limits
from align.plan.machine import Machine, Sharded, available, configured
from align.plan.memory import Part, Question, base_parts, least_rows, sampling_tokens, stage_memory
from align.plan.show import gib
from align.plan.stage import StagePlan, checkpointing_of, set_in, stage_plan
from align.processes import distributed, sharding
from align.recipe.sections import Recipe
from align.stage_table import Stage

_SURE = 0.85  # of a counted pass: plans were within 15% of what was measured
_OBVIOUS = 0.8  # of the memory: a bound below it needs no count
_PATIENCE = 20.0  # seconds for which advice is counted once a stage is refused


@dataclass(frozen=True)
class Here:
    """What one process can have: now, and if nobody else took any."""

    machine: Machine
    total: int


def here(device: torch.device, processes: int) -> Here:
    """This process's device."""
    kind = sharding.sharding() if processes > 1 else None
    by: dict[str | None, Sharded] = {None: "states", "FSDP2": "fsdp2"}
    shared = None if kind is None else by.get(kind.layers, "zero3")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device)
        name = torch.cuda.get_device_name(device)
        return Here(Machine(name, "gpu", free, 0, 0, 1, 1, "", processes, shared), total)
    most = available() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Here(Machine("this machine", "cpu", most, 0, 0, 1, 1, "", processes, shared), most)


def smallest(processes: int = 1, sharded: Sharded = None) -> Machine:
    """What a process can have that is yet to start here, of the smallest GPU or of the memory; no rates."""
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        least = min(cards, key=lambda card: card.total_memory)
        return Machine(least.name, "gpu", least.total_memory, 0, 0, 1, 1, "", processes, sharded)
    return Machine("this machine", "cpu", available() // processes, 0, 0, 1, 1, "", processes, sharded)


def settled(
    recipe: Recipe,
    stage: Stage,
    config: PreTrainedConfig,
    accel: Accelerator,
    lengths: Lengths,
    say: Callable[[str], object],
    anyway: bool = False,
) -> Recipe:
    """The recipe with gradient checkpointing on or off, as the stage will run; all processes call it.

    say: is told what the plan switches on, and where memory may run out. Raises UserError where the stage
    cannot fit, unless `anyway`.
    """
    said = checkpointing_of(recipe, stage)
    found = here(accel.device, accel.num_processes)
    asked = Question(recipe, PlannedBase(recipe.base, config), lengths, found.machine)
    on = bool(said)
    if not obvious(asked, stage):
        say(f"{stage}: counting what it needs, as it does not obviously fit; this can take a minute")
        try:
            plan = stage_plan(asked, stage)
        except Exception:  # whatever a base does that cannot be counted, the stage can still run
            plan = None
        if plan is not None:
            on = plan.memory.checkpointing
            if not anyway:
                _refuse(asked, plan, found.total, say)
            _tell(plan, say)
    on = bool(distributed.highest(int(on), accel))  # one result is as good as the other, but all do the same
    return set_in(recipe, stage, gradient_checkpointing=on)


def check_base_alone(
    recipe: Recipe, stage: Stage, config: PreTrainedConfig, accel: Accelerator, say: Callable[[str], object]
) -> None:
    """Raise UserError where the base's weights alone are more than there is, before any data are read."""
    found = here(accel.device, accel.num_processes)
    base = PlannedBase(recipe.base, config)
    asked = Question(recipe, base, limits(recipe, positions=base.positions), found.machine)
    if not obvious(asked, stage):
        _refuse_base(asked, stage, found.total, say)


def check_all(
    recipe: Recipe,
    stages: Sequence[Stage],
    processes: int | None = None,
    config: Path | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Raise UserError where the base alone, with adapters and optimizers, leaves a stage no room at all.

    Before the first stage trains, so that the last is not refused after hours. Stages that have finished are
    not looked at. processes, config: as the command line has them; the stages say what is wrong with these.
    """
    try:
        count, sharded = (1, None) if config is None else configured(config)
    except UserError:
        return
    machine = smallest(processes or count, sharded)
    for stage in stages:
        if (recipe.run.path / stage / "final").is_dir():
            continue
        try:
            base = plan_base(recipe.base)
        except UserError:  # which the stage says too
            continue
        asked = Question(recipe, base, least_rows(limits(recipe, positions=base.positions)), machine)
        if obvious(asked, stage):
            continue
        _refuse_base(asked, stage, machine.memory, say)
        try:
            memory = stage_memory(asked, stage, True)
        except Exception:  # the stage itself says what is wrong with its base
            continue
        least = _held(asked, memory.held)
        if least > machine.memory:
            plan = StagePlan(memory, None, machine.memory, auto=False)
            raise UserError(_refusal(asked, stage, plan, least, machine.memory, say))


def _refuse_base(asked: Question, stage: Stage, total: int, say: Callable[[str], object]) -> None:
    """By the weights alone, which need no pass to be counted."""
    try:
        least = _held(asked, base_parts(asked, {}))
    except Exception:  # as in `settled`
        return
    if least > total:
        raise UserError(_refusal(asked, stage, None, least, total, say))


def _refuse(asked: Question, plan: StagePlan, total: int, say: Callable[[str], object]) -> None:
    if plan.memory.static + plan.memory.largest.size <= total:
        return
    rows = replace(asked, lengths=least_rows(asked.lengths))
    memory = stage_memory(rows, plan.stage, plan.memory.checkpointing)
    least = _held(asked, memory.held) + round(_SURE * memory.largest.size)
    if least > total:
        raise UserError(_refusal(asked, plan.stage, plan, least, total, say))


def _held(asked: Question, held: Sequence[Part]) -> int:
    """What is held at least: on a CPU a base in its files' precision stays mapped, and its pages can go."""
    kept = str(getattr(asked.base.config, "dtype", None) or "")
    mapped = asked.machine.device == "cpu" and kept in ("", str(asked.dtype), str(asked.dtype).split(".")[-1])
    return sum(part.size for part in held if not (mapped and part.who == "base"))


def _refusal(
    asked: Question,
    stage: Stage,
    plan: StagePlan | None,
    least: int,
    total: int,
    say: Callable[[str], object],
) -> str:
    """What is missing, which `say` is told before anything more is counted, and what to change.

    plan: None where the stage is not counted yet.
    """
    place = "this GPU has" if asked.machine.device == "gpu" else "this machine has for each process"
    found = f"{stage} does not fit: it needs at least {gib(least)}, and {place} {gib(total)}"
    say(f"{found}. Counting what would help, for {_PATIENCE:.0f} seconds at most, or somewhat longer…")
    until = time.monotonic() + _PATIENCE
    try:
        advice = advise(asked, plan or stage_plan(asked, stage), until)
    except Exception:  # as in `settled`: then there is none
        advice = []
    lines = [
        f"{found}, so {gib(least - total)} are missing. Nothing was loaded. To change, in order of cost, "
        "together:",
        *(f"  {one.change}: saves {gib(one.saves)} ({one.costs})" for one in advice),
    ]
    if not (advice and advice[-1].fits):
        timely = time.monotonic() <= until
        lines.append(
            "  a smaller base, or more memory: the changes above are not enough"
            if timely
            else "  more than this: time was up, and `align plan` goes through all changes"
        )
    lines.append("`align plan` shows the whole plan; --anyway starts the stage nevertheless")
    return "\n".join(lines)


def _tell(plan: StagePlan, say: Callable[[str], object]) -> None:
    stage, memory = plan.stage, plan.memory
    if plan.auto and memory.checkpointing:
        say(
            f"{stage}: gradient checkpointing is on ({stage}.gradient_checkpointing: auto), as it needs "
            f"more than the {gib(plan.room)} that are free without, and {gib(memory.peak)} with it"
        )
    if not plan.fits:
        say(
            f"{stage}: memory may run out: it needs up to {gib(memory.peak)}, and {gib(plan.room)} are free; "
            "`align plan` says what to change"
        )


def obvious(asked: Question, stage: Stage) -> bool:
    """Whether the stage fits beyond doubt, by a bound that costs nothing; see `bound`."""
    return bound(asked, stage) <= _OBVIOUS * asked.machine.memory


def bound(asked: Question, stage: Stage) -> float:
    """More bytes than a stage can need: float32 throughout, and for each token and layer what no layer keeps.

    Infinite where a configuration does not say its widths, or has experts.
    """
    config, recipe = asked.base.config.get_text_config(), asked.recipe
    sizes = [getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")]
    heads = getattr(config, "num_attention_heads", None)
    if any(not isinstance(x, int) for x in (*sizes, heads)) or "expert" in str(config.to_dict()):
        return float("inf")
    width, layers, words = (int(x or 0) for x in sizes)
    inner = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width)
    heads = int(heads or 0)
    spread = heads * int(getattr(config, "head_dim", None) or width // max(1, heads))
    tokens, longest = _tokens(asked, stage)
    matrices = layers * (4 * width * max(width, spread) + 3 * width * inner) + 2 * words * width
    adapters = layers * recipe.lora.rank * 16 * (width + inner + spread)
    if recipe.lora.modules_to_save:
        adapters += 2 * words * width
    each = layers * (32 * width + 24 * inner + 16 * spread + 4 * recipe.lora.rank * 7)
    dropout = any(getattr(config, name, 0) for name in ("attention_dropout", "attn_pdrop"))
    every = dropout or asked.base.spec.attention == "eager"  # else pairs of tokens are in masks alone
    pairs = (layers * heads * 6 if every else 16) * longest
    logits = 12 * min(2**25 + 2**15 * 8192, tokens * max(words, 2**15))
    kept = recipe.ppo.rollout_batch_size * longest * (width + 30) if stage == "ppo" else 0
    return 4.0 * (2 * matrices + 20 * adapters + tokens * (each + pairs) + logits + kept)


def _tokens(asked: Question, stage: Stage) -> tuple[int, int]:
    """The tokens of the largest pass, and of its longest row."""
    recipe, lengths = asked.recipe, asked.lengths
    if stage == "sft":
        rows = recipe.sft.microbatch_size or recipe.sft.batch_size
        longest = lengths.sft.longest
        return rows * longest, rows * longest if recipe.sft.packing else longest
    if stage == "dpo":
        pairs = recipe.dpo.microbatch_size or recipe.dpo.batch_size
        return 2 * pairs * lengths.sft.longest, lengths.sft.longest
    if stage == "rm":
        one = lengths.rm.prompt + lengths.rm.response
        most = max(one, min(recipe.rm.microbatch_tokens, recipe.rm.batch_size * lengths.rm.ranking))
        return most, most
    one = lengths.ppo.prompt + lengths.ppo.response
    return max(one, min(sampling_tokens(asked), recipe.ppo.rollout_batch_size * one)), one
