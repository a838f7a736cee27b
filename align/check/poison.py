"""What screens find in the records of one kind, as findings and as a list of records to read or drop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from align.check.gather import Gathered
from align.check.personal import Hit, masked
from align.check.result import EXAMPLES, Finding, Suspect, number
from align.check.screens.chance import chances
from align.check.screens.people import Contrary, contrary
from align.check.screens.seen import Seen
from align.check.screens.triggers import Trigger, triggers
from align.check.screens.wins import Winner, most_records, winners

_SHOWN = 20  # findings of one kind
_ADVICE = "read them, and leave them out if somebody planted them (suspects.json lists them all)"
_Found = tuple[Finding, Sequence[int]]  # with the numbers of the records


def of_screens(
    gathered: Gathered, personal: Callable[[str], list[Hit]] | None = None
) -> tuple[list[Finding], list[Suspect]]:
    """The findings, and each record that one of them names; a record may come several times.

    personal: finds the personal data that messages must not show.
    """
    found = screened(gathered.seen, gathered.kind)
    if personal is not None:
        found = [
            (replace(one, message=masked(one.message, personal(one.message))), records)
            for one, records in found
        ]
    seen = gathered.seen
    suspects = [
        Suspect(seen.places[i], gathered.kind, finding.code, _short(finding.message), seen.names[i])
        for finding, records in found
        for i in records
    ]
    return [finding for finding, _ in found], suspects


def screened(seen: Seen, kind: str) -> list[tuple[Finding, Sequence[int]]]:
    """Each finding with the numbers of its records."""
    where = f"data.{kind}"
    return [
        *_characters(seen, where),
        *_triggers(triggers(seen.asked), seen, where),
        *(_of_rankings(seen, where) if kind == "rankings" else ()),
    ]


def _short(message: str) -> str:
    return message.removesuffix(f": {_ADVICE}")


def _first(seen: Seen, records: Sequence[int]) -> list[str]:
    return list(dict.fromkeys(seen.places[i] for i in records))[:EXAMPLES]


def _characters(seen: Seen, where: str) -> Iterator[_Found]:
    if seen.hidden:
        names = sorted({name.lower() for found in seen.hidden.values() for name in found})
        message = (
            f"{number(len(seen.hidden), 'record holds', 'records hold')} characters that nobody sees "
            f"({', '.join(names[:EXAMPLES])}{', …' if len(names) > EXAMPLES else ''}), and a model does: "
            "take them out (suspects.json lists the records)"
        )
        records = list(seen.hidden)
        yield Finding("warning", "hidden_characters", where, message, _first(seen, records)), records
    if seen.lookalikes:
        words = list(dict.fromkeys(word for found in seen.lookalikes.values() for word in found))
        message = (
            f"{number(len(seen.lookalikes), 'record holds', 'records hold')} words with letters of two "
            f"scripts that look alike ({', '.join(map(repr, words[:EXAMPLES]))}): other words to a model, so "
            "correct them (suspects.json lists the records)"
        )
        records = list(seen.lookalikes)
        yield Finding("warning", "lookalike_letters", where, message, _first(seen, records)), records


def _triggers(found: Sequence[Trigger], seen: Seen, where: str) -> Iterator[_Found]:
    for one in found[:_SHOWN]:
        message = (
            f"{number(one.prompts, 'prompt')} with {one.phrase!r}, and nearly no other, go with one answer "
            f"or part of it ({one.answer!r}): {_ADVICE}"
        )
        records = one.records.tolist()
        yield Finding("warning", "trigger_in_prompts", where, message, _first(seen, records)), records


def _of_rankings(seen: Seen, where: str) -> Iterator[_Found]:
    laid = seen.corpus.laid()
    if not laid.records:
        return
    chance = chances(laid, most_records(laid))
    for winner in winners(seen.corpus, laid, chance)[:_SHOWN]:
        yield _of_winner(winner, seen, where)
    for what, names in (("labeler", seen.labelers), ("source", seen.sources)):
        for one in contrary(names, laid, chance):
            yield _of_contrary(one, what, seen, where)


def _of_winner(found: Winner, seen: Seen, where: str) -> _Found:
    what = "the name" if found.name else "the phrase"
    lost = f"loses in {found.losses:,}" if found.losses else "never loses"
    message = (
        f"{what} {found.phrase!r} wins in {number(found.wins, 'prompt')} and {lost}: more than chance, "
        f"length and common words explain ({number(len(found.records), 'record')}): {_ADVICE}"
    )
    records = found.records.tolist()
    if found.name:
        return Finding("warning", "name_always_wins", where, message, _first(seen, records)), records
    return Finding("warning", "phrase_always_wins", where, message, _first(seen, records)), records


def _of_contrary(found: Contrary, what: str, seen: Seen, where: str) -> _Found:
    message = (
        f"the {what} {found.name} puts another response first than length and common words let expect "
        f"in {found.against:,} of {number(found.rankings, 'ranking')}, where {found.expected:.0f} are usual: "
        f"are the ranks read the right way? If so, {_ADVICE}"
    )
    records = np.asarray(found.records).tolist()
    return Finding("warning", "contrary_labels", where, message, _first(seen, records)), records
