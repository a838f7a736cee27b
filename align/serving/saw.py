"""align lineage RUN --saw: which stages of a chain trained on somebody's records, and which never did.

The records are read again as the stage's manifest and the run's recipe say, mostly from the cache. Whether
they are the same ones, their fingerprint says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from align.data.labels import LabelReader, read_labels
from align.data.whereabouts import Drawn, Found, whereabouts
from align.errors import UserError
from align.recipe.data import RECORD, Entry, Source, term_of
from align.recipe.sections import Recipe
from align.records import RECORDS, RecordType
from align.run.files import to_json
from align.run.lineage import as_trained, kept_labels, label_key
from align.seeds import step_rows
from align.serving.lineage import StageNode, gather
from align.stage_table import Stage
from align.text import clean

TRAINED, NOT_DRAWN, HELD_OUT = "trained on", "not drawn by any step", "held out"
LEFT_OUT, SKIPPED, ABSENT = "left out", "skipped", "not in the data"
NAMELESS, UNKNOWN = "not said by these records", "not known"
_SELF, _BY, _NO = "itself", "by what it started from", "no"
_UNSAID = "no, as far as its records say"


@dataclass
class Answer:
    """What is known of a term in one kind of a stage's records."""

    kind: str
    term: str
    verdict: str
    why: str = ""
    counts: Found | None = None


@dataclass
class Seen:
    """What is known of one stage; weights: whether its weights saw what each term names, and how."""

    node: StageNode
    answers: list[Answer] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)


def show_saw(
    run: Path, terms: Sequence[str], base: Path | None = None, trusted: bool = False, as_json: bool = False
) -> int:
    """Print which stages of a run, and of those that it started from, saw the records.

    Returns 2 where not all of it is known, or a file is not as it was written. trusted: the formats of the
    recipe's own may run, which are code.

    Raises UserError where the folder is no run's, or a term is none.
    """
    for term in terms:
        try:
            term_of(term)
        except ValueError as error:
            raise UserError(f"--saw {str(error).removeprefix('without: ')}") from None
    found = [Seen(node, list(_answers(node, terms, base, trusted))) for node in gather(run)]
    _inherit(found, terms)
    if as_json:
        print(to_json(_document(run, terms, found)))
    else:
        _print(terms, found)
    unknown = any(how == UNKNOWN for seen in found for how in seen.weights.values())
    return 2 if unknown or any(seen.node.wrong for seen in found) else 0


def _answers(node: StageNode, terms: Sequence[str], base: Path | None, trusted: bool) -> Iterator[Answer]:
    """What is known of each kind of records that a stage read."""
    manifest, folder = node.manifest, node.run / node.stage
    recipe, _ = as_trained(node.run, node.stage, base, finished=False)
    for kind, record in RECORDS.items():
        if kind not in manifest.data:
            continue
        asked = [term for term in terms if kind == "rankings" or term_of(term)[0] == RECORD]
        for term in terms:
            if term not in asked:
                yield Answer(kind, term, NAMELESS, f"{kind} name no {term_of(term)[0]}")
        source: Source | None = getattr(recipe.data, kind)
        if not asked:
            continue
        if why := _unreadable(source, node.run, kind, trusted):
            yield from (Answer(kind, term, UNKNOWN, why) for term in asked)
            continue
        assert source is not None
        source = source.model_copy(update={"without": manifest.without.get(kind, [])})
        try:
            fingerprint, counts = whereabouts(
                record,
                source,
                kind,
                recipe.data.cache_folder,
                _labels(folder),
                asked,
                _skipped(folder),
                _drawn(recipe, node, kind),
            )
        except UserError as error:
            yield from (Answer(kind, term, UNKNOWN, str(error)) for term in asked)
            continue
        changed = ""
        if fingerprint != manifest.data[kind]:
            changed = (
                f"the records have changed since it was trained: their SHA-256 is {fingerprint[:16]}, and "
                f"was {manifest.data[kind][:16]}; as they are now: "
            )
        for term, one in counts.items():
            verdict, why = _verdict(one, node.stage, kind)
            yield Answer(kind, term, UNKNOWN if changed else verdict, changed + why, one)


def _unreadable(source: Source | None, run: Path, kind: str, trusted: bool) -> str:
    """Why records are not read; "" where they are."""
    if source is None:
        return f"{run / 'recipe.yaml'} names no data.{kind} any more"
    code = [entry.format for entry in source.entries if entry.format and ":" in entry.format]
    if code and not trusted:
        return f"reading them runs {code[0]}, as its recipe says: if you trust it, add --trust-remote-code"
    return ""


