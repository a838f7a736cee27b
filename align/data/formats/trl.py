"""TRL's types and what looks like them: hh-rlhf, binarized UltraFeedback, RewardBench."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from align.data.formats.base import (
    UNUSED,
    WRONG_WAY_ROUND,
    Format,
    Record,
    Row,
    comparison,
    has_texts,
    items,
    label,
    list_of,
    make,
    number,
    optional_number,
    ranking,
    short,
    text,
    unused,
)
from align.data.formats.conversations import (
    Turns,
    asked_in,
    compared,
    is_conversation,
    is_transcript,
    last_answer,
    talk_in,
    transcript,
)
from align.data.formats.demonstrations import is_demonstration
from align.data.formats.parts import Names, answer, completed, demonstration
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

NAMES = ("chosen", "rejected")
ANSWER = ("response", "completion")
_TAG = re.compile(r"\A\s*(?:Assistant|AI|Bot):")
TRL = Names(prompt=("prompt",))
COMPLETION = Names(prompt=("prompt",), response=("completion",))
TALK = Names(messages=("messages",))
PAIR = TRL.columns("best", "worst")
ELSEWHERE = ("instruction", "question", "input", "messages", "conversations", "context_messages")


def _asked(row: Row) -> tuple[Any, dict[str, str]]:
    """The prompt, text or messages, and which column each of its messages came from."""
    listed = isinstance(row.get("prompt"), (list, tuple))
    return completed(TRL, row, TRL.turns(row, "prompt") if listed else text(row, "prompt"), "prompt")


def _pair(row: Row, verdict: float, **optional: Any) -> Ranking:
    columns = optional.pop("columns", {})
    row = _with_messages(row)
    if all(isinstance(row.get(name), (list, tuple)) and len(row[name]) > 1 for name in NAMES):
        # Conversations with their answers: the prompt is what both share.
        first, second = TRL.turns(row, "chosen"), TRL.turns(row, "rejected")
        _agrees(row, last_answer(first, "chosen")[0], "chosen")
        talks = completed(TRL, row, first, "chosen")[0], completed(TRL, row, second, "rejected")[0]
        return compared(*talks, verdict, NAMES, columns=columns, **optional)
    if "prompt" not in row:
        raise RecordError("", _no_prompt(row))
    asked = row["prompt"] if isinstance(row["prompt"], str) else TRL.turns(row, "prompt")
    pair = (answer(TRL, row, "chosen", asked), answer(TRL, row, "rejected", asked))
    prompt, origins = _asked(row)
    return comparison(prompt, pair, verdict, "prompt", NAMES, columns=origins | columns, **optional)


def _with_messages(row: Row) -> Row:
    """The row; where a text or an object holds its messages, with these."""
    cells = {name: row[name] for name in ("prompt", *NAMES) if isinstance(row.get(name), (str, Mapping))}
    found = {name: talk_in(value, name) for name, value in cells.items()}
    talks = {
        name: one
        for name, one in found.items()
        if isinstance(one, list) and (name == "prompt" or len(one) > 1)
    }
    return {**row, **talks} if talks else row


def _agrees(row: Row, shared: Turns, column: str) -> None:
    """A `prompt` beside a whole conversation must be in it: it is not used."""
    given = row.get("prompt")
    if given is None:
        return
    if isinstance(given, str):
        said = {str(message["content"]).strip() for message in shared if message["role"] == "user"}
        agrees = given.strip() in said
    else:
        messages = TRL.turns(row, "prompt")
        agrees = messages == shared[: len(messages)]
    if not agrees:
        raise RecordError(
            "prompt",
            f"is not in what `{column}` begins with, and both would be the prompt: `ignore` this column "
            "if it is none",
        )


def _no_prompt(row: Row) -> str:
    others = [str(name) for name in row if name not in NAMES]
    why = "has no `prompt`, and what two answers begin with is none"
    if not others:
        return f"{why}: add a column with it, or write `chosen` and `rejected` as lists of messages"
    there = ", ".join(short(name) for name in others[:20])
    likely = max(others, key=lambda name: len(row[name]) if isinstance(row.get(name), str) else 0)
    return (
        f"{why}; the other columns are {there}. Say which one it is, as in "
        f"`columns: {{prompt: {likely[:40]}, chosen: chosen, rejected: rejected}}`"
    )


def _preference(row: Row) -> list[Record]:
    margin = optional_number(row, "margin")
    return [_pair(row, -1, columns={"strength": "margin"}, strength=margin)]


def _is_pair(row: Row) -> bool:
    plain = has_texts(row, *NAMES)
    return plain or all(is_conversation(row.get(key)) for key in NAMES)


def _detect_preference(row: Row) -> bool:
    special = {"score_chosen", "score_rejected", "subset", "context_messages"} & set(row)
    whole = all(isinstance(row.get(key), (list, tuple)) and len(row[key]) > 1 for key in NAMES)
    asked = whole or "prompt" in row or not any(row.get(key) for key in ELSEWHERE)
    return asked and _is_pair(row) and not special and not _detect_hh(row)


def _binarized(row: Row) -> list[Record]:
    """Equal scores are a tie: which of the two is called chosen is then arbitrary."""
    gap = number(row, "score_chosen") - number(row, "score_rejected")
    if gap < 0:
        raise RecordError("score_chosen", WRONG_WAY_ROUND.format("score_chosen", "score_rejected"))
    return [_pair(row, -gap, strength=gap, source=label(row.get("source"), "source"))]


def _hh(row: Row) -> list[Record]:
    """Two transcripts; or one in `prompt`, with its answers (or one, or none) in columns of their own."""
    if "prompt" not in row or all(is_transcript(row.get(name)) for name in NAMES):
        first, second = transcript(row, "chosen"), transcript(row, "rejected")
        if "prompt" in row and asked_in(row, "prompt") != last_answer(first, "chosen")[0]:
            raise RecordError("prompt", "is not what `chosen` begins with: `ignore` the column if it is none")
        return [compared(first, second, -1, NAMES)]
    asked = asked_in(row, "prompt")
    said = {name: _TAG.sub("", text(row, name)).strip() for name in (*NAMES, *ANSWER) if name in row}
    alone = next((name for name in ANSWER if name in said), None)
    if "chosen" in said:
        text(row, "rejected")
        if alone and said[alone] != said["chosen"]:
            raise RecordError(alone, "differs from `chosen`: `ignore` this column if it is no answer to rank")
        return [comparison(asked, (said["chosen"], said["rejected"]), -1, "prompt", NAMES)]
    if alone is None:
        return [make(Prompt, {"prompt": asked}, {})]
    return [make(Demonstration, {"prompt": asked, "response": said[alone]}, {"response": alone})]


def _detect_hh(row: Row) -> bool:
    return "prompt" not in row and all(is_transcript(row.get(key)) for key in NAMES)


def _messages(row: Row) -> list[Record]:
    conversation = TRL.turns(row, "messages")
    _agrees(row, conversation, "messages")
    if not conversation or conversation[-1]["role"] == "assistant":
        return demonstration(TALK, row)
    asked, origins = completed(TALK, row, conversation, "messages")
    return [make(Prompt, {"prompt": asked}, {"prompt": "messages", **origins})]


def _detect_messages(row: Row) -> bool:
    others = {"completion", "response"} & set(row)
    return is_conversation(row.get("messages")) and not others and is_demonstration(row)


def _rewardbench(row: Row) -> list[Record]:
    pair = (text(row, "chosen"), text(row, "rejected"))
    source = label(row.get("subset"), "subset")
    prompt, origins = _asked(row)
    return [comparison(prompt, pair, -1, "prompt", NAMES, columns=origins, source=source)]


def _rewardbench2(row: Row) -> list[Record]:
    """Every chosen response ties with the others, and so does every rejected one."""
    responses, ranks, names = [], [], []
    for rank, key in enumerate(NAMES, 1):
        if not items(row, key):
            raise RecordError(key, f"must hold at least one response, not {short(row[key])} without any")
        responses += [text(row, key, i) for i in range(len(items(row, key)))]
        names += [f"{key}[{i}]" for i in range(len(items(row, key)))]
        ranks += [rank] * len(items(row, key))
    source = label(row.get("subset"), "subset")
    prompt, origins = _asked(row)
    return [ranking(prompt, responses, ranks, "prompt", names, origins, source=source)]


TRL_FORMATS = (
    Format(
        "hh-rlhf",
        "`chosen`, `rejected`: transcripts, the prompt is what both share; or `prompt` is one beside answers",
        _hh,
        _detect_hh,
        columns={"chosen": "prompt and best", "rejected": "prompt and worst", "prompt": "prompt"}
        | dict.fromkeys(ANSWER, "response"),
    ),
    Format(
        "trl-preference",
        "`prompt`, `chosen`, `rejected`: text or messages; lists that share the prompt need none; `margin`",
        _preference,
        _detect_preference,
        columns=PAIR | {"margin": "strength"},
    ),
    Format(
        "trl-prompt-completion",
        "`prompt`, `completion`: text or messages; `system`, `tools`",
        partial(demonstration, COMPLETION),
        lambda row: {"prompt", "completion"} <= set(row) and "label" not in row and is_demonstration(row),
        columns=COMPLETION.columns("response"),
    ),
    Format(
        "trl-messages",
        "`messages`, `tools`: the last answer is the demonstration, all before it the prompt",
        _messages,
        _detect_messages,
        columns=TALK.columns(messages="prompt and response", prompt="prompt", prompt_id=UNUSED),
    ),
    Format(
        "ultrafeedback-binarized",
        "`chosen`, `rejected` with scores: their gap is the strength, equal scores are a tie",
        _binarized,
        lambda row: {"chosen", "rejected", "score_chosen", "score_rejected"} <= set(row),
        columns=PAIR
        | {"score_chosen": "strength", "score_rejected": "strength", "source": "source"}
        | dict.fromkeys(("messages", "prompt_id"), UNUSED),
    ),
    Format(
        "rewardbench",
        "`prompt`, `chosen`, `rejected`, `subset`: one comparison",
        _rewardbench,
        lambda row: has_texts(row, *NAMES) and {"prompt", "subset"} <= set(row) and "score_chosen" not in row,
        columns=PAIR | {"subset": "source"} | unused("chosen_model rejected_model id"),
    ),
    Format(
        "rewardbench2",
        "`prompt`, `chosen[]`, `rejected[]`: all chosen tie at 1, all rejected at 2",
        _rewardbench2,
        lambda row: "prompt" in row and all(list_of(row, key, str) for key in NAMES),
        columns=PAIR | {"subset": "source"} | unused("models num_correct total_completions id"),
    ),
)
