"""Other tools' files: no prompt is made up, judged answers become what is wanted, columns are told."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from align.data.formats import FORMATS, UNUSED, Judged, LeftOut, Record, as_kind, detect
from align.data.load import load
from align.errors import UserError
from align.recipe.data import Source
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "data"
SAMPLES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))["rows"]
    for path in sorted(Path(__file__).with_name("samples").glob("*.json"))
}
KNOWN = [name for name in SAMPLES if FORMATS[name].columns is not None]


class Watched(Mapping[str, Any]):
    """A row that notes which of its columns are read."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row, self.read = row, set[str]()

    def __getitem__(self, name: str) -> Any:
        if name in self.row:
            self.read.add(name)
        return self.row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)

    def __contains__(self, name: object) -> bool:
        return name in self.row

    def __or__(self, more: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.row | more


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_format_reads_is_what_it_says_it_reads(name: str) -> None:
    columns = FORMATS[name].columns or {}
    for row in SAMPLES[name]:
        watched = Watched(row)
        assert list(FORMATS[name].read(watched))
        assert sorted(name for name in watched.read if columns.get(name, UNUSED) == UNUSED) == []


def read(path: Path, kind: type[Any], **entry: Any) -> list[dict[str, Any]]:
    source = Source.model_validate({"train": {"path": str(path), **entry}, "held_out": 0.0})
    return [record.to_dict() for record in load(kind, source, "rankings").train]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


WEATHER = {"role": "system", "content": "You are a weather bot for Oslo."}
TOMORROW = [user("What is today's weather?"), said("Rain."), user("And tomorrow?")]
TOOLS = '[{"type": "function", "function": {"name": "get_weather"}}]'
PAIRS = {
    "llamafactory.jsonl": [("Translate to French.\n\nGood morning", "Sure! Here it is: Bonjour")],
    "lf_alpaca_pref.json": [
        ("Translate to French.\n\nGood morning", "Sure! Here it is: Bonjour"),
        ("Which is heavier?\n\niron or feathers, 1 kg each", "They weigh the same."),
    ],
    "orca.jsonl": [("Is a whale a fish?", "No, a whale is a mammal.")],
    "axolotl.jsonl": [
        ([{"role": "system", "content": "Be brief."}, user("Is it open?")], "It is open until six.")
    ],
    "swift.jsonl": [([user("Open?")], "Yes, until six.")],
}


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
@pytest.mark.parametrize("name", PAIRS)
def test_a_prompt_is_read_from_its_columns(name: str) -> None:
    records = read(CASES / name, Ranking)
    assert [(record["prompt"], record["responses"][0]) for record in records] == PAIRS[name]
    assert all(record["ranks"] == [1, 2] for record in records)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
def test_system_prompt_earlier_turns_and_tools_are_part_of_the_prompt() -> None:
    (record,) = read(CASES / "lf_sys.json", Demonstration)
    assert record == {"prompt": [WEATHER, *TOMORROW], "response": "Sunny."}
    (record,) = read(CASES / "sg_sys.json", Demonstration)
    tools = {"role": "tools", "content": TOOLS}
    assert record == {"prompt": [tools, WEATHER, user("And tomorrow?")], "response": "Sunny."}


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"n": "1", "utterance": "Is it open?", "chosen": "It is.", "rejected": "It is not."},
        {"query": "Is it open?", "chosen": "It is.", "rejected": "It is not."},
    ],
)
def test_two_texts_without_a_prompt_are_refused_with_the_columns_there_are(row: dict[str, Any]) -> None:
    with pytest.raises(RecordError) as caught:
        list(detect(row).read(row))
    assert "has no `prompt`" in str(caught.value)
    for name in set(row) - {"chosen", "rejected", "n"}:
        assert f"columns: {{prompt: {name}, chosen: chosen, rejected: rejected}}" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"instruction": "a", "question": "b", "chosen": "c", "rejected": "d"}, []),
        ({"prompt": "a", "instruction": "b", "chosen": "c", "rejected": "d"}, ["trl-preference"]),
    ],
)
def test_two_columns_that_could_be_the_prompt_are_not_put_together(
    row: dict[str, Any], names: list[str]
) -> None:
    assert [format.name for format in FORMATS.values() if format.detect(row)] == names
    for name in names:
        assert "instruction" not in (FORMATS[name].columns or {})  # so it is told as left aside


