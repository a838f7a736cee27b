"""Long tables: a row is one answer, and the rows of one prompt, or of one person at it, are a ranking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from align.data.formats.base import LeftOut, Placed, Row, ranks_of, short
from align.data.formats.orders import UNRANKED, Gathered, Ranks, check_scale, line_of, rank_of, score_of
from align.data.formats.paths import Cell, look_up
from align.text import cell_text
from align.values import RecordError

if TYPE_CHECKING:
    from align.recipe.columns import Columns

YES = {"true", "1", "yes", "y", "x", "t", "best", "chosen", "selected", "winner"}
NO = {"", "false", "0", "no", "n", "f", "rejected", "worst", "loser", "not chosen"}


def grouped(names: Sequence[str], rows: Iterator[Placed], marks: Sequence[str] = ()) -> Iterator[Placed]:
    """One row for each group, in the order of their first rows, wherever the others stand.

    Of several columns with marks each is somebody's: a group is a row for each of them.
    """
    groups: dict[tuple[str, ...], list[Placed]] = {}
    for place, row in rows:
        key = tuple(_key(row, name) for name in names)
        groups.setdefault(key, []).append((place, row))
    for members in groups.values():
        place, first = members[0]
        for mark in marks if len(marks) > 1 else (None,):
            whole = Gathered(first)
            whole.rows, whole.mark = members, mark
            yield place, whole


def _key(row: Row, name: str) -> str:
    """What a row says in a column of group_by; a row that lacks it is alone, and read by itself."""
    try:
        value = look_up(row, name)
    except RecordError:
        return f"\0{id(row)}"
    return cell_text(value) if not isinstance(value, (list, dict)) else repr(value)


def answers_of_group(row: Row, columns: Columns) -> tuple[list[Cell], Ranks] | LeftOut:
    """The answers of a group, each once, and their ranks; a group of one answer is left out.

    Raises RecordError where its rows contradict each other, with the place of the one that does.
    """
    members = list(row.rows) if isinstance(row, Gathered) and row.rows else [("", row)]
    for name in columns.names("group_by"):
        if cell_text(look_up(row, name)) == "":
            raise RecordError(
                name,
                "is empty, and `group_by` names it: nothing says which rows belong together. Write it into "
                "every row (merged cells of a spreadsheet leave all but the first one empty)",
            )
    _one_of_each(members, columns)
    for key in ("scores", "ranks"):
        if isinstance(several := getattr(columns, key), list):
            mark = row.mark if isinstance(row, Gathered) else None
            columns = columns.model_copy(update={key: mark or several[0]})
    assert isinstance(columns.responses, str)
    cells: dict[str, tuple[Cell, Any]] = {}
    for place, member in members:
        with _told_at(place, members):
            answer = look_up(member, columns.responses)
            mark = _mark(member, columns)
        if answer is None:
            continue
        text = repr(answer) if not isinstance(answer, str) else answer.strip()
        if text not in cells:
            cells[text] = (Cell(columns.responses, None, answer), mark)
        elif cells[text][1] != mark:
            raise RecordError(
                columns.responses,
                f"is {short(answer)} twice in one group (again at {line_of(place)}), and "
                "ranked differently: name what tells the rows apart, such as the annotator, in `group_by`",
            )
    if isinstance(columns.scores, str):
        check_scale([look_up(member, columns.scores) for _, member in members], columns.scores)
    names = ", ".join(f"`{name}`" for name in columns.names("group_by"))
    if len(cells) < 2:
        return LeftOut(f"an answer alone in its group ({names}), which compares nothing")
    marks = [mark for _, mark in cells.values()]
    if all(mark is None for mark in marks):
        return LeftOut("a group without any rank, score or mark")
    return [cell for cell, _ in cells.values()], _ranks(marks, columns)


def _one_of_each(members: list[Placed], columns: Columns) -> None:
    """Raise RecordError where rows of a group differ in what a ranking has one of."""
    first = members[0][1]
    for key in ("prompt", "system", "tools", *columns.details):
        for name in columns.names(key):
            expected = look_up(first, name)
            for place, member in members[1:]:
                with _told_at(place, members):
                    found = look_up(member, name)
                if cell_text(found) != cell_text(expected):
                    raise RecordError(
                        name,
                        f"is {short(expected)} here and {short(found)} at {line_of(place)}, in "
                        f"one group: name `{name}` in `group_by` too, or take {key} out of `columns`",
                    )


@contextmanager
def _told_at(place: str, members: list[Placed]) -> Iterator[None]:
    """An error within says at which row of the group it is, where that is not the first."""
    try:
        yield
    except RecordError as error:
        if place == members[0][0]:
            raise
        raise RecordError(error.field, f"{error.message} (at {line_of(place)})") from None


def _mark(row: Row, columns: Columns) -> Any:
    """A row's rank, score, or which flags it has; None where it has none."""
    if columns.ranks is not None:
        name = str(columns.ranks)
        return rank_of(look_up(row, name), name, columns.best)
    if columns.scores is not None:
        name = str(columns.scores)
        value = look_up(row, name)
        sign = -1 if columns.lower_is_better else 1
        return None if value in UNRANKED else sign * score_of(Cell(name, None, value))
    flags = [_flag(row, str(name)) for name in (columns.chosen, columns.rejected) if name is not None]
    if all(flags[1:]) and len(flags) == 2 and flags[0]:
        raise RecordError(str(columns.rejected), f"marks the same answer as `{columns.chosen}`")
    return "chosen" if flags[0] else "rejected" if any(flags) else None


def _flag(row: Row, name: str) -> bool:
    value = look_up(row, name)
    word = cell_text(value).casefold()
    if word in YES or word in NO:
        return word in YES
    raise RecordError(name, f"must mark an answer or not (true or false, 1 or 0), not {short(value)}")


def _ranks(marks: list[Any], columns: Columns) -> Ranks:
    if columns.ranks is not None:
        return list(marks)
    if columns.scores is not None:
        return ranks_of(marks)
    for word in ("chosen", "rejected"):
        if marks.count(word) > 1:
            raise RecordError(
                str(getattr(columns, word)),
                f"marks {marks.count(word)} answers of one group: only one can be {word}. Is a column "
                "missing in `group_by`, or are these scores (`scores:`, where equal ones tie)?",
            )
    place = {"chosen": 1, None: 2, "rejected": 3}
    return [place[mark] for mark in marks]
