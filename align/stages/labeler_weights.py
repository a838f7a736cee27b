"""The reward model's stage weighs rankings by their labelers: read, told, written, and part of what it is."""

from __future__ import annotations

from collections import Counter

from align.data.evidence import evidence
from align.data.labeler_weights import FILE, LabelerWeights, weights_by
from align.data.load import Split
from align.data.rows import FileError
from align.data.table import Records
from align.errors import UserError
from align.recipe.data import Source
from align.records import Ranking
from align.run.files import to_json, write_text
from align.run.folder import StageRun
from align.stages.frame import Inputs
from align.stats.reliability import reliability, votes

_NAME = "labeler_weights"  # in the manifest, beside the records' fingerprints


def labeler_weights(inputs: Inputs, source: Source, split: Split[Ranking]) -> LabelerWeights | None:
    """The weights of the training rankings, noted as what decides the stage's result; None without weight_by.

    Raises UserError as `weights_by` does.
    """
    if source.weight_by is None:
        return None
    try:
        answers = list(evidence(source, split.train, split.held_out, inputs.read_evidence))
    except FileError as error:
        raise UserError(f"data.rankings: {error.message}") from error
    try:
        found = weights_by(reliability(votes(answers)), _rankings(split.train))
    except UserError as error:
        raise UserError(f"data.rankings.weight_by: {error}") from error
    inputs.also(_NAME, found.identity)
    return found


def write_weights(found: LabelerWeights, stage: StageRun) -> None:
    """Say them, and write them with all figures into the stage's folder."""
    for line in found.lines():
        stage.say(line)
    if stage.main:
        write_text(stage.folder / FILE, to_json(found.document()))


def _rankings(train: Records[Ranking]) -> Counter[str | None]:
    once, index = train.distinct()
    names = [ranking.labeler for ranking in once]
    return Counter(names[i] for i in index.tolist())
