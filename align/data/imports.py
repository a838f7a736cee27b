"""A function that a recipe names: found, and its errors told without frames of align."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from align.errors import UserError


def load(name: str) -> Any:
    """What "my_package.my_module:function" or "path/my_module.py:function" names.

    A module is looked for where Python finds packages, then in the working directory; a file's module
    may import what lies beside it. Raises whatever the import raises.
    """
    module, _, attribute = name.rpartition(":")
    module = module.strip()
    found = _from_file(Path(module)) if module.endswith(".py") else _module(module)
    for part in attribute.strip().split("."):
        found = getattr(found, part)
    return found


def load_judge(name: str, key: str = "") -> Callable[..., Any]:
    """A person's function of prompts and responses; UserError where it cannot be loaded or called so.

    `key`: what messages begin with, such as "ppo.rewards: ".
    """
    try:
        found = load(name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{key}the function {name} cannot be loaded: {last_line(error)}. A module is "
            "looked for next to the recipe, in the working directory, and where Python finds packages"
        ) from error
    if not callable(found):
        raise UserError(f"{key}{name} is a {type(found).__name__}, not a function of prompts and responses")
    try:
        takes = inspect.signature(found)
    except ValueError:  # some functions in C do not tell
        return found
    try:
        takes.bind([], [])
    except TypeError as error:
        raise UserError(
            f"{key}{name}{takes} cannot be called with prompts and responses ({error}): it gets two lists"
        ) from error
    return found


def digest(name: str, found: Any) -> str:
    """A sha256 over the files that a loaded function stands in: its own, and the module that names it."""
    code = inspect.unwrap(found) if callable(found) else found
    if not (inspect.isroutine(code) or inspect.isclass(code)):
        code = type(code)
    module = name.rpartition(":")[0].strip()
    module = Path(module).stem if module.endswith(".py") else module
    files = {getattr(sys.modules.get(part), "__file__", None) for part in (module, code.__module__)}
    hashed = hashlib.sha256()
    for file in sorted({Path(file) for file in files if file}):
        hashed.update(hashlib.sha256(file.read_bytes()).digest())
    return hashed.hexdigest()


def local_files(module: str) -> list[Path]:
    """The files of a loaded module, and of what it imports from beside it or below, and they in turn."""
    found: dict[str, Path] = {}
    waiting = [module]
    folder = None
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        path = Path(file).resolve() if file else None
        if name in found or path is None or path.suffix != ".py":
            continue
        folder = folder or path.parent
        if path.is_relative_to(folder):
            found[name] = path
            package = getattr(sys.modules[name], "__package__", None) or ""
            waiting += _imported(path.read_bytes(), package)
    return sorted(set(found.values()))


def _imported(source: bytes, package: str) -> Iterator[str]:
    """The names of modules that a source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def last_line(error: BaseException) -> str:
    """The last line of the traceback, without what was noted on the error."""
    lines = traceback.TracebackException(type(error), error, None).format_exception_only()
    named = [line for line in lines if line.startswith(type(error).__name__)] or list(lines)
    return " ".join("".join(named[:1]).split())[:300]


def place(error: BaseException) -> str:
    """Where an error was raised: "my_module.py, line 3"; empty where there is no traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def _from_file(path: Path) -> Any:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    found = importlib.import_module(path.stem)
    if Path(found.__file__ or "").resolve() != path.resolve():
        raise ImportError(f"{path.stem} is also the name of {found.__file__}: give the file another name")
    return found


def _module(module: str) -> Any:
    here = str(Path.cwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if here in sys.path or not module.startswith(error.name or "\0"):
            raise
        sys.path.append(here)
        try:
            importlib.invalidate_caches()
            return importlib.import_module(module)
        except ModuleNotFoundError:
            sys.path.remove(here)
            raise
