"""The figures as people read them: cards of a chart, its numbers as a table, and a line of what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from align.stats.estimate import Estimate
from align.svg import Bars, Columns, Dots, Mark
from labeling.answers import KINDS
from labeling.figures.checks import CheckUse
from labeling.figures.shapes import (
    Figures,
    LabelerFigures,
    OwnFigures,
    PersonFigures,
    Spread,
    TeamReliability,
)

INSTRUCTGPT = (0.726, 0.711, 0.741)  # Ouyang et al. 2022, section 3.4: 72.6 ± 1.5%
_KINDS = {kind: about.name for kind, about in KINDS.items()}


@dataclass(frozen=True)
class Card:
    """`note` says how to read it, or, without a chart, what is missing; `legend` what a bar's tones are."""

    title: str
    note: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    chart: Dots | Bars | Columns | None = None
    legend: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CardSection:
    """A heading with its cards."""

    title: str
    cards: Sequence[Card]


def headline(figures: Figures) -> list[tuple[str, str]]:
    """The few numbers at the top, each with what it is."""
    places = sum(kind.done + kind.leased + kind.free for kind in figures.progress)
    done = sum(kind.done for kind in figures.progress)
    found = [(f"{figures.answers:,}", "answer" if figures.answers == 1 else "answers")]
    if places:
        found.append((percent(done / places), "of the queue is done"))
    if figures.agreement.rankings.value is not None:
        found.append((percent(figures.agreement.rankings.value), "agreement on rankings"))
    if figures.policies.policies and figures.policies.policies[0].rating.value is not None:
        found.append((figures.policies.policies[0].name, "is preferred most"))
    return found


def own_headline(own: OwnFigures) -> list[tuple[str, str]]:
    """The same for a labeler, of their own work."""
    answers = sum(own.answers.values())
    found = [(f"{answers:,}", "answer of yours" if answers == 1 else "answers of yours")]
    return [*found, (f"{own.skipped:,}", "skipped")] if own.skipped else found


def sections(figures: Figures) -> list[CardSection]:
    """Everything, for admins and reviewers."""
    people = figures.people
    return [
        CardSection("Progress", [_queue(figures), _days([(f"{d.day}", d.answers) for d in figures.days])]),
        CardSection("People", [_answers(people), *_seconds(people, figures.seconds), _gold(people)]),
        CardSection("Agreement", [_pairs(figures), _coefficients(figures), _with_others(people)]),
        CardSection("Reliability", _reliability(figures.reliability)),
        CardSection("Blind comparisons", [_win_rates(figures), _ratings(figures)]),
        *([CardSection("Checks", [_checks(figures.checks)])] if figures.checks else []),
    ]


def _checks(found: CheckUse) -> Card:
    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f}"

    rows = [
        (name, f"{of.answers:,}", cell(of.seconds), cell(of.characters))
        for name, of in (("checked", found.checked), ("not checked", found.unchecked))
    ]
    note = (
        f"Answers that people wrote; {found.changed:,} of {found.checked.answers:,} that were checked were "
        "changed after the last check. Seconds and characters are medians. People choose what they have "
        "checked, so the difference is not the checks' effect."
    )
    return Card(
        "Written answers, checked before they were sent", note, ("", "answers", "seconds", "characters"), rows
    )


def own_sections(own: OwnFigures) -> list[CardSection]:
    """What a labeler sees: their own answers and pace."""
    found = [(_KINDS[kind], _estimate(spread)) for kind, spread in own.seconds.items()]
    head = ("Task", "Answers", "Median", "Middle half")
    rows = [
        (name, f"{own.answers.get(kind, 0):,}", *_cells(estimate, seconds))
        for kind, (name, estimate) in zip(own.seconds, found, strict=True)
    ]
    note = "The dot is the median, the line spans the middle half of your answers."
    missing = "You have not answered anything yet."
    pace = _dots("Seconds per answer", note, head, rows, found, seconds, missing)
    return [CardSection("Your work", [pace, _days([(f"{d.day}", d.answers) for d in own.days])])]


