"""The published data that lies beside the project, where it does: all of it is read, and its counts agree."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from align.data.formats import Format, LeftOut, Record, as_kind, detect, from_columns
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the published data is not on this machine")


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    with (
        gzip.open(DATA / name, "rt", encoding="utf-8")
        if name.endswith(".gz")
        else open(DATA / name, encoding="utf-8", newline="") as file
    ):
        if ".jsonl" in name:
            yield from map(json.loads, file)
        elif name.endswith(".csv"):
            yield from csv.DictReader(file)
        else:
            yield from json.load(file)


def read(name: str, format: Format | None = None, known_as: str = "") -> tuple[list[Any], list[RecordError]]:
    """All records and all errors of a file; without a format its columns must say `known_as`."""
    rows = list(rows_of(name))
    if format is None:
        assert {detect(row).name for row in rows} == {known_as}
        format = detect(rows[0])
    placed = iter([(str(i), row) for i, row in enumerate(rows)])
    records: list[Record] = []
    errors: list[RecordError] = []
    for _, row in format.gather(placed) if format.gather else placed:
        try:
            records += [found for found in format.read(row) if not isinstance(found, LeftOut)]
        except RecordError as error:
            errors.append(error)
    return records, errors


def pairs(rankings: list[Ranking]) -> int:
    """Comparisons: pairs of ranked responses that are not tied."""
    ranked = [[rank for rank in ranking.ranks if rank is not None] for ranking in rankings]
    return sum(a < b for ranks in ranked for i, a in enumerate(ranks) for b in ranks[:i] + ranks[i + 1 :])


def test_openassistants_validation_messages() -> None:
    rankings, errors = read("oasst1/validation-en.jsonl.gz", known_as="oasst-messages")
    assert (len(rankings), errors) == (416, [])
    sizes = Counter(len(ranking.responses) for ranking in rankings)
    assert sizes == {2: 136, 3: 266, 4: 13, 5: 1}
    assert sum(count for size, count in sizes.items() if size >= 3) == 280
    # Ranks of siblings are 0, 1, 2…: without ties, so every pair is a comparison.
    assert pairs(rankings) == 136 + 266 * 3 + 13 * 6 + 10
    best = [record for ranking in rankings for record in as_kind(ranking, Demonstration)]
    message = {
        row["text"]: row["rank"] for row in rows_of("oasst1/validation-en.jsonl.gz") if row["rank"] == 0
    }
    assert sum(record.response in message for record in best) >= 414  # in 2 the best was deleted


def test_openassistants_trees() -> None:
    rankings, errors = read("oasst1/en-100-trees.jsonl.gz", known_as="oasst-trees")
    assert errors == []
    assert Counter(len(r.responses) for r in rankings) == {2: 57, 3: 116, 4: 28, 5: 3, 6: 6, 8: 1, 9: 1}
    assert sum(None in ranking.ranks for ranking in rankings) == 1  # four answers of which three were ranked


def test_hh_rlhf() -> None:
    rankings, errors = read("hh-rlhf/harmless-base-test-first-1800.jsonl.gz", known_as="hh-rlhf")
    assert len(rankings) + len(errors) == 1800
    assert Counter(str(error).split(" (")[0] for error in errors) == {
        "`chosen` is empty": 4,
        "`rejected` differs from `chosen` before the last answer": 2,
    }
    rows = list(rows_of("hh-rlhf/harmless-base-test-first-1800.jsonl.gz"))
    endings = {row["chosen"].rsplit("\n\nAssistant:", 1)[-1].strip() for row in rows}
    assert all(ranking.ranks == (1, 2) and ranking.responses[0] in endings for ranking in rankings)
    assert all(ranking.prompt[0]["role"] == ranking.prompt[-1]["role"] == "user" for ranking in rankings)


def test_topical_chat() -> None:
    rankings, errors = read("topical-chat/rankings-k6.jsonl.gz", known_as="align")
    assert (len(rankings), errors) == (60, [])
    assert {len(ranking.responses) for ranking in rankings} == {6}


def test_fine_grained_feedback() -> None:
    rankings, errors = read("finegrained-rlhf/dev_feedback.json.gz", known_as="finegrained-rlhf")
    assert (len(rankings), len(errors)) == (478, 22)
    assert all("contradicts itself" in str(error) for error in errors)
    assert sum(set(ranking.ranks) == {1} for ranking in rankings) == 12  # all four tied
    # A consistent row gives back each of its six judgements.
    judged = {(row["question"], row["prediction 1"]): row["preference"] for row in rows_of(FINE_GRAINED)}
    for ranking in rankings:
        a, b, c, d = ranking.ranks
        signs = [
            0 if x == y else 1 if x < y else 2 for x, y in [(a, b), (a, c), (a, d), (b, c), (b, d), (c, d)]
        ]
        assert signs == judged[ranking.prompt, ranking.responses[0]]


FINE_GRAINED = "finegrained-rlhf/dev_feedback.json.gz"


def test_pandalm() -> None:
    rankings, errors = read("pandalm/testset-v1.json.gz", known_as="pandalm")
    assert len(rankings) + 3 * len(errors) == 999 * 3
    assert Counter(str(error).split("` ")[1] for error in errors) == {
        "is empty": 54,
        "must be text, not true": 6,  # a spreadsheet took the answer "True" for its own
    }
    assert Counter(ranking.labeler for ranking in rankings) == dict.fromkeys(
        ("annotator1", "annotator2", "annotator3"), 939
    )
    agree = {"12": 0, "13": 0, "23": 0}
    for i in range(0, len(rankings), 3):
        one, two, three = (ranking.ranks for ranking in rankings[i : i + 3])
        agree["12"] += one == two
        agree["13"] += one == three
        agree["23"] += two == three
    assert all(0.85 < count / 939 < 0.95 for count in agree.values()), agree


def test_data_without_a_format_are_read_by_their_columns() -> None:
    written, errors = read(
        "gsm8k/train-first-2000.jsonl.gz", from_columns({"prompt": "question", "response": "answer"})
    )
    assert (len(written), errors) == (2000, [])
    assert all(isinstance(record, Demonstration) and "#### " in record.response for record in written)
    for name, column, count in (
        ("xstest_prompts", "prompt", 450),
        ("advbench_behaviors", "Behavior", 520),
        ("strongreject_dataset", "forbidden_prompt", 313),
    ):
        asked, errors = read(f"safety/{name}.csv", from_columns({"prompt": column}))
        assert (len(asked), errors) == (count, [])
        assert all(isinstance(record, Prompt) for record in asked)


def test_self_instructs_seeds() -> None:
    written, errors = read("self-instruct/seed_tasks.jsonl", known_as="self-instruct")
    assert (len(written), errors) == (175, [])
