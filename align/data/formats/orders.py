"""Ranks of responses from ranks, scores or an order, and what only a whole file shows of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align.data.formats.base import Placed, Row, as_number, listed, ranks_of, short
from align.data.formats.paths import Cell, look_up, several, shown
from align.text import cell_text
from align.values import RecordError

if TYPE_CHECKING:
    from align.recipe.columns import Columns, Names

Ranks = list[int | None]
UNRANKED = (None, "")
OF = re.compile(r"\s*([+-]?\d+(?:[.,]\d+)?)\s*/\s*(\d+)\s*")  # 4/5, of five
THUMBS = {"thumbs_up": 1.0, "thumb_up": 1.0, "👍": 1.0, "thumbs_down": 0.0, "thumb_down": 0.0, "👎": 0.0}
ORDINAL = re.compile(r"\s*(\d{1,9})\s*(st|nd|rd|th|\.)\s*", re.IGNORECASE)
BEST = (1, 0, "1st")


class Gathered(dict[str, Any]):
    """A row as `gather` hands it on, with what the other rows of its file say of it."""

    places_from: int | None = None  # what an answer's first place is
    rows: Sequence[Placed] = ()  # the rows of a group
    mark: str | None = None  # of several columns with marks, the one that this ranking is of


def marked(row: Row, answers: Sequence[Cell], source: Names, what: str) -> list[Cell]:
    """The ranks or scores of the answers in their order; by the key where both are objects."""
    marks = several(row, source)
    if by_key(row, source):
        known = {mark.key: mark for mark in marks}
        keys = [answer.key for answer in answers]
        if None in keys:
            for first in (0, 1):
                places = [str(i) for i in range(first, first + len(answers))]
                if set(known) == set(places):
                    return [known[place] for place in places]
            names = ", ".join(map(str, known))
            message = (
                f"is an object ({names[:200]}), and the responses are a list without names: name the column "
                "with their names by `ids`, as in `ids: responses.id`; if these are people, a function makes "
                "a ranking of each"
            )
            raise RecordError(shown(source), message)
        for key in keys:
            if key not in known:
                raise RecordError(shown(source), f"has no {key!r}, which is one of the responses")
        extra = next((key for key in known if key not in keys), None)
        if extra is not None:
            raise RecordError(shown(source), f"has {extra!r}, which is none of the responses")
        return [known[key] for key in keys]
    if len(answers) != len(marks):
        raise RecordError(shown(source), f"has {len(marks)} {what}, and there are {len(answers)} responses")
    return marks


def by_key(row: Row, source: Names) -> bool:
    """Whether marks are an object, whose keys are the responses'."""
    return isinstance(source, str) and isinstance(listed(look_up(row, source), source), Mapping)


def from_ranks(cells: Sequence[Cell], columns: Columns) -> Ranks:
    """Ranks as they are written."""
    return [rank_of(cell.value, cell.name, columns.best) for cell in cells]


def rank_of(value: Any, field: str, best: int | str | None) -> int | None:
    """A rank where 1 is best; None is unranked; raises RecordError."""
    if value in UNRANKED:
        return None
    ordinal = ORDINAL.fullmatch(value) if isinstance(value, str) else None
    if ordinal and best is None and ordinal[2] != ".":
        raise RecordError(field, f"is {short(value)}: say `best: 1st` if that counts from the best one")
    number = as_number(ordinal[1] if ordinal else value, field)
    first = 0 if best == 0 else 1
    if number == 0 and first == 1:
        hint = "" if best is not None else ": say `best: 0` if that is the best one's rank"
        raise RecordError(field, f"must be a whole number from 1, the best, up, not 0{hint}")
    if number < first or number != int(number):
        raise RecordError(field, f"must be a whole number from {first}, the best, up, not {short(value)}")
    return int(number) + 1 - first


