"""What is said elsewhere in English, in the language of the interface: what `align` finds wrong in a row or a
file, and what a check says, which is a process of its own.

What is stored, printed, or sent to programs stays English; `retold` is for what a page shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from align.values import RecordError
from labeling.language import ENGLISH, N_, current, gettext, number

# A longer text goes before a shorter one: "must be a list of messages" is no "must be a list". What is filled
# in as `what` is such a text itself.
TEMPLATES = (
    # values of a record
    N_("is missing"),
    N_("is missing (or %(names)s)"),
    N_("is missing; the columns are %(names)s"),
    N_("is empty"),
    N_("is an unknown key; %(owner)s has %(names)s"),
    N_("is an unknown key; did you mean %(name)s? %(owner)s has %(names)s"),
    N_("must be text"),
    N_("must be text, not %(found)s"),
    N_("must be text of at most 200 characters"),
    N_("must be text, a message or messages, not %(found)s"),
    N_("must be text or a list of messages, not %(found)s"),
    N_("must be text, or an object with %(names)s"),
    N_("must be true or false (or 1 or 0), not %(found)s"),
    N_("must be a number, not %(found)s"),
    N_("must be a number from 0 up, not %(found)s"),
    N_("must be a number from %(low)s to %(high)s"),
    N_("must be a whole number from %(low)s to %(high)s"),
    N_("must be a whole number or null, not %(found)s"),
    N_("must be a whole number from 1, the best, up, not %(found)s"),
    N_("must be a whole number from 0, the best, up, not %(found)s"),
    N_("must be 1 (the best) or more, not %(found)s"),
    N_("must be a name or a whole number, not %(found)s"),
    N_("must be from -3 to 3, not %(found)s"),
    N_("must be left or right, not %(found)s"),
    N_("must be one of %(names)s"),
    N_("must be one of %(names)s, not %(found)s"),
    N_("must be a list"),
    N_("must be a list, not %(found)s"),
    N_("must be a list of %(of)s, not %(found)s"),
    N_("must be a list of ids, not %(found)s"),
    N_("must be a list of messages, not %(found)s"),
    N_("must be a list of texts"),
    N_("at most %(most)s texts of at most 80 characters each"),
    N_("must be an object"),
    N_("must be an object, not %(found)s"),
    N_("must be an object with %(names)s"),
    N_("must be an object with %(names)s, not %(found)s"),
    N_("must be an object with a prompt"),
    N_("a %(name)s is an object with keys, not %(found)s"),
    N_("a row is an object with columns, not %(found)s"),
    N_("holds a NUL character (\\u0000): remove it"),
    N_("holds half of a surrogate pair (\\ud800 to \\udfff), which no text has"),
    N_("holds half a character, a NUL, a number without bounds, or is nested more than 50 deep"),
    N_("holds what JSON has no form for: %(why)s"),
    N_("is neither JSON nor a Python literal"),
    N_("begins like %(of)s and cannot be read as one (%(why)s): write it as JSON"),
    N_("has %(count)s items: more are needed"),
    N_("has %(count)s items, and there are %(others)s answers"),
    N_("nobody is called %(name)s"),
    # prompts, messages, rankings
    N_("is an empty list of messages"),
    N_("has no user message"),
    N_("ends with an assistant message: the last one must be the user's, and what follows is a response"),
    N_("ends with a %(name)s message: the last one must be the user's"),
    N_("ends with a %(name)s message: the last one must be the assistant's"),
    N_("ends with a tool call: a response is text, so end with what is said after it"),
    N_("ends with what the assistant says: the last turn must be the person's"),
    N_("looks like messages, and is neither JSON nor a Python literal"),
    N_("looks like a message, and is neither JSON nor a Python literal"),
    N_("must be a message with role and content, not %(found)s"),
    N_("must be a message, not %(found)s"),
    N_("must hold messages, not %(found)s"),
    N_("is no part of a message of the %(name)s"),
    N_("comes beside another system message: `ignore` the column, or take one out"),
    N_("comes beside a prompt that begins with its tools: give them once"),
    N_("must be a tool: an object with the `name` of a function"),
    N_("must be a tool call: an object with the `name` and `arguments` of a function"),
    N_("must be a call as JSON: {name, arguments}"),
    N_("must be an object, or one as JSON text, not %(found)s"),
    N_("has %(count)s: a ranking needs at least 2"),
    N_("has %(count)s: a task to %(kind)s has %(wanted)s"),
    N_("has length %(count)s, and there are %(others)s responses"),
    N_("leaves every response unranked: rank some of them or drop the record"),
    N_("must hold each of 0 to %(most)s once: the responses' indices as shown"),
    N_("are the prompt itself, each of them: there is no answer to compare"),
    N_("must have whole numbers from 0 on, and edited: true or false"),
    N_("must start before its end"),
    N_("gives two ranks to responses that are the same"),
    N_("known ranks are for tasks that %(kinds)s"),
    N_("holds %(of)s: align trains on text only"),
    N_("must hold at least one response, not %(found)s without any"),
    N_("must hold two texts: what was asked, and what was answered"),
    N_("must be a list of what was asked and answered"),
    N_(
        "differs from %(name)s before the last answer (at message %(count)s): a ranking has one "
        "prompt for all its responses"
    ),
    N_("differs from `tools`: a ranking has one prompt"),
    N_("is not what `chosen` begins with: `ignore` the column if it is none"),
    N_("and %(name)s hold the same part of a record: `ignore` one of the two columns"),
    N_("ranks %(name)s twice"),
    N_("ranks %(name)s, which is not in %(of)s"),
    N_("appears twice in its tree"),
    N_("must be prompter or assistant, not %(found)s"),
    N_("must be the first message with its replies, not %(found)s"),
    N_("goes round in a circle: none of the tree's messages is the first"),
    N_("comes back after another tree's messages: sort the file by this column"),
    N_("must be a record with fields and responses"),
    # files
    N_("is a folder: name a file"),
    N_("no such file"),
    N_("is a workbook of a spreadsheet: save its sheet as CSV (in UTF-8), and name that file"),
    N_("is a zip archive: unpack it"),
    N_("is compressed with gzip: name it %(name)s"),
    N_("is compressed with zstd: name it %(name)s"),
    N_("is Parquet: name it .parquet"),
    N_("is Arrow: name it .arrow"),
    N_("unknown kind of file: records are read from %(names)s, the first four also compressed (.gz, .zst)"),
    N_("cannot be read: %(why)s"),
    N_("cannot be read after line %(line)s: %(why)s"),
    N_(
        "it holds over %(size)s MiB when it is unpacked: give it in parts, or raise "
        "`labeling.upload_limit` in the recipe"
    ),
    N_("not a text file in UTF-8 (it begins as UTF-16): save the file as UTF-8"),
    N_("not a text file in UTF-8 (it holds NUL bytes)"),
    N_("not a text file in UTF-8 (it holds NUL bytes): save the file as UTF-8"),
    N_("byte %(place)s is not UTF-8: save the file as UTF-8"),
    N_("not UTF-8: save the file as UTF-8"),
    N_("a line of over %(size)s MiB: write one record a line"),
    N_("broken JSON at column %(place)s: %(why)s"),
    N_("broken JSON: the file ends within its list"),
    N_("broken JSON: a comma is missing between two items of the list"),
    N_("broken JSON: something follows the list"),
    N_(
        "broken JSON, or one value of over %(size)s MiB: write a list of records, or one record a "
        "line (JSON Lines)"
    ),
    N_("broken JSON: %(why)s"),
    N_("is nested too deeply"),
    N_("appears twice in one object"),
    N_("%(name)s is not a number in JSON"),
    N_("broken CSV: %(why)s: check its quotes"),
    N_("the column %(name)s appears twice in the header: rename one"),
    N_("has %(count)s cells, and the header names %(others)s columns"),
    N_("has %(found)s in column %(place)s, which has no name in the header: name it there, or delete it"),
    N_("begins as JSON does, and a table begins with the names of its columns: name the file .jsonl"),
    N_(
        "its lines end with a carriage return alone, as old Macintosh programs end them: save it as "
        "plain CSV (in Excel, 'CSV UTF-8')"
    ),
    N_(
        "is the third header row of a Qualtrics export ({'ImportId': …}): delete it and the row above "
        "it, so that one row of names is left"
    ),
    N_(
        "is %(found)s, which may be a whole number with its thousands set apart or a fraction: write it "
        "without the comma, or with a point"
    ),
    # columns that nobody knows
    N_(
        "no known format has these columns: %(names)s. Name the format with `format:` (%(known)s, or "
        "my_package.my_module:function), or say which column is what with `columns:`, as in {prompt: "
        "q, chosen: better, rejected: worse}."
    ),
    N_(
        "no known format has these columns: %(names)s. %(hint)s Name the format with `format:` "
        "(%(known)s, or my_package.my_module:function), or say which column is what with `columns:`, "
        "as in {prompt: q, chosen: better, rejected: worse}."
    ),
    N_("no known format has these columns: %(names)s. %(hint)s Or name one with `format:`."),
    N_("the columns (%(names)s) fit several formats: name one with `format:` (%(known)s)."),
    N_(
        "these are the columns of the format %(name)s, and here %(found)s: correct the row, or write "
        "%(hint)s to have each such row told"
    ),
    # what became no task
    N_("all responses are the same: nothing to rank"),
    N_("a response that is in its task twice: people see it once"),
    N_("one response has two ranks: this ranking is not kept"),
    N_("no record in it, says %(name)s"),
    N_("fewer than two completions"),
    N_("fewer than two answers"),
    N_("a task with fewer than two responses"),
    N_("a task that nobody has annotated"),
    N_("a ranker in which nothing was placed"),
    N_("a cancelled annotation"),
    N_("an annotation without a result"),
    N_("a record that nobody has answered"),
    N_("an instruction without an instance"),
    # places of a file
    N_("row %(number)s"),
    N_("rows %(low)s to %(high)s"),
    # the guideline's file
    N_("labeling.guideline: %(place)s: %(what)s"),
    N_("No such file or directory"),
    N_("Permission denied"),
    N_("is not UTF-8 text: save it as UTF-8"),
    N_("is not a text file"),
    N_("is not a file"),
    N_("has over %(size)s MiB"),
    # what a request holds, in pydantic's words
    N_("Field required"),
    N_("Extra inputs are not permitted"),
    N_("Input should be %(wanted)s"),
    N_("String should have at most %(most)s characters"),
    N_("String should have at least %(least)s character"),
    N_("String should match pattern '%(pattern)s'"),
    N_("List should have at most %(most)s items after validation, not %(count)s"),
    N_("Value error, %(what)s"),
    N_("a text holds a character that cannot be stored"),
    # checks of answers
    N_("The check %(name)s failed: %(what)s. Your answer is kept; you can send it."),
    N_("it took longer than %(seconds)s seconds"),
    N_("it did not start within %(seconds)s seconds"),
    N_("it has stopped; it starts again with the next answer"),
    N_("it has stopped; the app's terminal says why"),
    N_("its function cannot be loaded; the app's terminal says why"),
    N_("it raised %(name)s (%(place)s); the app's terminal says more"),
    N_("it gave a %(name)s; a list, one value a response, is needed"),
    N_("it gave %(found)s values for %(count)s responses; one a response is needed"),
    N_("it gave more than %(found)s values for %(count)s responses; one a response is needed"),
    N_("it gave something else than numbers, or true or a text for the answer"),
    N_("The app ends."),
    N_("It has %(count)s characters; %(least)s are the fewest."),
    N_("It has %(count)s characters; %(most)s are the most."),
    N_("It has words that are not wanted: %(words)s."),
    N_("It has nothing that looks like %(pattern)s"),
)
# What stands in the place of a value.
WORDS = (
    N_("text"),
    N_("a number"),
    N_("a huge number"),
    N_("a list"),
    N_("an object"),
)
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+")


def retold(message: str) -> str:
    """A message in the language of the interface, line by line; one that is not known stays as it is."""
    if current() is ENGLISH:
        return message
    return "\n".join(_line(line) for line in message.split("\n"))


def retold_error(error: RecordError) -> str:
    """What is wrong in a row, with its field."""
    said = retold(error.message)
    return f"`{error.field}` {said}" if error.field else said


def template_of(message: str) -> tuple[str, dict[str, str]] | None:
    """The template that a message comes from, and what was filled in."""
    for template, pattern in _patterns():
        if (found := pattern.fullmatch(message)) is not None:
            return template, found.groupdict()
    return None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Those with the most that is not filled in first."""
    marks = re.compile(r"%\((\w+)\)s")
    by_length = sorted(TEMPLATES, key=lambda template: -len(marks.sub("", template)))
    return [(template, _pattern(marks.split(template))) for template in by_length]


def _pattern(parts: list[str]) -> re.Pattern[str]:
    """Of literal texts and, between them, names."""
    found = [f"(?P<{part}>.+?)" if i % 2 else re.escape(part) for i, part in enumerate(parts)]
    return re.compile("".join(found))


def _line(line: str) -> str:
    found = template_of(line)
    if found is None:
        return line
    template, filled = found
    return gettext(template, **{name: _filled(name, text) for name, text in filled.items()})


def _filled(name: str, text: str) -> str:
    if name == "what":
        return _line(text)
    if _GROUPED.fullmatch(text):
        return number(int(text.replace(",", "")))
    return gettext(text) if text in WORDS else text


def retold_check(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a check said of an answer (labeling.store.checks), for a page."""
    return {key: retold(value) if key in ("says", "error") else value for key, value in said.items()}
