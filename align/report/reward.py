"""The section on the reward model: what it is worth, beside what it must be compared with."""

from __future__ import annotations

from typing import Any

from align.report.documents import Calibration, Evaluation, Misjudged, Share
from align.report.parts import Chart, ShareBar, bar, both, chart, interval
from align.report.read import StageFiles
from align.svg import reliability
from align.text import number, percent

_SHOWN = 20  # misjudged comparisons
_ROWS = 30  # of one breakdown


def rm_view(stage: StageFiles) -> dict[str, Any]:
    """The section on the reward model, as the template takes it."""
    found = stage.evaluation
    charts = chart(
        "Loss of the comparisons, nats",
        both(stage, "train/loss", "eval/log_loss"),
        reference=0.693,
        about="dashed: ln 2, guessing",
    )
    charts += chart(
        "Agreement with people",
        both(stage, "train/accuracy", "eval/accuracy"),
        reference=0.5,
        about="dashed: guessing",
    )
    return {
        "charts": charts,
        "agreement": agreement(stage),
        "breakdowns": _breakdowns(found),
        "calibration": _calibration(found.calibration) if found.calibration else {},
        "tau": bar("Kendall's tau", found.kendall_tau, (-1, 1), "rankings"),
        "facts": _facts(found),
        "misjudged": [_misjudged(Misjudged.model_validate(row)) for row in stage.samples[:_SHOWN]],
        "misjudged_count": len(stage.samples),
    }


def _facts(found: Evaluation) -> list[str]:
    """What was held out, and what scores mean."""
    facts = []
    kinds = ("prompts", "rankings", "comparisons", "ties")
    known = [(kind, value) for kind in kinds if (value := getattr(found, kind)) is not None]
    if counts := [f"{number(value)} {kind}" for kind, value in known]:
        facts.append(f"Held out: {', '.join(counts)}.")
    if found.score.std is not None:
        zero = f"{found.score.centred_on} average 0, and " if found.score.centred_on else ""
        facts.append(f"Of the scores, {zero}the standard deviation is {number(found.score.std)}.")
    return facts


def agreement(stage: StageFiles) -> list[ShareBar]:
    """How often the reward model orders a pair as people did, beside what it must be compared with."""
    found, results = stage.evaluation, stage.manifest.results
    own = found.accuracy
    if own.value is None:
        own = Share(
            value=results.get("eval/accuracy"),
            low=results.get("eval/accuracy_low"),
            high=results.get("eval/accuracy_high"),
            count=results.get("eval/comparisons"),
        )
    rows = bar("reward model", own, (0, 1), "comparisons")
    if length := found.length_only:
        rule = "longer" if length.longer_wins else "shorter"
        rows += bar(f"only length: the {rule} one wins", length, (0, 1), "comparisons", "b")
    if people := found.people:
        rows += bar("people with each other", people.agreement, (0, 1), "pairs", "c")
        rows += bar("reward model on those pairs", people.model, (0, 1), "pairs")
    return rows


def _breakdowns(found: Evaluation) -> list[tuple[str, list[ShareBar]]]:
    parts = {
        "By how far apart the ranks are": found.by_rank_gap,
        "By how clear the preference was": found.by_strength,
        "By how much longer the preferred response is, tokens": found.by_length_difference,
        "By labeler": found.by_labeler,
    }
    shown = {
        title: [row for share in shares[:_ROWS] for row in bar(share.name, share, (0, 1), "comparisons")]
        for title, shares in parts.items()
    }
    if longer := found.longer_preferred:
        people = bar("people", longer.people, (0, 1), "comparisons", "c")
        model = bar("reward model", longer.model, (0, 1), "comparisons")
        shown["How often the longer response is preferred"] = people + model
    return [(title, bars) for title, bars in shown.items() if bars]


def _calibration(found: Calibration) -> dict[str, Any]:
    charts, rows = [], []
    for part, name in ((found.raw, "as it is"), (found.scaled, "with the fitted temperature")):
        if part is None:
            continue
        title = f"Reliability {name}"
        if svg := reliability(title, part.bins):
            charts.append(Chart(title, svg))
        ece = percent(part.ece) if part.ece is not None else "–"
        rows.append((name, ece, _with_interval(part.log_loss), _with_interval(part.brier)))
    return {
        "charts": charts,
        "rows": rows,
        "temperature": number(found.temperature) if found.temperature is not None else "",
        "at_bound": found.at_bound,
    }


def _with_interval(share: Share) -> str:
    if share.value is None:
        return "–"
    between = interval(share, number)
    return number(share.value) + (f" ({between})" if between else "")


def _misjudged(row: Misjudged) -> dict[str, Any]:
    more = (row.model_extra or {}).items()
    return {
        "prompt": row.prompt,
        "preferred": row.preferred,
        "other": row.other,
        "margin": number(row.margin) if row.margin is not None else "–",
        "more": [(key, _plain(value)) for key, value in more if value is not None],
    }


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