def _queue(figures: Figures) -> Card:
    found = figures.progress
    if not found:
        return Card("Queue", "There are no tasks yet.")
    bars, rows = [], []
    for kind in found:
        places = kind.done + kind.leased + kind.free
        text = f"{kind.done:,} of {places:,}"
        bars.append((_KINDS[kind.kind], text, (("a", kind.done), ("b", kind.leased), ("d", kind.free))))
        numbers = (kind.tasks, kind.done, kind.leased, kind.free)
        rows.append((_KINDS[kind.kind], *(f"{number:,}" for number in numbers)))
    gold = f" Gold tasks ({figures.gold_tasks:,}) are not counted." if figures.gold_tasks else ""
    return Card(
        "Queue",
        f"Each task has a place for each person who is to do it.{gold}",
        ("Task", "Tasks", "Done", "Being done", "Free"),
        rows,
        Bars(bars),
        {"a": "done", "b": "being done", "d": "free"},
    )


def _days(days: Sequence[tuple[str, int]]) -> Card:
    if not days:
        return Card("Answers per day", "There are no answers yet.")
    rows = [(day, f"{count:,}") for day, count in days]
    note = "By day (UTC), without those taken back."
    return Card("Answers per day", note, ("Day", "Answers"), rows, Columns(days))


def _answers(people: Sequence[PersonFigures]) -> Card:
    if not people:
        return Card("Answers per person", "Nobody has answered anything yet.")
    kinds = [kind for kind in _KINDS if any(kind in person.answers for person in people)]
    bars, rows = [], []
    for person in people:
        total = sum(person.answers.values())
        parts = (("a", total), ("b", person.gold_answers), ("d", person.skipped))
        if any(size for _, size in parts):
            bars.append((person.name, f"{total + person.gold_answers:,}", parts))
        other = (person.gold_answers, person.skipped, person.withdrawn, person.decided)
        numbers = (*(person.answers.get(kind, 0) for kind in kinds), *other)
        rows.append((person.name, *(f"{number:,}" for number in numbers)))
    most = max((sum(size for _, size in parts) for _, _, parts in bars), default=1)
    return Card(
        "Answers per person",
        "Current answers; those changed, and reviewers' decisions, are in the numbers only.",
        ("Name", *(_KINDS[kind] for kind in kinds), "Gold", "Skipped", "Changed", "Decided"),
        rows,
        Bars(bars, most) if bars else None,
        {"a": "answers", "b": "gold", "d": "skipped"},
    )


def _seconds(people: Sequence[PersonFigures], team: Mapping[str, Spread]) -> list[Card]:
    cards = []
    for kind, all_of_them in team.items():
        found = [
            (person.name, _estimate(person.seconds[kind])) for person in people if kind in person.seconds
        ]
        rows = [
            (name, *_cells(estimate, seconds), f"{estimate.count:,}")
            for name, estimate in (*found, ("Everybody", _estimate(all_of_them)))
        ]
        team_line = (all_of_them.median, None, None, f"everybody {seconds(all_of_them.median)}")
        note = "The dot is the median, the line spans the middle half of a person's answers."
        head = ("Name", "Median", "Middle half", "Answers")
        title = f"Seconds per answer: {_KINDS[kind].lower()}"
        cards.append(_dots(title, note, head, rows, found, seconds, "", team_line))
    return cards


def _gold(people: Sequence[PersonFigures]) -> Card:
    note = "Of the response pairs whose order is known, the share that a person orders so; a tie is half."
    found = [(person.name, person.gold) for person in people]
    return _shares("Gold tasks", note, "Name", found, "Nobody has ranked a gold task yet.")


def _pairs(figures: Figures) -> Card:
    found = figures.agreement
    note = (
        f"On {found.tasks:,} tasks that several people did, the share of response pairs that two people "
        "order alike; a tie is half. Compare a reward model's accuracy with this."
    )
    rows = [
        ("Rankings", found.rankings),
        ("Rankings, where neither tied", found.decided),
        ("Blind comparisons", found.comparisons),
    ]
    missing = "No two people have ordered the same task yet: labeling.overlap sets how many people do each."
    return _shares(
        "Two people with each other", note, "", rows, missing, (*INSTRUCTGPT, "InstructGPT: 72.6 ± 1.5 %")
    )


