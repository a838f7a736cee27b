"""Columns that no format knows: the format that is nearest, and the `columns:` line that would read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from align.data.formats.base import UNUSED, Format, Row, as_number, listed
from align.data.formats.columns import from_columns
from align.data.formats.orders import UNRANKED, score_of
from align.data.formats.paths import Cell
from align.data.formats.verdicts import said_by
from align.data.formats.vocabulary import (
    ANSWERS,
    BESIDE,
    FLAGS,
    LABELERS,
    PAIRS,
    PROMPTS,
    RANKS,
    SCORES,
    VERDICTS,
    Words,
)
from align.data.likeness import looks_like
from align.errors import UserError
from align.messages import messages_in
from align.text import LOSSES, cell_text, words_of_name
from align.values import RecordError

_DIGITS = re.compile(r"\d+")
FILL_IN = (
    ", with the values of that column filled in (a scale of numbers has low: a, high: b, middle: 0 instead)"
)
ENDING = re.compile(r"(?P<stem>.*?)[\W_]?(?P<end>[A-Ha-h]|\d{1,2})")
PLAIN = re.compile(r"[^\W\d][\w .-]*")


@dataclass(frozen=True)
class Guess:
    """What columns look like, and the mapping that reads them."""

    what: str
    mapping: dict[str, Any]
    to_fill_in: bool = False  # it has words in place of values that only a person knows
    settled: Mapping[str, Any] = field(default_factory=dict)  # what all rows together show beside it


def suggest(row: Row, formats: Iterable[Format]) -> str | None:
    """The nearest format, and the `columns:` line that reads the row; None where nothing comes near."""
    parts = [part for part in (_nearest(row, formats), line(row)) if part]
    return " ".join(parts) or None


def _nearest(row: Row, formats: Iterable[Format]) -> str | None:
    """The format that knows most of the row's columns: at least two of them, and half of all."""
    found: list[tuple[int, int, str, list[str]]] = []
    for form in formats:
        names = {name for name, role in (form.columns or {}).items() if role != UNUSED}
        here = names & set(row)
        if len(here) >= 2 and 2 * len(here) >= len(row):
            kinds = {_DIGITS.sub("", name) for name in here}  # annotator2 is not missing beside annotator1
            missing = sorted(name for name in names - here if _DIGITS.sub("", name) not in kinds)
            found.append((len(here), -len(missing), form.name, missing))
    if not found:
        return None
    _, _, name, missing = max(found, key=lambda one: one[:2])
    needs = f" (it also knows {', '.join(f'`{column}`' for column in missing[:6])})" if missing else ""
    return f"The nearest format is {name}{needs}."


def line(row: Row) -> str | None:
    """What a row's columns look like, with the `columns:` line that reads them; None: nothing known."""
    for guess in _guesses(row):
        mapping = {key: value for key, value in guess.mapping.items() if value is not None}
        if isinstance(mapping.get("prompt"), str):
            mapping["prompt"] = _with_beside(row, mapping)
        if guess.to_fill_in or _reads({**mapping, **guess.settled}, row):
            more = FILL_IN if guess.to_fill_in else ""
            more += _to_ignore(row, mapping)
            return f"These look like {guess.what}: `columns: {written(mapping)}`{more}."
    return None


def _to_ignore(row: Row, mapping: Mapping[str, Any]) -> str:
    """The `ignore:` beside a mapping that would otherwise be asked for next."""
    used = from_columns(mapping).columns or {}
    others = [name for name, value in row.items() if name not in used and value and looks_like(name)]
    return (
        f", with `ignore: {written(others)}` beside it (which looks like a part of it too)" if others else ""
    )


def _with_beside(row: Row, mapping: Mapping[str, Any]) -> str | list[str]:
    """The prompt's column with the others of one text that belong to it, as the file has them."""
    prompt = mapping["prompt"]
    used = re.findall(r'"(.*?)"', json.dumps(list(mapping.values()), ensure_ascii=False))
    used += words_of_name(prompt)  # orig_instruction is one already
    parts = [
        name
        for name in row
        if name == prompt or (name.strip().lower() in BESIDE and name not in used and _plain_text(row[name]))
    ]
    return parts if len(parts) > 1 and _plain_text(row[prompt]) else prompt


def _plain_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not _turns(value)


def _reads(mapping: Mapping[str, Any], row: Row) -> bool:
    try:
        list(from_columns(mapping).read(row))
    except UserError:
        return False
    return True


