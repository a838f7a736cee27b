"""OpenAssistant's message trees, nested or as flat messages: a ranking where sibling answers are ranked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

from align.data.formats.base import (
    Format,
    LeftOut,
    Placed,
    Record,
    Row,
    items,
    number,
    part,
    ranking,
    short,
    text,
    unused,
)
from align.data.formats.conversations import ROLES, Turns
from align.values import RecordError

TreeRow = tuple[str, Row]  # where the message stands in its row, and the message
Replies = Callable[[str, Row], list[TreeRow]]
# What a message has besides; `labels` and `emojis` are people's marks of single messages, no order of them.
KNOWN = unused(
    "user_id created_date lang review_count synthetic model_name detoxify emojis labels tree_state"
)


def _rankings(root: TreeRow, replies: Replies) -> Iterator[Record | LeftOut]:
    """In the tree's order; what was deleted or failed its review is left out with all that answers it."""
    pending: list[tuple[TreeRow, Turns]] = [(root, [])]  # a list, not recursion: a tree may be deep
    while pending:
        (at, message), before = pending.pop()
        if _gone(message):
            yield LeftOut("a message that was deleted or failed its review, with all that answers it")
            continue
        history = [*before, {"role": _role(at, message), "content": _part(text, at, message, "text")}]
        children = replies(at, message)
        standing = [(where, child) for where, child in children if not _gone(child)]
        answers = [(where, child) for where, child in standing if _role(where, child) == "assistant"]
        ranks = [_rank(where, child) for where, child in answers]
        if history[-1]["role"] == "user":
            if sum(rank is not None for rank in ranks) >= 2:
                responses = [_part(text, where, child, "text") for where, child in answers]
                names = [f"{where}.text" for where, _ in answers]
                yield ranking(history, responses, ranks, f"conversation up to {at}", names)
            else:
                many = {0: "no answer", 1: "a single answer"}.get(len(answers), "answers that nobody ranked")
                yield LeftOut(f"a question with {many}")
        elif not before and not children:
            yield LeftOut("an answer without a question, which nobody answered either")
        pending += [(child, history) for child in reversed(children)]


def _gone(message: Row) -> bool:
    return message.get("deleted") is True or message.get("review_result") is False


def _part(read: Callable[..., Any], at: str, message: Row, key: str) -> Any:
    try:
        return read(message, key)
    except RecordError as error:
        raise RecordError(f"{at}.{error.field}", error.message) from None


def _role(at: str, message: Row) -> str:
    role = _part(text, at, message, "role")
    if role not in ROLES:
        raise RecordError(f"{at}.role", f"must be prompter or assistant, not {short(role)}")
    return ROLES[role]


def _rank(at: str, message: Row) -> int | None:
    """OpenAssistant counts from 0, the best; records count from 1."""
    if message.get("rank") is None:
        return None
    value = _part(number, at, message, "rank")
    if value < 0 or value != int(value):
        raise RecordError(
            f"{at}.rank", f"must be a whole number from 0, the best, up, not {short(message['rank'])}"
        )
    return int(value) + 1


def _nested_replies(at: str, message: Row) -> list[TreeRow]:
    value = message.get("replies")
    if value is None:
        return []
    replies = _part(items, at, message, "replies")
    for i, reply in enumerate(replies):
        if not isinstance(reply, Mapping):
            raise RecordError(f"{at}.replies[{i}]", f"must be a message, not {short(reply)}")
    return [(f"{at}.replies[{i}]", reply) for i, reply in enumerate(replies)]


def _nested(row: Row) -> Iterator[Record | LeftOut]:
    root = row if "replies" in row and "text" in row else part(row, "prompt")
    if not isinstance(root, Mapping):
        raise RecordError("prompt", f"must be the first message with its replies, not {short(root)}")
    return _rankings(("prompt", root), _nested_replies)


def _detect_nested(row: Row) -> bool:
    root = row if "replies" in row else row.get("prompt")
    return isinstance(root, Mapping) and {"text", "role", "replies"} <= set(root)


def _flat(row: Row) -> Iterator[Record | LeftOut]:
    """A whole tree's messages, after `_by_tree`; a message whose parent is not there has no conversation."""
    if row.get("again") is True:
        raise RecordError(
            "message_tree_id", "comes back after another tree's messages: sort the file by this column"
        )
    messages = row["messages"] if isinstance(row.get("messages"), (list, tuple)) else [row]
    roots: list[TreeRow] = []
    replies: dict[str, list[TreeRow]] = {}
    seen: set[str] = set()
    for message in messages:
        if not isinstance(message, Mapping):
            raise RecordError("messages", f"must hold messages, not {short(message)}")
        text(message, "message_tree_id")  # without it nothing says what belongs together
        name = text(message, "message_id")
        at = f"message {name[:40]!r}"
        if name in seen:
            raise RecordError(f"{at}.message_id", "appears twice in its tree")
        seen.add(name)
        if message.get("parent_id") is None:
            roots.append((at, message))
        else:
            replies.setdefault(_part(text, at, message, "parent_id"), []).append((at, message))
    for root in roots:
        yield from _rankings(root, lambda at, message: replies.get(message["message_id"], []))
    for parent in replies.keys() - seen:
        yield from [LeftOut("a message whose parent is not in the file, with all that answers it")] * len(
            replies[parent]
        )
    if not roots and replies.keys() <= seen:
        raise RecordError("parent_id", "goes round in a circle: none of the tree's messages is the first")


def _by_tree(rows: Iterator[Placed]) -> Iterator[Placed]:
    """The messages of a tree in one row, told by its first message's place; they must follow each other."""
    finished: set[str] = set()
    for tree, group in groupby(rows, key=lambda placed: placed[1].get("message_tree_id")):
        if not isinstance(tree, str):
            yield from group  # the reader says what is missing
            continue
        placed = list(group)
        messages = [message for _, message in placed]
        yield placed[0][0], {"message_tree_id": tree, "messages": messages, "again": tree in finished}
        finished.add(tree)


def _detect_flat(row: Row) -> bool:
    return {"message_id", "parent_id", "text", "role"} <= set(row) and "replies" not in row


TREE_FORMATS = (
    Format(
        "oasst-trees",
        "oasst1/2 trees, nested `replies[]`: ranked sibling answers (0 is best) with the talk before them",
        _nested,
        _detect_nested,
        columns={
            "prompt": "conversations, responses, ranks",
            **dict.fromkeys(("text", "role", "replies"), "conversations, responses, ranks"),  # of a bare tree
            **dict.fromkeys(("deleted", "review_result"), "whether it counts"),
            **unused("message_id message_tree_id parent_id rank"),
            **KNOWN,
        },
    ),
    Format(
        "oasst-messages",
        "oasst1/2 as flat messages with `parent_id`, the messages of a tree in consecutive rows",
        _flat,
        _detect_flat,
        _by_tree,
        {
            "text": "conversations and responses",
            "role": "who speaks",
            "rank": "rank",
            "parent_id": "what it answers",
            "message_id": "what answers it",
            "message_tree_id": "its tree",
            **dict.fromkeys(("deleted", "review_result"), "whether it counts"),
            **KNOWN,
        },
    ),
)
