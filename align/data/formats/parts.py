"""Records from columns by the names that training tools give them: a prompt in parts, answers, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from align.data.formats.base import (
    Judged,
    Placed,
    Record,
    Row,
    comparison,
    items,
    joined,
    make,
    optional_number,
    part,
    short,
    text,
)
from align.data.formats.conversations import (
    CALL,
    MAY_BEGIN_TALK,
    Turns,
    last_answer,
    talk_in,
    turns,
    with_tools,
)
from align.literals import literal
from align.records import Demonstration, prompt_key
from align.values import RecordError

ROLES = {
    "prompt": "prompt",
    "about": "prompt",
    "messages": "prompt",
    "history": "prompt, earlier turns",
    "system": "system",
    "tools": "tools",
    "response": "response",
    "best": "best",
    "worst": "worst",
    "label": "good or bad",
    "strength": "strength",
}
TAGS = {"tool_call": CALL, "tool_response": "tool"}  # ms-swift's, beside those that all know
GOOD = ("true", "1", "1.0", "good", "desirable", "accepted", "chosen", "up", "thumbs_up")
BAD = ("false", "0", "0.0", "bad", "undesirable", "rejected", "down", "thumbs_down")
VERDICTS = dict.fromkeys(GOOD, True) | dict.fromkeys(BAD, False)
LABELS = ("label", "kto_tag")
_GATHERED = "answers of this prompt"  # the key of what `by_prompt` put together


@dataclass(frozen=True)
class Names:
    """What a tool calls the columns of each part (of several names, a row fills one), and its messages'."""

    prompt: tuple[str, ...] = ()  # text, or messages
    about: tuple[str, ...] = ()  # text that follows the prompt after a blank line
    messages: tuple[str, ...] = ()  # a conversation, in the prompt's place
    response: tuple[str, ...] = ()
    best: tuple[str, ...] = ("chosen",)
    worst: tuple[str, ...] = ("rejected",)
    label: tuple[str, ...] = LABELS
    strength: tuple[str, ...] = ()
    system: tuple[str, ...] = ("system",)
    history: tuple[str, ...] = ("history",)
    tools: tuple[str, ...] = ("tools",)
    role: str = ""  # the keys of a message; "": as its messages have it
    content: str = ""
    tags: Mapping[str, str] = field(default_factory=lambda: TAGS)  # its name of a role, and ours

    def columns(self, *parts: str, **others: str) -> dict[str, str]:
        """Each column of these parts of a prompt and an answer, and as what it is used."""
        known = ("prompt", "about", "messages", "history", "system", "tools", *parts)
        return {name: ROLES[one] for one in known for name in getattr(self, one)} | others

    def turns(self, row: Row, name: str) -> Turns:
        """The messages in a column."""
        found = talk_in(part(row, name), name)
        first = found[0] if isinstance(found, (list, tuple)) and found else None
        keys = first if isinstance(first, Mapping) else {}
        role = self.role or ("from" if "from" in keys else "role")
        content = self.content or ("value" if "value" in keys else "content")
        return turns(row, name, role=role, content=content, tags=self.tags)


def filled(row: Row, names: tuple[str, ...]) -> str | None:
    """The one of several columns that a row has, or that it fills; raises RecordError where it fills two."""
    there = [name for name in names if name in row]
    full = [name for name in there if row[name] is not None and row[name] != ""]
    if len(full) > 1:
        raise RecordError(
            full[1], f"and `{full[0]}` hold the same part of a record: `ignore` one of the two columns"
        )
    return full[0] if full else there[0] if there else None


def needed(row: Row, names: tuple[str, ...]) -> str:
    """The same, where a row must have one; raises RecordError."""
    found = filled(row, names)
    if found is None:
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise RecordError(names[0], f"is missing{others}")
    return found


def preference(names: Names, row: Row) -> list[Record]:
    """A prompt with two answers, of which the first is better."""
    asked, column = _asked(names, row)
    best, worst = needed(row, names.best), needed(row, names.worst)
    pair = (answer(names, row, best, asked), answer(names, row, worst, asked))
    return [_compared(names, row, asked, column, pair, (best, worst))]