def written(value: Any) -> str:
    """A mapping of columns as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):
        plain = PLAIN.fullmatch(value) and value == value.strip() and value.lower() not in _WORDS
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


_WORDS = ("true", "false", "null")  # which YAML reads as no texts


def _guesses(row: Row) -> Iterator[Guess]:
    """What the columns may be, the surest first."""
    families = _families(row)
    yield from _pairs(row)
    yield from _side_by_side(row, families)
    yield from _lists(row)
    yield from _objects(row)
    yield from _long_table(row)


def _pairs(row: Row) -> Iterator[Guess]:
    by_words = {tuple(words_of_name(name)): name for name in row}
    for good, bad in PAIRS:
        for words, better in by_words.items():
            worse = by_words.get(tuple(bad if word == good else word for word in words))
            if good not in words or worse is None or not (_said(row[better]) and _said(row[worse])):
                continue
            whole = _turns(row[better]) > 1 and _turns(row[worse]) > 1
            prompt = None if whole else _prompt(row, {better, worse})
            if whole or prompt is not None:
                mapping = {"prompt": prompt, "system": _system(row), "chosen": better, "rejected": worse}
                yield Guess("a better and a worse answer", mapping | _labeler(row, {better, worse}))


def _side_by_side(row: Row, families: dict[str, dict[str, str]]) -> Iterator[Guess]:
    """Answers in columns of their own, with marks in columns of the same endings, or a verdict."""
    texts = {stem: ends for stem, ends in families.items() if all(_said(row[name]) for name in ends.values())}
    for stem in sorted(texts, key=lambda stem: _place(stem, ANSWERS)):
        if stem == "model":
            continue
        answers = list(texts[stem].values())
        common = {"prompt": _prompt(row, set(answers)), "system": _system(row), "responses": answers}
        if common["prompt"] is None:
            continue
        for other, ends in families.items():
            marks = list(ends.values())
            if other == stem or ends.keys() != texts[stem].keys() or not all(_number(row[m]) for m in marks):
                continue
            judged = _judged(row, other, marks)
            yield Guess(judged[0], common | judged[1] | _labeler(row, {*answers, *marks}))
        if len(answers) == 2:
            yield from _verdict(row, common, answers, families)


def _verdict(
    row: Row, common: dict[str, Any], answers: list[str], families: dict[str, dict[str, str]]
) -> Iterator[Guess]:
    for name in sorted(row, key=lambda name: _place(name, VERDICTS)):
        if name in answers or not _named(name, VERDICTS) or not isinstance(row[name], (str, int, float)):
            continue
        sides = {key: [f"where {answer} is better"] for key, answer in zip("ab", answers, strict=True)}
        verdict: Any = {"column": name, **sides}
        known = True
        models = list(families.get("model", {}).values())
        if said_by(row[name], answers) is not None:
            verdict = name
        elif len(models) == 2 and cell_text(row[name]) in [cell_text(row[model]) for model in models]:
            verdict = {"column": name, "names": models}
        elif isinstance(row[name], str) and len(row[name]) > 40:
            continue
        elif _number(row[name]) and as_number(row[name], "") < 0:
            scale = common | {"verdict": {"column": name, "low": "a", "high": "b", "middle": 0}}
            what = f"two answers and a scale, below 0 for {answers[0]} (if it is not, `low: b, high: a`)"
            yield Guess(what, scale | _labeler(row, {name, *answers}))
            continue
        else:
            known = False
        mapping = common | {"verdict": verdict} | _labeler(row, {name, *answers})
        yield Guess("two answers and a verdict", mapping, to_fill_in=not known)


def _lists(row: Row) -> Iterator[Guess]:
    """A column with a list of answers, and one with as many ranks, scores or places."""
    lists = {name: found for name, value in row.items() if (found := _list(value)) and len(found) > 1}
    for name, answers in lists.items():
        prompt = _prompt(row, {name})
        if prompt is None or not all(isinstance(answer, str) for answer in answers):
            continue
        common = {"prompt": prompt, "system": _system(row), "responses": name}
        yield from _named_best(row, name, answers, common)
        for other, marks in lists.items():
            if other == name or not all(isinstance(mark, (int, float, str)) for mark in marks):
                continue
            if _named(other, ("ranking", "order", "sorted", "ordering")):
                what = (
                    f"answers and their order, best first (if `{other}` holds their ranks instead, write "
                    f"`ranks: {other}, best: 1` for `order: {other}`)"
                )
                yield Guess(what, common | {"order": other} | _labeler(row, {name, other}))
            elif len(marks) == len(answers) and all(_score(mark) for mark in marks):
                judged = _judged(row, other, other)
                yield Guess(judged[0], common | judged[1] | _labeler(row, {name, other}))


def _named_best(row: Row, name: str, answers: list[Any], common: dict[str, Any]) -> Iterator[Guess]:
    """A list of answers, and a column with the text or the place of the best one."""
    for other, value in row.items():
        if other == name or not _named(other, FLAGS) or isinstance(value, bool):
            continue
        place = cell_text(value)
        if place.isdecimal() and int(place) <= len(answers):
            known = {"places_from": 0 if int(place) < len(answers) else 1}  # all rows together show it
            yield Guess(
                "answers and the best one's place", common | {"verdict": {"best": other}}, settled=known
            )
        elif place in [cell_text(answer) for answer in answers]:
            yield Guess("answers and the best of them", common | {"verdict": {"best": other}})


def _objects(row: Row) -> Iterator[Guess]:
    """A list of objects, each an answer with its rank or score; or marks in an object by the answers' ids."""
    for name, value in row.items():
        found = _list(value)
        if found is None or len(found) < 2 or not all(isinstance(part, Mapping) for part in found):
            continue
        prompt, first = _prompt(row, {name}), found[0]
        texts = [key for key in first if _named(key, (*ANSWERS, "content")) and isinstance(first[key], str)]
        if prompt is None or not texts:
            continue
        text = min(texts, key=lambda key: _place(key, ANSWERS))
        common = {"prompt": prompt, "system": _system(row), "responses": f"{name}.{text}"}
        for key in first:
            if key != text and _named(key, (*RANKS, *SCORES)) and _score(first[key]):
                marks = {"ranks": f"{name}.{key}"} if _named(key, RANKS) else {"scores": f"{name}.{key}"}
                lowest = [part[key] for part in found if key in part]
                zero = {"best": 0} if "ranks" in marks and any(map(_is_zero, lowest)) else {}
                yield Guess("a list of answers with their marks", common | marks | zero)
        for other, marks_of in row.items():
            ids = [
                key for key in first if isinstance(marks_of, Mapping) and cell_text(first[key]) in marks_of
            ]
            if ids and _named(other, (*RANKS, *SCORES)):
                key = "ranks" if _named(other, RANKS) else "scores"
                yield Guess(
                    "answers with marks by their ids", common | {"ids": f"{name}.{ids[0]}", key: other}
                )


