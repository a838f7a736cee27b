"""The kinds of task: what each one is, and what a complete answer looks like. Plain data, no database."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from align.errors import UserError
from align.recipe.labeling import MAX_RESPONSES
from labeling.language import N_, gettext
from labeling.parts import MOST_PARTS, Parts, checked_parts
from labeling.retold import retold

TEXT_LIMIT = 100_000  # characters of what a person writes
UNSTORABLE = "holds half a character, a NUL, a number without bounds, or is nested more than 50 deep"
FLAGS = {
    "fails": N_("Fails the task"),
    "inappropriate": N_("Inappropriate for a customer assistant"),
    "hallucination": N_("Hallucination"),
    "constraint": N_("Ignores a constraint"),
    "sexual": N_("Sexual content"),
    "violent": N_("Violent content"),
    "harm": N_("Encourages harm"),
    "denigrates": N_("Denigrates a protected class"),
    "advice": N_("Harmful advice"),
    "opinion": N_("Expresses an opinion"),
    "moral": N_("Expresses a moral judgement"),
}
SKIP_REASONS = {
    "unclear": N_("I don't understand the prompt"),
    "language": N_("Not in a language that I read"),
    "expertise": N_("I don't know enough to judge"),
    "unsafe": N_("I'd rather not read this"),
    "broken": N_("Something is broken here"),
    "other": N_("Another reason"),
}

Text = Annotated[str, Field(max_length=TEXT_LIMIT)]
Note = Annotated[str, Field(max_length=2000)]
Rank = Annotated[int, Field(ge=1, le=99)]
Quality = Annotated[int, Field(ge=1, le=7)]


class Answer(BaseModel):
    """What a person hands in: `content` in the order shown, the guideline's hash, the seconds it took.

    `submission` names this content: the same one twice is one label. `instead_of` names submissions of the
    same person that this one may replace, heard of or not. `affirmed`: they changed nothing, and said that
    what they were shown is right as it stands.
    """

    model_config = ConfigDict(extra="forbid")
    content: Any
    submission: str
    guideline: str | None
    seconds: float
    skip: bool = False
    adjudicates: bool = False
    instead_of: list[str] = []
    affirmed: bool = False


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    note: Note = ""

    @model_validator(mode="after")
    def _storable(self) -> _Content:
        if not storable(self.model_dump()):
            raise ValueError("a text holds a character that cannot be stored")
        return self


class Edit(BaseModel):
    """A response overwritten with what it should have been; `response` is its index.

    None: it overwrites none, and is an answer of the person's own, for example of `parts` of the others.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    response: int | None = Field(ge=0)
    text: Text
    parts: Parts = []


class RankContent(_Content):
    """Ranks (1 is best, equal is a tie, null is unranked), quality and flags of each response, by index."""

    ranks: list[Rank | None]
    quality: list[Quality | None]
    flags: list[list[str]]
    all_bad: bool = False
    edit: Edit | None = None


class CompareContent(_Content):
    """Which of two is better; `both_bad` and `tie` name none."""

    choice: Literal["first", "second", "tie", "both_bad"]


class TextContent(_Content):
    """A response that a person wrote: a demonstration or a correction, also with `parts` of the one shown."""

    text: Text
    parts: Parts = []


class SkipContent(_Content):
    """Why a task was skipped: one of SKIP_REASONS."""

    reason: str


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=lambda place: order[place])


