"""What a column holds by its name alone: a part of what was asked, or an answer."""

from __future__ import annotations

import re

from align.text import words_of_name

# Columns of these names mostly are a part of what was asked: without it a ranking teaches the wrong thing.
PROMPT_LIKE = frozenset(
    [
        *("prompt", "instruction", "instructions", "input", "question", "query"),
        *("system", "system_prompt", "system_message", "system_instruction", "system_instructions"),
        *("history", "chat_history", "conversation_history", "dialogue_history"),
        *("context", "context_messages", "messages", "conversation", "conversations", "dialogue", "dialog"),
        *("passage", "document", "article"),
        *("tools", "functions", "image", "images", "video", "videos", "audio", "audios"),
    ]
)
# And columns by these names are answers: what is chosen beside them may only be the letter of one.
_ANSWER_LIKE = re.compile(
    r"(response|answer|completion|output|reply|generation|candidate|summary)s?[ _-]?(\d{1,2}|[a-e])"
    r"|(responses|answers|completions|outputs|replies|generations|candidates|candidate_responses)"
)


def looks_like(column: str) -> str:
    """What a column's name says that it holds: "a part of the prompt", "an answer", or ""."""
    column = column.rpartition(".")[2]
    name = column.strip().lower()
    if "_".join(words_of_name(column)) in PROMPT_LIKE:
        return "a part of the prompt"
    return "an answer" if _ANSWER_LIKE.fullmatch(name) else ""
