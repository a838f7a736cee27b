"""What docs/custom-data.md and docs/formats.md show is what works."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from align.data.formats import FORMATS
from align.data.load import load
from align.errors import UserError
from align.recipe.sections import Data, Source
from align.records import Demonstration, Prompt, Ranking

DOCS = Path(__file__).resolve().parents[2] / "docs"
PLUG_IN = (DOCS / "custom-data.md").read_text(encoding="utf-8")
PAGE = PLUG_IN + (DOCS / "formats.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, re.DOTALL))
RECIPES = [YAML(typ="safe").load(text)["data"] for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


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
    assert sum(name.endswith("s.jsonl") for name in FILES) == 4
    assert [len(split.train) for split in (demonstrations, prompts)] == [2, 2]
    assert (len(rankings.train), len(rankings.held_out)) == (1, 1)


@pytest.mark.usefixtures("pages_files")
def test_the_pages_conversation_with_a_tool_is_read_whole() -> None:
    source = Source.model_validate({"train": "weather.jsonl", "held_out": 0.0})
    (record,) = load(Demonstration, source, "demonstrations").train
    assert [message["role"] for message in record.prompt] == ["tools", "user", "assistant", "tool"]  # type: ignore[index]


@pytest.mark.usefixtures("pages_files")
def test_the_pages_mapping_and_function_read_its_files() -> None:
    (recipe,) = [recipe for recipe in RECIPES if "demonstrations" not in recipe]
    data = Data.model_validate(recipe)
    assert data.rankings
    assert [record.to_dict() for record in load(Ranking, data.rankings, "rankings").train] == [
        {
            "prompt": "Is it open?",
            "responses": ["Yes, until six.", "Perhaps.", "No idea."],
            "ranks": [1, 2, None],
            "labeler": "ana",
        },
        {"prompt": "Do you sell rye?", "responses": ["No.", "Yes, daily.", "Yes."], "ranks": [3, 1, 1]},
    ]


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


def test_plugging_in_takes_less_than_a_page() -> None:
    assert len(PLUG_IN.splitlines()) <= 65
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
