"""What docs/coming-from.md shows of other tools' files is what they are read as."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from align.data.formats import FORMATS, detect
from align.data.load import load
from align.recipe.data import Data
from align.records import Demonstration, Ranking

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```jsonl? (\S+)\n(.*?)```", PAGE, re.DOTALL))
RECIPES = re.findall(r"```yaml\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
NAMED = set(re.findall(r"\| (`[\w-]+`(?:, `[\w-]+`)*) \|$", PAGE, re.MULTILINE))


def shown(record: dict[str, Any]) -> str:
    prompt = record["prompt"]
    asked = prompt if isinstance(prompt, str) else " | ".join(message["content"] for message in prompt)
    answers = [record["response"]] if "response" in record else record["responses"]
    return f"{asked} → {' > '.join(answers)}".replace("\n", "\\n")


@pytest.mark.parametrize(("recipe", "lines"), RECIPES)
def test_the_pages_files_are_read_as_it_says(
    recipe: str, lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
    values = YAML(typ="safe").load(recipe)["data"]
    data = Data.model_validate({kind: source | {"held_out": 0.0} for kind, source in values.items()})
    found = []
    if data.rankings:
        found += list(load(Ranking, data.rankings, "rankings").train)
    if data.demonstrations:
        found += list(load(Demonstration, data.demonstrations, "demonstrations").train)
    assert [shown(record.to_dict()) for record in found] == lines.splitlines()


def test_every_file_of_the_page_is_in_a_recipe_and_its_format_in_a_table() -> None:
    names = {name for cell in NAMED for name in re.findall(r"`([\w-]+)`", cell)}
    assert names <= set(FORMATS)
    for name, text in FILES.items():
        assert sum(name in recipe for recipe, _ in RECIPES) or name == "greetings.json"
        if name.endswith(".jsonl"):
            assert detect(json.loads(text.splitlines()[0])).name in names
