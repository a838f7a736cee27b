"""A format from what LLaMA-Factory's dataset_info.json says of a file: its `columns` and `tags`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from align.data.formats.base import Format, never, short
from align.data.formats.conversations import CALL
from align.data.formats.parts import TAGS, Names, by_prompt, demonstration, judged, preference
from align.errors import UserError

NAME = "llama-factory"
PARTS = {
    "prompt": "prompt",
    "query": "about",
    "response": "response",
    "history": "history",
    "messages": "messages",
    "system": "system",
    "tools": "tools",
    "chosen": "best",
    "rejected": "worst",
    "kto_tag": "label",
}
NOT_TEXT = ("images", "videos", "audios")
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}  # where nothing else is said
SHAREGPT = {"messages": "conversations"}
SPEAKERS = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": CALL,
    "system_tag": "system",
}


def described(about: Mapping[str, Any]) -> Format:
    """The format of a data set as its description in dataset_info.json says; raises UserError."""
    formatting = about.get("formatting") or "alpaca"
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise UserError(f"formatting: must be alpaca, sharegpt or openai, not {short(formatting)}")
    given, tags = _texts(about, "columns"), _texts(about, "tags")
    for part in given:
        if part in NOT_TEXT:
            raise UserError(f"columns.{part}: align trains on text only")
        if part not in PARTS:
            raise UserError(f"columns.{part}: is no part that is known; there are {', '.join(PARTS)}")
    columns = (ALPACA if formatting == "alpaca" else SHAREGPT) | given
    ranked, marked = about.get("ranking") is True, "kto_tag" in given
    if ranked and not {"chosen", "rejected"} <= set(given):
        raise UserError("ranking: a data set with it names `chosen` and `rejected` among its columns")
    unread = ("response", "kto_tag") if ranked else ("chosen", "rejected")
    names = Names(
        **{
            **dict.fromkeys(PARTS.values(), ()),
            **{PARTS[part]: (name,) for part, name in columns.items() if part not in unread},
        },
        role=tags.get("role_tag", ""),
        content=tags.get("content_tag", ""),
        tags=TAGS | {tags[key]: role for key, role in SPEAKERS.items() if key in tags},
    )
    read = partial(preference if ranked else judged if marked else demonstration, names)
    return Format(
        NAME,
        "as dataset_info.json describes it",
        read,
        never,
        by_prompt(read) if marked and not ranked else None,
        names.columns(*(("best", "worst") if ranked else ("response", "label"))),
        settings=json.dumps(about, sort_keys=True),
    )


def _texts(about: Mapping[str, Any], key: str) -> dict[str, str]:
    found = about.get(key) or {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{key}: must be an object that holds names")
    return dict(found)
