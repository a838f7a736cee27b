"""The sections on sft and ppo."""

from __future__ import annotations

from statistics import StatisticsError, correlation, fmean
from typing import Any

from align.report.differences import differences
from align.report.documents import Answer, Sample
from align.report.parts import Chart, both, chart
from align.report.read import StageFiles
from align.svg import Series, histogram
from align.text import number, percent, two

_EACH = 4  # answers of each kind
_ALL = 400  # answers that the page holds to be searched


def sft_view(stage: StageFiles) -> dict[str, Any]:
    """The section on supervised fine-tuning, as the template takes it."""
    charts = chart("Loss, nats a token", both(stage, "train/loss", "eval/loss"))
    likeliest = [Series("", stage.curve("train/token_accuracy"))]
    charts += chart("Share of tokens that were the likeliest", likeliest)
    charts += chart("Entropy, nats a token", [Series("", stage.curve("train/entropy"))])
    more = chart("Gradient norm before clipping", [Series("", stage.curve("train/gradient_norm"))])
    return {"charts": charts, "more": more}


def ppo_view(stage: StageFiles) -> dict[str, Any]:
    """The section on PPO, as the template takes it."""

    def pair(title: str, training: str, held_out: str = "", **options: Any) -> list[Chart]:
        return chart(title, both(stage, training, held_out, "rollouts"), x="iteration", **options)

    charts = pair("Score by the reward model", "reward/score", "eval/score")
    charts += pair("KL to the SFT policy, nats a response", "kl/reference", "eval/kl")
    charts += _guard(stage) or _frontier(stage)
    charts += pair("Entropy, nats a token", "policy/entropy")
    charts += pair("Share that ended by themselves (EOS)", "response/eos", "eval/eos")
    charts += pair("Length, tokens", "response/length", "eval/length")
    more = pair("What PPO maximises: score less penalties", "reward/total")
    more += pair("Explained variance of the value model", "value/explained_variance", reference=0.0)
    more += pair("Share of tokens that the clip stopped", "policy/clip_fraction")
    more += pair("Sampler against trainer, nats a token", "engine/logprob_gap")
    more += pair("Value loss", "value/loss")
    answers = [row for row in stage.held_out if len(_scores(row)) == 2]
    spread = []
    if answers:
        before, after = zip(*map(_scores, answers), strict=True)
        title = "Scores of the held-out answers"
        if svg := histogram(title, before, after, "score"):
            spread.append(Chart(title, svg, [("b", "before (SFT)"), ("a", "after (PPO)")]))
    spread += _lengths(answers)
    chosen = _chosen(answers)
    return {
        "charts": charts + spread,
        "more": more,
        "table": _before_after(answers),
        "answers": [(title, [_shown(row) for row in rows]) for title, rows in chosen],
        "all": [_shown(row) for row in _searched(answers)] if len(chosen) > 1 else [],
        "count": len(answers),
        "samples": _samples([Sample.model_validate(row) for row in stage.samples]),
    }


def _guard(stage: StageFiles) -> list[Chart]:
    """The score that trains and the guard's, as changes since the first iteration, over the KL's root."""
    rows = [row for row in stage.metrics if {"guard/score", "reward/score", "kl/reference"} <= row.keys()]
    if not rows:
        return []

    def change(key: str) -> list[tuple[float, float]]:
        return sorted((max(row["kl/reference"], 0.0) ** 0.5, row[key] - rows[0][key]) for row in rows)

    series = [
        Series("reward that trains", change("reward/score"), dots=True),
        Series("guard", change("guard/score"), "b", dots=True),
    ]
    about = (
        "Change since the first iteration. Where the guard turns down while the reward goes on up, the "
        "policy has begun to exploit the reward model."
    )
    return chart("Reward and guard over the root of the KL", series, about, x="√KL", whole=False)


