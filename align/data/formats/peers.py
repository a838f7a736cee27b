"""What other training tools read: preferences and single judgements as each of them documents its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from align.data.formats.base import (
    UNUSED,
    Format,
    Record,
    Row,
    has_texts,
    items,
    list_of,
    make,
    number,
    ranking,
    text,
)
from align.data.formats.conversations import compared, is_conversation, last_answer, turns, with_tools
from align.data.formats.parts import (
    Names,
    answer,
    by_prompt,
    completed,
    filled,
    is_verdict,
    judged,
    last_and_worse,
    needed,
    preference,
)
from align.records import Prompt
from align.values import RecordError

BEST, WORST = ("chosen", "chosen_response"), ("rejected", "rejected_response")
ALPACA = Names(prompt=("instruction",), about=("input",), best=BEST, worst=WORST)
ORCA = Names(prompt=("question",), system=("system", "system_prompt"), best=BEST, worst=WORST)
AXOLOTL = Names(prompt=("input", "prompt", "instruction", "question"), best=BEST, worst=WORST)
SHAREGPT = Names(messages=("conversations", "messages"))
SWIFT = Names(
    prompt=("query", "instruction", "prompt"),
    about=("input",),
    messages=("messages", "conversations"),
    response=("response", "output"),
    worst=("rejected_response",),
    strength=("margin",),
)
OPENRLHF = Names(messages=("context_messages",), strength=("margin",))
UNPAIRED = Names(
    prompt=("prompt", "instruction", "question", "query"),
    about=("input",),
    messages=("messages", "conversations"),
    response=("completion", "output", "response"),
)
PREFERENCE_PROMPTS = ("prompt", "instruction", "question", "input", "messages", "conversations")


def _are_answers(row: Row) -> bool:
    """Whether both answers are there as texts, under either name."""
    return all(any(isinstance(row.get(name), str) for name in names) for names in (BEST, WORST))


def _asks(row: Row, *prompts: str) -> bool:
    """Whether these, and no other columns that a preference's prompt can stand in, hold something."""
    there = {name for name in (*PREFERENCE_PROMPTS, "context_messages") if row.get(name) is not None}
    return there == set(prompts) and _are_answers(row)


def _detect_alpaca(row: Row) -> bool:
    return _asks(row, "instruction") or _asks(row, "instruction", "input")


def _detect_axolotl(row: Row) -> bool:
    plain = {"chosen", "rejected"} <= set(row) and "system" not in row
    return _asks(row, "input") or (_asks(row, "prompt") and not plain and "chosen_response" in row)


def _is_single(value: Any) -> bool:
    """Whether a value is a list of one message."""
    return is_conversation(value) and len(value) == 1


def _detect_sharegpt(row: Row) -> bool:
    there = [name for name in SHAREGPT.messages if row.get(name) is not None]
    answers = [row.get(name) for name in ("chosen", "rejected")]
    return (
        len(there) == 1
        and list_of(row, there[0], Mapping)
        and "prompt" not in row
        and all(isinstance(one, (str, Mapping)) or _is_single(one) for one in answers)
    )


def _swift(row: Row) -> list[Record]:
    name = filled(row, ("rejected_messages", "rejected_response"))
    if "rejected_tools" in row and row["rejected_tools"] not in (None, row.get("tools")):
        raise RecordError("rejected_tools", "differs from `tools`: a ranking has one prompt")
    if name != "rejected_messages":
        return last_and_worse(SWIFT, row)
    column = needed(row, SWIFT.messages)
    conversation, other = SWIFT.turns(row, column), SWIFT.turns(row, name)
    compared(conversation, other, -1, (column, name))  # both must be one conversation up to the last answer
    worse = last_answer(other, name)[1]
    return last_and_worse(SWIFT, {**row, "rejected_response": worse, name: None})


def _detect_swift(row: Row) -> bool:
    return bool({"rejected_response", "rejected_messages"} & set(row)) and (
        is_conversation(row.get("messages"))
        or list_of(row, "conversations", Mapping)
        or any(has_texts(row, asked, said) for asked in SWIFT.prompt for said in SWIFT.response)
    )


def _openrlhf(row: Row) -> list[Record]:
    if {"chosen", "rejected"} & set(row):
        return preference(OPENRLHF, row)
    asked, origins = completed(OPENRLHF, row, OPENRLHF.turns(row, "context_messages"), "context_messages")
    return [make(Prompt, {"prompt": asked}, {"prompt": "context_messages", **origins})]


def _openai(row: Row) -> list[Record]:
    """OpenAI's preference files, which others read too: the prompt in `input`."""
    asked = turns(row, "input", "messages")
    sides = ("preferred_output", "non_preferred_output")
    pair = [answer(SHAREGPT, row, name, asked) for name in sides]
    prompt = with_tools(asked, row["input"].get("tools"), "input.tools")
    return [ranking(prompt, pair, (1, 2), "input.messages", sides)]


