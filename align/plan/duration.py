"""The time of a stage, from operations counted and bytes read, at shares of the machine's rates.

    seconds of a pass          = its operations / (rate x share)
    seconds of a decoding step = bytes of weights and cache / (bandwidth x share), or kernels' launching

Left out: loading, tokenising, evaluations, checkpoints, messages between processes, and padding. A sharded
base also sends its layers to all processes for each pass, which is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from align.plan.flops import Work, again, pairs_of, pass_flops
from align.plan.machine import Machine
from align.plan.memory import Question, StageMemory, sampling_tokens
from align.stage_table import Stage


@dataclass(frozen=True)
class StageTime:
    """Of one step (of ppo: one iteration), and of how many; operations are those of one process in a step."""

    stage: Stage
    steps: int | None  # None: epochs over data that were not counted
    flops: int
    seconds: float  # of the passes of a step
    read: int  # bytes read in decoding
    decoding: float  # seconds of it in a step

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.seconds + self.decoding

    @property
    def total(self) -> float | None:
        """Seconds of all steps."""
        return None if self.steps is None else self.steps * self.step


def stage_time(asked: Question, found: StageMemory) -> StageTime | None:
    """How long the stage takes; None where the machine's rates are not known."""
    if not asked.machine.flops or not asked.machine.bandwidth:
        return None
    return {"sft": _sft, "rm": _rm, "ppo": _ppo, "dpo": _dpo}[found.stage](asked, found)


def _made(
    asked: Question, found: StageMemory, steps: int | None, flops: float, tokens: float = 0
) -> StageTime:
    """tokens: decoding steps, one after the other."""
    machine, seconds, read = asked.machine, 0.0, 0
    if tokens:
        one = found_read(asked, found)
        read = round(one * tokens)
        slow = asked.base.layers * machine.launch
        seconds = tokens * max(one / (machine.bandwidth * machine.read_share), slow)
    rate = machine.flops * machine.share
    return StageTime(found.stage, steps, round(flops), flops / rate, read, seconds)


def found_read(asked: Question, found: StageMemory) -> float:
    """Bytes that a decoding step reads: the base, and half of the full cache, which grows."""
    weights = asked.base.weights(asked.dtype)
    cache = next((part.size for part in found.passes if "cache" in part.what), 0)
    return weights.total + cache / 2


def _trained(work: Work, tokens: int, pairs: int, read: int, checkpointing: bool, lower: bool = True) -> int:
    flops = pass_flops(work, tokens, pairs, read, backward=True, lower=lower)
    return flops + (again(work, tokens, pairs) if checkpointing else 0)


def _steps(steps: int | None, epochs: int, count: int | None, batch: int) -> int | None:
    return steps or (None if count is None else -(-epochs * count // batch))


def _sft(asked: Question, found: StageMemory) -> StageTime:
    cfg, rows = asked.recipe.sft, asked.lengths.sft
    length, mine = round(rows.mean), asked.share(cfg.batch_size)
    flops = _trained(found.work, length, pairs_of([length]), length, found.checkpointing)
    return _made(asked, found, _steps(cfg.steps, cfg.epochs, rows.count, cfg.batch_size), mine * flops)


def _dpo(asked: Question, found: StageMemory) -> StageTime:
    cfg, rows, work = asked.recipe.dpo, asked.lengths.sft, found.work
    length, mine = round(rows.mean), 2 * asked.share(cfg.batch_size)
    flops = _trained(work, length, pairs_of([length]), length, found.checkpointing)
    flops += pass_flops(work, length, pairs_of([length]), length)
    return _made(asked, found, _steps(cfg.steps, cfg.epochs, rows.count, cfg.batch_size), mine * flops)


def _rm(asked: Question, found: StageMemory) -> StageTime:
    cfg, rows = asked.recipe.rm, asked.lengths.rm
    length, mine = round(rows.mean), asked.share(cfg.batch_size)
    if not cfg.share_prompt:
        length += round((rows.typical - 1) * rows.prompt)
    flops = _trained(found.work, length, pairs_of([length]), 0, found.checkpointing)
    if length > max(cfg.microbatch_tokens, rows.prompt + rows.response):
        flops += pass_flops(found.work, length, pairs_of([length]))  # in parts: scores first
    elif cfg.length_debias == "odin":
        flops += pass_flops(found.work, length, pairs_of([length]))  # correlations are of the whole batch
    if cfg.members > 1:
        upper = _trained(found.work, length, pairs_of([length]), 0, found.checkpointing, lower=False)
        flops += (cfg.members - 1) * upper
    return _made(asked, found, _steps(cfg.steps, cfg.epochs, rows.count, cfg.batch_size), mine * flops)


def _ppo(asked: Question, found: StageMemory) -> StageTime:
    cfg, rows, work = asked.recipe.ppo, asked.lengths.ppo, found.work
    length, mine = rows.prompt + rows.response, asked.share(cfg.rollout_batch_size)
    pairs, response = pairs_of([length]), rows.response
    shared = cfg.has_value_model and cfg.value_model == "shared"
    models = sum(part.what == "adapter" and part.who not in ("policy",) for part in found.held)
    upper = pass_flops(work, length, pairs, response, lower=False)
    headless = pass_flops(work, length, pairs, lower=False)
    whole = pass_flops(work, length, pairs, response)
    scoring = whole + upper + (models - 1) * headless
    policy = _trained(work, length, pairs, response, found.checkpointing, lower=False)
    value = _trained(work, length, pairs, 0, found.checkpointing, lower=False)
    update = policy + (value if cfg.has_value_model and not shared else 0)
    flops = mine * (whole + scoring + cfg.ppo_epochs * update)
    batch = max(1, min(sampling_tokens(asked) // length, mine))
    batches = -(-mine // batch) if cfg.engine != "vllm" else 0
    if cfg.reward_shape != "none":  # the reference's responses, spread over all iterations
        more = cfg.reference_draws(rows.count) / cfg.iterations / asked.machine.processes
        theirs = more * (whole + pass_flops(work, length, pairs))
        return _made(asked, found, cfg.iterations, flops + theirs, batches * (1 + more / mine) * response)
    return _made(asked, found, cfg.iterations, flops, batches * response)


def shown_rates(machine: Machine) -> str:
    """The rates that times are made of, and the shares of them."""
    if not machine.flops or not machine.bandwidth:
        return f"the rates of {machine.name} are not known: name them by --gpu mem=…,tflops=…,bandwidth=…"
    return (
        f"{machine.flops / 1e12:,.4g} TFLOP/s, of which {machine.share:.0%} is expected in passes; "
        f"{machine.bandwidth / 1e9:,.4g} GB/s, of which {machine.read_share:.0%} is expected in decoding "
        f"({machine.source})"
    )
