"""`align check`: reads everything that a recipe names, trains nothing, and says what it found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console

from align import __version__
from align.check import findings, labelers, personal, summary, template
from align.check.gather import Gathered, TextMeasure, gather
from align.check.oddities import of_texts
from align.check.poison import of_screens
from align.check.result import SEVERITIES, Finding, LabelerAgreement, PersonalData, Report, Set
from align.check.show import show
from align.data.formats import built_in
from align.data.template import Template
from align.errors import AlignError, UserError
from align.models.tokenizer import BaseTokenizer, find_tokenizer
from align.recipe.data import LABELS
from align.recipe.sections import Recipe
from align.records import RECORDS
from align.run.files import to_json, write_text
from align.run.lineage import as_trained
from align.stats.rankings import LengthBias
from align.stats.reliability import Reliability

FILE = "check.json"
SUSPECTS = "suspects.json"


def main(recipe: Recipe, recipe_path: str) -> int:
    """Check, print and write; returns 2 where training would refuse, else 0."""
    errors = Console(stderr=True)
    report = check(recipe, recipe_path, errors)
    try:
        written = str(write(report, recipe.run.path))
    except OSError as error:  # a check is worth having where nothing can be written, too
        written = f"nowhere: {recipe.run.path / FILE}: {error.strerror}"
    show(report, written, Console())
    return report.exit_code


def check(recipe: Recipe, recipe_path: str, console: Console | None = None) -> Report:
    """Read and measure all that the recipe names; nothing that is wrong with it raises.

    `console` shows how far it has come; None: nothing does.
    """
    base, made, found = _template(recipe)
    facts = None
    if base is not None and made is not None:
        facts = template.look(base.tokenizer, made, recipe.data.template)
        found += findings.of_template(facts)
        if made.told_rowless:
            found.append(Finding("note", "tokens_without_rows", "base", made.told_rowless))
    found += findings.of_kinds(recipe)
    found += findings.of_engine(recipe.ppo.engine)
    control = template.control_tokens(base.tokenizer) if base is not None else lambda text: []
    reader = TextMeasure(
        made,
        recipe.data.template == "chat",
        control,
        recipe.data.cache_folder,
        console or Console(quiet=True),
        personal.personal_data if personal.can_look() else None,
    )
    everything = _gathered(recipe, reader, found)
    unit = "tokens" if made else "characters"
    sets = []
    for gathered in everything:
        limits = summary.limits_of(recipe, gathered.kind, base.positions if base else None) if made else []
        both = [summary.summarise(gathered, side, limits, unit) for side in summary.SIDES]
        sets += both
        found += _of_records(recipe, gathered, both)
    bias, agreement, trusted = _of_rankings(everything, unit, found)
    suspects = []
    for gathered in everything:
        with reader.bar(f"{gathered.kind} screened", None):
            suspicious, named = of_screens(gathered, reader.personal)
        found += suspicious
        suspects += named
        if gathered.kind == "rankings":
            suspects += labelers.suspects(gathered, trusted)
    leaks = list(summary.leaks(everything))
    found += findings.of_leaks(leaks, recipe)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(
        align=__version__,
        recipe=recipe_path,
        run=recipe.run.name,
        base=recipe.base.name,
        template=facts,
        code=list(foreign_code(recipe)),
        read=[understood for gathered in everything for understood in gathered.read],
        sets=sets,
        length_bias=bias,
        agreement=agreement,
        reliability=trusted,
        leaks=leaks,
        personal_data=_personal(everything, reader),
        wrong_records=[gathered.wrong for gathered in everything if gathered.wrong.count],
        findings=found,
        suspects=suspects,
        next=findings.next_step(found, recipe, recipe_path),
    )


def write(report: Report, folder: Path) -> Path:
    """Write check.json and suspects.json into the run's folder; raises OSError where that cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    content = {**asdict(report), "exit_code": report.exit_code}
    write_text(folder / SUSPECTS, to_json(content.pop("suspects")))
    write_text(path, to_json(content))
    return path


