"""Two responses and a verdict: which one a number, a letter or a sign prefers differs by source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from align.data.formats.base import (
    Format,
    Record,
    Row,
    comparison,
    items,
    joined,
    label,
    list_of,
    listed,
    number,
    one_of,
    optional_number,
    part,
    short,
    text,
    unused,
)
from align.data.formats.conversations import compared, is_conversation, steerlm, turns
from align.values import RecordError

WINNERS = {"model_a": -1, "model_b": 1, "tie": 0, "both_bad": 0, "tie (bothbad)": 0, "bothbad": 0}
KAGGLE = ("model_a", "model_b", "tie")
ANNOTATOR = re.compile(r"annotator\d{1,2}")


def post_of(row: Row) -> str:
    """The prompt of Stiennon et al. (arXiv 2009.01325, appendix B) for a Reddit post or a news article."""
    info = part(row, "info")
    if isinstance(info, Mapping) and info.get("article") is not None:
        return f"Article: {text(row, 'info', 'article')}\n\nTL;DR:"
    post = text(row, "info", "post")
    lines = []
    for key, shown in (("subreddit", "SUBREDDIT: r/"), ("title", "TITLE: ")):
        if info.get(key) is not None:
            lines.append(shown + text(row, "info", key))
    return "\n\n".join([*lines, f"POST: {post}", "TL;DR:"])


def _summaries(row: Row) -> list[Record]:
    if len(items(row, "summaries")) != 2:
        raise RecordError("summaries", f"has {len(row['summaries'])} summaries, and `choice` is between 2")
    choice = one_of(row, (0, 1), "choice")
    pair = (text(row, "summaries", 0, "text"), text(row, "summaries", 1, "text"))
    names = ("summaries[0].text", "summaries[1].text")
    strength = optional_number(row, "extra", "confidence")
    labeler = label(row.get("worker"), "worker")
    verdict = 1 if choice else -1
    columns = {"strength": "extra.confidence", "labeler": "worker"}
    optional = {"strength": strength, "labeler": labeler}
    return [comparison(post_of(row), pair, verdict, "info", names, columns=columns, **optional)]


def _webgpt(row: Row) -> list[Record]:
    question = row.get("question")
    if isinstance(question, str) and question.startswith("{") and "full_text" in question:
        row = {
            **row,
            "question": listed(question, "question"),
        }  # an object where it is published, here of a table
    gap = number(row, "score_1") - number(row, "score_0")
    path = ("question",) if isinstance(row.get("question"), str) else ("question", "full_text")
    question = text(row, *path)
    pair = (text(row, "answer_0"), text(row, "answer_1"))
    names = ("answer_0", "answer_1")
    return [comparison(question, pair, gap, "question", names, strength=abs(gap) / 2)]


def _shp(row: Row) -> list[Record]:
    verdict = -1 if one_of(row, (0, 1), "labels") else 1
    a, b = (optional_number(row, f"score_{side}") for side in "AB")
    if a is not None and b is not None and (b - a) * verdict < 0:
        raise RecordError(
            "labels",
            f"is {short(row['labels'])}, and `score_A` ({a:g}) and `score_B` ({b:g}) say the opposite: "
            "1 is for A, 0 for B",
        )
    pair = (text(row, "human_ref_A"), text(row, "human_ref_B"))
    optional = {
        "strength": optional_number(row, "score_ratio"),
        "source": label(row.get("domain"), "domain"),
    }
    names = ("human_ref_A", "human_ref_B")
    columns = {"strength": "score_ratio", "source": "domain"}
    return [comparison(text(row, "history"), pair, verdict, "history", names, columns=columns, **optional)]


def _signed(row: Row, prompt: Any, names: tuple[str, str, str], verdict: str, source: str) -> list[Record]:
    """From -3, the first is much better, to 3, the second is."""
    value = number(row, verdict)
    if not -3 <= value <= 3:
        raise RecordError(verdict, f"must be from -3 to 3, not {short(row[verdict])}")
    pair = (text(row, names[1]), text(row, names[2]))
    given = label(row.get(source), source)
    return [comparison(prompt, pair, value, names[0], names[1:], strength=abs(value), source=given)]


def _helpsteer2(row: Row) -> list[Record]:
    names = ("prompt", "response_1", "response_2")
    return _signed(row, steerlm(row, "prompt"), names, "preference_strength", "source")


def _helpsteer3(row: Row) -> list[Record]:
    prompt: Any = text(row, "context") if isinstance(row.get("context"), str) else turns(row, "context")
    names = ("context", "response1", "response2")
    return _signed(row, prompt, names, "overall_preference", "domain")


def _arena(row: Row) -> list[Record]:
    winner = text(row, "winner")
    if winner.strip().lower() not in WINNERS:
        raise RecordError("winner", f"must be one of {', '.join(WINNERS)}, not {short(winner)}")
    names = ("conversation_a", "conversation_b")
    verdict = WINNERS[winner.strip().lower()]
    judge = label(row.get("judge"), "judge")
    talks = [turns(row, name) for name in names]
    turn = row.get("turn")
    if isinstance(turn, int) and 2 * turn < min(map(len, talks)) and talks[0][0]["role"] == "user":
        talks = [talk[: 2 * turn] for talk in talks]  # MT-bench: the verdict is on this turn's answer
    try:
        return [compared(talks[0], talks[1], verdict, names, labeler=judge)]
    except RecordError as error:
        if "before the last answer" not in error.message:
            raise
        message = f"{error.message}. Leave rows of several turns out by `on_bad_record: skip`"
        raise RecordError(error.field, message) from None


def _kaggle(row: Row) -> list[Record]:
    """Each cell holds the turns of one speaker; one of the three columns says 1."""
    said = {side: one_of(row, (0, 1), f"winner_{side}") for side in KAGGLE}
    if sum(said.values()) != 1:
        raise RecordError("winner_model_a", "and `winner_model_b`, `winner_tie`: one of the three must be 1")
    names = ("response_a", "response_b")
    talks = []
    for name in names:
        asked, answered = items(row, "prompt"), items(row, name)
        if len(asked) != len(answered):
            raise RecordError(name, f"has {len(answered)} turns, and `prompt` has {len(asked)}")
        turned = zip(
            ("user", "assistant") * len(asked), chain(*zip(asked, answered, strict=True)), strict=True
        )
        talks.append([{"role": role, "content": content} for role, content in turned])
    verdict = said["model_b"] - said["model_a"]
    return [compared(talks[0], talks[1], verdict, names)]


def _stack_exchange(row: Row) -> list[Record]:
    pair = (text(row, "response_j"), text(row, "response_k"))
    return [comparison(text(row, "question"), pair, -1, "question", ("response_j", "response_k"))]


def _pandalm(row: Row) -> list[Record]:
    """One ranking an annotator."""
    annotators = sorted(key for key in row if ANNOTATOR.fullmatch(key))
    if not annotators:
        raise RecordError("annotator1", "is missing")
    prompt = joined(text(row, "instruction"), row.get("input"), "input")
    pair = (text(row, "response1"), text(row, "response2"))
    names = ("response1", "response2")
    verdicts = {key: {0: 0, 1: -1, 2: 1}[one_of(row, (0, 1, 2), key)] for key in annotators}
    return [
        comparison(prompt, pair, verdict, "instruction", names, labeler=key)
        for key, verdict in verdicts.items()
    ]


def _has(*keys: str) -> Any:
    return lambda row: set(keys) <= set(row)


def _detect_arena(row: Row) -> bool:
    return "winner" in row and all(is_conversation(row.get(f"conversation_{side}")) for side in "ab")


PAIR_FORMATS = (
    Format(
        "summarize-from-feedback",
        "`info`, `summaries[2]`, `choice` (0 or 1): the worker is the labeler, the confidence the strength",
        _summaries,
        lambda row: {"info", "choice"} <= set(row) and list_of(row, "summaries", Mapping),
        columns={
            "info": "prompt",
            "summaries": "responses",
            "choice": "which is better",
            "worker": "labeler",
            "extra": "strength",
            **unused("batch split"),
        },
        lists=("info", "summaries", "extra"),
    ),
    Format(
        "webgpt",
        "`question`, `answer_0/1`, `score_0/1`: the higher score is better, equal scores are a tie",
        _webgpt,
        _has("question", "answer_0", "answer_1", "score_0", "score_1"),
        columns={
            "question": "prompt",
            **{f"answer_{i}": "response" for i in (0, 1)},
            **{f"score_{i}": "score" for i in (0, 1)},
            # What the answers quote, and question and answers once more as tokens.
            **unused("dataset quotes_0 quotes_1 tokens_0 tokens_1"),
        },
    ),
    Format(
        "shp",
        "`history`, `human_ref_A/B`, `labels` (1: A is better, 0: B): `score_ratio` is the strength",
        _shp,
        _has("history", "human_ref_A", "human_ref_B", "labels"),
        columns={
            "history": "prompt",
            "human_ref_A": "response",
            "human_ref_B": "response",
            "labels": "which is better",
            "score_A": "votes",
            "score_B": "votes",
            "score_ratio": "strength",
            "domain": "source",
            **unused("post_id upvote_ratio c_root_id_A c_root_id_B created_at_utc_A created_at_utc_B"),
            **unused("seconds_difference"),
        },
    ),
    Format(
        "helpsteer2",
        "`response_1/2`, `preference_strength` from -3 (1 is better) to 3 (2 is); 0 is a tie",
        _helpsteer2,
        _has("prompt", "response_1", "response_2", "preference_strength"),
        columns={
            "prompt": "prompt",
            "response_1": "response",
            "response_2": "response",
            "preference_strength": "which is better, strength",
            "source": "source",
            # Why the people preferred it, and what each of them said: the strength is from all of them.
            **unused("split preference_statement preference_elaboration three_most_similar_preferences"),
            **unused("all_preferences_unprocessed"),
        },
    ),
    Format(
        "helpsteer3",
        "`context`, `response1/2`, `overall_preference` from -3 (1 is better) to 3 (2 is); 0 is a tie",
        _helpsteer3,
        _has("context", "response1", "response2", "overall_preference"),
        columns={
            "context": "prompt",
            "response1": "response",
            "response2": "response",
            "overall_preference": "which is better, strength",
            "domain": "source",
            **unused("language individual_preference"),
        },
    ),
    Format(
        "arena",
        "`conversation_a/b`, `winner`: tie, both_bad and tie (bothbad) are ties; the judge is the labeler",
        _arena,
        _detect_arena,
        columns={
            "conversation_a": "prompt and response",
            "conversation_b": "prompt and response",
            "winner": "which is better",
            "judge": "labeler",
            "turn": "the turn that is judged",
            **unused("id question_id evaluation_session_id evaluation_order model_a model_b tstamp"),
            **unused(
                "timestamp anony language openai_moderation toxic_chat_tag is_code is_refusal dedup_tag"
            ),
            **unused("category_tag conv_metadata full_conversation conversation_id"),
        },
        lists=("conversation_a", "conversation_b"),
    ),
    Format(
        "arena-kaggle",
        "`prompt`, `response_a/b`: lists of turns; `winner_model_a`, `winner_model_b` or `winner_tie` is 1",
        _kaggle,
        _has("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
        columns={
            "prompt": "prompt",
            "response_a": "response",
            "response_b": "response",
            **{f"winner_{side}": "which is better" for side in KAGGLE},
            **unused("id model_a model_b"),
        },
        lists=("prompt", "response_a", "response_b"),
    ),
    Format(
        "stack-exchange-paired",
        "`question`, `response_j`, `response_k`: answer j had more votes",
        _stack_exchange,
        _has("question", "response_j", "response_k"),
        columns={
            "question": "prompt",
            "response_j": "best",
            "response_k": "worst",
            **unused("qid date metadata"),
        },
    ),
    Format(
        "pandalm",
        "`response1/2`, `annotator1/2/3` (1 or 2 is better, 0: a tie): one ranking an annotator",
        _pandalm,
        _has("instruction", "response1", "response2", "annotator1"),
        columns={
            "instruction": "prompt",
            "input": "prompt",
            "response1": "response",
            "response2": "response",
            **{f"annotator{number}": "which is better" for number in range(100)},
            **unused("idx motivation_app cmp_key"),
        },
    ),
)