def _long_table(row: Row) -> Iterator[Guess]:
    """A row for each answer, with its rank, score or mark."""
    for name in sorted(row, key=lambda name: _place(name, ANSWERS)):
        if not _named(name, ANSWERS) or not isinstance(row[name], str):
            continue
        prompt = _prompt(row, {name})
        if prompt is None:
            continue
        labeler = _labeler(row, {name, prompt})
        group = [prompt, *labeler.values()] if labeler else prompt
        common = {"prompt": prompt, "system": _system(row), "responses": name}
        for other in row:
            if other in (name, prompt):
                continue
            judged: dict[str, Any] | None = None
            if _named(other, (*RANKS, *SCORES)) and _score(row[other]):
                alike = [one for one in row if _stem(one) == _stem(other) and _score(row[one])]
                if len(alike) > 1 and not labeler:
                    yield Guess(
                        "a table with a row for each answer, and a column of marks for each person",
                        common | _judged(row, other, alike)[1] | {"group_by": group},
                    )
                    continue
                judged = _judged(row, other, other)[1]
            elif _named(other, FLAGS) and cell_text(row[other]) in ("true", "false", "0", "1"):
                judged = {"chosen": other}
            if judged:
                yield Guess(
                    "a table with a row for each answer", common | judged | labeler | {"group_by": group}
                )