def _nemo(row: Row) -> list[Record]:
    """A completion's rank counts from any number up, the lowest is the best."""
    asked = SHAREGPT.turns(row, "context")
    responses, ranks, names = [], [], []
    for i in range(len(items(row, "completions"))):
        names.append(f"completions[{i}].completion")
        ranks.append(number(row, "completions", i, "rank"))
        said = row["completions"][i]
        try:
            responses.append(answer(SHAREGPT, said, "completion", asked))
        except RecordError as error:
            raise RecordError(f"completions[{i}].{error.field}", error.message) from None
    order = sorted(set(ranks))
    places = [order.index(rank) + 1 for rank in ranks]
    return [ranking(asked, responses, places, "context", names)]


def _verl(row: Row) -> list[Record]:
    asked = SHAREGPT.turns(row, "prompt") if not isinstance(row.get("prompt"), str) else text(row, "prompt")
    return [make(Prompt, {"prompt": asked}, {})]


def _detect_unpaired(row: Row) -> bool:
    marked = "kto_tag" in row or is_verdict(row.get("label")) or {"completion", "label"} <= set(row)
    if not marked or {"chosen", "rejected", "rejected_response", "rejected_messages"} & set(row):
        return False
    whole = [name for name in (*UNPAIRED.messages, "completion") if list_of(row, name, Mapping)]
    asked = [name for name in UNPAIRED.prompt if isinstance(row.get(name), (str, list))]
    said = [name for name in UNPAIRED.response if isinstance(row.get(name), (str, list))]
    return bool(whole) or (bool(asked) and bool(said))


_judged: Callable[[Row], list[Record]] = partial(judged, UNPAIRED)


def _pairs(names: Names, **others: str) -> dict[str, str]:
    return names.columns("best", "worst", "strength", **others)


def _has(*keys: str) -> Callable[[Row], bool]:
    return lambda row: set(keys) <= set(row)


def _detect_nemo(row: Row) -> bool:
    return list_of(row, "context", Mapping) and list_of(row, "completions", Mapping)


def _detect_openai(row: Row) -> bool:
    asked: Any = row.get("input")
    return (
        {"preferred_output", "non_preferred_output"} <= set(row)
        and isinstance(asked, Mapping)
        and "messages" in asked
    )


PEER_FORMATS = (
    Format(
        "alpaca-preference",
        "`instruction`, `input`, `chosen`, `rejected` (or `chosen_response`, …); `system`, `history`",
        partial(preference, ALPACA),
        _detect_alpaca,
        columns=_pairs(ALPACA, chosen_model=UNUSED, rejected_model=UNUSED),
    ),
    Format(
        "sharegpt-preference",
        "`conversations` or `messages`, `chosen`, `rejected`: a message or text each; `system`, `tools`",
        partial(preference, SHAREGPT),
        _detect_sharegpt,
        columns=_pairs(SHAREGPT),
    ),
    Format(
        "orca",
        "`system`, `question`, `chosen`, `rejected`: an empty system prompt is left out",
        partial(preference, ORCA),
        lambda row: _asks(row, "question"),
        columns=_pairs(ORCA),
    ),
    Format(
        "axolotl",
        "`system`, `input` (or `prompt`, …), `chosen` and `rejected` (or `chosen_response`, …)",
        partial(preference, AXOLOTL),
        _detect_axolotl,
        columns=_pairs(AXOLOTL),
    ),
    Format(
        "ms-swift",
        "`messages`, or `query`, `response`: the answer over `rejected_response` or `rejected_messages`",
        _swift,
        _detect_swift,
        columns=_pairs(SWIFT, rejected_messages="worst", rejected_tools="tools")
        | dict.fromkeys((*SWIFT.messages, "response", "output"), "best")
        | dict.fromkeys(SWIFT.messages, "prompt and best"),
    ),
    Format(
        "openrlhf",
        "`context_messages`, `chosen`, `rejected`: messages; prompts where there are no answers",
        _openrlhf,
        lambda row: is_conversation(row.get("context_messages")),
        columns=_pairs(OPENRLHF, context=UNUSED, dataset=UNUSED, id=UNUSED),
    ),
    Format(
        "openai-preference",
        "`input` with `messages` and `tools`, `preferred_output`, `non_preferred_output`",
        _openai,
        _detect_openai,
        columns={"input": "prompt, tools", "preferred_output": "best", "non_preferred_output": "worst"},
    ),
    Format(
        "nemo-rl",
        "`context` (messages), `completions[]` with `rank`: the lowest is the best, equal ranks are ties",
        _nemo,
        _detect_nemo,
        columns={"context": "prompt", "completions": "responses with ranks"},
    ),
    Format(
        "verl",
        "`prompt` with `data_source` and `reward_model`: prompts",
        _verl,
        _has("prompt", "data_source", "reward_model"),
        columns={"prompt": "prompt"}
        | dict.fromkeys(("data_source", "reward_model", "extra_info", "ability"), UNUSED),
    ),
    Format(
        "unpaired",
        "one answer a row, `label` or `kto_tag`: good or bad; a prompt's good answers over its bad ones",
        _judged,
        _detect_unpaired,
        by_prompt(_judged),
        columns=UNPAIRED.columns("response", "label")
        | dict.fromkeys(UNPAIRED.messages, "prompt and response"),
    ),
)
