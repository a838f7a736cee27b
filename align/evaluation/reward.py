"""What a reward model is worth on held-out rankings: everything that evaluation.json says.

Rankings become a flat list of comparisons, each with all that it may be grouped by; every figure is a
mean over some of them. docs/metrics.md says what each one is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from align.data.tokenize import Encoded
from align.errors import AlignError
from align.evaluation.calibration import Calibration, calibrate
from align.evaluation.draws import SeededDraws, known
from align.records import Ranking
from align.stats.agreement import People, Verdict, agreement
from align.stats.bootstrap import Draws, Observation, means
from align.stats.estimate import Estimate
from align.stats.rankings import LengthModel, Ranks, comparisons, kendall_tau_b, ties

_LABELERS = 20  # those with the most comparisons stand by name
_STRENGTHS = 8  # more different ones are put into quarters
_LENGTH_EDGES = (-50, -10, 0, 10, 50)  # tokens


@dataclass(frozen=True)
class ScoredRanking:
    """A ranking by people, with the model's score of each of its K responses."""

    prompt: Hashable  # rankings with equal prompts are resampled together
    responses: tuple[Hashable, ...]  # what tells responses apart
    lengths: tuple[int, ...]  # tokens, EOS included
    ranks: Ranks
    scores: tuple[float, ...]
    labeler: str | None = None
    strength: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One comparison that people decided, as the model sees it."""

    prompt: int
    ranking: int
    better: int
    worse: int
    margin: float  # score of the better response, less the worse one's
    longer: int  # tokens by which the better response is longer
    rank_gap: int  # steps between the two among the ranking's different ranks

    @property
    def right(self) -> float:
        """1 where the scores say the same, 0.5 where they are equal, 0 where they say the opposite."""
        return 1.0 if self.margin > 0 else 0.5 * (self.margin == 0)


@dataclass(frozen=True)
class Named(Estimate):
    """The figures of one group, by its name."""

    name: str = ""


@dataclass(frozen=True)
class LengthOnly:
    """What a model reaches that only knows which response is longer."""

    accuracy: Estimate
    longer_wins: bool
    training: float | None


@dataclass(frozen=True)
class Preferred:
    """How often the longer of two responses of unequal length is preferred."""

    people: Estimate
    model: Estimate


@dataclass(frozen=True)
class Quick:
    """What is worth knowing while the reward model trains."""

    accuracy: Estimate
    log_loss: Estimate
    kendall_tau: Estimate

    def metrics(self) -> dict[str, float]:
        """The scalars of metrics.jsonl; nan where nothing is known."""
        return {
            "eval/accuracy": known(self.accuracy.value),
            "eval/accuracy_low": known(self.accuracy.low),
            "eval/accuracy_high": known(self.accuracy.high),
            "eval/comparisons": self.accuracy.count,
            "eval/log_loss": known(self.log_loss.value),
            "eval/kendall_tau": known(self.kendall_tau.value),
        }


@dataclass(frozen=True)
class Evaluation:
    """All of the evaluation; `document` is the content of evaluation.json."""

    prompts: int
    rankings: int
    comparisons: int
    ties: int
    accuracy: Estimate
    by_rank_gap: tuple[Named, ...]
    by_strength: tuple[Named, ...]
    by_labeler: tuple[Named, ...]
    by_length_difference: tuple[Named, ...]
    length_only: LengthOnly
    longer_preferred: Preferred
    people: People | None
    kendall_tau: Estimate
    calibration: Calibration

    def metrics(self) -> dict[str, float]:
        """The scalars of metrics.jsonl."""
        raw, scaled, people = self.calibration.raw, self.calibration.scaled, self.people
        nan = float("nan")
        quick = Quick(self.accuracy, raw.log_loss, self.kendall_tau)
        return quick.metrics() | {
            "eval/length_only": known(self.length_only.accuracy.value),
            "eval/people": known(people.agreement.value) if people else nan,
            "eval/people_model": known(people.model.value) if people else nan,
            "eval/brier": known(raw.brier.value),
            "eval/ece": raw.ece,
            "eval/temperature": self.calibration.temperature,
            "eval/log_loss_scaled": known(scaled.log_loss.value) if scaled else nan,
            "eval/brier_scaled": known(scaled.brier.value) if scaled else nan,
            "eval/ece_scaled": scaled.ece if scaled else nan,
        }

    def document(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are none are None."""
        document: dict[str, Any] = plain(self)
        document["length_only"] |= document["length_only"].pop("accuracy")
        return document


