"""A verdict on two responses, by words or on a scale, or the best and the worst of several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from align.data.formats.base import LeftOut, Placed, Row, as_number, short
from align.data.formats.orders import PLACES, UNRANKED, Gathered, Ranks
from align.data.formats.paths import Cell, look_up
from align.text import cell_text
from align.values import RecordError

if TYPE_CHECKING:
    from align.recipe.columns import Verdict

A, B, TIE = 0, 1, 2
SIDES = {"a": A, "b": B, "tie": TIE, "both_bad": TIE}
FIRST = {"a", "left", "first", "response_a", "model_a", "answer_a", "option_a", "assistant_a", "system_a"}
FIRST |= {"output_a", "completion_a", "text_a"}
SECOND = {"b", "right", "second"} | {name[:-1] + "b" for name in FIRST if name.endswith("_a")}
TIES = {"tie", "draw", "equal", "same", "both", "neither", "both_bad", "both_good", "bothbad", "bothgood"}
TIES |= {"tie_bothbad", "tie_both_bad", "no_preference", "undecided", "tied"}
# What may stand before a letter or a number that names a response; "not a" and "a is better than b" may not.
NOUNS = {"response", "answer", "model", "assistant", "option", "output", "completion", "text", "system"}
NOUNS |= {"candidate", "choice", "reply", "summary", "generation", "translation", "chatbot", "bot"}
_COMPARED = re.compile(r"[\[(]*\s*([^<>=]+?)\s*(>+|<+|=+)\s*([^<>=]+?)\s*[\])]*")  # A>B, [[B>>A]], A=B
ENOUGH = 3  # rows with a verdict, from which on it is told that none is on a side


def ranks_of_verdict(
    row: Row, answers: Sequence[Cell], verdict: Verdict, places_from: int | None = None
) -> tuple[Ranks, float | None] | LeftOut:
    """The ranks, and the strength where a scale says it; a row without a verdict is left out."""
    if verdict.column is None:
        if places_from is None and isinstance(row, Gathered):
            places_from = row.places_from
        return _best_worst(row, answers, verdict, places_from)
    if len(answers) != 2:
        raise RecordError(
            verdict.column,
            f"is a verdict on two responses, and there are {len(answers)}: say `verdict: {{best: "
            f"{verdict.column}}}` if it names the best of several",
        )
    value = look_up(row, verdict.column)
    if cell_text(value) == "" and "" not in _listed(verdict):
        return LeftOut(f"a row without a verdict in `{verdict.column}`")
    if verdict.middle is not None:
        return _on_scale(value, verdict, verdict.middle)
    side = _side(row, answers, verdict, value)
    for answer, index in zip(answers, (A, B), strict=True):
        if side == index and answer.value is None:
            raise RecordError(
                answer.name, f"holds no response, and `{verdict.column}` says that it is better"
            )
    ranks: Ranks = [2, 1] if side == B else [1, 1 if side == TIE else 2]
    return ranks, None


def _listed(verdict: Verdict) -> dict[str, str]:
    """The key under which each value stands, by the value as text."""
    return {cell_text(value): key for key in SIDES for value in verdict.listed(key)}


def _side(row: Row, answers: Sequence[Cell], verdict: Verdict, value: Any) -> int:
    column, text = str(verdict.column), cell_text(value)
    listed = _listed(verdict)
    if text in listed:
        return SIDES[listed[text]]
    if verdict.a is not None or verdict.b is not None:
        raise RecordError(
            column,
            f"is {short(value)}, which the verdict lists under none of {', '.join(SIDES)}: add it to one "
            "of these",
        )
    if verdict.names is not None:
        called = [cell_text(look_up(row, name)) for name in verdict.names]
        if called[0] == called[1] and text == called[0]:
            raise RecordError(column, f"is {short(value)}, which is the name of both responses")
        if text in called:
            return called.index(text)
        if _word(text) in TIES:
            return TIE
        raise RecordError(
            column,
            f"is {short(value)}, which is neither `{verdict.names[0]}` ({called[0][:40]!r}) nor "
            f"`{verdict.names[1]}` ({called[1][:40]!r}): list ties under `tie`",
        )
    side = said_by(value, [answer.key for answer in answers])
    if side is None:
        raise RecordError(
            column,
            f"is {short(value)}, and nothing says which response that is: list the values, as in `verdict: "
            f"{{column: {column}, a: [{text[:40]}], b: […], tie: […]}}`",
        )
    return side


def said_by(value: Any, names: Sequence[str | None]) -> int | None:
    """Which of two responses a value calls the better one by itself (2: neither); None: nobody can say."""
    text = cell_text(value)
    if not re.search("[<>=]", text):
        return _known(_word(text), names)
    compared = _COMPARED.fullmatch(text)
    sides = [_known(_word(compared[i]), names) for i in (1, 3)] if compared else []
    if compared is None or sorted(str(side) for side in sides) != ["0", "1"]:
        return None
    return TIE if compared[2][0] == "=" else sides[0] if compared[2][0] == ">" else sides[1]


def _word(text: str) -> str:
    """A verdict's word without capitals, blanks and brackets: "Both bad" is both_bad."""
    return re.sub(r"[\W_]+", "_", text.casefold()).strip("_")