def from_scores(cells: Sequence[Cell], columns: Columns) -> Ranks:
    """Ranks of scores; true is more than false."""
    sign = -1 if columns.lower_is_better else 1
    check_scale([cell.value for cell in cells], shown(columns.scores or ""))
    numbers = [None if cell.value in UNRANKED else sign * score_of(cell) for cell in cells]
    return ranks_of(numbers)


def check_scale(values: Sequence[Any], field: str) -> None:
    """Raise RecordError where scores as 4/5 are not all of the same number."""
    scales = {_scale(value): value for value in values if value not in UNRANKED}
    if len(scales) > 1:
        one, other = list(scales.values())[:2]
        raise RecordError(
            field, f"holds {short(one)} and {short(other)}: the scores of a ranking have one scale"
        )


def _scale(value: Any) -> str | None:
    """What a score is out of: "5" of 4/5; None where it does not say."""
    found = OF.fullmatch(value) if isinstance(value, str) else None
    return found[2] if found else None


def score_of(cell: Cell) -> float:
    """A score; true and false are 1 and 0, and so are thumbs up and down; 4/5 is 4."""
    value = cell.value
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        thumb = THUMBS.get(re.sub(r"[\s_-]+", "_", value.strip().casefold()))
        if thumb is not None:
            return thumb
        if found := OF.fullmatch(value):
            value = found[1]
    return as_number(value, cell.name)


def ids_of(row: Row, answers: Sequence[Cell], ids: Names | None) -> list[Cell]:
    """The answers with the keys that `ids` names; raises RecordError where these are not one for each."""
    if ids is None:
        return list(answers)
    cells = several(row, ids)
    if len(cells) != len(answers):
        raise RecordError(shown(ids), f"has {len(cells)} ids, and there are {len(answers)} responses")
    keys = [cell_text(cell.value) for cell in cells]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise RecordError(cells[i].name, f"is {key[:40]!r}, which another response is called too")
    return [Cell(answer.name, key, answer.value) for answer, key in zip(answers, keys, strict=True)]


def from_order(row: Row, answers: Sequence[Cell], columns: Columns) -> Ranks:
    """Ranks by an order of ids, names, texts or places, best first; what it does not name has none."""
    assert columns.order is not None
    groups = _groups(row, columns.order)
    field = shown(columns.order)
    named = _by_name(groups, answers, columns)
    if named is None:
        first: int | None = columns.places_from
        if first is None and isinstance(row, Gathered):
            first = row.places_from
        named = _by_place(groups, len(answers), first, field)
    ranks: Ranks = [None] * len(answers)
    rank = 1
    for group in named:
        for index in group:
            if ranks[index] is not None:
                raise RecordError(field, f"names the same response twice ({answers[index].name})")
            ranks[index] = rank
        rank += 1
    return ranks


def _groups(row: Row, source: Names) -> list[list[Any]]:
    """The items of an order, best first; those of a list within it tie."""
    if isinstance(source, str):
        value = listed(look_up(row, source), source)
        if isinstance(value, str):
            value = _split(value)
        if isinstance(value, Mapping):
            raise RecordError(
                source, "is an object, and its keys have no order: a list, best first, is needed"
            )
        items = list(value) if isinstance(value, (list, tuple)) else [value]
    else:
        items = [look_up(row, name) for name in source]
    groups = [list(item) if isinstance(item, (list, tuple)) else [item] for item in items]
    groups = [[item for item in group if item not in UNRANKED] for group in groups]
    for item in (item for group in groups for item in group):
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise RecordError(shown(source), f"must hold ids or places, not {short(item)}")
    return [group for group in groups if group]


def _split(text: str) -> list[list[str]]:
    """An order in one cell: B > D = A > C, or B, D, A, C."""
    mark = next((mark for mark in (">", ";", ",") if mark in text), None)
    parts = text.split(mark) if mark else [text]
    return [[one.strip() for one in (part.split("=") if mark == ">" else [part])] for part in parts]