def _judged(row: Row, stem: str, marks: Any) -> tuple[str, dict[str, Any]]:
    """What marks are by their name: ranks, with what the best one's is, or scores."""
    if not _named(stem, RANKS):
        if LOSSES & set(words_of_name(stem)) and not _named(stem, SCORES):
            return "answers with scores, where less is better", {"scores": marks, "lower_is_better": True}
        less = "" if _named(stem, SCORES) else " (more is better; if less is, add `lower_is_better: true`)"
        return f"answers with scores{less}", {"scores": marks}
    values = [row[name] for name in marks] if isinstance(marks, list) else _list(row[marks]) or [row[marks]]
    if not any(map(_is_zero, values)):
        return "answers with ranks", {"ranks": marks}  # all rows together show whether they may be places
    instead = "" if isinstance(marks, list) else f" (if `{marks}` holds places, best first: `order: {marks}`)"
    return f"answers with ranks from 0{instead}", {"ranks": marks, "best": 0}


def _families(row: Row) -> dict[str, dict[str, str]]:
    """Columns whose names differ in their ending: {"response": {"a": "response_a", "b": "response_b"}}."""
    found: dict[str, dict[str, str]] = {}
    for name in row:
        match = ENDING.fullmatch(name)
        if match:
            found.setdefault(match["stem"].casefold(), {})[match["end"].casefold()] = name
    return {stem: ends for stem, ends in found.items() if len(ends) > 1}


def _prompt(row: Row, others: set[str]) -> str | None:
    """The column of the prompt: by its name, else the first text that is nothing else."""
    free = [name for name in row if name not in others and _said(row[name]) and name != _system(row)]
    named = [name for name in free if _named(name, PROMPTS)]
    if named:
        begun = {words_of_name(name)[0] for name in others if len(words_of_name(name)) > 2}  # orig_response_A
        beside = [name for name in named if words_of_name(name)[0] in begun] if len(begun) == 1 else []
        return min(beside or named, key=lambda name: _place(name, PROMPTS))
    known = (*LABELERS, *VERDICTS, *SCORES, *RANKS, "id", "source", "model", "system")
    return next((name for name in free if not _named(name, known) and not _number(row[name])), None)


def _system(row: Row) -> str | None:
    return next((name for name in row if words_of_name(name) in (["system"], ["system", "prompt"])), None)


def _labeler(row: Row, others: set[str]) -> dict[str, str]:
    """The column that says who ranked, where there is one."""
    for name in sorted(row, key=lambda name: _place(name, LABELERS)):
        asked = not {*PROMPTS, "message"}.difference(["user"]).isdisjoint(words_of_name(name))  # user_prompt
        if (
            name not in others
            and _named(name, LABELERS)
            and not asked
            and isinstance(row[name], (str, int, float))
        ):
            return {"labeler": name}
    return {}


def _named(name: str, words: Iterable[str]) -> bool:
    known = set(words)
    own = [
        word for one in words_of_name(name) for word in (one, one.removesuffix("s"), one.rstrip("0123456789"))
    ]
    return not known.isdisjoint(own)


def _place(name: str, words: Words) -> int:
    """How early a name's word stands among words."""
    own = set(words_of_name(name)) | {word.removesuffix("s") for word in words_of_name(name)}
    return next((i for i, word in enumerate(words) if word in own), len(words))


def _stem(name: str) -> str:
    """A name without its ending: ann of ann1 and ann_b; a name without such an ending, itself."""
    match = ENDING.fullmatch(name)
    return match["stem"].casefold() if match else name


def _score(value: Any) -> bool:
    """Whether a value can be a score: a number, 4/5, or a thumb."""
    try:
        score_of(Cell("", None, value))
    except RecordError:
        return False
    return value not in UNRANKED and not isinstance(value, bool)


def _number(value: Any) -> bool:
    try:
        as_number(value, "")
    except RecordError:
        return False
    return True


def _is_zero(value: Any) -> bool:
    return _number(value) and as_number(value, "") == 0


def _list(value: Any) -> list[Any] | None:
    try:
        found = listed(value, "")
    except RecordError:
        return None
    return list(found) if isinstance(found, (list, tuple)) else None


def _turns(value: Any) -> int:
    """How many messages a value holds."""
    try:
        found = messages_in(value, "")
    except RecordError:
        return 0
    is_list = isinstance(found, (list, tuple)) and all(isinstance(part, Mapping) for part in found)
    return len(found) if is_list and all("role" in part or "from" in part for part in found) else 0


def _said(value: Any) -> bool:
    """Whether a value may be what somebody said: text that is no number, or messages."""
    return (isinstance(value, str) and bool(value.strip()) and not _number(value)) or _turns(value) > 0