UNPAIRED = [
    {"prompt": "Sky?", "completion": "Blue.", "label": True},
    {"prompt": "Sea?", "completion": "Wet.", "label": True},
    {"prompt": "Sun?", "completion": "Cold.", "label": False},
    {"prompt": "Sky?", "completion": "Green.", "label": False},
    {"prompt": "Sky?", "completion": "Azure.", "label": True},
    {"prompt": "Sky?", "completion": "Blue.", "label": True},
    {"prompt": "Sea?", "completion": "Salty.", "label": True},
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_prompts_good_answers_stand_over_its_bad_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "kto.jsonl", UNPAIRED)
    sky = {"prompt": "Sky?", "responses": ["Blue.", "Azure.", "Green."], "ranks": [1, 1, 2]}
    assert read(path, Ranking) == [sky]
    assert [(record["prompt"], record["response"]) for record in read(path, Demonstration)] == [
        ("Sky?", "Blue."),
        ("Sky?", "Azure."),
        ("Sky?", "Blue."),
        ("Sea?", "Wet."),
        ("Sea?", "Salty."),
    ]
    assert [record["prompt"] for record in read(path, Prompt)] == ["Sky?", "Sea?", "Sun?"]


@pytest.mark.parametrize(
    ("good", "bad", "kind", "reasons"),
    [
        (["a"], [], Ranking, ["a prompt whose answers are all judged good: there is nothing to compare"]),
        ([], ["a"], Ranking, ["a prompt whose answers are all judged bad: there is nothing to compare"]),
        ([], ["a"], Demonstration, ["an answer judged bad (label: false), which is no demonstration"]),
        (["a", "b"], ["a", "c"], Ranking, ["an answer judged good in one row and bad in another"]),
        (["a"], ["a"], Demonstration, ["an answer judged good in one row and bad in another"]),
    ],
)
def test_what_a_judgement_cannot_be_is_left_out_with_its_reason(
    good: list[str], bad: list[str], kind: type[Any], reasons: list[str]
) -> None:
    found = list(as_kind(Judged("Sky?", tuple(good), tuple(bad)), kind))
    assert [part.reason for part in found if isinstance(part, LeftOut)] == reasons
    assert all(part.prompt == "Sky?" for part in found if not isinstance(part, LeftOut))


@pytest.mark.parametrize("label", [False, 0, "false", "FALSE", "bad", "rejected"])
def test_what_is_judged_bad_is_no_demonstration_under_any_word(label: Any, tmp_path: Path) -> None:
    rows = [{"query": "Sky?", "response": "Blue.", "label": not label if isinstance(label, bool) else "good"}]
    path = written(tmp_path / "kto.jsonl", [*rows, {"query": "Sky?", "response": "Green.", "label": label}])
    assert read(path, Demonstration) == [{"prompt": "Sky?", "response": "Blue."}]


def test_a_table_holds_messages_and_earlier_turns_as_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    fields = ["conversations", "chosen", "rejected"]
    row = [
        [{"from": "human", "value": "Sky?"}],
        {"from": "gpt", "value": "Blue."},
        {"from": "gpt", "value": "Red."},
    ]
    for write in (json.dumps, repr):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([fields, [write(cell) for cell in row]])
        assert read(path, Ranking) == [
            {"prompt": [user("Sky?")], "responses": ["Blue.", "Red."], "ranks": [1, 2]}
        ]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = ["And tomorrow?", "Sunny.", '[["And today?", "Rain."]]']
        csv.writer(file).writerows([["instruction", "output", "history"], rows])
    (record,) = read(path, Demonstration)
    assert record["prompt"] == [user("And today?"), said("Rain."), user("And tomorrow?")]


def test_a_wrong_judgement_is_told_at_its_own_line(tmp_path: Path) -> None:
    path = written(tmp_path / "kto.jsonl", [*UNPAIRED, UNPAIRED[0] | {"label": "perhaps"}])
    with pytest.raises(UserError, match=r"kto.jsonl:8: `label` must be true or false"):
        read(path, Ranking)


def records_of(name: str, row: dict[str, Any]) -> list[Record | LeftOut]:
    return list(FORMATS[name].read(row))


def test_a_conversation_beside_its_prompt_must_begin_with_it() -> None:
    talk = {"chosen": [user("Sky?"), said("Blue.")], "rejected": [user("Sky?"), said("Red.")]}
    (plain,) = records_of("trl-preference", talk)
    assert records_of("trl-preference", {"prompt": " Sky?\n", **talk}) == [plain]
    assert records_of("trl-preference", {"prompt": [user("Sky?")], **talk}) == [plain]
    with pytest.raises(RecordError, match="both would be the prompt"):
        records_of("trl-preference", {"prompt": [user("Sea?")], **talk})


def test_questions_with_answers_are_demonstrations_only_if_the_format_is_named(tmp_path: Path) -> None:
    row = {"question": "Sea?", "answer": "Wet."}
    path = written(tmp_path / "qa.jsonl", [row])
    assert read(path, Demonstration, format="question-answer") == [{"prompt": "Sea?", "response": "Wet."}]
    with pytest.raises(UserError, match="no known format has these columns"):
        detect(row)
