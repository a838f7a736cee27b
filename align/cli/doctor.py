"""`align doctor`: what is installed, what the machine has, and what would have to be added."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.console import Console
from rich.text import Text

from align import __version__

DISTRIBUTION = "align-rlhf"
SOURCE = Path(__file__).resolve().parents[2] / "pyproject.toml"
LITTLE_SPACE_GIB = 5  # a base of a billion parameters and a run beside it


@dataclass(frozen=True)
class Check:
    """One library: the versions that align wants, and the one that is there."""

    name: str
    wanted: str
    found: str | None
    good: bool


@dataclass(frozen=True)
class DoctorLine:
    """One line of the report; `good` is None where nothing is judged."""

    label: str
    text: str
    good: bool | None = None


def main() -> int:
    """Prints the report; returns 0 when everything that align itself needs is there, else 2."""
    console = Console(highlight=False)
    console.print(Text(f"align {__version__} · Python {platform.python_version()} · {platform.platform()}"))
    wanted = requirements()
    core = [check(requirement) for requirement in wanted.pop("", [])]
    whole = bool(core) and all(c.good for c in core)
    parts = {
        "Libraries": [_library(c) for c in core],
        "Devices": list(devices()),
        "Disk": list(disks()),
        "Extras": [extra(name, [check(r) for r in rs]) for name, rs in wanted.items()],
    }
    for title, lines in parts.items():
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            width = max(len(line.label) for line in lines)
            for line in lines:
                mark, style = {True: ("ok", "green"), False: ("!!", "bold red"), None: ("  ", "")}[line.good]
                text = Text.assemble("  ", (mark, style), f"  {line.label:{width}}  {line.text}")
                console.print(text, soft_wrap=True)
    console.print()
    if whole:
        console.print(Text("Ready: everything that the three stages need is here.", style="green"))
    elif not core:
        console.print(Text(f"align is not installed; in its source folder: {install('')}", style="red"))
    else:
        console.print(
            Text(f"Not ready; this adds what is missing: {install('')}", style="red"), soft_wrap=True
        )
    return 0 if whole else 2


def requirements(source: Path = SOURCE) -> dict[str, list[Requirement]]:
    """What pyproject.toml wants, by extra; the core's are under "". Only what this machine needs.

    Read from the source tree where there is one, else from the installed distribution; empty without both.
    """
    if source.is_file():
        project = tomllib.loads(source.read_text(encoding="utf-8"))["project"]
        lists = {"": project.get("dependencies", []), **project.get("optional-dependencies", {})}
        found = {name: [Requirement(line) for line in lines] for name, lines in lists.items()}
    else:
        try:
            distribution = metadata.distribution(DISTRIBUTION)
        except metadata.PackageNotFoundError:
            return {}
        every = [Requirement(line) for line in distribution.requires or []]
        extras = distribution.metadata.get_all("Provides-Extra") or []
        found = {"": every, **{name: [r for r in every if not _applies(r, "")] for name in extras}}
    return {
        name: [r for r in rs if r.name != DISTRIBUTION and _applies(r, name)] for name, rs in found.items()
    }


def check(requirement: Requirement, version: Callable[[str], str] = metadata.version) -> Check:
    """Compares a requirement with what is installed."""
    wanted = str(requirement.specifier)
    try:
        found = version(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(requirement.name, wanted, None, good=False)
    good = requirement.specifier.contains(found, prereleases=True)
    return Check(requirement.name, wanted, found, good)


def extra(name: str, checks: list[Check]) -> DoctorLine:
    """What of an extra is missing, with the line that installs it."""
    bad = [f"{c.name} {c.found} (wants {c.wanted})" if c.found else c.name for c in checks if not c.good]
    if not bad:
        return DoctorLine(name, "complete")
    return DoctorLine(name, f"missing {', '.join(bad)}: {install(name)}")


def install(extra_name: str, source: Path = SOURCE) -> str:
    """The pip line that adds an extra, or the core."""
    part = f"[{extra_name}]" if extra_name else ""
    where = f"-e '{source.parent}{part}'" if source.is_file() else f"'{DISTRIBUTION}{part}'"
    return f"{sys.executable} -m pip install {where}"


def devices() -> Iterator[DoctorLine]:
    """CPU, memory, GPUs and bfloat16, as torch sees them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = _memory_gib()
    cpu = f"{cores} cores" + (f", {memory:.1f} GiB memory" if memory else "")
    try:
        import torch
    except ModuleNotFoundError:
        yield DoctorLine("CPU", cpu)
        yield DoctorLine("GPU", "unknown: torch is not installed", good=False)
        return
    except (ImportError, OSError) as error:  # a torch whose libraries do not fit the machine
        yield DoctorLine("CPU", cpu)
        yield DoctorLine("GPU", f"unknown: torch is installed and cannot be imported: {error}", good=False)
        return
    yield DoctorLine("CPU", f"{cpu}, torch uses {torch.get_num_threads()} of them at once")
    yield from _accelerators(torch)


def disks() -> Iterator[DoctorLine]:
    """Free space where runs and downloaded models go."""
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    for label, folder in (("runs", Path.cwd()), ("models", cache)):
        place = folder
        while not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free / 2**30
        little = "" if free >= LITTLE_SPACE_GIB else "; little for a run"
        yield DoctorLine(label, f"{free:.1f} GiB free in {folder}{little}", good=free >= LITTLE_SPACE_GIB)


def _accelerators(torch: Any) -> Iterator[DoctorLine]:
    count = torch.cuda.device_count()
    for i in range(count):
        properties = torch.cuda.get_device_properties(i)
        yield DoctorLine(f"GPU {i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB memory")
    if count:
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        yield DoctorLine("bfloat16", "used on the GPU" if bf16 else "not in this GPU; float32 is used")
        return
    from align.processes.hardware import unusable

    if why := unusable(torch=torch):
        yield DoctorLine("GPU", why, good=False)
    elif torch.backends.mps.is_available():
        yield DoctorLine("GPU", "Apple GPU (mps)")
    else:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        yield DoctorLine("GPU", f"none that torch can use (torch {torch.__version__} is {built})")
    yield DoctorLine("bfloat16", "needs a CUDA GPU; float32 is used")


def _library(found: Check) -> DoctorLine:
    if found.found is None:
        return DoctorLine(found.name, f"missing; wants {found.wanted or 'any version'}", good=False)
    text = found.found if found.good else f"{found.found}, but align wants {found.wanted}"
    return DoctorLine(found.name, text, good=found.good)


def _applies(requirement: Requirement, extra_name: str) -> bool:
    """Whether a requirement's marker holds on this machine, with an extra chosen."""
    if requirement.marker is None:
        return True
    return requirement.marker.evaluate({"extra": extra_name})


def _memory_gib() -> float | None:
    """The machine's memory, or the limit of a container or a job where that is less; None: it is not told."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    return min(total, _limit() or total) / 2**30


def _limit() -> int | None:
    try:
        from align.processes.hardware import memory_limit
    except (ImportError, OSError):  # a torch that is missing or broken, which is told elsewhere
        return None
    return memory_limit()
