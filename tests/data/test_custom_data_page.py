"""What docs/custom-data.md and docs/formats.md show is what works."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from align.data.formats import FORMATS
from align.data.load import load
from align.errors import UserError
from align.recipe.data import Data, Source
from align.records import Demonstration, Prompt, Ranking

DOCS = Path(__file__).resolve().parents[2] / "docs"
PLUG_IN = (DOCS / "custom-data.md").read_text(encoding="utf-8")
PAGE = PLUG_IN + (DOCS / "formats.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, re.DOTALL))
YAMLS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
RECIPES = [YAML(typ="safe").load(text)["data"] for text in YAMLS if text.startswith("data:")]
ENTRIES = [YAML(typ="safe").load(text) for text in YAMLS if text.startswith("- ")]


@pytest.fixture
def pages_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the page shows, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("pages_files")
def test_the_pages_records_load_as_its_recipe_says() -> None:
    (recipe,) = [recipe for recipe in RECIPES if "demonstrations" in recipe]
    data = Data.model_validate(recipe)
    assert data.demonstrations and data.rankings and data.prompts
    demonstrations = load(Demonstration, data.demonstrations, "demonstrations")
    rankings = load(Ranking, data.rankings, "rankings")
    prompts = load(Prompt, data.prompts, "prompts")
    assert {"demonstrations.jsonl", "rankings.jsonl", "prompts.jsonl"} <= FILES.keys()
    assert [len(split.train) for split in (demonstrations, prompts)] == [2, 2]
    assert (len(rankings.train), len(rankings.held_out)) == (1, 1)


@pytest.mark.usefixtures("pages_files")
def test_the_pages_conversation_with_a_tool_is_read_whole() -> None:
    source = Source.model_validate({"train": "weather.jsonl", "held_out": 0.0})
    (record,) = load(Demonstration, source, "demonstrations").train
    assert [message["role"] for message in record.prompt] == ["tools", "user", "assistant", "tool"]  # type: ignore[index]


OPEN, RAINING, LATE = "Is it open?", "Is it raining?", "Is it late?"
# What the page's entries give, written by hand.
SHAPES: dict[str, list[dict[str, Any]]] = {
    "pairs.csv": [
        {"prompt": OPEN, "responses": ["Yes, until six.", "No idea."], "ranks": [1, 2]},
        {
            "prompt": "List two fruits as JSON.",
            "responses": ['["apple", "pear"]', "Apples."],
            "ranks": [1, 2],
        },
    ],
    "verdicts.csv": [
        {"prompt": OPEN, "responses": ["Yes.", "No."], "ranks": [1, 2]},
        {"prompt": RAINING, "responses": ["Yes.", "No."], "ranks": [2, 1]},
        {"prompt": LATE, "responses": ["Yes.", "No."], "ranks": [1, 1]},
    ],
    "survey.csv": [
        {
            "prompt": OPEN,
            "responses": ["Yes, until six.", "Perhaps.", "No idea."],
            "ranks": [1, 2, None],
            "labeler": "ana",
        }
    ],
    "ranks.jsonl": [
        {"prompt": OPEN, "responses": ["Yes.", "No.", "Hm."], "ranks": [1, 3, 2]},
        {"prompt": RAINING, "responses": ["Yes.", "No."], "ranks": [1, 1]},
    ],
    "order.jsonl": [
        {"prompt": OPEN, "responses": ["No.", "Yes.", "Hm."], "ranks": [3, 1, 2]},
        {"prompt": LATE, "responses": ["No.", "Yes.", "Hm."], "ranks": [1, 1, 2]},
    ],
    "long.csv": [{"prompt": OPEN, "responses": ["Yes.", "No."], "ranks": [1, 2]}],
    "annotators.csv": [
        {"prompt": OPEN, "responses": ["Yes.", "No."], "ranks": [1, 2], "labeler": "ana"},
        {"prompt": OPEN, "responses": ["Yes.", "No."], "ranks": [1, 1], "labeler": "bea"},
    ],
    "talks.jsonl": [
        {
            "prompt": [{"role": "user", "content": "Open?"}],
            "responses": ["Yes.", "No."],
            "ranks": [1, 2],
        }
    ],
    "votes.jsonl": [
        {"prompt": "Do you sell rye?", "responses": ["No.", "Yes, daily.", "Yes."], "ranks": [3, 1, 1]}
    ],
    "ballots.jsonl": [{"prompt": "Is it warm?", "responses": ["Yes.", "No."], "ranks": [2, 1]}],
}


@pytest.mark.usefixtures("pages_files")
def test_the_pages_entries_read_its_files_as_a_person_would() -> None:
    entries = [entry for shape in ENTRIES for entry in shape]
    found = {}
    for entry in entries:
        source = Source.model_validate({"train": [entry], "held_out": 0.0})
        found[entry["path"]] = [record.to_dict() for record in load(Ranking, source, "rankings").train]
    assert found == SHAPES
    together = Data.model_validate({"rankings": {"train": entries, "held_out": 0.0}}).rankings
    assert together and len(load(Ranking, together, "rankings").train) == sum(map(len, SHAPES.values()))


def test_a_shape_takes_five_lines_of_data_and_three_of_recipe() -> None:
    for shape in ENTRIES:
        for entry in shape:
            assert len(FILES[entry["path"]].splitlines()) <= 5, entry
    assert [text for text in YAMLS if text.startswith("- ") and len(text.splitlines()) > 3] == []
    names = re.findall(r"^\*\*(.*?)\.\*\*", PLUG_IN, re.MULTILINE)
    assert len(names) == 8 and len(ENTRIES) == 9


@pytest.mark.usefixtures("pages_files")
def test_a_function_that_raises_is_told_with_file_line_and_error() -> None:
    Path("votes.jsonl").write_text(
        '{"question": "a", "votes": {"b": 1}}\n{"question": "a"}\n', encoding="utf-8"
    )
    source = Source.model_validate({"train": {"path": "votes.jsonl", "format": "bakery:votes"}})
    with pytest.raises(UserError) as caught:
        load(Ranking, source, "rankings")
    assert "votes.jsonl:2: the format function bakery:votes raised KeyError: 'votes'" in str(caught.value)
    assert "votes.jsonl:1: the format function bakery:votes gave a record whose `responses` has 1" in str(
        caught.value
    )


@pytest.mark.usefixtures("pages_files")
@pytest.mark.parametrize(
    ("name", "prompt", "responses", "ranks"),
    [
        ("sorted", "How do I boil an egg?", ("Eggs are eggs.", "Seven minutes.", "Boil it."), (3, 1, 2)),
        ("compared", "Be brief.\n\nIs it open?", ("Perhaps.", "Until six."), (2, 1)),
    ],
)
def test_the_pages_exports_are_read_as_their_entries_say(
    name: str, prompt: str, responses: tuple[str, ...], ranks: tuple[int, ...]
) -> None:
    data = Data.model_validate(YAML(typ="safe").load(FILES[f"{name}.yaml"])["data"])
    assert data.rankings
    assert [*load(Ranking, data.rankings, "rankings").train] == [
        Ranking(prompt, responses, ranks, labeler="7")
    ]


def test_the_page_names_every_format() -> None:
    assert [name for name in FORMATS if f"`{name}`" not in PLUG_IN] == []


def test_the_pages_table_is_the_list_of_formats() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows == [(format.name, format.about) for format in FORMATS.values()]


def test_the_pages_message_is_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = '{"prompt": "a", "responses": ["b", "c", "d", "e"], "ranks": [1, 2, 3, 4]}\n'
    lines = [good] * 9
    lines[2] = good.replace("ranks", "rank")
    lines[8] = good.replace(", 4]", "]")
    Path("mine.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(Ranking, Source.model_validate({"train": "mine.jsonl"}), "rankings")
    (shown,) = re.findall(r"^    (data\.rankings: .*?)\n(?:\n|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    for said, real in zip(shown.splitlines(), str(caught.value).splitlines(), strict=True):
        assert real.startswith(said.strip().removesuffix("…").strip()) or real.strip().startswith(
            said.strip().removesuffix(", …")
        )
