"""TRL's types and what looks like them: hh-rlhf, binarized UltraFeedback, RewardBench."""

from __future__ import annotations

from typing import Any

from align.data.formats.base import (
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
    part,
    ranking,
    short,
    text,
)
from align.data.formats.conversations import (
    compared,
    is_conversation,
    is_transcript,
    last_answer,
    transcript,
    turns,
)
from align.records import Demonstration, Prompt, Ranking, RecordError

UNPAIRED = (
    "unpaired preferences (prompt, completion, label) hold one response to a prompt, which gives nothing to "
    "compare: group the responses of a prompt into rankings, or take those with label true as demonstrations"
)
NAMES = ("chosen", "rejected")


def is_unpaired(row: Row) -> bool:
    """TRL's unpaired preference type, which holds no comparison."""
    return {"prompt", "completion", "label"} <= set(row)


def _asked(row: Row) -> Any:
    """The prompt: text, or messages."""
    return turns(row, "prompt") if isinstance(part(row, "prompt"), (list, tuple)) else text(row, "prompt")


def _said(row: Row, key: str) -> str:
    """A response: text, or a list with the one message of the assistant."""
    if isinstance(part(row, key), str):
        return text(row, key)
    before, answer = last_answer(turns(row, key), key)
    if before:
        raise RecordError(key, f"holds {len(before) + 1} messages: one answer of the assistant is needed")
    return answer


def _pair(row: Row, verdict: float, **optional: Any) -> Ranking:
    whole = isinstance(row.get("chosen"), (list, tuple)) and len(row["chosen"]) > 1
    if whole:  # the conversation with its answer: the prompt is what both share
        return compared(turns(row, "chosen"), turns(row, "rejected"), verdict, NAMES, **optional)
    if "prompt" in row:
        pair = (_said(row, "chosen"), _said(row, "rejected"))
        return comparison(_asked(row), pair, verdict, "prompt", NAMES, **optional)
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    start = _common_start(chosen, rejected)
    if not start.strip():
        raise RecordError("", "has no `prompt`, and `chosen` and `rejected` share no beginning")
    pair = (chosen[len(start) :], rejected[len(start) :])
    return comparison(start, pair, verdict, "chosen", NAMES, **optional)


def _common_start(first: str, second: str) -> str:
    """What two texts begin with, cut before the last blank so that no word is split."""
    length = 0
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            break
        length += 1
    while length and not first[length : length + 1].isspace():
        length -= 1
    return first[:length]


def _preference(row: Row) -> list[Record]:
    margin = optional_number(row, "margin")
    return [_pair(row, -1, columns={"strength": "margin"}, strength=margin)]


def _is_pair(row: Row) -> bool:
    plain = has_texts(row, *NAMES)
    return plain or all(is_conversation(row.get(key)) for key in NAMES)


def _detect_preference(row: Row) -> bool:
    special = {"score_chosen", "score_rejected", "subset"} & set(row)
    return _is_pair(row) and not special and not _detect_hh(row)


def _binarized(row: Row) -> list[Record]:
    """Equal scores are a tie: which of the two is called chosen is then arbitrary."""
    gap = number(row, "score_chosen") - number(row, "score_rejected")
    if gap < 0:
        raise RecordError("score_chosen", "is lower than `score_rejected`")
    return [_pair(row, -gap, strength=gap, source=label(row.get("source"), "source"))]


def _hh(row: Row) -> list[Record]:
    return [compared(transcript(row, "chosen"), transcript(row, "rejected"), -1, NAMES)]


def _detect_hh(row: Row) -> bool:
    return "prompt" not in row and all(is_transcript(row.get(key)) for key in NAMES)


def _completion(row: Row) -> list[Record]:
    if is_unpaired(row):
        raise RecordError("label", f"says that these are {UNPAIRED}")
    values = {"prompt": _asked(row), "response": _said(row, "completion")}
    return [make(Demonstration, values, {"response": "completion"})]


def _messages(row: Row) -> list[Record]:
    conversation = turns(row, "messages")
    names = {"prompt": "messages", "response": "messages"}
    if conversation and conversation[-1]["role"] != "assistant":
        return [make(Prompt, {"prompt": conversation}, names)]
    prompt, answer = last_answer(conversation, "messages")
    return [make(Demonstration, {"prompt": prompt, "response": answer}, names)]


def _detect_messages(row: Row) -> bool:
    return is_conversation(row.get("messages")) and not set(row) & {*NAMES, "completion", "response"}


def _rewardbench(row: Row) -> list[Record]:
    pair = (text(row, "chosen"), text(row, "rejected"))
    source = label(row.get("subset"), "subset")
    return [comparison(_asked(row), pair, -1, "prompt", NAMES, source=source)]


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
    return [ranking(_asked(row), responses, ranks, "prompt", names, source=source)]


TRL_FORMATS = (
    Format(
        "hh-rlhf",
        "`chosen`, `rejected`: transcripts; the prompt is what both share, up to the last Assistant turn",
        _hh,
        _detect_hh,
    ),
    Format(
        "trl-preference",
        "`chosen`, `rejected`, with `prompt` or a common beginning, text or messages; `margin`: the strength",
        _preference,
        _detect_preference,
    ),
    Format(
        "trl-prompt-completion",
        "`prompt`, `completion`, text or messages; unpaired preferences (with `label`) are refused",
        _completion,
        lambda row: {"prompt", "completion"} <= set(row) and not is_unpaired(row),
    ),
    Format(
        "trl-messages",
        "`messages`: the last answer is the demonstration, all before it the prompt",
        _messages,
        _detect_messages,
    ),
    Format(
        "ultrafeedback-binarized",
        "`chosen`, `rejected` with scores: their gap is the strength, equal scores are a tie",
        _binarized,
        lambda row: {"chosen", "rejected", "score_chosen", "score_rejected"} <= set(row),
    ),
    Format(
        "rewardbench",
        "`prompt`, `chosen`, `rejected`, `subset`: one comparison",
        _rewardbench,
        lambda row: has_texts(row, *NAMES) and {"prompt", "subset"} <= set(row) and "score_chosen" not in row,
    ),
    Format(
        "rewardbench2",
        "`prompt`, `chosen[]`, `rejected[]`: all chosen tie at 1, all rejected at 2",
        _rewardbench2,
        lambda row: "prompt" in row and all(list_of(row, key, str) for key in NAMES),
    ),
)