def foreign_code(recipe: Recipe) -> Iterator[str]:
    """What would run that is neither align nor a library of its: a checkpoint's code, formats, rewards."""
    yield from recipe.base.foreign_code
    installed = {point.name: point.value for point in entry_points(group="align.formats")}
    for kind in RECORDS:
        source = getattr(recipe.data, kind)
        for side in summary.SIDES:
            entries = getattr(source, side, None)
            for entry in entries if isinstance(entries, list) else ():
                name = entry.format
                if name and name != LABELS and not built_in(name):
                    plugin = f" ({installed[name]})" if name in installed else ""
                    yield f"the format {name}{plugin}, for data.{kind}.{side}"
    for reward in recipe.ppo.rewards or ():
        if reward.function:
            yield f"the function {reward.function}, for ppo.rewards"
        if reward.run and reward.run != "this":
            yield from (f"{code}, for {reward.run} in ppo.rewards" for code in _of_base(Path(reward.run)))


def _of_base(run: Path) -> list[str]:
    """What runs when the base of another run's reward model is loaded; nothing where that is not there."""
    try:
        return as_trained(run, "rm")[0].base.foreign_code
    except AlignError:
        return []


def _template(recipe: Recipe) -> tuple[BaseTokenizer | None, Template | None, list[Finding]]:
    """The base's tokenizer and the template, as far as they are there."""
    try:
        base = find_tokenizer(recipe.base)
    except UserError as error:
        after = "; lengths are counted in characters, and limits are not checked"
        return None, None, [Finding("error", "base", "base", f"{error}{after}")]
    found = list(_of_adapters(recipe, base))
    try:
        return base, base.template(recipe.data), found
    except UserError as error:
        return base, None, [*found, Finding("error", "template", "data.template", str(error))]


def _of_adapters(recipe: Recipe, base: BaseTokenizer) -> Iterator[Finding]:
    """Whether the base can be trained, and has the layers that the recipe names.

    That is known without loading torch where its kind is one of the plain ones, and names are its own.
    """
    lora = recipe.lora
    plain = lora.targets == "all-linear" or set(lora.targets) <= set(base.linear)
    if base.checkpoint is None and plain and (lora.layers or 0) <= base.layers and not lora.modules_to_save:
        return
    from align.models.base import find_base
    from align.models.suitable import check_base

    try:
        check_base(base.checkpoint or find_base(recipe.base), recipe.lora)
    except UserError as error:
        yield Finding("error", "base", "base", str(error))


def _gathered(recipe: Recipe, reader: TextMeasure, found: list[Finding]) -> list[Gathered]:
    """Each kind that the recipe names; a cache that cannot be written is a finding, and done without."""
    everything: list[Gathered] = []
    for kind in RECORDS:
        source = getattr(recipe.data, kind)
        if source is None:
            continue
        try:
            everything.append(gather(kind, source, reader))
        except UserError as error:
            found.append(Finding("error", "cache", "data.cache", str(error)))
            reader = replace(reader, cache=None)
            everything.append(gather(kind, source, reader))
    return everything


def _of_records(recipe: Recipe, gathered: Gathered, both: Sequence[Set]) -> Iterator[Finding]:
    yield from findings.of_wrong_records(gathered.wrong)
    yield from findings.of_readings(gathered.read)
    yield from findings.of_sides(gathered)
    yield from findings.of_limits(both, gathered.wrong.skipped)
    yield from of_texts(gathered)
    yield from findings.of_personal_data(gathered)
    yield from findings.of_repeats(both)
    for side in both:
        yield from findings.of_labels(side, recipe)


def _personal(everything: Sequence[Gathered], reader: TextMeasure) -> PersonalData | None:
    if reader.personal is None:
        return None
    piles = [pile for gathered in everything for pile in (gathered.train, gathered.held_out)]
    return PersonalData(
        sum(len(pile.rows) for pile in piles), [one for pile in piles for one in pile.personal]
    )


def _of_rankings(
    everything: Sequence[Gathered], unit: str, found: list[Finding]
) -> tuple[LengthBias | None, list[LabelerAgreement], Reliability]:
    """Length bias, agreement and reliability of rankings; adds what they mean to the findings."""
    rankings = next((gathered for gathered in everything if gathered.kind == "rankings"), None)
    if rankings is None:
        return None, [], Reliability()
    bias = summary.bias(rankings, unit)
    found += findings.of_length(bias)
    agreement = []
    for side in summary.SIDES:
        rows = rankings.pile(side).rows
        consistent = summary.consistency_of(rows)
        found += findings.of_conflicts(side, consistent, {row.prompt: row.opening for row in rows})
        agreement.append(summary.agreement(side, consistent))
    trusted = labelers.reliability_of(rankings)
    found += labelers.of_reliability(rankings, trusted)
    return bias, agreement, trusted
