"""The section on the reward model: what it is worth, beside what it must be compared with."""

from __future__ import annotations

from typing import Any

from align.report.parts import Bar, Chart, bar, chart
from align.report.read import Stage, numbers
from align.svg import Series, reliability
from align.text import number, percent

_SHOWN = 20  # misjudged comparisons
_ROWS = 30  # of one breakdown


def rm_view(stage: Stage) -> dict[str, Any]:
    """The section on the reward model, as the template takes it."""
    found = stage.evaluation
    charts = chart(
        "Loss of the comparisons, nats",
        [
            Series("training", stage.curve("train/loss")),
            Series("held out", stage.curve("eval/log_loss"), "b", dots=True),
        ],
        reference=0.693,
        about="dashed: ln 2, guessing",
    )
    charts += chart(
        "Agreement with people",
        [
            Series("training", stage.curve("train/accuracy")),
            Series("held out", stage.curve("eval/accuracy"), "b", dots=True),
        ],
        reference=0.5,
        about="dashed: guessing",
    )
    return {
        "charts": charts,
        "agreement": agreement(stage),
        "breakdowns": _breakdowns(found),
        "calibration": _calibration(found.get("calibration")),
        "tau": bar("Kendall's tau", found.get("kendall_tau"), (-1, 1), "rankings"),
        "facts": _facts(found),
        "misjudged": [_misjudged(row) for row in stage.samples[:_SHOWN]],
        "misjudged_count": len(stage.samples),
    }


def _facts(found: dict[str, Any]) -> list[str]:
    """What was held out, and what scores mean."""
    facts = []
    kinds = ("prompts", "rankings", "comparisons", "ties")
    counts = [f"{number(value)} {kind}" for kind, value in numbers({k: found.get(k) for k in kinds}).items()]
    if counts:
        facts.append(f"Held out: {', '.join(counts)}.")
    score = found.get("score")
    if isinstance(score, dict) and "std" in numbers(score):
        zero = f"{score['centred_on']} average 0, and " if score.get("centred_on") else ""
        facts.append(f"Of the scores, {zero}the standard deviation is {number(numbers(score)['std'])}.")
    return facts


def agreement(stage: Stage) -> list[Bar]:
    """How often the reward model orders a pair as people did, beside what it must be compared with."""
    found, results = stage.evaluation, stage.results
    own = found.get("accuracy") or {
        "value": results.get("eval/accuracy"),
        "low": results.get("eval/accuracy_low"),
        "high": results.get("eval/accuracy_high"),
        "count": results.get("eval/comparisons"),
    }
    rows = bar("reward model", own, (0, 1), "comparisons")
    length = found.get("length_only")
    if isinstance(length, dict):
        rule = "longer" if length.get("longer_wins", True) else "shorter"
        rows += bar(f"only length: the {rule} one wins", length, (0, 1), "comparisons", "b")
    people = found.get("people")
    if isinstance(people, dict):
        rows += bar("people with each other", people.get("agreement"), (0, 1), "pairs", "c")
        rows += bar("reward model on those pairs", people.get("model"), (0, 1), "pairs")
    return rows


def _breakdowns(found: dict[str, Any]) -> list[tuple[str, list[Bar]]]:
    titles = {
        "by_rank_gap": "By how far apart the ranks are",
        "by_strength": "By how clear the preference was",
        "by_length_difference": "By how much longer the preferred response is, tokens",
        "by_labeler": "By labeler",
    }
    shown = []
    for key, title in titles.items():
        rows = found.get(key)
        bars = [
            row
            for share in (rows if isinstance(rows, list) else [])[:_ROWS]
            if isinstance(share, dict)
            for row in bar(str(share.get("name", "")), share, (0, 1), "comparisons")
        ]
        if bars:
            shown.append((title, bars))
    longer = found.get("longer_preferred")
    if isinstance(longer, dict):
        bars = bar("people", longer.get("people"), (0, 1), "comparisons", "c")
        bars += bar("reward model", longer.get("model"), (0, 1), "comparisons")
        if bars:
            shown.append(("How often the longer response is preferred", bars))
    return shown


def _calibration(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        return {}
    temperature = numbers(found).get("temperature")
    kinds = [("raw", "as it is"), ("scaled", "with the fitted temperature")]
    charts, rows = [], []
    for key, name in kinds:
        part = found.get(key)
        if not isinstance(part, dict):
            continue
        bins = part.get("bins")
        bins = [numbers(b) for b in bins if isinstance(b, dict)] if isinstance(bins, list) else []
        title = f"Reliability {name}"
        if svg := reliability(title, bins):
            charts.append(Chart(title, svg))
        ece = numbers(part).get("ece")
        shares = [numbers(part.get(k)) for k in ("log_loss", "brier")]
        rows.append((name, percent(ece) if ece is not None else "–", *map(_with_interval, shares)))
    return {
        "charts": charts,
        "rows": rows,
        "temperature": number(temperature) if temperature is not None else "",
        "at_bound": found.get("at_bound") is True,
    }


def _with_interval(share: dict[str, float]) -> str:
    if "value" not in share:
        return "–"
    text = number(share["value"])
    if "low" in share and "high" in share:
        text += f" ({number(share['low'])} to {number(share['high'])})"
    return text


def _misjudged(row: dict[str, Any]) -> dict[str, Any]:
    known = ("step", "prompt", "preferred", "other", "margin")
    margin = numbers(row).get("margin")
    return {
        "prompt": row.get("prompt", ""),
        "preferred": row.get("preferred", ""),
        "other": row.get("other", ""),
        "margin": number(margin) if margin is not None else "–",
        "more": [(k, _plain(v)) for k, v in row.items() if k not in known and v is not None],
    }


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
