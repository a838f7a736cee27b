"""What the page reads of a run's JSON files. Anything may be in them: what does not fit has its default."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic import field_validator as for_field

from align.run.metrics import numbers

Severity = Literal["error", "warning", "note"]
T = TypeVar("T")


def _texts(row: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in row.items()} if isinstance(row, dict) else {}


def _objects(rows: Any) -> list[Any]:
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)] | None
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))]
Flag = Annotated[bool, Field(strict=True)]
Numbers = Annotated[dict[str, float], BeforeValidator(numbers)]
Texts = Annotated[dict[str, str], BeforeValidator(_texts)]
Objects = Annotated[list[T], BeforeValidator(_objects)]


class Document(BaseModel):
    """A JSON object of which a part that is missing or of another type has its default."""

    model_config = ConfigDict(extra="ignore")

    @for_field("*", mode="wrap")
    @classmethod
    def _default_instead(cls, value: Any, validate: Callable[[Any], Any], info: ValidationInfo) -> Any:
        try:
            return validate(value)
        except ValidationError:
            return cls.model_fields[str(info.field_name)].get_default(call_default_factory=True)


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Manifest(Document):
    """A stage's manifest, however much of it can be read."""

    finished: Flag = False
    started_at: Annotated[datetime | None, BeforeValidator(_time)] = None
    finished_at: Annotated[datetime | None, BeforeValidator(_time)] = None
    results: Numbers = {}  # the last evaluation
    data: Texts = {}
    final: Texts = {}
    versions: Texts = {}


class Misjudged(Document):
    """A line of the reward model's samples.jsonl; what else stands in it is shown too."""

    model_config = ConfigDict(extra="allow")

    step: Any = None
    prompt: Any = ""
    preferred: Any = ""
    other: Any = ""
    margin: Number = None


class Sample(Document):
    """A line of ppo's samples.jsonl."""

    model_config = ConfigDict(extra="allow")

    step: Annotated[int, Field(strict=True)] | None = None
    score: Number = None


class Answer(Document):
    """A line of held_out.jsonl: what the reference and the policy answered."""

    prompt: Any = ""
    reference: Any = ""
    policy: Any = ""
    kl: Number = None
    reference_score: Number = None
    policy_score: Number = None
    reference_guard: Number = None  # by the second reward model, where there is one
    policy_guard: Number = None
    reference_length: Number = None
    policy_length: Number = None
    reference_eos: Flag | Number = None
    policy_eos: Flag | Number = None


class Share(Document):
    """A number with its 95% interval and the count that it is of."""

    name: Text = ""
    value: Number = None
    low: Number = None
    high: Number = None
    count: Number = None
    longer_wins: bool = True  # of the length alone


class Compared(Document):
    """What people do, or agree on, beside the reward model."""

    people: Share = Share()
    agreement: Share = Share()
    model: Share = Share()


class Fit(Document):
    """How well probabilities are calibrated."""

    bins: Objects[Numbers] = []
    ece: Number = None
    log_loss: Share = Share()
    brier: Share = Share()


class Calibration(Document):
    """The reward model's probabilities, as they are and with the fitted temperature."""

    temperature: Number = None
    at_bound: Flag = False
    raw: Fit | None = None
    scaled: Fit | None = None


class Scores(Document):
    """What the reward model's scores mean."""

    std: Number = None
    centred_on: Text = ""


class Evaluation(Document):
    """A reward model's evaluation.json."""

    prompts: Number = None
    rankings: Number = None
    comparisons: Number = None
    ties: Number = None
    accuracy: Share = Share()
    kendall_tau: Share = Share()
    length_only: Share | None = None
    people: Compared | None = None
    longer_preferred: Compared | None = None
    by_rank_gap: Objects[Share] = []
    by_strength: Objects[Share] = []
    by_length_difference: Objects[Share] = []
    by_labeler: Objects[Share] = []
    calibration: Calibration | None = None
    score: Scores = Scores()


class Finding(Document):
    """Something that `align check` found."""

    severity: Severity = "note"
    where: Text = ""
    message: Text = ""
    examples: list[Text] = []


class Lengths(Document):
    """Lengths of the records, in tokens, or characters where the check had no tokenizer."""

    unit: Text = "tokens"
    prompt: Numbers = {}  # median and max, as the others
    response: Numbers = {}
    sequence: Numbers = {}


class Labels(Document):
    """What people said in rankings."""

    k: Numbers = {}
    comparisons: Number = None
    ties: Number = None
    timed: Number = None  # records that say how long the labeler took
    seconds: Number = None  # that they took together


class RecordSet(Document):
    """The records of one kind and side."""

    kind: Text = ""
    side: Text = ""
    records: Number = None
    repeats: Numbers = {}
    lengths: Lengths | None = None
    labels: Labels = Labels()


class LengthBias(Document):
    """How often people prefer by length."""

    rule: Text = "shorter"
    accuracy: Number = None
    measured_on: Text = "training"


class Judged(Document):
    """How people agree with each other on one side of the rankings."""

    side: Text = ""
    agreement: Number = None
    judgements: Number = None
    judged_twice: Number = None
    repeated_pairs: Number = None
    contradictory: Number = None
    cycles: Number = None


class Check(Document):
    """check.json."""

    findings: Objects[Finding] = []
    sets: Objects[RecordSet] = []
    length_bias: LengthBias = LengthBias()
    agreement: Objects[Judged] = []


class Preferred(Document):
    """How often people preferred a policy's answers."""

    policy: Text = ""
    win_rate: Share = Share()


class Rate(Document):
    """A judge's win rate, with its parts left out."""

    rate: Share = Share()


class Won(Document):
    """How often a judge model preferred a policy's answers to another's."""

    policy: Text = ""
    against: Text = ""
    win_rate: Rate = Rate()


class Preferences(Document):
    """What people, or a judge model, said in `align evaluate`."""

    model: Text = ""
    policies: Objects[Preferred] = []
    wins: Objects[Won] = []
