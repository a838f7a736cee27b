"""The section on the data: what `align check` found, from the run's check.json."""

from __future__ import annotations

from typing import Any

from align.report.documents import Check, Judged, LengthBias, RecordSet
from align.text import number, percent

_SEVERITIES = ("error", "warning", "note")
_EXAMPLES = 3

Cells = list[str]


def data_view(check: Check | None) -> dict[str, Any]:
    """Findings, worst first, and tables; empty without a check."""
    if check is None:
        return {}
    findings = sorted(check.findings, key=lambda found: _SEVERITIES.index(found.severity))
    return {
        "findings": [{**found.model_dump(), "examples": found.examples[:_EXAMPLES]} for found in findings],
        "sets": [_set(one) for one in check.sets],
        "length": _length(check.length_bias),
        "unit": next((one.lengths.unit for one in check.sets if one.lengths), "tokens"),
        "agreement": [_agreement(one) for one in check.agreement if _judged_again(one)],
    }


def _count(value: float | None) -> str:
    return "–" if value is None else number(value)


def _set(one: RecordSet) -> Cells:
    """kind, records, different prompts, K, comparisons, tied, tokens of prompt, of response, of both."""
    labels, lengths = one.labels, one.lengths
    sizes = ", ".join(sorted(labels.k, key=lambda size: int(size) if size.isdigit() else 0))
    pairs = (labels.ties or 0) + (labels.comparisons or 0)
    spreads = (lengths.prompt, lengths.response, lengths.sequence) if lengths else ({}, {}, {})
    side = "held out" if one.side == "held_out" else "training"
    return [
        f"{one.kind}, {side}",
        _count(one.records),
        _count(one.repeats.get("prompts")),
        sizes or "–",
        _count(labels.comparisons),
        percent(labels.ties / pairs) if pairs and labels.ties is not None else "–",
        *map(_spread, spreads),
    ]


def _spread(found: dict[str, float]) -> str:
    return f"{_count(found.get('median'))} / {_count(found.get('max'))}" if found else "–"


def _length(found: LengthBias) -> str:
    if found.accuracy is None:
        return ""
    rule = "longer" if found.rule == "longer" else "shorter"
    where = "held-out" if found.measured_on == "held_out" else "training"
    return (
        f"Always preferring the {rule} response agrees with people on {percent(found.accuracy)} of the "
        f"{where} comparisons. A reward model must do better than that."
    )


def _judged_again(found: Judged) -> bool:
    return bool(found.judged_twice or found.repeated_pairs or found.cycles)


def _agreement(found: Judged) -> Cells:
    """side, agreement, judgements, pairs judged twice, pairs ordered both ways, prompts with a cycle."""
    return [
        "held out" if found.side == "held_out" else "training",
        percent(found.agreement) if found.agreement is not None else "–",
        *map(_count, (found.judgements, found.judged_twice, found.contradictory, found.cycles)),
    ]
