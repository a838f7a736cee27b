"""K responses of a prompt with scores or ranks: UltraFeedback, Nectar, summaries' axes, FineGrainedRLHF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, permutations
from typing import Any

from align.data.formats.base import (
    Format,
    LeftOut,
    Placed,
    Record,
    Row,
    as_number,
    has_texts,
    items,
    label,
    list_of,
    number,
    one_of,
    part,
    ranking,
    ranks_of,
    short,
    text,
    unused,
)
from align.data.formats.conversations import transcript
from align.data.formats.pairs import post_of
from align.values import RecordError

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
LETTERS = (1, 2, 3, 4)  # FineGrainedRLHF counts its predictions from 1


def _ultrafeedback(row: Row) -> list[Record | LeftOut]:
    """Ranked by the mean of the aspects' ratings, or by overall_score where one response has no ratings.

    overall_score is the second choice: in the published data some 1s were read as 10s, the ratings are sound.
    """
    count = len(items(row, "completions"))
    responses = [text(row, "completions", i, "response") for i in range(count)]
    scores = [_rated(row["completions"][i], f"completions[{i}].annotations") for i in range(count)]
    if None in scores:
        scores = [_overall(row["completions"][i], f"completions[{i}].overall_score") for i in range(count)]
    if count and all(score is None for score in scores):
        raise RecordError("completions", "has neither ratings nor an overall_score that is a number")
    if count < 2:
        return [LeftOut("fewer than two completions")]
    names = [f"completions[{i}].response" for i in range(count)]
    source = label(row.get("source"), "source")
    return [
        ranking(text(row, "instruction"), responses, ranks_of(scores), "instruction", names, source=source)
    ]


def _rated(completion: Mapping[str, Any], field: str) -> float | None:
    notes = completion.get("annotations")
    notes = notes if isinstance(notes, Mapping) else {}
    ratings = []
    for aspect in ASPECTS:
        found = notes.get(aspect)
        rating = _or_none(
            found.get("Rating") if isinstance(found, Mapping) else None, f"{field}.{aspect}.Rating"
        )
        if rating is not None:
            ratings.append(rating)
    return sum(ratings) / len(ratings) if ratings else None


def _overall(completion: Mapping[str, Any], field: str) -> float | None:
    return _or_none(completion.get("overall_score"), field)


def _or_none(value: Any, field: str) -> float | None:
    return None if value in (None, "", "N/A") else as_number(value, field)


def _nectar(row: Row) -> list[Record | LeftOut]:
    conversation = transcript(row, "prompt")
    if len(conversation) > 1 and conversation[-1] == {"role": "assistant", "content": ""}:
        conversation.pop()
    places = range(len(items(row, "answers")))
    answers = [text(row, "answers", i, "answer") for i in places]
    ranks = [_whole(number(row, "answers", i, "rank"), f"answers[{i}].rank") for i in places]
    if len(answers) < 2:
        return [LeftOut("fewer than two answers")]
    return [ranking(conversation, answers, ranks, "prompt", [f"answers[{i}].answer" for i in places])]


def _whole(value: float, field: str) -> int:
    if value < 1 or value != int(value):
        raise RecordError(field, f"must be a whole number from 1, the best, up, not {short(value)}")
    return int(value)


def _axis(row: Row) -> list[Record | LeftOut]:
    """What one worker rated of one post, after `_by_post_and_worker`; one summary alone is no ranking."""
    if "summary" in row:
        _axis_score(row, "summary")
        return [LeftOut("a summary that is the only one its worker rated of this post")]
    places = range(len(items(row, "summaries")))
    scores = [_axis_score(row, "summaries", i) for i in places]
    if sum(score is not None for score in scores) < 2:
        return [LeftOut("summaries of which fewer than two have an overall rating")]
    names = [f"summaries[{i}].text" for i in places]
    responses = [text(row, "summaries", i, "text") for i in places]
    labeler = label(row.get("worker"), "worker")
    return [ranking(post_of(row), responses, ranks_of(scores), "info", names, labeler=labeler)]


def _axis_score(row: Row, *path: str | int) -> float | None:
    """The overall rating, more is better; None where there is none."""
    text(row, *path, "text")
    at = (*path, "axes", "overall")
    return None if part(row, *at) is None else number(row, *at)


def _by_post_and_worker(rows: Iterator[Placed]) -> Iterator[Placed]:
    """The summaries of a post that one worker rated, in one row.

    Holds the file, which is not sorted so: the published one has 15,000 rows.
    """
    groups: dict[tuple[str, str], list[Placed]] = {}
    for place, row in rows:
        info, worker = row.get("info"), row.get("worker")
        post = info.get("id") if isinstance(info, Mapping) else None
        if isinstance(post, str) and isinstance(worker, str):
            groups.setdefault((post, worker), []).append((place, row))
        else:
            yield place, row
    for group in groups.values():
        place, first = group[0]
        if len(group) == 1:
            yield place, first
            continue
        summaries = [row.get("summary") for _, row in group]
        yield place, {"info": first["info"], "worker": first["worker"], "summaries": summaries}


def _fine_grained(row: Row) -> list[Record]:
    """Six judgements of four answers as one weak order; raises RecordError that names what is circular."""
    if len(items(row, "preference")) != 6:
        raise RecordError("preference", "must hold six judgements: of answers 12, 13, 14, 23, 24 and 34")
    sign: dict[tuple[int, int], int] = {}
    for i, (a, b) in enumerate(combinations(LETTERS, 2)):
        said = one_of(row, (0, 1, 2), "preference", i)
        sign[a, b] = {0: 0, 1: 1, 2: -1}[said]
        sign[b, a] = -sign[a, b]
    for a, b, c in permutations(LETTERS, 3):
        if sign[a, b] >= 0 and sign[b, c] >= 0 and sign[a, c] < 0:
            steps = ((a, b), (b, c), (c, a))
            words = ", ".join(f"{x} {'beats' if sign[x, y] else 'ties with'} {y}" for x, y in steps)
            raise RecordError("preference", f"contradicts itself: {words}")
    worse = [-sum(sign[other, a] > 0 for other in LETTERS if other != a) for a in LETTERS]
    names = [f"prediction {a}" for a in LETTERS]
    answers = [text(row, name) for name in names]
    return [ranking(text(row, "question"), answers, ranks_of(worse), "question", names)]


def _detect_axis(row: Row) -> bool:
    return "info" in row and isinstance(row.get("summary"), Mapping)


def _detect_fine_grained(row: Row) -> bool:
    return isinstance(row.get("preference"), (list, tuple)) and has_texts(
        row, "question", "prediction 1", "prediction 4"
    )


def _self_rated(row: Row) -> bool:
    return "instruction" in row and list_of(row, "completions", Mapping) and "prompt" not in row


LIST_FORMATS = (
    Format(
        "ultrafeedback",
        "`instruction`, `completions[]`: ranked by the mean of the ratings, more is better; N/A is left out",
        _ultrafeedback,
        _self_rated,
        columns={
            "instruction": "prompt",
            "completions": "responses, ratings",
            "source": "source",
            **unused("models correct_answers incorrect_answers"),
        },
        lists=("completions",),
    ),
    Format(
        "nectar",
        "`prompt` (a transcript), `answers[]` with `rank`: 1 is best",
        _nectar,
        lambda row: has_texts(row, "prompt") and list_of(row, "answers", Mapping),
        columns={
            "prompt": "prompt",
            "answers": "responses, ranks",
            **unused("turns num_responses source good_natured"),
        },
        lists=("answers",),
    ),
    Format(
        "summarize-axis",
        "`info`, `summary.axes.overall`: the summaries of a post that one worker rated, more is better",
        _axis,
        _detect_axis,
        _by_post_and_worker,
        columns={
            "info": "prompt",
            "summary": "response, rating",
            "worker": "labeler",
            **unused("batch split"),
        },
        lists=("info", "summary"),
    ),
    Format(
        "finegrained-rlhf",
        "`prediction 1` to `4`, six judgements in `preference`: ranks with ties; a contradiction is an error",
        _fine_grained,
        _detect_fine_grained,
        columns={
            "question": "prompt",
            **{f"prediction {number}": "response" for number in LETTERS},
            "preference": "judgements",
            # What the writers saw, and wrote themselves; the passages are long, and no part of the question.
            **unused("passages gold feedback"),
        },
        lists=("preference",),
    ),
)