def _frontier(stage: StageFiles) -> list[Chart]:
    """The score over the KL's root, an iteration a dot: what the distance from the SFT policy has bought."""
    series = []
    for name, kl, score, tone in (
        ("rollouts", "kl/reference", "reward/score", "a"),
        ("held out", "eval/kl", "eval/score", "b"),
    ):
        rows = [row for row in stage.metrics if {kl, score} <= row.keys()]
        points = sorted((max(row[kl], 0.0) ** 0.5, row[score]) for row in rows)
        series.append(Series(name, points, tone, dots=True))
    return chart("Score over the root of the KL", series, x="√KL", whole=False)


def _lengths(answers: list[Answer]) -> list[Chart]:
    """Score against length, an answer a dot; the correlation is Pearson's."""
    series, told = [], []
    for name, length, score, tone in (
        ("before", "reference_length", "reference_score", "b"),
        ("after", "policy_length", "policy_score", "a"),
    ):
        rows = [(getattr(row, length), getattr(row, score)) for row in answers]
        points = [(x, y) for x, y in rows if x is not None and y is not None]
        series.append(Series(name, points, tone, dots=True))
        try:
            told.append(f"{name} {two(correlation(*zip(*points, strict=True)))}")
        except (StatisticsError, TypeError):  # fewer than two, or all alike
            continue
    about = f"correlation: {', '.join(told)}" if told else ""
    return chart("Length against score, held out", series, about, x="tokens", whole=False)


def _shown(row: Answer) -> dict[str, Any]:
    """An answer before and after with what differs marked, as far as marks tell anything."""
    marked = differences(row.reference, row.policy)
    before, after = marked or (row.reference, row.policy)
    return {
        "prompt": row.prompt,
        "before": before,
        "after": after,
        "scores": (row.reference_score, row.policy_score),
        "marked": marked is not None,
    }


def _searched(answers: list[Answer]) -> list[Answer]:
    """All of them by what they gained, or where they are too many as many as a page holds, evenly."""
    ordered = sorted(answers, key=lambda row: _scores(row)[0] - _scores(row)[1])
    step = max(1.0, len(ordered) / _ALL)
    return [ordered[int(i * step)] for i in range(min(len(ordered), _ALL))]


def _scores(row: Answer) -> tuple[float, ...]:
    return tuple(score for score in (row.reference_score, row.policy_score) if score is not None)


def _before_after(rows: list[Answer]) -> list[tuple[str, str, str]]:
    """(what, before, after) as means over the held-out prompts."""
    if not rows:
        return []

    def mean(key: str) -> float | None:
        found = (getattr(row, key) for row in rows)
        values = [float(value) for value in found if value is not None]
        return fmean(values) if values else None

    shown = []
    for name, key, show in (
        ("score by the reward model", "score", two),
        ("ended by themselves (EOS)", "eos", percent),
        ("length, tokens", "length", lambda value: number(round(value, 1))),
    ):
        before, after = mean(f"reference_{key}"), mean(f"policy_{key}")
        if before is not None and after is not None:
            shown.append((name, show(before), show(after)))
    kl = mean("kl")
    if kl is not None:
        shown.append(("KL to the SFT policy, nats a response", "0", number(kl)))
    better = fmean(a > b for b, a in map(_scores, rows))
    shown.append(("prompts whose answer scores higher than before", "", percent(better)))
    return shown


def _chosen(rows: list[Answer]) -> list[tuple[str, list[Answer]]]:
    """Some answers: those that gained most, some in the middle, those that lost most."""
    ordered = sorted(rows, key=lambda row: _scores(row)[0] - _scores(row)[1])
    if len(ordered) <= 3 * _EACH:
        return [("All of them", ordered)] if ordered else []
    middle = (len(ordered) - _EACH) // 2
    return [
        ("Gained most", ordered[:_EACH]),
        ("In the middle", ordered[middle : middle + _EACH]),
        ("Lost most", ordered[-_EACH:]),
    ]


def _samples(rows: list[Sample]) -> list[tuple[str, list[dict[str, Any]]]]:
    """What the policy wrote in the first iteration, the middle one and the last one."""
    steps = sorted({row.step for row in rows if row.step is not None})
    chosen = [steps[i] for i in sorted({0, len(steps) // 2, len(steps) - 1})] if steps else []
    return [
        (f"Iteration {number(step)}", [row.model_dump() for row in rows if row.step == step])
        for step in chosen
    ]
