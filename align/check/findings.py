"""From numbers to findings: what training would refuse, what deserves a look, what is good to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.check.gather import Gathered
from align.check.personal import ALWAYS, KEY, KINDS
from align.check.result import (
    EXAMPLES,
    MANY,
    MUCH,
    SHOWN,
    Finding,
    Leak,
    Set,
    Severity,
    TemplateFacts,
    Understood,
    WrongRecords,
    by_share,
    number,
    percent,
)
from align.data.reading import at, shown_names
from align.errors import UserError
from align.recipe import EngineName
from align.recipe.load import has_records, stages_of
from align.recipe.sections import Recipe
from align.records import RECORDS
from align.run.installed import check_engine
from align.stage_table import BESIDE, STAGES
from align.stats.consistency import Conflict, Consistency
from align.stats.rankings import LengthBias
from align.text import words_of_name

_SHOWN = 60  # characters of a generation prompt's end
_FEW = 100  # with fewer held-out comparisons, an accuracy's 95% interval is over 0.2 wide
_ENOUGH = 30  # with fewer cases, a share says nothing
_FEW_LEAKS = 0.01  # up to this share of held-out prompts, what is measured hardly changes
_POOR_AGREEMENT = 0.6  # chance is 0.5
_LENGTH_DECIDES = 0.65  # from this accuracy on, a length-only model is a warning
_LENGTH_HELPS = 0.55
_SOME = 0.01  # from this share of the records on, addresses and phone numbers are a warning
# Words of columns that judge an answer: with them beside it, not every answer may be one to learn.
_JUDGES = {"score", "scores", "rating", "ratings", "reward", "rewards", "label", "labels", "grade", "stars"}
_JUDGES |= {"correct", "desirable", "good", "bad", "accepted", "rejected", "approved", "chosen", "preferred"}
_JUDGES |= {"thumbs", "upvoted", "passed", "success", "verdict", "winner", "quality"}


def of_kinds(recipe: Recipe) -> Iterator[Finding]:
    """Kinds that the recipe does not name."""
    absent = [kind for kind in RECORDS if getattr(recipe.data, kind) is None]
    if len(absent) == len(RECORDS):
        message = "the recipe names no data: add `data: {rankings: FILE}`, or demonstrations, or prompts"
        yield Finding("error", "no_data", "data", message)
        return
    for kind in absent:
        stages = " and ".join(
            stage for stage, about in STAGES.items() if kind in about.records and stage not in BESIDE
        )
        yield Finding("note", "no_data", f"data.{kind}", f"not in the recipe; {stages} would need them")


def of_engine(name: EngineName) -> Iterator[Finding]:
    """An engine that the installed libraries are too old for."""
    try:
        check_engine(name)
    except UserError as error:
        yield Finding("error", "engine", "ppo.engine", str(error))


def of_wrong_records(found: WrongRecords) -> Iterator[Finding]:
    """Records that could not be read or encoded."""
    if not found.count:
        return
    parts = [number(found.count, "wrong record")]
    if found.files:
        parts.append(f"{number(found.files, 'file')} that cannot be read whole")
    if found.empty:
        parts.append(f"{found.empty:,} with an empty text")
    skipped = found.skipped and not found.files
    does = "left out (on_bad_record: skip)" if skipped else "training refuses them"
    kinds = len(found.tally.kinds)
    shown = f"; {SHOWN} of {kinds} kinds" if kinds > SHOWN else ""
    message = f"{', '.join(parts)}: {does}{shown}"
    severity: Severity = "warning" if skipped else "error"
    yield Finding(severity, "wrong_records", f"data.{found.kind}", message, found.first)


def of_readings(read: Sequence[Understood]) -> Iterator[Finding]:
    """Columns with texts that nothing of a record comes from, and rows that became no record."""
    for understood in read:
        reading = understood.reading
        where = f"data.{understood.kind}"
        if reading.unread:
            columns = ", ".join(f"`{name}`" for name in reading.unread)
            message = (
                f"{shown_names(understood.files)}: nothing of {columns} is used, which the format "
                f"{reading.format} does not know; if it matters, say which column is what by `columns:`, "
                "else list it under `ignore:`"
            )
            yield Finding("warning", "unused_columns", where, message)
        judged = [name for name in reading.ignored if _JUDGES.intersection(words_of_name(name))]
        if judged and understood.kind == "demonstrations":
            names = ", ".join(f"`{name}`" for name in judged)
            message = (
                f"{shown_names(understood.files)}: {names} may say how good an answer is, and every answer "
                "is learnt, the bad ones too: leave these out by a `format` function (or read the file under "
                "`rankings`), or list the column under `ignore:`"
            )
            yield Finding("warning", "judged_demonstrations", where, message)
        left = sum(seen.count for seen in reading.left_out.values())
        if left:
            said = [f"{seen.count:,} × {what}: {at(seen)}" for what, seen in reading.left_out.items()]
            message = f"{shown_names(understood.files)}: {left:,} left out, which are not wrong and no record"
            yield Finding(by_share(left, reading.rows, MANY), "left_out", where, message, said)


def of_sides(gathered: Gathered) -> Iterator[Finding]:
    """A side without records, and values of split_key that are on both."""
    where, source = f"data.{gathered.kind}", gathered.source
    wrong = gathered.wrong
    if not gathered.train.used and (not wrong.count or (wrong.skipped and not wrong.files)):
        yield Finding("error", "no_records", f"{where}.train", "no record is left to train on")
    elif source.held_out == 0.0 or source.held_out == []:
        message = "nothing is held out, so nothing measures what is learnt"
        yield Finding("note", "nothing_held_out", where, message)
    elif not gathered.held_out.rows and not wrong.count:
        what = f"a share of {source.held_out}" if isinstance(source.held_out, float) else "what is named"
        message = f"{what} leaves nothing held out: name a larger share, held-out files, or 0.0 for none"
        yield Finding("error", "nothing_held_out", f"{where}.held_out", message)
    if gathered.left_out is not None:
        told, *terms = gathered.left_out.lines(gathered.kind)
        yield Finding("note", "without", f"{where}.without", told.partition(": ")[2], terms)
    if source.split_key is not None and gathered.on_both_sides:
        skip = source.on_bad_record == "skip"
        values = number(gathered.on_both_sides, "value stands", "values stand")
        does = "the training records are left out" if skip else "training refuses them"
        message = f"{values} on both sides: {does}"
        yield Finding("warning" if skip else "error", "leak", f"{where}.split_key", message)


def of_limits(both: Sequence[Set], skip: bool) -> Iterator[Finding]:
    """Records of one kind that are too long."""
    records = sum(found.records for found in both)
    measured = [found for found in both if found.lengths]
    for same in zip(*(found.lengths.limits for found in measured if found.lengths), strict=True):
        limit, over = same[0], sum(part.over for part in same)
        if not over:
            continue
        have = f"{over:,} of {number(records, 'record')} {'has' if over == 1 else 'have'} more than"
        if limit.key == "base":
            left = ", less ppo.max_response_tokens" if both[0].kind == "prompts" else ""
            what = f"{have} the {limit.tokens:,} tokens that the base reads{left}"
            todo = "shorten or drop them, or take another base"
        else:
            what = f"{have} {limit.key} = {limit.tokens:,} tokens"
            todo = f"raise it to {max(part.longest for part in same):,}, or shorten or drop them"
        empty = any(part.over == found.records for found, part in zip(measured, same, strict=True))
        if skip:
            left_out = "left out (on_bad_record: skip)"
            todo = f"{todo}; {left_out}, they leave a side empty" if empty else f"they are {left_out}"
        code = "beyond_base" if limit.key == "base" else "too_long"
        severity: Severity = "warning" if skip and not empty else "error"
        yield Finding(severity, code, f"data.{both[0].kind}", f"{what}: {todo}")


def of_template(facts: TemplateFacts) -> Iterator[Finding]:
    """How tokenizer and chat template go together."""
    if facts.turn_ends_with_eos is False:
        message = (
            f"the chat template ends an answer with {facts.turn_end!r}, and the tokenizer's EOS is "
            f"{facts.eos!r}: responses will end with {facts.eos!r}, which chat programs may not stop at"
        )
        yield Finding("warning", "turn_end_is_not_eos", "base", message)
    if facts.answer_follows is False:
        message = (
            "the chat template writes an answer otherwise than as generation prompt and text (it adds or "
            "drops something between): responses are trained and sampled right behind the generation prompt "
            f"({_end(facts.generation_prompt)!r}), which the base's chat training may not have shown it"
        )
        yield Finding("warning", "answer_does_not_follow", "base", message)
    for remark in facts.remarks:
        yield Finding("note", "chat_template", "data.template", remark)
    if facts.system_prompt:
        said = " ".join(facts.system_prompt.split())
        message = (
            f"the chat template adds a system prompt of {facts.system_tokens} tokens wherever a prompt has "
            f"none: {said[:70] + '…' if len(said) > 70 else said!r}"
        )
        yield Finding("note", "default_system_prompt", "data.template", message)
    if facts.pad_is_eos:
        message = (
            f"the tokenizer pads with its EOS, {facts.eos!r}: harmless here, as masks tell what is padding"
        )
        yield Finding("note", "pad_is_eos", "base", message)


def _end(text: str | None) -> str:
    return "" if text is None else text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}"


def of_repeats(both: Sequence[Set]) -> Iterator[Finding]:
    """Records and prompts that come again on their side."""
    where = f"data.{both[0].kind}"
    records, whole, again, near = (
        sum(counts)
        for counts in zip(
            *((f.records, f.repeats.whole, f.repeats.again, f.repeats.near) for f in both), strict=True
        )
    )
    if whole:
        message = f"{number(whole, 'record')} came before, word for word, and would count again"
        yield Finding(by_share(whole, records, MUCH), "repeated_records", where, message)
    elif again and both[0].kind != "rankings":
        yield Finding(
            "note", "repeated_prompts", where, f"{number(again, 'record')} with a prompt that came before"
        )
    if near:
        differ = number(near, "prompt differs", "prompts differ")
        message = f"{differ} from another only in case, punctuation or spaces"
        yield Finding("note", "near_prompts", where, message)


def of_personal_data(gathered: Gathered) -> Iterator[Finding]:
    """Personal data and keys: a line for each kind of them."""
    piles = (gathered.train, gathered.held_out)
    records = sum(len(pile.rows) for pile in piles)
    for what, name in KINDS.items():
        found = [one for pile in piles for one in pile.personal if one.what == what]
        if not found:
            continue
        todo = "take it out or put another in its place, if it may be a real person's"
        if what == KEY:
            todo = "take it out, and have the key withdrawn"
        message = (
            f"{number(len(found), 'record holds', 'records hold')} {name} (the first: {found[0].first}), "
            f"which a model can learn by heart and repeat: {todo}"
        )
        severity = by_share(len(found), records, 0 if what in ALWAYS else _SOME)
        places = [one.place for one in found[:EXAMPLES]]
        yield Finding(
            severity, "secret" if what == KEY else "personal_data", f"data.{gathered.kind}", message, places
        )


def of_labels(found: Set, recipe: Recipe) -> Iterator[Finding]:
    """What the rankings of one side decide, and who made them."""
    said, where = found.labels, f"data.{found.kind}.{found.side}"
    if said is None or not found.records:
        return
    if not said.comparisons:
        severity: Severity = "error" if found.side == "train" and recipe.rm.ties == "ignore" else "warning"
        yield Finding(severity, "no_comparison", where, "no ranking decides any comparison: all are tied")
    elif said.all_tied and recipe.rm.ties == "ignore":
        decide = number(said.all_tied, "ranking decides", "rankings decide")
        share = percent(said.all_tied, found.records)
        message = f"{decide} nothing ({share}), and would teach nothing (rm.ties: ignore)"
        yield Finding(by_share(said.all_tied, found.records, MANY), "all_tied", where, message)
    if found.side == "held_out" and 0 < said.comparisons < _FEW:
        message = f"only {said.comparisons} comparisons: the reward model's accuracy will be a rough number"
        yield Finding("note", "few_comparisons", where, message)
    if said.labelers > 1 and said.by_labeler[0][1] >= found.records / 2:
        name, count = said.by_labeler[0]
        message = f"{name} made {percent(count, found.records)} of the labels; {said.labelers} people label"
        yield Finding("note", "one_labeler", where, message)


def of_conflicts(side: str, found: Consistency, openings: dict[int, str]) -> Iterator[Finding]:
    """Labels that contradict each other."""
    where = f"data.rankings.{side}"

    def first(of: Sequence[Conflict]) -> list[str]:
        return [f"{openings[c.prompt]}: {', '.join(c.places[:4])}" for c in of[:EXAMPLES]]

    pairs = len(found.contradictory)
    if pairs:
        who = ", ".join(f"{a} against {b} {count:,}" for a, b, count in found.by[:EXAMPLES])
        alone = f", {found.self_contradictory:,} by one person alone" if found.self_contradictory else ""
        message = (
            f"{number(pairs, 'pair')} of responses ordered both ways, {percent(pairs, found.repeated_pairs)} "
            f"of those with several labels{alone} ({who})"
        )
        much = found.self_contradictory >= MUCH * found.repeated_pairs or pairs >= 0.3 * found.repeated_pairs
        severity: Severity = "warning" if much else "note"
        yield Finding(severity, "contradictory_labels", where, message, first(found.contradictory))
    if found.cycles:
        prompts = number(len(found.cycles), "prompt's labels go", "prompts' labels go")
        message = (
            f"{prompts} round in a circle (the first: {found.cycles[0].responses} responses): "
            "no reward model can satisfy them all"
        )
        yield Finding("warning", "cycles", where, message, first(found.cycles))
    judgements = found.agreeing + found.disagreeing
    if found.agreement is not None and judgements >= _ENOUGH and found.agreement < _POOR_AGREEMENT:
        message = (
            f"two labelers agree on only {percent(found.agreeing, judgements)} of {judgements:,} judgements "
            "of the same pair: a reward model cannot learn more than that"
        )
        yield Finding("warning", "agreement", where, message)


def of_length(found: LengthBias | None) -> Iterator[Finding]:
    """Whether length alone predicts the label."""
    if found is None:
        return
    enough = found.held_out.comparisons >= _ENOUGH
    on, measured = ("held-out", found.held_out) if enough else ("training", found.train)
    accuracy = measured.accuracy(found.rule)
    if accuracy is None or measured.comparisons < _ENOUGH or accuracy < _LENGTH_HELPS:
        return
    message = (
        f"always taking the {found.rule} response is right on {100 * accuracy:.1f}% of "
        f"{number(measured.comparisons, on + ' comparison')}: a reward model that gets no further may have "
        "learnt length alone"
    )
    severity: Severity = "warning" if accuracy >= _LENGTH_DECIDES else "note"
    yield Finding(severity, "length_bias", "data.rankings", message)


def of_leaks(found: Sequence[Leak], recipe: Recipe) -> Iterator[Finding]:
    """Prompts that are trained on and measured on."""
    for leak in found:
        own = leak.trains == leak.held_out
        trains = f"data.{leak.trains}.train"
        severity: Severity
        if own and leak.prompts:
            skip = getattr(recipe.data, leak.held_out).on_bad_record == "skip"
            severity = "warning" if skip else "error"
            after = "the training records are left out" if skip else "training refuses them"
        # That the policy practised on prompts says nothing of how well the reward model judges there.
        elif leak.trains == "prompts" and not own:
            severity, after = "note", "the policy practises on what others are measured on"
        else:
            severity = by_share(leak.prompts + leak.near, leak.of, _FEW_LEAKS)
            after = "what is measured there is partly remembered"
        stand = number(leak.prompts, "prompt stands", "prompts stand")
        nearly = number(leak.near, "prompt stands", "prompts stand")
        case = "but for case, punctuation or spaces"
        if not leak.prompts:
            message = f"{nearly} in {trains} too, {case}: {after}"
        else:
            message = f"{stand} in {trains} too" + (f" ({leak.near:,} more {case})" if leak.near else "")
            message += f": {after}"
        yield Finding(severity, "leak", f"data.{leak.held_out}.held_out", message, leak.first)


def next_step(findings: Sequence[Finding], recipe: Recipe, recipe_path: str) -> str:
    """One line: what to do next."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    if errors:
        what = "the error" if errors == 1 else f"the {errors} errors"
        return f"Training would refuse this. Correct {what} above, then: align check {recipe_path}"
    stages = stages_of(recipe)
    ready = [stage for stage in stages if has_records(recipe, stage)]
    command = "run" if ready in (stages, []) else ready[0]
    go = f"align {command} {recipe_path}"
    if warnings:
        what = "the warning" if warnings == 1 else f"the {warnings} warnings"
        return f"Nothing stops training. Look at {what} above; then: {go}"
    return f"Ready to train: {go}"
