"""`columns:` of an entry: which column holds which part of a record, and how it is written there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from align.recipe.parts import Section, Short
from align.text import LOSSES, cell_text, words_of_name

Names = str | list[str]  # a column, or several
Word = str | int | float | bool  # what stands in a cell; compared as text, so that 1, 1.0 and "1" are equal
Words = Word | list[Word]
DETAILS = ("labeler", "strength", "guideline", "shown_order", "seconds", "source")
ROLES = ("system", "user", "assistant", "tool")
JUDGED = ("ranks", "scores", "order", "verdict")  # how responses are ranked
WORSE = {
    "loser",
    "lose",
    "loses",
    "losing",
    "lost",
    "worse",
    "worst",
    "rejected",
    "dispreferred",
    "unpreferred",
}
WORSE |= {"bad", "negative", "neg", "disliked"}
BETTER = {"winner", "win", "wins", "winning", "better", "best", "chosen", "preferred", "accepted"}
BETTER |= {"good", "positive", "pos", "liked"}
NEGATIONS = {"less", "least", "not", "non"}  # less_preferred
MORE = {
    "score",
    "scores",
    "rating",
    "ratings",
    "star",
    "stars",
    "vote",
    "votes",
    "upvotes",
    "points",
    "likes",
}
MORE |= {"reward", "rewards", "elo", "quality"}
PLACES = {"rank", "ranks", "ranking", "place", "placement", "position"}
FORMS = (
    "prompt; prompt + response; prompt + chosen + rejected; prompt + responses, with ranks, scores, order or "
    "verdict; prompt + responses + group_by, with ranks, scores or chosen. Where responses are whole "
    "conversations, there is no prompt"
)


class MessageKeys(Section):
    """How messages are written; `role` and `content`, and `from` and `value`, are known without it."""

    role: str | None = Field(None, min_length=1, description="the key that says who speaks")
    content: str | None = Field(None, min_length=1, description="the key that holds what is said")
    system: Names | None = Field(None, description="what the system is called under it")
    user: Names | None = Field(None, description="what the person is called")
    assistant: Names | None = Field(None, description="what the assistant is called")
    tool: Names | None = Field(None, description="what a tool's result is called")

    @property
    def tags(self) -> dict[str, str]:
        """Our role for each name."""
        given = {role: getattr(self, role) for role in ROLES}
        return {name: role for role, names in given.items() if names for name in _listed(names)}


class Verdict(Section):
    """Which of the responses was found better, and how that is written."""

    column: Annotated[str | None, Short()] = Field(
        None, min_length=1, description="the column that says it, by words or on a scale"
    )
    a: Words | None = Field(None, description="its values where the first of the two responses is better")
    b: Words | None = Field(None, description="its values where the second is better")
    tie: Words | None = Field(None, description="its values where neither is")
    both_bad: Words | None = Field(None, description="its values where both are bad, which is a tie")
    names: list[str] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="two columns with what it calls them in that row",
    )
    low: Literal["a", "b"] | None = Field(
        None, description="a scale: the response that is better below the middle"
    )
    high: Literal["a", "b"] | None = Field(
        None, description="a scale: the response that is better above the middle"
    )
    middle: float | None = Field(
        None, allow_inf_nan=False, description="a scale: the number of a tie; the distance is the strength"
    )
    best: str | None = Field(
        None, min_length=1, description="the column that names the best of K responses, in place of `column`"
    )
    worst: str | None = Field(None, min_length=1, description="the column that names the worst of them")

    @model_validator(mode="after")
    def _one_way(self) -> Verdict:
        given = {key for key in type(self).model_fields if getattr(self, key) is not None}
        if given & {"best", "worst"}:
            if given - {"best", "worst"}:
                raise ValueError("best and worst name columns, and go with no other key of a verdict")
            if self.best == self.worst:
                raise ValueError("best and worst name the same column")
            for key, opposite, name in (("best", "worse", self.best), ("worst", "better", self.worst)):
                if name is not None and _sense(name) == opposite:
                    raise ValueError(
                        f"{key}: `{name}` sounds like the {opposite} one: it belongs to the other key"
                    )
            return self
        if self.column is None:
            raise ValueError("column is missing: name the column that says it (or best and worst)")
        if given == {"column"} and _sense(self.column) == "worse":
            raise ValueError(
                f"verdict names the better response, and `{self.column}` sounds like the worse one: say "
                f"`verdict: {{worst: {self.column}}}`, or list its values under a and b"
            )
        words, scale = given & {"a", "b"}, given & {"low", "high", "middle"}
        if scale and given - {"column", "low", "high", "middle"}:
            raise ValueError("low, high and middle are for a scale; a, b, tie, both_bad and names for words")
        if scale and (self.middle is None or not given & {"low", "high"} or self.low == self.high):
            raise ValueError(
                "a scale needs its middle (the number of a tie) and who is better below it and above it: "
                "`{column: …, low: a, high: b, middle: 0}`"
            )
        if "names" in given and words:
            raise ValueError("names says what the two are called in each row, a and b in all rows; keep one")
        said = [
            (cell_text(value), key) for key in ("a", "b", "tie", "both_bad") for value in self.listed(key)
        ]
        for i, (value, key) in enumerate(said):
            if other := next((k for v, k in said[:i] if v == value and k != key), None):
                raise ValueError(f"{value!r} stands under both {other} and {key}")
        return self

    def listed(self, key: str) -> list[Any]:
        """The values that are listed under a key."""
        given = getattr(self, key)
        return [] if given is None else given if isinstance(given, list) else [given]


class Columns(Section):
    """Which column holds which part of a record."""

    prompt: Names | None = Field(
        None, description="text or messages; several columns follow each other after blank lines"
    )
    system: str | None = Field(None, description="the system message; nothing where it is empty")
    tools: str | None = Field(None, description="the list of tools that the assistant could call")
    messages: MessageKeys | None = Field(None, description="how messages are written, where not as usual")
    response: str | None = Field(None, description="what a person wrote, text or a conversation")
    responses: Names | None = Field(
        None, description="a column with a list or with an object of systems, or several columns"
    )
    chosen: Names | None = Field(
        None, description="the better one: text, several, or messages; with group_by: what marks it"
    )
    rejected: Names | None = Field(None, description="the worse one, likewise")
    ranks: Names | None = Field(None, description="their ranks, the lowest is best, equal ones tie")
    best: Literal[1, 0, "1st"] | None = Field(None, description="what the best one's rank is written as")
    scores: Names | None = Field(None, description="their scores, more is better, equal ones tie")
    lower_is_better: bool | None = Field(None, description="less is better in scores")
    order: Names | None = Field(
        None, description="the answers' ids, names or places, best first; those in a list within tie"
    )
    ids: Names | None = Field(
        None, description="what order, verdict or an object of marks calls each response"
    )
    places_from: Literal[0, 1] | None = Field(
        None, description="the first answer's place in order or verdict, where the data do not show it"
    )
    verdict: Verdict | None = Field(
        None, description="which is better: a column of known words, or a mapping"
    )
    group_by: Names | None = Field(
        None, description="a row is one answer: the columns that are equal in all rows of a ranking"
    )
    labeler: str | None = Field(None, description="who ranked them")
    strength: str | None = Field(None, description="how clear it was")
    guideline: str | None = Field(None, description="the guideline's hash")
    shown_order: str | None = Field(None, description="the responses' indices from 0, as they were shown")
    seconds: str | None = Field(None, description="how long it took")
    source: str | None = Field(None, description="where it comes from")

    @model_validator(mode="after")
    def _makes_records(self) -> Columns:
        for key, names in self.named():
            if not names or not all(names):
                raise ValueError(f"{key}: name the column that holds it")
        values = {key: getattr(self, key) for key in type(self).model_fields}
        given = {key for key, value in values.items() if value is not None and value is not False}
        _check_parts(given)
        if self.group_by is not None:
            _check_table(self, given)
        _check_senses(self)
        count = len(self.responses) if isinstance(self.responses, list) else 2
        if self.verdict is not None and self.verdict.column is not None and count != 2:
            raise ValueError(
                f"verdict compares two responses, and there are {count}: say `verdict: {{best: COLUMN}}` "
                "where a column names the best of several"
            )
        return self

    @property
    def details(self) -> dict[str, str]:
        """The column of each detail of a ranking that is mapped."""
        return {key: name for key in DETAILS if (name := getattr(self, key)) is not None}

    @property
    def fields_alone(self) -> bool:
        """Whether it makes a record only beside the format of a labeling tool, which has the rest."""
        return self.prompt is None and self.responses is not None and not self.judged

    @property
    def judged(self) -> bool:
        """Whether anything says which responses are better."""
        return any(getattr(self, key) is not None for key in (*JUDGED, "chosen"))

    def names(self, key: str) -> list[str]:
        """The columns that a key names."""
        return _listed(getattr(self, key))

    def named(self) -> Iterator[tuple[str, list[str]]]:
        """Each key that names columns, with these."""
        for key in type(self).model_fields:
            value = getattr(self, key)
            if (
                key not in ("messages", "best", "lower_is_better", "places_from", "verdict")
                and value is not None
            ):
                yield key, _listed(value)
        if self.verdict is not None:
            for key in ("column", "names", "best", "worst"):
                if value := getattr(self.verdict, key):
                    yield f"verdict.{key}", _listed(value)


def _listed(names: Names | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def _check_parts(given: set[str]) -> None:
    judged = [key for key in JUDGED if key in given]
    pair = given & {"chosen", "rejected"}
    for key, what in (("best", "ranks"), ("lower_is_better", "scores")):
        if key in given and what not in given:
            raise ValueError(f"{key} says how {what} are written, and there is no `{what}`")
    for key in ("ids", "places_from"):
        by = {"order", "verdict"} if key == "places_from" else {"order", "verdict", "scores", "ranks"}
        if key in given and not given & by:
            marks = "" if key == "places_from" else ", or an object of scores or ranks,"
            raise ValueError(f"{key} says what order or verdict{marks} calls each response; there is none")
    main = given - {*DETAILS, "system", "tools", "messages", "best", "lower_is_better", "places_from", "ids"}
    main -= {"prompt", "group_by"}
    single = main in ({"response"}, {"chosen", "rejected"})
    table = "group_by" in given and main in (
        {"responses", "chosen"},
        {"responses", "chosen", "rejected"},
    )
    ranked = len(judged) == 1 and main == {"responses", judged[0]}
    # A prompt, with what is still to be ranked, or the fields of a labeling tool's task.
    unranked = given & {"prompt", "responses"} and main <= {"responses"}
    if not (single or table or ranked or unranked):
        names = sorted(main | given & {"prompt", "group_by"})
        raise ValueError(f"{', '.join(names) or 'nothing'} makes no record. Map one of these: {FORMS}.")
    details = [key for key in DETAILS if key in given]
    if details and not (ranked or table or pair):
        raise ValueError(f"{details[0]}: only rankings have it, and this mapping makes none")


def _check_table(columns: Columns, given: set[str]) -> None:
    if "responses" not in given or given & {"order", "verdict"}:
        raise ValueError(
            "group_by is for rows that are one answer each: name the answer's column by `responses`, and "
            "what ranks it by `ranks`, `scores` or `chosen`"
        )
    if not given & {"ranks", "scores", "chosen"}:
        raise ValueError("group_by needs what ranks the answers: map `ranks`, `scores` or `chosen` too")
    for key in ("responses", "chosen", "rejected"):
        if isinstance(getattr(columns, key), list):
            raise ValueError(f"{key} takes one column where there is group_by: a row is one answer")
    for key in ("ranks", "scores"):
        if isinstance(getattr(columns, key), list) and columns.labeler is not None:
            raise ValueError(f"labeler: each column of {key} is one labeler's, by its name; take it out")


def _check_senses(columns: Columns) -> None:
    """Raise ValueError where a column's name says the opposite of the key that it stands under."""
    ranks, scores = _written(columns.ranks), _written(columns.scores)
    if columns.best is None and _said(columns.ranks, MORE, PLACES | LOSSES):
        raise ValueError(
            f"ranks: `{ranks}` sounds like scores, where more is better, and the lowest rank is best: say "
            f"`scores: {ranks}` instead, or `best: 1` beside it if its lowest number is the best"
        )
    if columns.lower_is_better is None and _said(columns.scores, PLACES | LOSSES, MORE):
        instead = f"`ranks: {scores}` instead, or " if _said(columns.scores, PLACES, LOSSES) else ""
        raise ValueError(
            f"scores: `{scores}` sounds as if less were better, and the highest score is best: say "
            f"{instead}`lower_is_better: true` beside it (false if more is better)"
        )
    better, worse = _listed(columns.chosen), _listed(columns.rejected)
    if columns.group_by is not None and any(_sense(name) == "worse" for name in better):
        raise ValueError(
            f"chosen: marks the best answer, and `{better[0]}` sounds like the worst: say "
            f"`scores: {better[0]}, lower_is_better: true` instead if it marks that one"
        )
    turned = [_sense(name) for name in better] == ["worse"] and [_sense(name) for name in worse] == ["better"]
    if turned:
        raise ValueError(
            f"chosen: `{better[0]}` sounds like the worse answer, and `{worse[0]}` like the better one: swap "
            "them. If the file's names are the wrong way round, rename its columns"
        )


def _said(names: Names | None, words: set[str], others: set[str]) -> bool:
    """Whether all of these names have one of the words in their last part, and none of the others."""
    parts = [[part for part in name.split(".") if not part.isdecimal()][-1:] for name in _listed(names)]
    found = [{word.rstrip("0123456789") for part in last for word in words_of_name(part)} for last in parts]
    return bool(found) and all(there & words and not there & others for there in found)


def _sense(name: str) -> str:
    """Whether a column's name sounds like the "better" or the "worse" answer; "" where it does not say."""
    words = set(words_of_name(name))
    better, worse = bool(words & BETTER), bool(words & WORSE)
    if better == worse:
        return ""
    if words & NEGATIONS:
        return "worse" if better else ""
    return "better" if better else "worse"


def _written(names: Names | None) -> str:
    """Names as a recipe has them."""
    return names if isinstance(names, str) else f"[{', '.join(names or [])}]"
