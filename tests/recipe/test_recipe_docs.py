"""docs/recipes.md says what is true; `python tests/recipe/test_recipe_docs.py` renews its table of fields."""

import json
import re
import shlex
from pathlib import Path

import pytest

from align.errors import UserError
from align.recipe.load import load_recipe, origins, values
from align.recipe.mistakes import expected, leaves, recipe_schema, schema_at

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
FIELDS = re.compile(r"(<!-- fields[^\n]*-->\n)(.*?)(<!-- end of fields -->)", re.DOTALL)


def table() -> str:
    """A table for each section: key, what it may be, default, meaning."""
    lines: list[str] = []
    section = ""
    for path in leaves():
        *above, key = map(str, path)
        if above[0] != section:
            section = above[0]
            about = recipe_schema()["$defs"][recipe_schema()["properties"][section]["$ref"].rsplit("/", 1)[1]]
            lines += ["", f"### `{section}`", "", about["description"], ""]
            lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
        schema = schema_at(path) or {}
        default = f"`{json.dumps(schema['default'])}`" if "default" in schema else ""
        name = ".".join([*above[1:], key])
        lines.append(f"| `{name}` | {expected(schema)} | {default} | {schema['description']} |")
        if path == ("data", "cache"):
            lines += entries("Entry", "An entry of `train` or `held_out`, for which a path alone may stand:")
            lines += entries(
                "Columns", "`columns` of an entry ([custom-data.md](custom-data.md) has examples):"
            )
            lines += entries("Verdict", "`verdict` of `columns`, for which a column alone may stand:")
            lines += entries("MessageKeys", "`messages` of `columns`:")
        if path == ("ppo", "checkpoint_every"):
            lines += entries("Reward", "An entry of `ppo.rewards`, with one of run, function and url:")
        if path == ("labeling", "upload_limit"):
            lines += entries("Check", "An entry of `labeling.checks`, with one of run, function and a rule:")
    return "\n".join([*lines, "", ""])


def entries(section: str, title: str) -> list[str]:
    """The keys of an entry of a list of sections."""
    about = recipe_schema()["$defs"][section]
    lines = ["", title, ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, schema in about["properties"].items():
        default = f"`{json.dumps(schema['default'])}`" if "default" in schema else ""
        lines.append(f"| `{key}` | {expected(schema)} | {default} | {schema['description']} |")
    return lines


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page(), re.DOTALL)


def test_the_table_of_fields_is_that_of_the_code() -> None:
    found = FIELDS.search(page())
    assert found and found[2] == table(), "run: python tests/recipe/test_recipe_docs.py"


def test_the_recipes_of_the_page_load(tmp_path: Path) -> None:
    recipes = [block for block in blocks("yaml") if "base:" in block]
    assert len(recipes) == 2
    assert len(recipes[0].splitlines()) < 15
    for text in recipes:
        (tmp_path / "recipe.yaml").write_text(text)
        load_recipe(tmp_path / "recipe.yaml")


def test_the_sources_of_the_page_load(tmp_path: Path) -> None:
    (text,) = [block for block in blocks("yaml") if block.startswith("data:")]
    (tmp_path / "recipe.yaml").write_text(f"base: b\nrun: {{name: r}}\n{text}")
    rankings = load_recipe(tmp_path / "recipe.yaml").data.rankings
    assert rankings and [entry.path.removeprefix(f"{tmp_path}/") for entry in rankings.train] == [
        "ours.jsonl.gz",
        "votes/*.csv",
        "Anthropic/hh-rlhf",
    ]
    assert (rankings.train[1].weight, rankings.on_bad_record) == (2.0, "skip")


def test_the_overrides_of_the_page_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(blocks("yaml")[0])
    overrides = [shlex.split(found)[0] for found in re.findall(r"--set ([^ `]+='[^']*'|[^ `]+)", page())]
    good = [override for override in overrides if "=" in override and not override.startswith("lora.r=")]
    assert len(good) == 5
    load_recipe(tmp_path / "recipe.yaml", good)


def test_what_the_page_shows_is_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("recipe.yaml")
    path.write_text(blocks("yaml")[0])
    shown, refused = blocks("text")
    resolved, came_from = (f(path, ["ppo.kl_coef=0.1"]) for f in (load_recipe, origins))
    for line in shown.splitlines():
        key, value, origin = line.split()
        assert (str(values(resolved)[key]), came_from[key]) == (value, origin)
    path.write_text(blocks("yaml")[0] + 'sft:\n  learning_rate: "1e-4"\nppo:\n  kl_coeff: 0.1\n')
    with pytest.raises(UserError) as caught:
        load_recipe(path, ["lora.r=8"])
    assert refused == f"error: {caught.value}\n"


if __name__ == "__main__":
    PAGE.write_text(FIELDS.sub(lambda found: found[1] + table() + found[3], page()), encoding="utf-8")