def _verdict(found: Found, stage: Stage, kind: str) -> tuple[str, str]:
    """In a word, and with numbers."""
    parts = []
    if found.train:
        drawn = "" if found.read is None else f", of which its steps drew {found.read:,}"
        zero = " (for the zero of its scores)" if (stage, kind) == ("rm", "demonstrations") else ""
        parts.append(f"{found.train:,} among what trains{drawn}{zero}")
    for count, what in (
        (found.held_out, "held out"),
        (found.left_out, "left out by `without`"),
        (found.skipped, "skipped as they could not be encoded"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    told = ", ".join(parts) or found.why or "none that train or are held out"
    if found.train:
        return NOT_DRAWN if found.read == 0 else TRAINED, told
    sorts = ((found.held_out, HELD_OUT), (found.left_out, LEFT_OUT), (found.skipped, SKIPPED))
    return next((name for count, name in sorts if count), ABSENT), told


def _inherit(found: Sequence[Seen], terms: Sequence[str]) -> None:
    """Say of each stage, after those that it starts from, whether its weights saw what a term names."""
    by_node = {id(seen.node): seen for seen in found}
    for seen in found:
        above = [by_node[id(parent)] for parent in seen.node.parents]
        for term in terms:
            verdicts = {answer.verdict for answer in seen.answers if answer.term == term}
            ways = {parent.weights[term] for parent in above}
            missing = any(" is not there, so " in wrong for wrong in seen.node.wrong)
            if TRAINED in verdicts:
                seen.weights[term] = _SELF
            elif ways & {_SELF, _BY}:
                seen.weights[term] = _BY
            elif UNKNOWN in verdicts | ways or missing:
                seen.weights[term] = UNKNOWN
            else:
                seen.weights[term] = _UNSAID if NAMELESS in verdicts or _UNSAID in ways else _NO


def _labels(folder: Path) -> LabelReader:
    """What a stage kept of labeling databases; a database itself where it kept nothing."""
    kept = kept_labels(folder)

    def read(record: RecordType, entry: Entry) -> bytes:
        key = label_key(record.__name__, entry)
        return kept[key] if key in kept else read_labels(record, entry)

    return read


def _skipped(folder: Path) -> set[str]:
    """The places of records that a stage could not encode, or that were wrong."""
    path = folder / "skipped.jsonl"
    if not path.is_file():
        return set()
    try:
        return {json.loads(line)["place"] for line in path.read_text(encoding="utf-8").splitlines()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): what was skipped is not known") from error


def _drawn(recipe: Recipe, node: StageNode, kind: str) -> Drawn:
    """The rows that the steps of sft and rm drew: functions of the seed. Of others that is not known."""
    stage, manifest = node.stage, node.manifest
    if not manifest.finished or (stage, kind) not in (("sft", "demonstrations"), ("rm", "rankings")):
        return lambda rows: None
    said = {**getattr(recipe, stage).model_dump(), **manifest.recipe[stage]}
    seed = {**recipe.run.model_dump(), **manifest.recipe.get("run", {})}["seed"]

    def drawn(rows: int) -> list[int] | None:
        batch = said["batch_size"]
        steps = said["steps"] or -(-said["epochs"] * rows // batch)
        return None if not rows else step_rows(seed, stage, 0, steps * batch, rows)

    return drawn


def _print(terms: Sequence[str], found: Sequence[Seen]) -> None:
    for seen in found:
        state = "" if seen.node.manifest.finished else "  (has not finished)"
        print(f"{seen.node.stage}  {_text(seen.node.run)}{state}")
        for wrong in seen.node.wrong:
            print(f"   NOT VERIFIED  {_text(wrong)}")
        for answer in seen.answers:
            why = f": {answer.why}" if answer.why else ""
            print(f"   {_text(answer.kind)}  {_text(answer.term)}  {answer.verdict.upper()}{_text(why)}")
    for term in terms:
        ways: dict[str, list[str]] = {}
        for seen in found:
            ways.setdefault(seen.weights[term], []).append(f"{seen.node.stage} of {seen.node.run}")
        print(f"{_text(term)}: whose weights saw any of it")
        for how in (_SELF, _BY, UNKNOWN, _UNSAID, _NO):
            if how in ways:
                print(f"   {how}: {_text(', '.join(ways[how]))}")


def _document(run: Path, terms: Sequence[str], found: Sequence[Seen]) -> Mapping[str, Any]:
    return {
        "run": str(run),
        "terms": list(terms),
        "stages": [
            {
                "stage": seen.node.stage,
                "run": str(seen.node.run),
                "finished": seen.node.manifest.finished,
                "not_verified": seen.node.wrong,
                "records": [asdict(answer) for answer in seen.answers],
                "weights_saw": seen.weights,
            }
            for seen in found
        ],
    }


def _text(text: object) -> str:
    """Manifests and records may come from strangers, and hold terminal codes."""
    return str(clean(str(text))).replace("\n", " ")
