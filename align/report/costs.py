"""What a run cost: time by stage and part, energy, memory, and the time of people."""

from __future__ import annotations

from align.report.documents import RecordSet
from align.report.read import RunFiles, StageFiles
from align.stage_table import STAGES
from align.text import number, percent, span

_PARTS = {  # of metrics.jsonl, in the order of the work
    "seconds/read": "reading rows",
    "seconds/sample": "sampling",
    "seconds/judge": "judging",
    "seconds/train": "training",
    "seconds/update": "updating",
    "seconds/other": "evaluation, checkpoints, the rest",
}
Row = tuple[str, str, str, str, str]  # stage, part, time, share of the stage, energy


def costs(run: RunFiles) -> list[Row]:
    """A row a stage that has timed its work, and one a part of it."""
    rows: list[Row] = []
    for stage in run.stages.values():
        parts = {name: _sum(stage, key) for key, name in _parts(stage).items()}
        total = sum(parts.values())
        if not total:
            continue
        rows.append((STAGES[stage.name].title, "", span(total), "", _energy(stage)))
        rows += [
            ("", name, span(spent), percent(spent / total), "")
            for name, spent in parts.items()
            if len(parts) > 1
        ]
    return rows


def people(run: RunFiles) -> str:
    """How long people took for the rankings, as `align check` read it in the records; empty where unsaid."""
    sets = run.check.sets if run.check else []
    timed = sum(one.labels.timed or 0 for one in sets)
    if not timed:
        return ""
    took = span(sum(one.labels.seconds or 0 for one in sets))
    rankings = number(sum(_rankings(one) for one in sets))
    return f"People took {took} for {number(timed)} of the {rankings} rankings."


def _rankings(one: RecordSet) -> float:
    return one.records or 0 if one.kind == "rankings" else 0


def peaks(run: RunFiles) -> list[str]:
    """The most memory that each stage's tensors took, where it was measured (on GPUs)."""
    found = {
        STAGES[stage.name].title: max(value for _, value in curve)
        for stage in run.stages.values()
        if (curve := stage.curve("memory/peak"))
    }
    return [f"{name}: {number(round(peak, 1))} GiB" for name, peak in found.items()]


def _parts(stage: StageFiles) -> dict[str, str]:
    seen = {key for row in stage.metrics for key in row if key.startswith("seconds/")}
    others = sorted(seen - _PARTS.keys())
    return {key: name for key, name in _PARTS.items() if key in seen} | {
        key: key.removeprefix("seconds/") for key in others
    }


def _sum(stage: StageFiles, key: str) -> float:
    return sum(value for _, value in stage.curve(key) if value >= 0)


def _energy(stage: StageFiles) -> str:
    """In watt-hours, of the machine's meters; where it has none, an estimate that is called so."""
    for keys, about in ((("energy/gpu", "energy/cpu"), ""), (("energy/cpu_estimated",), ", estimated")):
        if joules := sum(_sum(stage, key) for key in keys):
            return f"{number(joules / 3600)} Wh{about}"
    return ""
