"""What `rm` shows people at its end: the comparisons that it gets most wrong, and one line."""

from __future__ import annotations

from collections.abc import Sequence

from align.evaluation.reward import Evaluation, ScoredRanking, misjudged
from align.records import Ranking
from align.run.folder import StageRun

_MISJUDGED = 20  # comparisons in samples.jsonl


def write_misjudged(
    stage: StageRun, held_out: Sequence[Ranking], scored: Sequence[ScoredRanking], step: int
) -> None:
    """The held-out comparisons that the scores get most confidently wrong, for people to look at."""
    for found in misjudged(scored)[:_MISJUDGED]:
        ranking = held_out[found.ranking]
        row: dict[str, object] = {
            "prompt": ranking.to_dict()["prompt"],
            "preferred": ranking.responses[found.better],
            "other": ranking.responses[found.worse],
            "margin": -found.margin,
        }
        said = {"labeler": ranking.labeler, "source": ranking.source}
        stage.samples.append(step, row | {name: value for name, value in said.items() if value is not None})


def summary(stage: StageRun, evaluation: Evaluation) -> str:
    """How far the reward model agrees with people, beside length alone and people with each other."""
    done, accuracy = f"rm is finished: {stage.final}", evaluation.accuracy
    if not evaluation.comparisons:
        return f"{done}; no held-out comparison to measure it on"
    interval = f" (95% {accuracy.low:.3f} to {accuracy.high:.3f})" if accuracy.low is not None else ""
    length = evaluation.length_only
    said = (
        f"{done}; it agrees with people on {accuracy.value:.3f}{interval} of {accuracy.count} held-out "
        f"comparisons; “the {'longer' if length.longer_wins else 'shorter'} one wins” would on "
        f"{length.accuracy.value:.3f}"
    )
    if (people := evaluation.people) is None:
        return said
    return (
        f"{said}; people agree with each other on {people.agreement.value:.3f}, and it with them on "
        f"{people.model.value:.3f}, of {people.agreement.count} pairs that several of them judged"
    )
