"""The labeling app's import arrows: pages on figures on the database, and plain data below them all."""

import ast
from pathlib import Path

import pytest

import labeling

PACKAGE = Path(labeling.__file__).parent
HEIGHT = {"web": 3, "figures": 2, "store": 1}  # what starts and calls the app lies above, plain data below
ABOVE = {"serve"}
BELOW = {"agreement", "answers", "client", "companion", "guideline", "sway"}


def room(module: str) -> str:
    return module.removeprefix("labeling").strip(".").split(".")[0]


def height(name: str) -> int:
    assert name in HEIGHT or name in ABOVE or name in BELOW, f"say in this test where {name} stands"
    return HEIGHT.get(name, 4 if name in ABOVE else 0)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_also_inside_functions(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    rooms = {room(module) for module in found if module.startswith("labeling")} - {own, ""}
    assert [other for other in sorted(rooms) if height(other) and height(other) >= height(own)] == []
