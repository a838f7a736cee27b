"""The import arrows: each room imports only from rooms beneath it, so that no circle can form."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "align"

# From the top down; a room imports from itself and from what stands below it.
ROOMS = [
    {"__main__"},
    {"cli"},
    {"cli_loop"},
    {"cli_parts"},
    {"doctor", "failures"},
    {"loop"},
    {"serving"},
    {"stages"},
    {"evaluation", "check"},
    {"rollouts"},
    {"models"},
    {"data", "report"},
    {"runtime"},
    {"recipe_file"},
    {"recipe_mistakes"},
    {"recipe", "yaml_text"},
    {"recipe_ppo", "recipe_labeling"},
    {"recipe_parts"},
    {"records", "objectives"},
    {"errors", "__init__"},
]
HEIGHT = {room: -i for i, rooms in enumerate(ROOMS) for room in rooms}
# These stay usable alone: plain data, and mathematics over tensors.
ALONE = {"records": {"errors"}, "objectives": set(), "errors": set(), "__init__": set()}
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors"}
LIGHT = {
    "__main__",
    "cli",
    "cli_loop",
    "cli_parts",
    "doctor",
    "failures",
    "recipe_file",
    "recipe_mistakes",
    "recipe",
    "recipe_ppo",
    "recipe_labeling",
}
LIGHT |= {"recipe_parts", "yaml_text", "records", "errors", "report", "__init__"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    """`align.data.load` is in the room data; `align` itself is __init__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def own_room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room: write align.…"
            if node.module == "align":
                yield from (
                    f"align.{alias.name}"
                    if (PACKAGE / alias.name).is_dir() or (PACKAGE / f"{alias.name}.py").exists()
                    else "align"
                    for alias in node.names
                )
            else:
                yield node.module or ""


def wrong_arrows(room: str, modules: Iterator[str]) -> list[str]:
    ours = {room_of(module) for module in modules if module.split(".")[0] == "align"} - {room}
    allowed = ALONE.get(room, {other for other in HEIGHT if HEIGHT[other] < HEIGHT[room]})
    return sorted(ours - allowed)


def at_import(tree: ast.Module) -> Iterator[str]:
    """Modules that are imported as soon as the file is, not when one of its functions runs."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(node)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = own_room(path)
    assert room in HEIGHT, f"say in this test where {room} stands"
    assert wrong_arrows(room, imported(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "path", [p for p in FILES if own_room(p) in LIGHT], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_the_command_line_and_recipes_start_without_heavy_libraries(path: Path) -> None:
    modules = at_import(ast.parse(path.read_text(encoding="utf-8")))
    assert {module.split(".")[0] for module in modules} & HEAVY == set()


def test_recipes_never_import_torch_not_even_later() -> None:
    for name in ("recipe.py", "recipe_file.py", "recipe_mistakes.py", "yaml_text.py", "records.py"):
        modules = imported(ast.parse((PACKAGE / name).read_text(encoding="utf-8")))
        assert {module.split(".")[0] for module in modules} & HEAVY == set()


@pytest.mark.parametrize(
    ("room", "line", "wrong"),
    [
        ("data", "from align.models.base import Base", ["models"]),
        ("runtime", "def f():\n    import align.stages.sft", ["stages"]),
        ("objectives", "from align.errors import UserError", ["errors"]),
        ("records", "from align import recipe", ["recipe"]),
        ("records", "from align.errors import UserError", []),
        ("stages", "from align.rollouts import hf", []),
        ("errors", "from align import __version__", ["__init__"]),
    ],
)
def test_a_wrong_arrow_is_seen(room: str, line: str, wrong: list[str]) -> None:
    assert wrong_arrows(room, imported(ast.parse(line))) == wrong


@pytest.mark.parametrize("path", [p for p in FILES if own_room(p) != "rollouts"], ids=lambda p: p.name)
def test_the_engine_is_the_only_door_to_sampling(path: Path) -> None:
    behind = {f"align.rollouts.{name}" for name in ("hf", "paged", "vllm", "narrow")}
    assert not behind & set(imported(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "labeling").rglob("*.py")), ids=lambda p: p.name)
def test_the_labeling_app_needs_records_recipes_files_and_formats_and_no_torch(path: Path) -> None:
    modules = list(imported(ast.parse(path.read_text(encoding="utf-8"))))
    ours = {module for module in modules if module.split(".")[0] == "align"}
    allowed = ("align.records", "align.errors", "align.recipe", "align.data.formats", "align.data.rows")
    assert {module for module in ours if not module.startswith(allowed)} == set()
    assert {module.split(".")[0] for module in modules} & HEAVY == set()