def _coefficients(figures: Figures) -> Card:
    found = figures.agreement
    coefficients = [
        ("Kendall's tau-b", found.tau),
        ("Krippendorff's alpha of ranks", Estimate(value=found.alpha_ranks)),
        ("Krippendorff's alpha of quality", Estimate(value=found.alpha_quality)),
    ]
    partial = f" Alpha leaves out partial rankings ({found.partial:,})." if found.partial else ""
    note = f"1 is perfect agreement, 0 is chance.{partial}"
    rows = [(name, *_cells(e, two)) for name, e in coefficients if e.value is not None]
    missing = "No two people have ranked the same responses yet."
    head = ("Coefficient", "Value", "95 % interval")
    span = (_least(0.0, coefficients), 1.0)
    return _dots("Beyond chance", note, head, rows, coefficients, two, missing, span=span)


def _with_others(people: Sequence[PersonFigures]) -> Card:
    note = "How often each person orders pairs as most of the others do on the same tasks."
    found = [(person.name, person.with_others) for person in people]
    return _shares(
        "Each person with the others", note, "Name", found, "No task has been done by several people yet."
    )


def _reliability(found: TeamReliability) -> list[Card]:
    people = [one for one in found.labelers if one.reliability.count]
    note = (
        "The share of comparisons that a person orders right, as the answers of all who did the same tasks "
        "and gold tasks say together. 50 % is guessing. The weight is a label's with weight_by: reliability."
    )
    missing = (
        "Nothing says yet who is right. It takes three people who share tasks with each other, or gold tasks."
    )
    head = ("Name", "Right", "95 % interval", "Comparisons", "Prompts", "Weight", "")
    rows = [
        (
            one.name,
            *_cells(one.reliability, percent),
            f"{one.reliability.count:,}",
            f"{one.reliability.prompts:,}",
            "–" if one.weight is None else two(one.weight),
            "against the others" if one.reversed else "may be guessing" if one.at_chance else "",
        )
        for one in people
    ]
    marks = [(one.name, one.reliability) for one in people]
    span = (int(_least(0.5, marks) * 10 + 1e-9) / 10, 1.0)
    guessing = (0.5, None, None, "guessing 50 %")
    card = _dots("Who orders responses right", note, head, rows, marks, percent, missing, guessing, span)
    return [card, _together(found), _leanings(people)]


def _together(found: TeamReliability) -> Card:
    title = "Answers put together"
    ways = [("One answer", found.one), ("The majority", found.majority), ("By reliability", found.weighted)]
    rows = [(name, percent(value)) for name, value in ways if value is not None]
    if not rows:
        return Card(title, "It is not known yet whose answers are right.")
    note = f"How often each is expected to be right, over {found.pairs:,} pairs that several people ordered."
    return Card(title, note, ("", "Right"), rows)


def _leanings(people: Sequence[LabelerFigures]) -> Card:
    title = "What mistakes have in common"
    rows = [
        (
            one.name,
            *(_leaning(found) for found in (one.first_shown, one.longer, one.ties)),
            *("–" if found.value is None else percent(found.value) for found in (one.next_to, one.apart)),
        )
        for one in people
        if one.reliability.value is not None
    ]
    if not rows:
        return Card(title, "It is not known yet whose answers are right.")
    note = (
        "In points of 100: how much more often than expected somebody prefers the response shown first, or "
        "the longer one, and how much more often than the others they tie a pair; * where the interval "
        "leaves out 0. Then the share ordered right where their ranks differ by one, and by more."
    )
    head = ("Name", "First shown", "Longer", "Ties", "Right, next ranks", "Right, further apart")
    return Card(title, note, head, rows)


def _leaning(found: Estimate) -> str:
    """A difference of shares in points, with a star where its interval leaves out 0."""
    if found.value is None:
        return "–"
    clear = found.low is not None and found.high is not None and not found.low <= 0 <= found.high
    return points(100 * found.value) + ("*" if clear else "")


def _win_rates(figures: Figures) -> Card:
    found = figures.policies
    unnamed = (
        f" {found.unnamed:,} answers don't count: their responses don't say which two policies wrote them."
        if found.unnamed
        else ""
    )
    if not found.pairings:
        return Card(
            "Win rates",
            "There are no comparisons of two named policies yet: tasks of the kind compare, with an origin "
            f"for each response.{unnamed}",
        )
    bars, rows = [], []
    for pair in found.pairings:
        parts = (("a", pair.wins), ("d", pair.ties), ("e", pair.both_bad), ("c", pair.losses))
        cells = _cells(pair.win_rate, percent)
        name = f"{pair.first} against {pair.second}"
        bars.append((name, cells[0], parts))
        numbers = (pair.wins, pair.ties, pair.both_bad, pair.losses)
        rows.append((name, *cells, *(f"{number:,}" for number in numbers)))
    return Card(
        "Win rates",
        "The first policy's, with its interval below the bar; a tie and “both bad” count one half." + unnamed,
        ("Policies", "Win rate", "95 % interval", "Won", "Tied", "Both bad", "Lost"),
        rows,
        Bars(bars, rates=[pair.win_rate for pair in found.pairings]),
        {"a": "first is better", "d": "tie", "e": "both bad", "c": "second is better"},
    )


