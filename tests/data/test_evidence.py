"""What labelers are judged by: nothing of what is held out, known orders, and places on the screen."""

from __future__ import annotations

import json

from align.data.evidence import answer, of_databases
from align.data.split import side
from align.recipe.data import Entry, Source
from align.records import Ranking, prompt_key


def rows(count: int) -> list[dict[str, object]]:
    return [
        {"prompt": f"p {i}", "responses": ["a\u2028", "b"], "ranks": [1, 2], "labeler": "ann"}
        for i in range(count)
    ]


def test_what_is_held_out_is_no_evidence() -> None:
    source = Source.model_validate(
        {"train": [{"labels": "here.db"}, {"path": "file.jsonl"}], "held_out": 0.5}
    )
    asked: list[Entry] = []

    def read(entry: Entry) -> bytes:
        asked.append(entry)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(100)).encode()

    hashes = {i: prompt_key(f"p {i}") for i in range(100)}
    trains = {i for i, where in hashes.items() if side(where, 0.5) == "train"}
    assert 30 < len(trains) < 70
    found = [one.prompt for one in of_databases(source, set(), read)]
    assert found == [int(hashes[i][:16], 16) for i in sorted(trains)]
    assert [entry.path for entry in asked] == ["here.db"], "a file's rankings are those that train"
    first = min(trains)
    less = [one.prompt for one in of_databases(source, {int(hashes[first][:16], 16)}, read)]
    assert less == found[1:], "also where a file names what is held out"


def test_a_ranking_as_an_answer() -> None:
    ranking = Ranking.from_dict(
        {"prompt": "p", "responses": ["aa", "b ", "b"], "ranks": [2, 1, None], "shown_order": [2, 0, 1]}
    )
    found = answer(ranking)
    assert found.labeler is None, "a known order"
    assert found.shown == (1, 2, 0) and found.lengths == (2, 2, 1)
    assert found.responses[1] == found.responses[2] != found.responses[0]