def attach_scores(
    encoded: Iterable[Encoded],
    ranks: Iterable[Ranks],
    scores: Sequence[Tensor],
    records: Sequence[Ranking] | None = None,
) -> list[ScoredRanking]:
    """Put rankings and scores together; scores: a [K] tensor a ranking.

    Raises AlignError where a score is not a finite number.
    """
    scored = []
    for i, (one, ranking, values) in enumerate(zip(encoded, ranks, scores, strict=True)):
        if not bool(torch.isfinite(values).all()):
            raise AlignError(
                f"rm: the scores of held-out ranking {i} are {values.tolist()}: the reward model is "
                "broken; lower rm.learning_rate"
            )
        scored.append(
            ScoredRanking(
                prompt=tuple(one.prompt),
                responses=tuple(tuple(response) for response in one.responses),
                lengths=tuple(len(response) for response in one.responses),
                ranks=tuple(ranking),
                scores=tuple(values.tolist()),
                labeler=records[i].labeler if records is not None else None,
                strength=records[i].strength if records is not None else None,
            )
        )
    return scored


def flatten(scored: Sequence[ScoredRanking]) -> list[Comparison]:
    """Every comparison that the ranks decide; prompts are numbered in the order they come."""
    numbers = _prompt_numbers(scored)
    found = []
    for row, one in enumerate(scored):
        places = {rank: i for i, rank in enumerate(sorted({r for r in one.ranks if r is not None}))}
        for better, worse in comparisons(one.ranks):
            high, low = one.ranks[better], one.ranks[worse]
            assert high is not None and low is not None
            found.append(
                Comparison(
                    prompt=numbers[one.prompt],
                    ranking=row,
                    better=better,
                    worse=worse,
                    margin=one.scores[better] - one.scores[worse],
                    longer=one.lengths[better] - one.lengths[worse],
                    rank_gap=places[low] - places[high],
                )
            )
    return found


def evaluate_quickly(scored: Sequence[ScoredRanking], seed: int) -> Quick:
    """Accuracy, log loss and rank correlation: the scalars of an evaluation during training."""
    pairs = flatten(scored)
    entries = [Observation(c.prompt, "accuracy", c.right) for c in pairs]
    losses = [Observation(c.prompt, "log loss", _log_loss(c.margin)) for c in pairs]
    count, draws = len(_prompt_numbers(scored)), SeededDraws(seed=seed)
    return Quick(
        means(entries, count, draws).get("accuracy", Estimate()),
        means(losses, count, draws, bounds=None).get("log loss", Estimate()),
        _kendall_tau(scored, draws),
    )


def evaluate(scored: Sequence[ScoredRanking], length: LengthModel, seed: int) -> Evaluation:
    """Everything; `length`: the length-only model that was fitted on the training rankings."""
    pairs = flatten(scored)
    prompts, draws = len(_prompt_numbers(scored)), SeededDraws(seed=seed)
    strength, labeler = _strength_names(scored, pairs), _labeler_names(scored, pairs)
    unequal = [c for c in pairs if c.longer]
    entries = [Observation(c.prompt, "accuracy", c.right) for c in pairs]
    entries += [Observation(c.prompt, ("gap", c.rank_gap), c.right) for c in pairs]
    entries += [Observation(c.prompt, ("length", _bucket(c.longer)), c.right) for c in pairs]
    entries += [Observation(c.prompt, ("strength", strength[c.ranking]), c.right) for c in pairs]
    entries += [Observation(c.prompt, ("labeler", labeler[c.ranking]), c.right) for c in pairs]
    entries += [Observation(c.prompt, "length only", length.says(c.longer)) for c in pairs]
    entries += [Observation(c.prompt, "people prefer longer", float(c.longer > 0)) for c in unequal]
    entries += [Observation(c.prompt, "model prefers longer", _prefers_longer(c)) for c in unequal]
    found = means(entries, prompts, draws)

    def group(kind: str, names: dict[Any, str]) -> tuple[Named, ...]:
        known = [(name, found[kind, key]) for key, name in names.items() if (kind, key) in found]
        return tuple(Named(**asdict(share), name=name) for name, share in known)

    gaps = sorted({c.rank_gap for c in pairs})
    return Evaluation(
        prompts=prompts,
        rankings=len(scored),
        comparisons=len(pairs),
        ties=sum(len(ties(one.ranks)) for one in scored),
        accuracy=found.get("accuracy", Estimate()),
        by_rank_gap=group("gap", {gap: str(gap) for gap in gaps}),
        by_strength=group("strength", _in_order(strength)),
        by_labeler=group("labeler", _in_order(labeler)),
        by_length_difference=group("length", dict(enumerate(_bucket_names()))),
        length_only=LengthOnly(found.get("length only", Estimate()), length.longer_wins, length.training),
        longer_preferred=Preferred(
            found.get("people prefer longer", Estimate()), found.get("model prefers longer", Estimate())
        ),
        people=_people(scored, pairs, prompts, draws),
        kendall_tau=_kendall_tau(scored, draws),
        calibration=calibrate([c.margin for c in pairs], [c.prompt for c in pairs], seed),
    )


