"""Records that can be read and are hardly meant so: what stands beside them, or in them, says otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from align.data.formats import Format, LeftOut, Record
from align.data.formats.base import WRONG_WAY_ROUND, as_number
from align.data.formats.conversations import MAY_BEGIN_TALK, talk_in
from align.data.formats.suggest import line
from align.data.reading import Seen
from align.messages import words_of
from align.records import Demonstration, Prompt, Ranking
from align.text import words_of_name
from align.values import RecordError

NO_CELL = frozenset(("nan", "NaN", "null", "NULL", "None", "<NA>", "#N/A", "undefined"))
_LONGEST_CELL = 16  # with blanks around it
_ENOUGH = 3  # records with such an answer, from which on their share says something
_MOST = 0.5
_SCORES = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "grades", "quality"}
_MEDIA = {
    **dict.fromkeys(("image", "images", "image_path", "image_paths"), "image"),
    **dict.fromkeys(("video", "videos"), "video"),
    **dict.fromkeys(("audio", "audios"), "audio"),
}
PLACEHOLDER = re.compile(r"<\|?(image|video|audio)(?:_\d+|_pad|_placeholder)?\|?>|\[(?:IMG|IMAGE)\]")


@dataclass
class Doubts:
    """What is looked for in a file's records; `ignored`: the columns that the format does not get to see.

    A person's own function (a format without `columns`) knows what it makes, and is asked for placeholders
    only.
    """

    form: Format
    ignored: Sequence[str] = ()
    ordered: bool = True  # whether the order counts, as where it trains
    empty: Seen = field(default_factory=Seen)  # records with an answer that is what an empty cell is
    _scores: list[tuple[str, str]] | None = None
    _line: str | None = None

    def check(self, found: Record | LeftOut, row: Mapping[str, Any], place: str) -> None:
        """Raise RecordError where a record is not what the row means."""
        if isinstance(found, LeftOut):
            return
        if self.ignored:
            _check_media(found, self.ignored)
        if self.form.columns is None or isinstance(found, Prompt):
            return
        texts = (found.response,) if isinstance(found, Demonstration) else found.responses
        empty = False
        for text in texts:
            if text[:1] in MAY_BEGIN_TALK:
                _check_talk(text, self.form)
            if len(text) < _LONGEST_CELL and text.strip() in NO_CELL:
                empty = True
        if empty:
            self.empty.add(place)
        if isinstance(found, Ranking) and self.ordered:
            if self._scores is None:
                self._scores = list(_scores_beside(row, self.form))
            for better, worse in self._scores:
                _check_scores(row, better, worse)

    def instead(self, row: Mapping[str, Any]) -> str:
        """The `columns:` line that would make a ranking of such a row; the first row's, or nothing."""
        if self._line is None:
            guessed = self.form.columns is not None and self.form.name != "columns"
            self._line = (line(row) or "") if guessed else ""
        return f". {self._line}" if self._line else ""

    def of_all(self, records: int) -> Iterator[tuple[str, str]]:
        """What is wrong with the file, once all of it was read: a place, and what it is."""
        count = self.empty.count
        if count >= _ENOUGH and count >= _MOST * records:
            yield (
                self.empty.places[0],
                f"{count:,} of {records:,} records have an answer that is only what a table writes for an "
                "empty cell (nan, None, NULL, …), as pandas' to_csv does with a column that was made text "
                "(astype(str)): leave these cells empty, or these rows out. Where the word is meant, a "
                "`format` function says so",
            )


def doubted(form: Format, ignored: Sequence[str]) -> Format:
    """The format; what it reads is checked as what trains is, but for the order."""
    doubts = Doubts(form, ignored, ordered=False)

    def read(row: Mapping[str, Any]) -> Iterator[Record | LeftOut]:
        for found in form.read(row):
            doubts.check(found, row, "")
            yield found

    return replace(form, read=read)


def _check_talk(text: str, form: Format) -> None:
    if talk_in(text, "") is text:
        return
    raise RecordError(
        "",
        f"an answer is messages that are written as text, and the format {form.name} reads it as a text: map "
        "the columns by `columns:`, which reads such messages, or let a `format` function take the text out",
    )


def _check_media(found: Record, ignored: Sequence[str]) -> None:
    """Raise RecordError where a prompt speaks of something that an ignored column held."""
    for name in ignored:
        what = _MEDIA.get(name.strip().lower())
        prompt = _asked(found) if what else ""
        mark = PLACEHOLDER.search(prompt) if "<" in prompt or "[" in prompt else None
        if mark:
            raise RecordError(
                "prompt",
                f"holds {mark[0]!r}, and `{name}` is ignored: it asks about what the model cannot see. Leave "
                f"such rows out (`on_bad_record: skip`), or take {mark[0]!r} out of the texts if they can be "
                "answered without it",
            )


def _asked(found: Record) -> str:
    prompt = found.prompt
    return prompt if isinstance(prompt, str) else "\n".join(map(words_of, prompt))


def _scores_beside(row: Mapping[str, Any], form: Format) -> Iterator[tuple[str, str]]:
    """Columns with a score of the better and of the worse answer, which the format does not use."""
    columns = form.columns or {}
    best = [name for name, role in columns.items() if "best" in role.split(", ") and name in row]
    worst = [name for name, role in columns.items() if "worst" in role.split(", ") and name in row]
    if len(best) != 1 or len(worst) != 1:
        return
    scores = {name: words for name in row if _SCORES & set(words := words_of_name(name))}
    for better, words in scores.items():
        other = _without(words)
        if other != words_of_name(best[0]):
            continue
        for worse, others in scores.items():
            alike = _SCORES & set(others) == _SCORES & set(words)
            unused = all(columns.get(name, "") in ("", "unused") for name in (better, worse))
            if alike and unused and _without(others) == words_of_name(worst[0]):
                yield better, worse


def _without(words: list[str]) -> list[str]:
    return [word for word in words if word not in _SCORES]


def _check_scores(row: Mapping[str, Any], better: str, worse: str) -> None:
    try:
        high, low = as_number(row.get(better), better), as_number(row.get(worse), worse)
    except RecordError:
        return  # a list of ratings, or none
    if high < low:
        raise RecordError(
            better,
            WRONG_WAY_ROUND.format(better, worse),
        )
