"""What docs/custom-data.md shows is what works."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from align.data.load import load
from align.errors import UserError
from align.recipe import Data, Source
from align.records import Demonstration, Prompt, Ranking

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "custom-data.md").read_text(encoding="utf-8")


def test_the_pages_records_load_as_its_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = dict(re.findall(r"```jsonl (\S+)\n(.*?)```", PAGE, re.DOTALL))
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    data = Data.model_validate(YAML(typ="safe").load(recipe)["data"])
    assert data.demonstrations and data.rankings and data.prompts
    demonstrations = load(Demonstration, data.demonstrations, "demonstrations")
    rankings = load(Ranking, data.rankings, "rankings")
    prompts = load(Prompt, data.prompts, "prompts")
    assert len(files) == 3
    assert [len(split.train) for split in (demonstrations, prompts)] == [2, 2]
    assert (len(rankings.train), len(rankings.held_out)) == (1, 1)


def test_the_pages_message_is_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = '{"prompt": "a", "responses": ["b", "c", "d", "e"], "ranks": [1, 2, 3, 4]}\n'
    lines = [good] * 9
    lines[2] = good.replace("ranks", "rank")
    lines[8] = good.replace(", 4]", "]")
    Path("mine.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(Ranking, Source(train=["mine.jsonl"]), "rankings")
    (shown,) = re.findall(r"^    (data\.rankings: .*?)\Z", PAGE, re.DOTALL | re.MULTILINE)
    for said, real in zip(shown.splitlines(), str(caught.value).splitlines(), strict=True):
        assert real.startswith(said.strip().removesuffix("…").strip()) or real.strip().startswith(
            said.strip().removesuffix(", …")
        )