def misjudged(scored: Sequence[ScoredRanking]) -> list[Comparison]:
    """The comparisons that the scores order against people, the most confident mistake first."""
    return sorted((c for c in flatten(scored) if c.margin < 0), key=lambda c: c.margin)


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, tuples as lists, and what is not a finite number as None."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _prompt_numbers(scored: Sequence[ScoredRanking]) -> dict[Hashable, int]:
    return {prompt: i for i, prompt in enumerate(dict.fromkeys(one.prompt for one in scored))}


def _log_loss(margin: float) -> float:
    """-log sigmoid(margin), without overflow."""
    return max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))


def _prefers_longer(c: Comparison) -> float:
    return c.right if c.longer > 0 else 1 - c.right


def _kendall_tau(scored: Sequence[ScoredRanking], draws: Draws) -> Estimate:
    numbers = _prompt_numbers(scored)
    taus = [(numbers[one.prompt], kendall_tau_b(one.scores, one.ranks)) for one in scored]
    entries = [Observation(prompt, "tau", tau) for prompt, tau in taus if not math.isnan(tau)]
    return means(entries, len(numbers), draws, bounds=(-1.0, 1.0)).get("tau", Estimate())


def _people(
    scored: Sequence[ScoredRanking], pairs: Sequence[Comparison], prompts: int, draws: Draws
) -> People | None:
    """Rankings without a labeler's name may all be one person's, and are left out."""
    verdicts = []
    for c in pairs:
        one = scored[c.ranking]
        if one.labeler is not None:
            better, worse = one.responses[c.better], one.responses[c.worse]
            verdicts.append(Verdict(c.prompt, one.labeler, better, worse, c.right))
    return agreement(verdicts, prompts, draws)


def _bucket(longer: int) -> int:
    """The number of the bucket of a difference in length: 3 is "as long"."""
    smaller = sum(longer >= edge for edge in _LENGTH_EDGES if edge <= 0)
    return smaller + sum(longer > edge for edge in _LENGTH_EDGES if edge >= 0)


def _bucket_names() -> list[str]:
    far, near = _LENGTH_EDGES[-1], _LENGTH_EDGES[-2]
    sizes = [f"more than {far}", f"{near + 1} to {far}", f"1 to {near}"]
    shorter, longer = [f"{size} shorter" for size in sizes], [f"{size} longer" for size in reversed(sizes)]
    return [*shorter, "as long", *longer]


def _strength_names(
    scored: Sequence[ScoredRanking], pairs: Sequence[Comparison]
) -> list[tuple[float, str] | None]:
    """Each ranking's group (what it is sorted by, its name); None where the record says nothing."""
    known = [s for c in pairs if (s := scored[c.ranking].strength) is not None]
    different = sorted(set(known))
    if len(different) <= _STRENGTHS:
        return [None if one.strength is None else (one.strength, f"{one.strength:g}") for one in scored]
    quarters = torch.quantile(
        torch.tensor(known, dtype=torch.float64), torch.tensor([0.25, 0.5, 0.75]).double()
    )
    edges = [different[0], *quarters.tolist(), different[-1]]

    def quarter(strength: float) -> tuple[float, str]:
        i = sum(strength > edge for edge in edges[1:-1])
        return edges[i], f"{edges[i]:g} to {edges[i + 1]:g}"

    return [None if one.strength is None else quarter(one.strength) for one in scored]


def _labeler_names(
    scored: Sequence[ScoredRanking], pairs: Sequence[Comparison]
) -> list[tuple[int, str] | None]:
    """Each ranking's group (its place, its name): the busiest labelers by name, then all others."""
    busiest = Counter(name for c in pairs if (name := scored[c.ranking].labeler) is not None).most_common()
    places = {name: (i, name) for i, (name, _) in enumerate(busiest[:_LABELERS])}
    others = (_LABELERS, f"{len(busiest) - _LABELERS} others")
    return [None if one.labeler is None else places.get(one.labeler, others) for one in scored]


def _in_order(groups: Sequence[tuple[Any, str] | None]) -> dict[Any, str]:
    """The different groups in their order, each with its name."""
    return {key: key[1] for key in sorted({group for group in groups if group is not None})}
