"""What a check finds, as plain data: shown on the terminal, written as check.json, and read by the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from align.check.texts import Repeats
from align.data.problems import Tally
from align.data.reading import Reading
from align.data.scan import Problem
from align.stats.rankings import LengthBias
from align.stats.reliability import Reliability

Severity = Literal["error", "warning", "note"]
Side = Literal["train", "held_out"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SHOWN = 20  # kinds of wrong records that are listed; the others are counted
EXAMPLES = 3  # places that a finding names
MUCH = 0.05  # from this share of the records on, what is odd about them is a warning
MANY = 0.2  # the same, for what is common in good data too
NEVER = 2.0  # no share of the records makes it a warning


@dataclass(frozen=True)
class Finding:
    """Something to know before training; an error is what training would refuse."""

    severity: Severity
    code: str  # the same for the same kind of thing, to search check.json for
    where: str  # the recipe's key, such as data.rankings.train
    message: str
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """How a number is distributed; a share p of the values is at or below its quantile."""

    median: int
    p95: int
    max: int


def spread(values: Iterable[int]) -> Spread | None:
    """The quantiles of values, each a value that occurs; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None

    def quantile(percent: int) -> int:
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]

    return Spread(quantile(50), quantile(95), ordered[-1])


@dataclass(frozen=True)
class Limit:
    """A number of tokens in the recipe or of the base, and how many records are over it."""

    key: str
    tokens: int
    over: int
    longest: int  # what it would have to be for all records


@dataclass(frozen=True)
class Lengths:
    """Of prompts, of single responses with their EOS, and of a prompt with its longest response."""

    unit: str  # "tokens", or "characters" where there is no tokenizer
    prompt: Spread
    response: Spread | None
    sequence: Spread | None
    limits: list[Limit]


@dataclass(frozen=True)
class LabelFacts:
    """What rankings say, in numbers."""

    k: dict[int, int]  # how many records have K responses
    comparisons: int
    ties: int  # tied pairs
    all_tied: int  # records that decide no comparison
    unranked: int  # responses without a rank
    labelers: int  # how many are named
    by_labeler: list[tuple[str, int]]  # records each, most first
    unnamed: int  # records without a labeler
    timed: int  # records that say how long the labeler took
    seconds: float  # that they took together

    @property
    def tied_share(self) -> float:
        """Of the pairs in which both responses are ranked."""
        return self.ties / max(1, self.ties + self.comparisons)


@dataclass(frozen=True)
class Set:
    """One side of one kind of records."""

    kind: str
    side: Side
    records: int
    repeats: Repeats
    lengths: Lengths | None  # None without records
    labels: LabelFacts | None  # None unless rankings
    identical: int  # records with a response twice
    near_identical: int  # records with two responses that are nearly the same
    says_nothing: int  # responses of punctuation only


@dataclass
class WrongRecords:
    """What could not be read as records, or not be encoded."""

    kind: str
    count: int = 0
    files: int = 0  # of these, whole files, or the rest of one: they are never skipped
    skipped: bool = False  # on_bad_record: skip
    empty: int = 0  # of these, for an empty prompt or response
    tally: Tally = field(default_factory=Tally)

    def add(self, problem: Problem) -> None:
        """Count it."""
        self.count += 1
        self.empty += problem.message.startswith("is empty")
        self.files += problem.whole_file
        self.tally.add(problem)

    @property
    def first(self) -> list[str]:
        """A line for each kind of problem, with the first places."""
        return self.tally.lines(SHOWN)


@dataclass(frozen=True)
class Example:
    """A record, to see at a glance whether it was read as it was meant."""

    place: str
    prompt: str
    answers: list[tuple[int | None, str]]  # (rank, text), best first; a demonstration's has no rank


@dataclass(frozen=True)
class Understood:
    """Files that were read in one way, and the first records of the first of them."""

    kind: str
    side: Side | None  # None: both come from it
    files: list[str]
    reading: Reading
    examples: list[Example]


@dataclass(frozen=True)
class Leak:
    """Prompts that train in one place and are held out in another."""

    trains: str
    held_out: str
    prompts: int
    near: int  # prompts that differ in case, punctuation and spaces only
    of: int  # different prompts that are held out there
    first: list[str]


@dataclass(frozen=True)
class PersonalRecord:
    """A record that holds personal data of one kind, or keys."""

    kind: str  # of record
    side: Side
    place: str
    what: str  # a key of align.check.personal.KINDS
    count: int  # different values
    first: str  # of the first one what can be shown


@dataclass(frozen=True)
class PersonalData:
    """What was found of personal data and keys, and in how many records it was looked for."""

    looked_at: int
    found: list[PersonalRecord]


@dataclass(frozen=True)
class LabelerAgreement:
    """What rankings of the same prompts say of each other, on one side."""

    side: Side
    repeated_pairs: int  # pairs of responses that several records decide
    contradictory: int  # of these, ordered both ways
    self_contradictory: int  # of these, by one labeler who said both
    by: list[tuple[str, str, int]]  # who against whom, most often first
    cycles: int  # prompts whose majority relation has a cycle
    judged_twice: int  # pairs that several labelers judged
    judgements: int  # two labelers on one pair who both decide
    agreement: float | None  # share of these that agree
    one_tied: int  # one decides, the other says tie
    both_tied: int


@dataclass(frozen=True)
class TemplateFacts:
    """How the base's tokenizer and the recipe's template go together."""

    kind: str
    eos: str
    pad_is_eos: bool
    system_prompt: str | None  # what the chat template says where a prompt has no system message
    system_tokens: int
    turn_end: str | None  # what the chat template writes behind an assistant's text; None: nothing, or plain
    turn_ends_with_eos: bool | None  # None where it cannot be told
    answer_follows: bool | None  # the template writes an answer as generation prompt and text
    generation_prompt: str | None = None  # what stands between the user's words and a response
    remarks: list[str] = field(default_factory=list)  # what a stage says of the chat template when it starts


@dataclass(frozen=True)
class Suspect:
    """A record that a screen names: somebody may have planted it."""

    place: str  # file:line
    kind: str
    code: str  # the finding's
    why: str
    without: str  # what `without` in the recipe leaves it out by


@dataclass(frozen=True)
class Report:
    """All that `align check` has to say of one recipe."""

    align: str
    recipe: str
    run: str
    base: str
    template: TemplateFacts | None  # None without a tokenizer
    code: list[str]  # what of other people's code would run
    read: list[Understood]
    sets: list[Set]
    length_bias: LengthBias | None
    agreement: list[LabelerAgreement]
    reliability: Reliability  # of the labelers of training rankings, by what several of them judged
    leaks: list[Leak]
    personal_data: PersonalData | None  # None: not looked for, as the extra is absent
    wrong_records: list[WrongRecords]
    findings: list[Finding]
    suspects: list[Suspect]
    next: str

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """2 where training would refuse."""
        return 2 if self.count("error") else 0


def number(count: int, one: str, several: str | None = None) -> str:
    """`1 record`, `12,345 records`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def percent(part: float, whole: float) -> str:
    """`12.3%`."""
    return f"{100 * part / whole:.1f}%" if whole else "0%"


def by_share(count: int, total: int, limit: float) -> Severity:
    """A warning from this share of the total on, a note below."""
    return "warning" if count >= limit * total else "note"
