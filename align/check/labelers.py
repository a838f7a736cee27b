"""Who of the labelers of training rankings can be trusted, by the evidence that training would have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from align.check.gather import Gathered, MeasuredRow
from align.check.result import Finding, Suspect
from align.data.evidence import of_databases
from align.data.labeler_weights import weights_by
from align.data.labels import read_evidence
from align.data.rows import FileError
from align.errors import UserError
from align.stats.reliability import Answer, Reliability, reliability, votes

_WHERE = "data.rankings.train"


def reliability_of(rankings: Gathered) -> Reliability:
    """What the training rankings, and their labeling databases, say of their labelers."""
    answers = list(_answers(rankings.train.rows))
    apart = {row.prompt for row in rankings.held_out.rows}
    with suppress(FileError, UserError):  # such a database is a wrong record already
        answers += of_databases(rankings.source, apart, read_evidence)
    return reliability(votes(answers))


def _answers(rows: Sequence[MeasuredRow]) -> Iterator[Answer]:
    for row in rows:
        if row.labeler is not None:
            yield Answer(row.prompt, row.responses, row.ranks, row.labeler, lengths=row.lengths)


def of_reliability(rankings: Gathered, found: Reliability) -> Iterator[Finding]:
    """Labelers who may be guessing, or order against the others, and weights that cannot be known."""
    weighed = rankings.source.weight_by is not None
    advice = ". With data.rankings.weight_by: reliability their rankings teach little or nothing"
    todo = "" if weighed else advice
    guessing = [_said(found, one.name) for one in found.labelers if one.at_chance]
    if guessing:
        message = f"who may be guessing, by what others judged too: {', '.join(guessing)}{todo}"
        yield Finding("warning", "labelers_at_chance", _WHERE, message)
    turned = [_said(found, one.name) for one in found.labelers if one.reversed]
    if turned:
        message = (
            f"who orders against the others: {', '.join(turned)}: are their ranks read the right way, 1 for "
            "the best?"
        )
        yield Finding("warning", "labelers_reversed", _WHERE, message)
    if weighed and rankings.train.rows:
        try:
            weights_by(found, Counter(row.labeler for row in rankings.train.rows))
        except UserError as error:
            yield Finding("error", "reliability_unknown", "data.rankings.weight_by", str(error))


def suspects(rankings: Gathered, found: Reliability) -> list[Suspect]:
    """Training rankings of those who may be guessing, or order against the others."""
    codes = {one.name: "labelers_at_chance" for one in found.labelers if one.at_chance}
    codes |= {one.name: "labelers_reversed" for one in found.labelers if one.reversed}
    return [
        Suspect(
            row.place, "rankings", codes[row.labeler], _said(found, row.labeler), f"labeler:{row.labeler}"
        )
        for row in rankings.train.rows
        if row.labeler in codes
    ]


def _said(found: Reliability, name: str) -> str:
    a = next(one.accuracy for one in found.labelers if one.name == name)
    assert a.value is not None and a.low is not None and a.high is not None
    span = f"{100 * a.low:.0f} to {100 * a.high:.0f}%"
    return f"{name} ({100 * a.value:.0f}% of {a.count:,} comparisons right, 95%: {span})"
