"""A LLaMA-Factory data folder is read as its dataset_info.json describes it."""

import json
from pathlib import Path
from typing import Any

import pytest

from align.data.load import load
from align.errors import UserError
from align.recipe.data import Source
from align.records import Demonstration, Ranking

TURNS = [
    {"speaker": "me", "says": "Hi"},
    {"speaker": "it", "says": "Hello."},
    {"speaker": "me", "says": "Sky?"},
]
TAGS = {"role_tag": "speaker", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"}
BLUE, GREEN = {"speaker": "it", "says": "Blue."}, {"speaker": "it", "says": "Green."}
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Sky?"},
]
FILES: dict[str, list[dict[str, Any]]] = {
    "pairs.json": [
        {"frage": "Sky?", "zu": "in Oslo", "gut": "Blue.", "schlecht": "Green.", "rolle": "Be brief."}
    ],
    "talks.json": [{"dialog": TURNS, "good": BLUE, "bad": GREEN}],
    "judged.json": [{"dialog": [*TURNS, BLUE], "ok": True}, {"dialog": [*TURNS, GREEN], "ok": False}],
    "plain.json": [{"instruction": "Sky?", "input": "", "output": "Blue."}],
}
INFO: dict[str, Any] = {
    "pairs": {
        "file_name": "pairs.json",
        "ranking": True,
        "columns": {
            "prompt": "frage",
            "query": "zu",
            "chosen": "gut",
            "rejected": "schlecht",
            "system": "rolle",
        },
    },
    "talks": {
        "file_name": "talks.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "dialog", "chosen": "good", "rejected": "bad"},
        "tags": TAGS,
    },
    "judged": {
        "file_name": "judged.json",
        "formatting": "sharegpt",
        "columns": {"messages": "dialog", "kto_tag": "ok"},
        "tags": TAGS,
    },
    "plain": {"file_name": "plain.json"},
    "hub": {"hf_hub_url": "some/thing", "subset": "en"},
    "script": {"script_url": "made"},
    "seen": {"file_name": "plain.json", "columns": {"images": "pictures"}},
    "gone": {"file_name": "gone.json"},
    "odd": {"file_name": "plain.json", "ranking": True},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in FILES.items():
        (tmp_path / name).write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO), encoding="utf-8")
    return tmp_path


def read(folder: Path, name: str | None, kind: type[Any] = Ranking, cache: Path | None = None) -> list[Any]:
    entry = {"path": str(folder / "dataset_info.json"), "subset": name}
    source = Source.model_validate({"train": entry, "held_out": 0.0})
    return [record.to_dict() for record in load(kind, source, "rankings", cache).train]


def test_columns_and_tags_are_as_described(folder: Path) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sky?\n\nin Oslo"}]
    assert read(folder, "pairs") == [{"prompt": asked, "responses": ["Blue.", "Green."], "ranks": [1, 2]}]
    ranked = {"prompt": TALK, "responses": ["Blue.", "Green."], "ranks": [1, 2]}
    assert read(folder, "talks") == [ranked]
    assert read(folder, "judged") == [ranked]
    assert read(folder, "judged", Demonstration) == [{"prompt": TALK, "response": "Blue."}]
    assert read(folder, "plain", Demonstration) == [{"prompt": "Sky?", "response": "Blue."}]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "name one of its data sets by `subset`: pairs, talks"),
        ("pair", "it has no pair; did you mean pairs?"),
        ("hub", "is on the Hub: write its id as the path: {path: some/thing, subset: en}"),
        ("script", "made by a script, which is never run"),
        ("seen", "columns.images: align trains on text only"),
        ("gone", "gone.json: no such file"),
        ("odd", "names `chosen` and `rejected` among its columns"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_write(folder: Path, name: str | None, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(folder, name)
    assert words in str(caught.value)


def test_a_changed_description_is_read_again(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (before,) = read(folder, "pairs", cache=cache)
    columns = INFO["pairs"]["columns"] | {"chosen": "schlecht", "rejected": "gut"}
    info = INFO | {"pairs": INFO["pairs"] | {"columns": columns}}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    (after,) = read(folder, "pairs", cache=cache)
    assert (before["responses"], after["responses"]) == (["Blue.", "Green."], ["Green.", "Blue."])


def test_a_dataset_info_that_datasets_wrote_is_another_file(tmp_path: Path) -> None:
    about = {
        "citation": "",
        "features": {"prompt": {"dtype": "string"}},
        "splits": {"train": {"name": "train"}},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(UserError, match="is no dataset_info.json of LLaMA-Factory"):
        read(tmp_path, "train")