def _known(word: str, keys: Sequence[str | None]) -> int | None:
    """What a word says by itself: a response's own name, what tells two names apart, a or b, or a tie."""
    own = [_word(key) if key else "" for key in keys]
    if word and own.count(word) == 1:
        return own.index(word)
    if word in TIES:
        return TIE
    endings = _endings(own)
    if all(endings) and endings[0] != endings[1]:
        last = _ending(word, own)
        if last in endings:
            return endings.index(last)
    if endings[0] in SECOND or endings[1] in FIRST or endings == ["2", "1"]:
        return None  # the recipe names b before a: what stands "left" is anybody's guess
    return A if word in FIRST else B if word in SECOND else None


def _ending(word: str, own: Sequence[str]) -> str:
    """The letter or number that a word is, or that follows a noun or the names' own words; else nothing."""
    stem, _, last = word.rpartition("_")
    return last if not stem or stem in NOUNS or stem in [name.rpartition("_")[0] for name in own] else ""


def _endings(own: Sequence[str]) -> list[str]:
    """The last words of two names that are equal otherwise (response_a, response_b); else nothing."""
    stems = [name.rpartition("_") for name in own]
    if all(own) and stems[0][0] == stems[1][0]:
        return [stem[2] for stem in stems]
    return ["", ""]


def _on_scale(value: Any, verdict: Verdict, middle: float) -> tuple[Ranks, float]:
    column = str(verdict.column)
    distance = as_number(value, column) - middle
    if distance == 0:
        return [1, 1], 0.0
    side = verdict.low if distance < 0 else verdict.high
    if side is None:
        where = "below" if distance < 0 else "above"
        raise RecordError(
            column,
            f"is {short(value)}, {where} the middle, {middle:g}: say who is better there, by "
            f"`{'low' if distance < 0 else 'high'}: a` or `b`",
        )
    return ([1, 2] if side == "a" else [2, 1]), abs(distance)


def _best_worst(
    row: Row, answers: Sequence[Cell], verdict: Verdict, places_from: int | None
) -> tuple[Ranks, float | None] | LeftOut:
    """The best has rank 1, the worst the last, all others tie between."""
    found: dict[str, int] = {}
    columns = {key: name for key in ("best", "worst") if (name := getattr(verdict, key))}
    for key, column in columns.items():
        value = look_up(row, column)
        if value not in UNRANKED:
            found[key] = _named(value, answers, column, places_from)
            if answers[found[key]].value is None:
                raise RecordError(
                    column, f"is {short(value)}, and `{answers[found[key]].name}` holds no response"
                )
    if not found:
        return LeftOut(f"a row without a verdict in {' or '.join(f'`{name}`' for name in columns.values())}")
    if found.get("best") == found.get("worst"):
        raise RecordError(columns["worst"], f"names the same response as `{columns['best']}`")
    middle = 2 if "best" in found else 1
    ranks: Ranks = [middle] * len(answers)
    if "best" in found:
        ranks[found["best"]] = 1
    if "worst" in found:
        ranks[found["worst"]] = middle + 1
    return ranks, None


