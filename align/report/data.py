"""The section on the data: what `align check` found, from the run's check.json."""

from __future__ import annotations

from typing import Any

from align.report.read import numbers
from align.text import number, percent

_SEVERITIES = ("error", "warning", "note")
_EXAMPLES = 3

Cells = list[str]


def data_view(check: dict[str, Any]) -> dict[str, Any]:
    """Findings, worst first, and tables; empty without a check."""
    if not check:
        return {}
    findings = [_finding(row) for row in _rows(check, "findings")]
    findings.sort(key=lambda row: _SEVERITIES.index(row["severity"]))
    return {
        "findings": findings,
        "sets": [_set(row) for row in _rows(check, "sets")],
        "length": _length(check.get("length_bias")),
        "unit": _unit(check),
        "agreement": [_agreement(row) for row in _rows(check, "agreement") if _judged_again(row)],
    }


def _rows(found: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = found.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _finding(row: dict[str, Any]) -> dict[str, Any]:
    examples = row.get("examples")
    severity = row.get("severity")
    return {
        "severity": severity if severity in _SEVERITIES else "note",
        "where": str(row.get("where") or ""),
        "message": str(row.get("message") or ""),
        "examples": [str(e) for e in examples[:_EXAMPLES]] if isinstance(examples, list) else [],
    }


def _count(row: Any, key: str) -> str:
    found = numbers(row)
    return number(found[key]) if key in found else "–"


def _set(row: dict[str, Any]) -> Cells:
    """kind, records, different prompts, K, comparisons, tied, tokens of prompt, of response, of both."""
    labels = row.get("labels")
    k = numbers(labels.get("k")) if isinstance(labels, dict) else {}
    sizes = ", ".join(sorted(k, key=lambda size: int(size) if size.isdigit() else 0))
    found = numbers(labels)
    pairs = found.get("ties", 0) + found.get("comparisons", 0)
    lengths = row.get("lengths")
    parts = lengths if isinstance(lengths, dict) else {}
    spreads = [parts.get(part) for part in ("prompt", "response", "sequence")]
    side = "held out" if row.get("side") == "held_out" else "training"
    return [
        f"{row.get('kind', '')}, {side}",
        _count(row, "records"),
        _count(row.get("repeats"), "prompts"),
        sizes or "–",
        _count(labels, "comparisons"),
        percent(found["ties"] / pairs) if pairs and "ties" in found else "–",
        *[f"{_count(s, 'median')} / {_count(s, 'max')}" if isinstance(s, dict) else "–" for s in spreads],
    ]


def _length(found: Any) -> str:
    if not isinstance(found, dict) or "accuracy" not in numbers(found):
        return ""
    rule = "longer" if found.get("rule") == "longer" else "shorter"
    where = "held-out" if found.get("measured_on") == "held_out" else "training"
    share = percent(numbers(found)["accuracy"])
    return (
        f"Always preferring the {rule} response agrees with people on {share} of the {where} comparisons. "
        "A reward model must do better than that."
    )


def _unit(check: dict[str, Any]) -> str:
    """What lengths are counted in: characters where the check had no tokenizer."""
    lengths = [row["lengths"] for row in _rows(check, "sets") if isinstance(row.get("lengths"), dict)]
    return str(next((found["unit"] for found in lengths if "unit" in found), "tokens"))


def _judged_again(row: dict[str, Any]) -> bool:
    found = numbers(row)
    return any(found.get(key) for key in ("judged_twice", "repeated_pairs", "cycles"))


def _agreement(row: dict[str, Any]) -> Cells:
    """side, agreement, judgements, pairs judged twice, pairs ordered both ways, prompts with a cycle."""
    found = numbers(row)
    return [
        "held out" if row.get("side") == "held_out" else "training",
        percent(found["agreement"]) if "agreement" in found else "–",
        *[_count(row, key) for key in ("judgements", "judged_twice", "contradictory", "cycles")],
    ]