def _ranks_moved(content: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    places, edit = _inverse(order), content["edit"]
    lists = {key: [content[key][place] for place in places] for key in ("ranks", "quality", "flags")}
    return content | lists | {"edit": edit and _edit_moved(edit, order)}


def _edit_moved(edit: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    response = edit["response"]
    moved = edit | {"response": response if response is None else order[response]}
    if "parts" not in edit:
        return moved
    return moved | {"parts": [part | {"response": order[part["response"]]} for part in edit["parts"]]}


def _choice_moved(content: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    sides = ("first", "second")
    if content["choice"] not in sides:
        return content
    return content | {"choice": sides[order[sides.index(content["choice"])]]}


def _ranks(content: dict[str, Any]) -> list[int | None] | None:
    ranks = list(content["ranks"])
    return ranks if sum(rank is not None for rank in ranks) > 1 else None


def _ranks_of_choice(content: dict[str, Any]) -> list[int | None] | None:
    ranks: dict[str, list[int | None]] = {"first": [1, 2], "second": [2, 1], "tie": [1, 1]}
    return ranks.get(content["choice"])


def _edit(content: dict[str, Any]) -> tuple[str, int | None] | None:
    edit = content.get("edit")  # early labels have none
    return (edit["text"], edit["response"]) if edit else None


@dataclass(frozen=True)
class TaskKind:
    """All that the app knows of a kind of task; its page is `web/templates/KIND.html`.

    The functions take the content of an answer as it is stored. `moved`: the content once response s is
    response order[s]. `ranks`: the ranks of the responses, None where this answer orders nothing; a kind
    without it orders nothing at all. `written`: the response that the person wrote, and the index of the one
    that it replaces.
    """

    title: str  # of its page
    name: str  # in the figures
    responses: tuple[int, int]  # the fewest and the most that a task has
    content: type[RankContent | CompareContent | TextContent | SkipContent]
    moved: Callable[[dict[str, Any], Sequence[int]], dict[str, Any]] = lambda content, order: content
    ranks: Callable[[dict[str, Any]], list[int | None] | None] | None = None
    written: Callable[[dict[str, Any]], tuple[str, int | None] | None] = lambda content: None


KINDS = {
    "rank": TaskKind(
        N_("Rank the responses"), N_("Rank"), (2, MAX_RESPONSES), RankContent, _ranks_moved, _ranks, _edit
    ),
    "demonstrate": TaskKind(
        N_("Write the best response"),
        N_("Write"),
        (0, 0),
        TextContent,
        written=lambda made: (made["text"], None),
    ),
    "correct": TaskKind(
        N_("Correct the response"), N_("Correct"), (1, 1), TextContent, written=lambda made: (made["text"], 0)
    ),
    "compare": TaskKind(
        N_("Which response is better?"),
        N_("Compare"),
        (2, 2),
        CompareContent,
        _choice_moved,
        _ranks_of_choice,
    ),
}
ORDERING = tuple(kind for kind, about in KINDS.items() if about.ranks)  # may have gold ranks, suggestions
_KINDS_AND_SKIP = KINDS | {"skip": TaskKind(N_("Skipped"), N_("Skip"), (0, MAX_RESPONSES), SkipContent)}


def checked(kind: str, content: Any, count: int, quality: str = "optional") -> dict[str, Any]:
    """A complete answer to a task of this kind with `count` responses; UserError says what is missing."""
    if kind == "compare" and isinstance(content, dict) and content.get("choice") is None:
        raise UserError(gettext("Say which response is better, or skip."))
    try:
        made = _KINDS_AND_SKIP[kind].content.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "too_long" and where.endswith("parts"):
            most = gettext("An answer has %(most)s parts at most: take some out.", most=MOST_PARTS)
            raise UserError(most) from error
        raise UserError(
            gettext("The answer is not well formed: %(what)s", what=f"{where} {retold(first['msg'])}")
        ) from error
    if isinstance(made, TextContent) and not made.text.strip():
        raise UserError(gettext("Write the response first."))
    if isinstance(made, SkipContent) and made.reason not in SKIP_REASONS:
        raise UserError(gettext("Choose a reason for skipping."))
    if isinstance(made, RankContent):
        _check_ranking(made, count, quality)
    return _without_empty(made.model_dump())


def _without_empty(content: dict[str, Any]) -> dict[str, Any]:
    """Without lists of parts that have none: most answers are written in one piece."""
    edit = content.get("edit")
    if edit and not edit["parts"]:
        del edit["parts"]
    if content.get("parts") == []:
        del content["parts"]
    return content


def with_sources(kind: str, content: dict[str, Any], responses: Sequence[str]) -> dict[str, Any]:
    """An answer in the item's order whose parts are what they say; UserError where one is not."""
    written = _written_part(kind, content)
    if not written.get("parts"):
        return content
    made = written | {"parts": checked_parts(written["parts"], written["text"], responses)}
    return content | {"edit": made} if kind == "rank" else made


def parts_of(kind: str, content: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of other responses that a written one was put together from, in their order."""
    return list(_written_part(kind, content).get("parts", ()))


def _written_part(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """What of an answer holds a text and its parts; empty where nothing was written."""
    return (content.get("edit") if kind == "rank" else content) or {}


def _check_ranking(made: RankContent, count: int, quality: str) -> None:
    if not len(made.ranks) == len(made.quality) == len(made.flags) == count:
        raise UserError(gettext("The answer is not well formed: there are %(count)s responses.", count=count))
    if any(flag not in FLAGS for flags in made.flags for flag in flags):
        raise UserError(gettext("The answer is not well formed: unknown flag."))
    made.flags = [[flag for flag in FLAGS if flag in flags] for flags in made.flags]
    if made.edit is not None:
        _check_edit(made.edit, count)
    ranked = [rank for rank in made.ranks if rank is not None]
    if not ranked and not made.all_bad:
        raise UserError(gettext("Rank at least two responses, say that all are bad, or skip."))
    if len(ranked) == 1 and not made.all_bad:
        raise UserError(
            gettext("One ranked response is not a ranking: rank another one, or say that all are bad.")
        )
    if quality == "required" and any(value is None for value in made.quality):
        raise UserError(gettext("Give each response a quality from 1 to 7."))


def _check_edit(edit: Edit, count: int) -> None:
    if edit.response is None and not edit.text.strip():
        raise UserError(gettext("Your own answer is empty: write it, or remove it."))
    if (edit.response or 0) >= count or not edit.text.strip():
        raise UserError(gettext("The rewritten response is empty: write it, or remove it."))
    if any(part.response >= count for part in edit.parts):
        raise UserError(gettext("A part of the answer is of a response that this task doesn't have."))


def drawn_order(secret: str, item: int, person: int, count: int) -> list[int]:
    """The indices of an item's responses in the order that this person sees; always the same."""
    order = list(range(count))
    random.Random(f"{secret} {item} {person}").shuffle(order)
    return order


def in_item_order(kind: str, content: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """An answer given in the order shown, as the item has its responses: place s showed response order[s]."""
    return _KINDS_AND_SKIP[kind].moved(content, order)


def in_shown_order(kind: str, content: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """The inverse of `in_item_order`."""
    return in_item_order(kind, content, _inverse(order))


def ranks_of(kind: str, content: dict[str, Any]) -> list[int | None] | None:
    """The ranks that an answer gives its responses; None where it orders nothing."""
    ranks = _KINDS_AND_SKIP[kind].ranks
    return ranks(content) if ranks else None


def written_in(kind: str, content: dict[str, Any]) -> tuple[str, int | None] | None:
    """The response that a person wrote, if any, and the index of the one that it replaces."""
    return _KINDS_AND_SKIP[kind].written(content)


def ranks_alone(ranks: Sequence[int | None]) -> dict[str, Any]:
    """The content of a ranking that says nothing else."""
    return {"ranks": list(ranks), "quality": [None] * len(ranks), "flags": [[] for _ in ranks]}


def ranks_by_score(scores: Sequence[float]) -> list[int]:
    """Ranks by falling score: 1 is best, equal scores are tied."""
    places = {score: i + 1 for i, score in enumerate(sorted(set(scores), reverse=True))}
    return [places[score] for score in scores]


def storable(value: Any, depth: int = 50) -> bool:
    """Whether every database and every reader of JSON takes a value that came as JSON; see UNSTORABLE."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return depth > 0 and all(storable(k) and storable(part, depth - 1) for k, part in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(storable(part, depth - 1) for part in value)
    return True