def _named(value: Any, answers: Sequence[Cell], column: str, places_from: int | None) -> int:
    """The answer that a value names: by its key, its text, what tells the keys apart, or its place."""
    text = cell_text(value)
    keys = [answer.key or "" for answer in answers]
    if text and keys.count(text) == 1:
        return keys.index(text)
    endings = [_word(key).rsplit("_", 1)[-1] for key in keys]
    texts = [answer.value.strip() if isinstance(answer.value, str) else "" for answer in answers]
    last = "" if re.search("[<>=]", text) else _ending(_word(text), [_word(key) for key in keys])
    named = {
        names.index(one) for names, one in ((texts, text), (endings, last)) if names.count(one) == 1 and one
    }
    if len(named) == 1:
        return named.pop()
    if named:
        raise RecordError(
            column, f"is {short(value)}, the text of one response and the name of another: name ids by `ids`"
        )
    if text.isdecimal() and len(text) < 9 and not any(keys):
        if places_from is None:
            raise RecordError(column, PLACES)
        if 0 <= int(text) - places_from < len(answers):
            return int(text) - places_from
    there = ", ".join(key for key in keys if key)
    raise RecordError(
        column,
        f"is {short(value)}, which is none of the responses"
        + (f" ({there[:200]})" if there else ": name the column with their ids by `ids`"),
    )


@dataclass
class _Seen:
    """The verdicts of a file."""

    rows: int = 0
    unlisted: bool = False
    sides: set[str] = field(default_factory=set)
    values: dict[str, None] = field(default_factory=dict)
    lowest: float = float("inf")
    highest: float = float("-inf")


def hear_all(verdict: Verdict, rows: Iterator[Placed]) -> Iterator[Placed]:
    """The same rows; after the last, RecordError where a side that the recipe lists is never said."""
    seen = _Seen()
    listed = _listed(verdict)
    column = str(verdict.column)
    for place, row in rows:
        _note(seen, row, column, verdict, listed)
        yield place, row
    if seen.rows < ENOUGH:
        return
    for key in ("a", "b"):
        if verdict.listed(key) and key not in seen.sides and not seen.unlisted:  # each of those is told
            said = " or ".join(repr(cell_text(value)) for value in verdict.listed(key))
            there = ", ".join(repr(value[:40]) for value in list(seen.values)[:10])
            raise RecordError(
                column,
                f"is never {said} (verdict.{key}): the values are {there}. Correct the list, or take it out",
            )
    if verdict.middle is None:
        return
    for key, where, missing in (
        ("low", "below", seen.lowest >= verdict.middle),
        ("high", "above", seen.highest <= verdict.middle),
    ):
        if getattr(verdict, key) and missing:
            raise RecordError(
                column,
                f"is never {where} the middle, {verdict.middle:g}: the values go from {seen.lowest:g} to "
                f"{seen.highest:g}. Correct `middle`, or take `{key}` out if there is nothing {where} it",
            )


def _note(seen: _Seen, row: Row, column: str, verdict: Verdict, listed: dict[str, str]) -> None:
    try:
        value = look_up(row, column)
        text = cell_text(value)
        if text == "":
            return
        if verdict.middle is not None:
            number = as_number(value, column)
            seen.lowest, seen.highest = min(seen.lowest, number), max(seen.highest, number)
    except RecordError:
        return  # its own row tells it
    seen.rows += 1
    if text in listed:
        seen.sides.add(listed[text])
    seen.unlisted |= text not in listed
    if len(seen.values) < 10:
        seen.values[text] = None