def _by_name(groups: list[list[Any]], answers: Sequence[Cell], columns: Columns) -> list[list[int]] | None:
    """Indices by what the answers are called, or by their texts; None where they are not called so."""
    asked = [cell_text(item) for group in groups for item in group]
    keys = [answer.key for answer in answers]
    texts = [answer.value if isinstance(answer.value, str) else None for answer in answers]
    if all(ask.isdecimal() for ask in asked):
        texts = [None] * len(texts)  # numbers are places, also where answers are numbers
    for names in (keys, [text and text.strip() for text in texts]):
        index = {name: i for i, name in enumerate(names) if name is not None}
        if all(item in index for item in asked) and len(index) == len(names):
            return [[index[cell_text(item)] for item in group] for group in groups]
        if names is keys and columns.ids is not None:
            unknown = next(item for item in asked if item not in index)
            raise RecordError(
                shown(columns.order or ""),
                f"names {unknown[:40]!r}, which is none of the ids ({', '.join(map(str, keys))[:200]})",
            )
    return None


def _by_place(groups: list[list[Any]], count: int, first: int | None, field: str) -> list[list[int]]:
    places = [[_place(item, field) for item in group] for group in groups]
    flat = [place for group in places for place in group]
    if first is None:
        first = _first_place(flat, count)
    if first is None:
        raise RecordError(field, PLACES)
    for place in flat:
        if not first <= place < count + first:
            raise RecordError(
                field,
                f"names the place {place}, and the responses have places from {first} to {count + first - 1}",
            )
    return [[place - first for place in group] for group in places]


PLACES = (
    "holds places, and nothing shows whether the first response is 0 or 1: say `places_from: 0` or "
    "`places_from: 1`"
)


def _place(item: Any, field: str) -> int:
    try:
        number = as_number(item, field)
    except RecordError:
        raise RecordError(
            field, f"names {short(item)}, which is no response's id, name, text or place"
        ) from None
    if number != int(number) or number < 0:
        raise RecordError(field, f"names the place {short(item)}: a place is a whole number from 0 up")
    return int(number)


def _first_place(places: Sequence[int], count: int) -> int | None:
    """What the first place is, where these show it."""
    return 0 if 0 in places else 1 if count in places else None


def settle_places(columns: Columns, rows: Iterator[Placed]) -> Iterator[Placed]:
    """Rows that know what the first place of their file's orders is: as soon as one row shows it.

    Raises RecordError after the last row where none does.
    """
    waiting: list[Placed] = []
    first: int | None = None
    needed = False
    for place, row in rows:
        if first is None:
            found = _places_of(row, columns)
            waiting.append((place, row))
            if found is None:
                continue
            needed = True
            first = _first_place(*found)
            if first is None:
                continue
            yield from ((at, _settled(one, first)) for at, one in waiting)
            waiting.clear()
        else:
            yield place, _settled(row, first)
    if needed and first is None:
        verdict = columns.verdict
        raise RecordError(shown(columns.order or (verdict and (verdict.best or verdict.worst)) or ""), PLACES)
    yield from waiting


def _settled(row: Row, first: int) -> Row:
    found = Gathered(row)
    found.places_from = first
    return found


def _places_of(row: Row, columns: Columns) -> tuple[list[int], int] | None:
    """A row's places and how many responses it has; None where it has no places, or none that are right."""
    try:
        assert columns.responses is not None
        answers = ids_of(row, several(row, columns.responses), columns.ids)
        if columns.order is None:
            return _named_places(row, answers, columns)
        groups = _groups(row, columns.order)
        if not groups or _by_name(groups, answers, columns) is not None:
            return None
        places = [_place(item, "") for group in groups for item in group]
        return places, len(answers)
    except RecordError:
        return None


