"""A plan as people read it, and as programs do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from align.plan.advice import Advice
from align.plan.base import PlannedBase
from align.plan.duration import StageTime, shown_rates
from align.plan.machine import Machine
from align.plan.memory import Part
from align.plan.stage import StagePlan
from align.stage_table import Stage

Plans = Mapping[Stage, StagePlan]
Advices = Mapping[Stage, list[Advice]]
_ROLE = 12  # columns


def gib(size: float) -> str:
    """A size that people can read."""
    for step, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if abs(size) >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size / 2**10:,.1f} KiB"


def text(
    base: PlannedBase, machine: Machine, plans: Plans, advices: Advices, notes: Sequence[str] = ()
) -> str:
    """The plan as lines."""
    count = f"{machine.processes} x " if machine.processes > 1 else ""
    spread = ", the base's layers shared out" if machine.shards else ""
    lines = [
        f"base     {base.spec.name}: {base.layers} layers",
        f"machine  {count}{machine.name}{spread}: {gib(machine.memory)} for each process",
        f"rates    {shown_rates(machine)}",
        "rows     the longest that the recipe allows",
        *(f"note     {note}" for note in notes),
    ]
    for stage, plan in plans.items():
        lines += ["", *_stage(plan), *_advice(advices.get(stage, []))]
    return "\n".join(lines)


def document(
    base: PlannedBase, machine: Machine, plans: Plans, advices: Advices, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The plan for programs: sizes in bytes, times in seconds."""
    return {
        "base": {"name": base.spec.name, "layers": base.layers},
        "machine": asdict(machine),
        "notes": list(notes),
        "stages": {
            stage: {
                "fits": plan.fits,
                "peak": plan.memory.peak,
                "memory": plan.room,
                "margin": plan.memory.margin,
                "gradient_checkpointing": plan.memory.checkpointing,
                "held": [asdict(part) for part in plan.memory.held],
                "passes": [asdict(part) for part in plan.memory.passes],
                "time": None
                if plan.time is None
                else asdict(plan.time) | {"step": plan.time.step, "total": plan.time.total},
                "sent": plan.sent,
                "advice": [asdict(one) for one in advices.get(stage, [])],
            }
            for stage, plan in plans.items()
        },
    }


def _stage(plan: StagePlan) -> list[str]:
    memory = plan.memory
    lines = [f"{plan.stage}"]
    lines += [_row(part) for part in memory.held]
    lines += [_row(part, "one at a time") for part in memory.passes]
    lines.append(
        _row(Part("margin", "libraries, fragments, what operations need within themselves", memory.margin))
    )
    over = memory.peak - plan.room
    verdict = f"fits, {gib(-over)} are left" if plan.fits else f"does not fit: {gib(over)} too much"
    lines.append(_row(Part("peak", verdict, memory.peak)))
    again = "on" if memory.checkpointing else "off"
    why = " (auto: it does not fit without)" if plan.auto and memory.checkpointing else ""
    lines.append(f"  {'':{_ROLE}}gradient checkpointing is {again}{why}")
    return lines + _time(plan.time) + _sent(plan)


def _row(part: Part, more: str = "") -> str:
    what = f"{part.what}{' *' if more else ''}"
    return f"  {part.who:{_ROLE}}{what:<62} {gib(part.size):>11}"


def _time(time: StageTime | None) -> list[str]:
    if time is None:
        return []
    what = "iteration" if time.stage == "ppo" else "step"
    decoding = f" and {duration(time.decoding)} of decoding" if time.decoding else ""
    line = (
        f"  {'time':{_ROLE}}{duration(time.step)} for each {what}: {time.flops / 1e12:,.4g} TFLOP in passes, "
        f"{duration(time.seconds)}{decoding}"
    )
    whole = (
        "the number of steps is a matter of the data: set steps to have a sum"
        if time.total is None
        else f"{time.steps:,} of them: {duration(time.total)}"
    )
    return [line, f"  {'':{_ROLE}}{whole}"]


def _sent(plan: StagePlan) -> list[str]:
    if not plan.sent:
        return []
    what = "iteration" if plan.stage == "ppo" else "step"
    return [f"  {'sent':{_ROLE}}{gib(plan.sent)} by each process in each {what}, not in the time"]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever can be read."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.3g} s"


def _advice(advice: list[Advice]) -> list[str]:
    if not advice:
        return []
    lines = ["  to change, in order of cost, each on top of those before it:"]
    for one in advice:
        lines.append(f"    {one.change}")
        then = "fits" if one.fits else "does not fit yet"
        lines.append(f"      saves {gib(one.saves)}: {gib(one.peak)}, {then}; {one.costs}")
    if not advice[-1].fits:
        lines.append("    with all of it the stage still does not fit: take a smaller base or larger cards")
    return lines