def _ratings(figures: Figures) -> Card:
    found = figures.policies
    rated = [(policy.name, policy.rating) for policy in found.policies]
    rows = [
        (
            policy.name,
            *_cells(policy.rating, points),
            percent(policy.win_rate.value or 0.0),
            f"{policy.comparisons:,}",
        )
        for policy in found.policies
    ]
    head = ("Policy", "Rating", "95 % interval", "Win rate", "Comparisons")
    missing = "There are no comparisons of two named policies yet."
    if found.unrated:
        missing = f"There are no ratings yet: {found.unrated}."
    reach = max([50.0, *(abs(x) for _, e in rated for x in (e.value, e.low, e.high) if x is not None)])
    note = "Bradley-Terry, mean 0: a policy 100 points ahead is preferred 64 % of the time, 200 ahead 76 %."
    return _dots("Ratings", note, head, rows, rated, points, missing, span=(-reach, reach))


def _shares(
    title: str,
    note: str,
    first: str,
    found: Sequence[tuple[str, Estimate]],
    missing: str,
    reference: tuple[float, float | None, float | None, str] | None = None,
) -> Card:
    rows = [
        (name, *_cells(e, percent), f"{e.count:,}", f"{e.prompts:,}")
        for name, e in found
        if e.value is not None
    ]
    if reference and rows:
        value, low, high, name = reference
        rows.append((name, *_cells(Estimate(value, low, high), percent), "", ""))
    head = (first, "Share", "95 % interval", "Pairs", "Prompts")
    span = (int(_least(0.5, found) * 10 + 1e-9) / 10, 1.0)
    return _dots(title, note, head, rows, found, percent, missing, reference, span)


def _dots(
    title: str,
    note: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    found: Sequence[tuple[str, Estimate]],
    text: Callable[[float], str],
    missing: str,
    reference: tuple[float, float | None, float | None, str] | None = None,
    span: tuple[float, float] | None = None,
) -> Card:
    """Without `span` the scale begins at 0 and has room for all."""
    marks = [Mark(name, text(e.value), e.value, e.low, e.high) for name, e in found if e.value is not None]
    if not marks:
        return Card(title, missing, head if rows else (), rows)
    most = max(mark.high if mark.high is not None else mark.value for mark in marks)
    return Card(title, note, head, rows, Dots(marks, span or (0.0, most or 1.0), text, reference))


def _estimate(spread: Spread) -> Estimate:
    return Estimate(spread.median, spread.lower, spread.upper, spread.count)


def _least(start: float, found: Sequence[tuple[str, Estimate]]) -> float:
    """Where a scale begins that reaches down to `start`, and to all values and intervals."""
    return min([start, *(x for _, e in found for x in (e.value, e.low) if x is not None)])


def _cells(estimate: Estimate, text: Callable[[float], str]) -> tuple[str, str]:
    """A table's value and interval."""
    low, high = estimate.low, estimate.high
    value = "–" if estimate.value is None else text(estimate.value)
    return value, "–" if low is None or high is None else f"{text(low)} to {text(high)}"


def percent(value: float) -> str:
    """A share in whole percent."""
    return f"{100 * value:.0f} %"


def seconds(value: float) -> str:
    """A time in seconds, with a decimal below ten."""
    return f"{value:.0f} s" if value >= 10 or value == round(value) else f"{value:.1f} s"


def two(value: float) -> str:
    """A coefficient with two decimals."""
    return f"{value:.2f}".replace("-", "−")


def points(value: float) -> str:
    """A rating, or points of 100, as a whole number with its sign."""
    return f"{value:+.0f}".replace("-", "−").replace("+0", "0") if round(value) else "0"