def _named_places(row: Row, answers: Sequence[Cell], columns: Columns) -> tuple[list[int], int] | None:
    """The same of a verdict that names the best or the worst of several by its place."""
    verdict = columns.verdict
    named = [name for name in (verdict.best, verdict.worst) if name] if verdict is not None else []
    values = [cell_text(look_up(row, name)) for name in named]
    texts = [answer.value.strip() for answer in answers if isinstance(answer.value, str)]
    there = [value for value in values if value]
    if any(answer.key for answer in answers) or not there or set(there) & set(texts):
        return None
    return [_place(value, "") for value in there], len(answers)


def doubt_ranks(columns: Columns, rows: Iterator[Placed]) -> Iterator[Placed]:
    """The same rows; after the last, RecordError where their ranks may be places as well.

    That is where every row holds each of 1 to K once, and the other reading ranks some row otherwise.
    """
    assert columns.ranks is not None
    always, differs, most, least = True, False, 0, 10**9
    for place, row in rows:
        if always and (numbers := _numbers(row, columns)) is not None:
            always = sorted(numbers) == list(range(1, len(numbers) + 1))
            differs |= always and any(numbers[number - 1] != i for i, number in enumerate(numbers, 1))
            most, least = max(most, len(numbers)), min(least, len(numbers))
        yield place, row
    if always and differs:
        source = columns.ranks
        order = source if isinstance(source, str) else f"[{', '.join(source)}]"
        upto = str(most) if most == least else "K"
        raise RecordError(
            shown(source),
            f"holds each of 1 to {upto} once in every row: are these ranks (say `best: 1`) or the answers' "
            f"places, best first (say `order: {order}` instead of `ranks`)?",
        )


def doubt_best(
    columns: Columns, rows: Iterator[Placed], ranked: Callable[[Row], Sequence[int | None] | None]
) -> Iterator[Placed]:
    """The same rows; after the last, RecordError where their ranks may be scores as well.

    That is where all responses of a row have one and none is 1, or where one is over their number.
    `ranked` gives the ranks of a row; None where it has none, or where it is wrong in another way.
    """
    strange: tuple[str, list[int]] | None = None
    for place, row in rows:
        if strange is None and (ranks := ranked(row)):
            there = [rank for rank in ranks if rank is not None]
            if there and (max(there) > len(ranks) or (len(there) == len(ranks) and min(there) > 1)):
                strange = place, there
        yield place, row
    if strange is not None:
        place, there = strange
        source = columns.ranks or ""
        named = source if isinstance(source, str) else f"[{', '.join(source)}]"
        raise RecordError(
            shown(source),
            f"holds {', '.join(map(str, there[:10]))} for the responses of one prompt (at {line_of(place)}): "
            "are these ranks, the lowest one the best (say `best: 1`), or scores, where more is better (say "
            f"`scores: {named}` instead of `ranks`)?",
        )


def line_of(place: str) -> str:
    """A place in the file, for a message that begins with another one."""
    return f"line {place[1:]}" if place.startswith(":") else place.strip()


def _numbers(row: Row, columns: Columns) -> list[int] | None:
    """A row's ranks where all are whole numbers, [0] where some are missing; None where none can be read."""
    assert columns.ranks is not None and columns.responses is not None
    try:
        if by_key(row, columns.ranks) or _side_by_side(row, columns):
            return [0]
        found = [rank_of(cell.value, cell.name, None) for cell in several(row, columns.ranks)]
    except RecordError:
        return None
    ranked = [rank for rank in found if rank is not None]
    return None if not ranked else ranked if len(ranked) == len(found) else [0]


def _side_by_side(row: Row, columns: Columns) -> bool:
    """Whether each rank stands in one object with its response (`answers.text`, `answers.rank`)."""
    if not (isinstance(columns.ranks, str) and isinstance(columns.responses, str)):
        return False
    above, _, _ = columns.ranks.rpartition(".")
    if not above or columns.ranks in row or columns.responses.rpartition(".")[0] != above:
        return False
    return isinstance(look_up(row, above), (list, tuple))
