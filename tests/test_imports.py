"""The import arrows: each room imports only from rooms beneath it, so that no circle can form."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, APP = ROOT / "align", ROOT / "labeling"

# From the top down; a room imports from itself and from what stands below it.
ROOMS = [
    {"__main__"},
    {"cli"},
    {"methods"},
    {"compare"},
    {"loop"},
    {"labeling.serve"},
    {"labeling.web"},
    {"labeling.figures"},
    {"labeling.store"},
    {"labeling.checker"},
    {"labeling.answers"},
    {"labeling.client", "labeling.companion", "labeling.guideline", "labeling.parts", "labeling.__init__"},
    {"labeling.retold"},
    {"labeling.catalogue"},
    {"labeling.language"},
    {"ppo", "serving"},
    {"stages"},
    {"evaluation", "plan", "safety"},
    {"rewards"},
    {"check", "sampling"},
    {"models"},
    {"data", "report"},
    {"run"},
    {"processes", "recipe", "objectives", "svg"},
    {"records", "stats", "seeds", "text"},
    {"messages"},
    {"values"},
    {"errors", "literals", "stage_table", "__init__"},
]
HEIGHT = {room: -i for i, rooms in enumerate(ROOMS) for room in rooms}
# These stay usable alone: plain data, numbers over labels, mathematics over tensors, what a draw depends on.
# Which pairs a ranking has is one idea, the loss's and every count's: objectives take it from stats.
ALONE = {
    "records": {"messages", "values"},
    "messages": {"literals", "values"},
    "values": {"errors", "literals"},
    "literals": set(),
    "objectives": {"stats"},
    "stats": set(),
    "seeds": set(),
    "text": set(),
    "errors": set(),
    "stage_table": set(),
    "__init__": set(),
}
# What the labeling app may use of align: no training, no models, no run folder. Of data, see below.
OF_ALIGN = {"records", "messages", "values", "errors", "recipe", "stats", "svg", "text", "data"}
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors"}
LIGHT = {"__main__", "cli", "recipe", "records", "errors", "report", "stage_table", "stats", "svg", "text"}
LIGHT |= {"__init__", "messages", "values", "literals"}
FILES = sorted(PACKAGE.rglob("*.py"))
APP_FILES = sorted(APP.rglob("*.py"))


def room_of(module: str) -> str:
    """`align.data.load` is in the room data, `labeling.web.app` in labeling.web; packages are __init__."""
    package, *parts = module.split(".")
    room = parts[0] if parts else "__init__"
    return room if package == "align" else f"{package}.{room}"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def own_room(path: Path) -> str:
    return room_of(module_of(path))


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room: write align.…"
            folder = ROOT / (node.module or "").replace(".", "/")
            for alias in node.names:
                whole = (folder / alias.name).is_dir() or (folder / f"{alias.name}.py").exists()
                yield f"{node.module}.{alias.name}" if whole else node.module or ""


def wrong_arrows(room: str, modules: Iterator[str]) -> list[str]:
    ours = {room_of(m) for m in modules if m.split(".")[0] in ("align", "labeling")} - {room}
    allowed = ALONE.get(room, {other for other in HEIGHT if HEIGHT[other] < HEIGHT[room]})
    if room.startswith("labeling."):
        allowed = OF_ALIGN | {other for other in allowed if other.startswith("labeling.")}
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


@pytest.mark.parametrize("path", [*FILES, *APP_FILES], ids=lambda p: str(p.relative_to(ROOT)))
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


def test_recipes_and_statistics_never_import_torch_not_even_later() -> None:
    rooms = {"recipe", "records", "messages", "values", "literals", "stats"}
    for path in (path for path in FILES if own_room(path) in rooms):
        modules = imported(ast.parse(path.read_text(encoding="utf-8")))
        assert {module.split(".")[0] for module in modules} & HEAVY == set()


def test_of_statistics_objectives_take_the_pairs_of_a_ranking_only() -> None:
    for path in (PACKAGE / "objectives").glob("*.py"):
        modules = set(imported(ast.parse(path.read_text(encoding="utf-8"))))
        assert {name for name in modules if name.startswith("align.stats")} <= {"align.stats.rankings"}


def circle(modules: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty where there is none."""
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = {
        module_of(path): set(imported(ast.parse(path.read_text(encoding="utf-8"))))
        for path in (*FILES, *APP_FILES)
    }
    graph = {name: needed & found.keys() - {name} for name, needed in found.items()}
    assert circle(graph) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


@pytest.mark.parametrize(
    ("room", "line", "wrong"),
    [
        ("data", "from align.models.base import BaseCheckpoint", ["models"]),
        ("run", "def f():\n    import align.stages.sft", ["stages"]),
        ("objectives", "from align.errors import UserError", ["errors"]),
        ("stats", "from align.records import Ranking", ["records"]),
        ("records", "from align import recipe", ["recipe"]),
        ("records", "from align.values import RecordError", []),
        ("values", "from align.records import Ranking", ["records"]),
        ("stages", "from align.sampling import sampler", []),
        ("errors", "from align import __version__", ["__init__"]),
        ("data", "def f():\n    from labeling.store.records import read_records", ["labeling.store"]),
        ("stages", "import labeling.client", ["labeling.client"]),
        ("loop", "from labeling.client import Client", []),
        ("labeling.store", "from labeling import web", ["labeling.web"]),
        ("labeling.figures", "from labeling.web.pages import page", ["labeling.web"]),
        ("labeling.web", "from labeling.store.labels import standing", []),
        ("labeling.web", "from align.run.folder import StageRun", ["run"]),
    ],
)
def test_a_wrong_arrow_is_seen(room: str, line: str, wrong: list[str]) -> None:
    assert wrong_arrows(room, imported(ast.parse(line))) == wrong


@pytest.mark.parametrize("path", [p for p in FILES if own_room(p) != "sampling"], ids=lambda p: p.name)
def test_the_engine_is_the_only_door_to_sampling(path: Path) -> None:
    behind = {f"align.sampling.{name}" for name in ("sampler", "paged", "vllm", "servers", "filters")}
    assert not behind & set(imported(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", APP_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_of_data_the_labeling_app_needs_files_and_formats_and_it_needs_no_torch(path: Path) -> None:
    modules = list(imported(ast.parse(path.read_text(encoding="utf-8"))))
    of_data = {module for module in modules if module.startswith("align.data")}
    doors = ("align.data.formats", "align.data.rows", "align.data.one_file")
    assert {m for m in of_data if not m.startswith(doors)} == set()
    assert {module.split(".")[0] for module in modules} & HEAVY == set()