def last_and_worse(names: Names, row: Row) -> list[Record]:
    """A prompt with an answer, as in a demonstration, and a worse answer in a column of its own."""
    asked, column, said, best = _answered(names, row)
    worst = needed(row, names.worst)
    pair = (said, answer(names, row, worst, asked))
    return [_compared(names, row, asked, column, pair, (best, worst))]


def _compared(
    names: Names, row: Row, asked: Any, column: str, pair: tuple[str, str], sides: tuple[str, str]
) -> Record:
    prompt, origins = completed(names, row, asked, column)
    margin = filled(row, names.strength)
    strength = optional_number(row, margin) if margin else None
    if margin:
        origins["strength"] = margin
    return comparison(prompt, pair, -1, column, sides, columns=origins, strength=strength)


def demonstration(names: Names, row: Row) -> list[Record]:
    """A prompt with one answer, the last one of a conversation; one that was judged is refused."""
    for name in LABELS:
        if isinstance(row.get(name), bool):
            raise RecordError(
                name,
                "says whether the answer is good, and only `format: unpaired` reads that",
            )
    return [_demonstrated(names, row)]


def _demonstrated(names: Names, row: Row) -> Demonstration:
    asked, column, said, name = _answered(names, row)
    prompt, origins = completed(names, row, asked, column)
    values = {"prompt": prompt, "response": said}
    return make(Demonstration, values, {"prompt": column, "response": name, **origins})


def judged(names: Names, row: Row) -> list[Record]:
    """A prompt with an answer that was judged good or bad; or all of them, after `by_prompt`."""
    together = row.get(_GATHERED)
    if isinstance(together, Judged):
        return [together]
    label = needed(row, names.label)
    given = str(row[label]).strip().lower()
    if given not in VERDICTS:
        raise RecordError(label, f"must be true or false (or 1 or 0), not {short(row[label])}")
    record = _demonstrated(names, row)
    answers = (record.response,)
    return [Judged(record.prompt, answers, ()) if VERDICTS[given] else Judged(record.prompt, (), answers)]


def is_verdict(value: Any) -> bool:
    """Whether a value says good or bad."""
    return isinstance(value, (bool, int, float, str)) and str(value).strip().lower() in VERDICTS


def by_prompt(read: Callable[[Row], list[Record]]) -> Callable[[Iterator[Placed]], Iterator[Placed]]:
    """Puts the judged answers of each prompt of a file together, at the place of the first of them."""

    def gather(rows: Iterator[Placed]) -> Iterator[Placed]:
        groups: dict[str, tuple[Placed, list[str], list[str]]] = {}
        for place, row in rows:
            try:
                found = read(row)
            except RecordError:
                yield place, row  # the reader says what is wrong
                continue
            for one in found:
                if isinstance(one, Judged):
                    new = ((place, {**row, "prompt": one.prompt}), list[str](), list[str]())
                    _, good, bad = groups.setdefault(prompt_key(one.prompt), new)
                    good += one.good
                    bad += one.bad
        for (place, row), good, bad in groups.values():
            yield place, {**row, _GATHERED: Judged(row["prompt"], tuple(good), tuple(bad))}

    return gather


def _asked(names: Names, row: Row) -> tuple[Any, str]:
    """What was asked last, text or messages, and its column."""
    column = needed(row, names.messages + names.prompt)
    if column in names.messages or isinstance(talk_in(row[column], column), (list, tuple)):
        return names.turns(row, column), column
    asked, about = text(row, column), filled(row, names.about)
    if about is None or about == column:
        return asked, column
    return (joined(asked, row[about], about) if asked.strip() else text(row, about)), column


def _answered(names: Names, row: Row) -> tuple[Any, str, str, str]:
    """What was asked, its column, the answer, and its column: a conversation's last message, or a column."""
    whole = filled(row, names.messages + names.prompt)
    if whole is None:
        only = filled(row, names.response)  # the prompt may be in it
        whole = (
            only
            if only and isinstance(row[only], (list, tuple))
            else needed(row, names.messages + names.prompt)
        )
    if whole is not None and whole not in names.prompt:
        asked, said = last_answer(names.turns(row, whole), whole)
        return asked, whole, said, whole
    asked, column = _asked(names, row)
    name = needed(row, names.response)
    return asked, column, answer(names, row, name, asked), name


