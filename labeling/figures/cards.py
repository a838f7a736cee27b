"""The figures as people read them: cards of a chart, its numbers as a table, and a line of what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align.stats.estimate import Estimate
from align.svg import Bars, Columns
from labeling.answers import KINDS
from labeling.figures.card_parts import (
    Card,
    CardSection,
    dots_card,
    points,
    scale_from,
    seconds,
    shares_card,
    two,
    value_cells,
)
from labeling.figures.checks import CheckUse
from labeling.figures.reliability_cards import reliability_cards
from labeling.figures.shapes import (
    Figures,
    OwnFigures,
    PersonFigures,
    Spread,
)
from labeling.language import N_, day, gettext, ngettext, number, percent

INSTRUCTGPT = (0.726, 0.711, 0.741)  # Ouyang et al. 2022, section 3.4: 72.6 ± 1.5%
_OTHERWISE = (N_("Skipped"), N_("Changed"), N_("Decided"))


def headline(figures: Figures) -> list[tuple[str, str]]:
    """The few numbers at the top, each with what it is."""
    places = sum(kind.done + kind.leased + kind.free for kind in figures.progress)
    done = sum(kind.done for kind in figures.progress)
    found = [(number(figures.answers), ngettext("answer", "answers", figures.answers))]
    if places:
        found.append((percent(done / places), gettext("of the queue is done")))
    if figures.agreement.rankings.value is not None:
        found.append((percent(figures.agreement.rankings.value), gettext("agreement on rankings")))
    if figures.policies.policies and figures.policies.policies[0].rating.value is not None:
        found.append((figures.policies.policies[0].name, gettext("is preferred most")))
    return found


def own_headline(own: OwnFigures) -> list[tuple[str, str]]:
    """The same for a labeler, of their own work."""
    answers = sum(own.answers.values())
    found = [(number(answers), ngettext("answer of yours", "answers of yours", answers))]
    return [*found, (number(own.skipped), gettext("skipped"))] if own.skipped else found


def sections(figures: Figures) -> list[CardSection]:
    """Everything, for admins and reviewers."""
    people = figures.people
    return [
        CardSection(
            gettext("Progress"), [_queue(figures), _days([(day(d.day), d.answers) for d in figures.days])]
        ),
        CardSection(gettext("People"), [_answers(people), *_seconds(people, figures.seconds), _gold(people)]),
        CardSection(gettext("Agreement"), [_pairs(figures), _coefficients(figures), _with_others(people)]),
        CardSection(gettext("Reliability"), reliability_cards(figures.reliability)),
        CardSection(gettext("Blind comparisons"), [_win_rates(figures), _ratings(figures)]),
        *([CardSection(gettext("Checks"), [_checks(figures.checks)])] if figures.checks else []),
    ]


def _checks(found: CheckUse) -> Card:
    def cell(value: float | None) -> str:
        return "–" if value is None else number(value)

    rows = [
        (name, number(of.answers), cell(of.seconds), cell(of.characters))
        for name, of in ((gettext("checked"), found.checked), (gettext("not checked"), found.unchecked))
    ]
    note = gettext(
        "Answers that people wrote; %(changed)s of %(checked)s that were checked were changed after the last "
        "check. Seconds and characters are medians. People choose what they have checked, so the difference "
        "is not the checks' effect.",
        changed=number(found.changed),
        checked=number(found.checked.answers),
    )
    head = ("", gettext("Answers"), gettext("Seconds"), gettext("Characters"))
    return Card(gettext("Written answers, checked before they were sent"), note, head, rows)


def own_sections(own: OwnFigures) -> list[CardSection]:
    """What a labeler sees: their own answers and pace."""
    found = [(_kind(kind), _estimate(spread)) for kind, spread in own.seconds.items()]
    head = (gettext("Task"), gettext("Answers"), gettext("Median"), gettext("Middle half"))
    rows = [
        (name, number(own.answers.get(kind, 0)), *value_cells(estimate, seconds))
        for kind, (name, estimate) in zip(own.seconds, found, strict=True)
    ]
    note = gettext("The dot is the median, the line spans the middle half of your answers.")
    missing = gettext("You have not answered anything yet.")
    pace = dots_card(gettext("Seconds per answer"), note, head, rows, found, seconds, missing)
    return [CardSection(gettext("Your work"), [pace, _days([(day(d.day), d.answers) for d in own.days])])]


def _queue(figures: Figures) -> Card:
    found = figures.progress
    if not found:
        return Card(gettext("Queue"), gettext("There are no tasks yet."))
    bars, rows = [], []
    for kind in found:
        places = kind.done + kind.leased + kind.free
        text = gettext("%(done)s of %(places)s", done=number(kind.done), places=number(places))
        bars.append((_kind(kind.kind), text, (("a", kind.done), ("b", kind.leased), ("d", kind.free))))
        numbers = (kind.tasks, kind.done, kind.leased, kind.free)
        rows.append((_kind(kind.kind), *map(number, numbers)))
    note = gettext("Each task has a place for each person who is to do it.")
    if figures.gold_tasks:
        note += " " + gettext("Gold tasks (%(number)s) are not counted.", number=number(figures.gold_tasks))
    return Card(
        gettext("Queue"),
        note,
        (gettext("Task"), gettext("Tasks"), gettext("Done"), gettext("Being done"), gettext("Free")),
        rows,
        Bars(bars),
        {"a": gettext("done"), "b": gettext("being done"), "d": gettext("free")},
    )


def _days(days: Sequence[tuple[str, int]]) -> Card:
    if not days:
        return Card(gettext("Answers per day"), gettext("There are no answers yet."))
    rows = [(day, number(count)) for day, count in days]
    note = gettext("By day (UTC), without those taken back.")
    return Card(gettext("Answers per day"), note, (gettext("Day"), gettext("Answers")), rows, Columns(days))


def _answers(people: Sequence[PersonFigures]) -> Card:
    if not people:
        return Card(gettext("Answers per person"), gettext("Nobody has answered anything yet."))
    kinds = [kind for kind in KINDS if any(kind in person.answers for person in people)]
    bars, rows = [], []
    for person in people:
        total = sum(person.answers.values())
        parts = (("a", total), ("b", person.gold_answers), ("d", person.skipped))
        if any(size for _, size in parts):
            bars.append((person.name, number(total + person.gold_answers), parts))
        other = (person.gold_answers, person.skipped, person.withdrawn, person.decided)
        numbers = (*(person.answers.get(kind, 0) for kind in kinds), *other)
        rows.append((person.name, *map(number, numbers)))
    most = max((sum(size for _, size in parts) for _, _, parts in bars), default=1)
    return Card(
        gettext("Answers per person"),
        gettext("Current answers; those changed, and reviewers' decisions, are in the numbers only."),
        (gettext("Name"), *map(_kind, kinds), gettext("Gold"), *map(gettext, _OTHERWISE)),
        rows,
        Bars(bars, most) if bars else None,
        {"a": gettext("answers of tasks"), "b": gettext("gold"), "d": gettext("skipped")},
    )


def _seconds(people: Sequence[PersonFigures], team: Mapping[str, Spread]) -> list[Card]:
    cards = []
    for kind, all_of_them in team.items():
        found = [
            (person.name, _estimate(person.seconds[kind])) for person in people if kind in person.seconds
        ]
        rows = [
            (name, *value_cells(estimate, seconds), number(estimate.count))
            for name, estimate in (*found, (gettext("Everybody"), _estimate(all_of_them)))
        ]
        team_line = (
            all_of_them.median,
            None,
            None,
            gettext("everybody %(seconds)s", seconds=seconds(all_of_them.median)),
        )
        note = gettext("The dot is the median, the line spans the middle half of a person's answers.")
        head = (gettext("Name"), gettext("Median"), gettext("Middle half"), gettext("Answers"))
        title = gettext("Seconds per answer: %(kind)s", kind=_kind(kind).lower())
        cards.append(dots_card(title, note, head, rows, found, seconds, "", team_line))
    return cards


def _gold(people: Sequence[PersonFigures]) -> Card:
    note = gettext(
        "Of the response pairs whose order is known, the share that a person orders so; a tie is half."
    )
    found = [(person.name, person.gold) for person in people]
    return shares_card(
        gettext("Gold tasks"), note, gettext("Name"), found, gettext("Nobody has ranked a gold task yet.")
    )


def _pairs(figures: Figures) -> Card:
    found = figures.agreement
    note = gettext(
        "On %(tasks)s tasks that several people did, the share of response pairs that two people "
        "order alike; a tie is half. Compare a reward model's accuracy with this.",
        tasks=number(found.tasks),
    )
    rows = [
        (gettext("Rankings"), found.rankings),
        (gettext("Rankings, where neither tied"), found.decided),
        (gettext("Blind comparisons"), found.comparisons),
    ]
    missing = gettext(
        "No two people have ordered the same task yet: labeling.overlap sets how many people do each."
    )
    reference = (*INSTRUCTGPT, f"InstructGPT: {number(72.6, 1)} ± {number(1.5, 1)} %")
    return shares_card(gettext("Two people with each other"), note, "", rows, missing, reference)


def _coefficients(figures: Figures) -> Card:
    found = figures.agreement
    coefficients = [
        (gettext("Kendall's tau-b"), found.tau),
        (gettext("Krippendorff's alpha of ranks"), Estimate(value=found.alpha_ranks)),
        (gettext("Krippendorff's alpha of quality"), Estimate(value=found.alpha_quality)),
    ]
    note = gettext("1 is perfect agreement, 0 is chance.")
    if found.partial:
        note += " " + gettext("Alpha leaves out partial rankings (%(number)s).", number=number(found.partial))
    rows = [(name, *value_cells(e, two)) for name, e in coefficients if e.value is not None]
    missing = gettext("No two people have ranked the same responses yet.")
    head = (gettext("Coefficient"), gettext("Value"), gettext("95 %% interval"))
    span = (scale_from(0.0, coefficients), 1.0)
    return dots_card(gettext("Beyond chance"), note, head, rows, coefficients, two, missing, span=span)


def _with_others(people: Sequence[PersonFigures]) -> Card:
    note = gettext("How often each person orders pairs as most of the others do on the same tasks.")
    found = [(person.name, person.with_others) for person in people]
    return shares_card(
        gettext("Each person with the others"),
        note,
        gettext("Name"),
        found,
        gettext("No task has been done by several people yet."),
    )


def _win_rates(figures: Figures) -> Card:
    found = figures.policies
    unnamed = ""
    if found.unnamed:
        unnamed = " " + gettext(
            "%(number)s answers don't count: their responses don't say which two policies wrote them.",
            number=number(found.unnamed),
        )
    if not found.pairings:
        return Card(
            gettext("Win rates"),
            gettext(
                "There are no comparisons of two named policies yet: tasks of the kind compare, with "
                "an origin for each response."
            )
            + unnamed,
        )
    bars, rows = [], []
    for pair in found.pairings:
        parts = (("a", pair.wins), ("d", pair.ties), ("e", pair.both_bad), ("c", pair.losses))
        cells = value_cells(pair.win_rate, percent)
        name = gettext("%(first)s against %(second)s", first=pair.first, second=pair.second)
        bars.append((name, cells[0], parts))
        numbers = (pair.wins, pair.ties, pair.both_bad, pair.losses)
        rows.append((name, *cells, *map(number, numbers)))
    return Card(
        gettext("Win rates"),
        gettext("The first policy's, with its interval below the bar; a tie and “both bad” count one half.")
        + unnamed,
        (
            gettext("Policies"),
            gettext("Win rate"),
            gettext("95 %% interval"),
            gettext("Won"),
            gettext("Tied"),
            gettext("Both bad"),
            gettext("Lost"),
        ),
        rows,
        Bars(bars, rates=[pair.win_rate for pair in found.pairings]),
        {
            "a": gettext("first is better"),
            "d": gettext("tie"),
            "e": gettext("both bad"),
            "c": gettext("second is better"),
        },
    )


def _ratings(figures: Figures) -> Card:
    found = figures.policies
    rated = [(policy.name, policy.rating) for policy in found.policies]
    rows = [
        (
            policy.name,
            *value_cells(policy.rating, points),
            percent(policy.win_rate.value or 0.0),
            number(policy.comparisons),
        )
        for policy in found.policies
    ]
    head = (
        gettext("Policy"),
        gettext("Rating"),
        gettext("95 %% interval"),
        gettext("Win rate"),
        gettext("Comparisons"),
    )
    missing = gettext("There are no comparisons of two named policies yet.")
    if found.unrated:
        missing = gettext("There are no ratings yet: %(why)s.", why=found.unrated)
    reach = max([50.0, *(abs(x) for _, e in rated for x in (e.value, e.low, e.high) if x is not None)])
    note = gettext(
        "Bradley-Terry, mean 0: a policy 100 points ahead is preferred 64 %% of the time, 200 ahead 76 %%."
    )
    return dots_card(gettext("Ratings"), note, head, rows, rated, points, missing, span=(-reach, reach))


def _kind(kind: str) -> str:
    """A kind of task, as the figures call it."""
    return gettext(KINDS[kind].name)


def _estimate(spread: Spread) -> Estimate:
    return Estimate(spread.median, spread.lower, spread.upper, spread.count)