def answer(names: Names, row: Row, name: str, asked: Any) -> str:
    """A response: text, a message of the assistant, or messages that end with it (after the prompt)."""
    value = part(row, name)
    if isinstance(value, str) and value[:1] not in MAY_BEGIN_TALK:
        return value  # nearly every text of a file
    found = talk_in(value, name)
    if isinstance(found, str):
        return found
    if isinstance(value, Mapping) and not isinstance(found, list):
        found = [value]  # its reader says what it lacks
    single = isinstance(found, list) and len(found) == 1 and not isinstance(value, (list, tuple))
    value = found
    if single:
        try:
            return last_answer(names.turns({name: value}, name), name)[1]
        except RecordError as error:
            raise RecordError(error.field.replace(f"{name}[0]", name), error.message) from None
    if not isinstance(value, (list, tuple)):
        raise RecordError(name, f"must be text, a message or messages, not {short(value)}")
    before, said = last_answer(names.turns({name: value}, name), name)
    if before and before != ([{"role": "user", "content": asked}] if isinstance(asked, str) else asked):
        raise RecordError(
            name,
            f"holds {len(before)} messages before its answer that are not the prompt's: "
            "one answer of the assistant is needed",
        )
    return said


def completed(names: Names, row: Row, asked: Any, column: str) -> tuple[Any, dict[str, str]]:
    """The prompt with what other columns hold of it: the system prompt, earlier turns, tools.

    And which column each of its messages came from, for the message of a RecordError.
    """
    if not any(row.get(name) for name in names.system + names.history + names.tools):
        return asked, {}
    given = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    system, earlier = _system(names, row, given), _earlier(names, row)
    tools = filled(row, names.tools)
    messages = [message for message, _ in system + earlier] + given
    prompt = asked if len(messages) == len(given) and isinstance(asked, str) else messages
    if tools is not None:
        prompt = with_tools(prompt, row[tools], tools)
    if isinstance(prompt, str):
        return prompt, {}
    content = names.content or "content"
    came = [name for _, name in system + earlier]
    came += [column] if isinstance(asked, str) else [f"{column}[{i}].{content}" for i in range(len(given))]
    first = len(prompt) - len(came)  # the tools stand before them
    origins = {f"prompt[{first + i}].content": name for i, name in enumerate(came)}
    return prompt, origins | ({"prompt[0]": tools} if first and tools else {})


def _system(names: Names, row: Row, given: Turns) -> list[tuple[dict[str, Any], str]]:
    name = filled(row, names.system)
    if name is None or row[name] is None or not text(row, name).strip():
        return []
    there = [message["content"] for message in given if message["role"] == "system"]
    if there and there != [row[name]]:
        raise RecordError(name, "comes beside another system message: `ignore` the column, or take one out")
    return [] if there else [({"role": "system", "content": row[name]}, name)]


def _earlier(names: Names, row: Row) -> list[tuple[dict[str, Any], str]]:
    """The turns before the prompt: pairs of what was asked and answered, or messages."""
    name = filled(row, names.history)
    if name is None or row[name] is None or row[name] == "":
        return []
    if isinstance(row[name], str):  # a table holds a list as text
        try:
            row = {**row, name: literal(row[name])}
        except ValueError:
            raise RecordError(name, "must be a list of what was asked and answered") from None
    pairs = items(row, name)
    if all(isinstance(pair, Mapping) for pair in pairs):
        said = names.turns(row, name)
        return [(message, f"{name}[{i}].content") for i, message in enumerate(said)]
    found = []
    for i in range(len(pairs)):
        if len(items(row, name, i)) != 2:
            raise RecordError(f"{name}[{i}]", "must hold two texts: what was asked, and what was answered")
        for j, role in enumerate(("user", "assistant")):
            found.append(({"role": role, "content": text(row, name, i, j)}, f"{name}[{i}][{j}]"))
    return found
