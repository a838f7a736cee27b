"""What this machine has for a process: an NVIDIA device that torch cannot use, and a limit on memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from align.errors import UserError

_NO_LIMIT = 2**60  # version 1 writes a number near 2**63


def check_gpu(environ: Mapping[str, str] = os.environ, root: Path = Path("/"), torch: Any = torch) -> None:
    """Raise UserError where this machine has an NVIDIA device and torch sees none.

    Whoever hides all devices (CUDA_VISIBLE_DEVICES is empty or -1) or asks accelerate for the CPU
    (ACCELERATE_USE_CPU) means the CPU.
    """
    hidden = environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")
    asked = environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")
    if not hidden and not asked and (why := unusable(root, torch)):
        raise UserError(f"{why}. To train on the CPU all the same: CUDA_VISIBLE_DEVICES= align …")


def unusable(root: Path = Path("/"), torch: Any = torch) -> str | None:
    """Why torch cannot use the NVIDIA devices that are there; None where it can, or where there is none."""
    found = sorted(p.name for p in (root / "dev").glob("nvidia[0-9]*"))
    if not found or torch.cuda.is_available():
        return None
    driver = _driver(root)
    there = f"this machine has NVIDIA devices ({', '.join(found)}; driver {driver or 'unknown'})"
    if torch.version.cuda is None:
        return (
            f"{there}, and torch {torch.__version__} is built without CUDA: install the build of torch for "
            "CUDA (https://pytorch.org/get-started/locally)"
        )
    return (
        f"{there}, and torch {torch.__version__}, built for CUDA {torch.version.cuda}, cannot use them: "
        f"install a driver that supports CUDA {torch.version.cuda} (nvidia-smi names the newest that yours "
        "does), or a build of torch for an older CUDA; in a container, start it with --gpus all"
    )


def gpu_memory(device: torch.device) -> int:
    """Bytes that a GPU has in all, whether free or not; 0 for a CPU."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0


def _driver(root: Path) -> str | None:
    """The kernel driver's version, as /proc/driver/nvidia/version has it."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    known = re.search(r"Kernel Module.*?(\d+\.\d+(?:\.\d+)?)", text)
    return known[1] if known else None


def memory_limit(root: Path = Path("/")) -> int | None:
    """The least limit in bytes of the control groups that this process is in, as Slurm and systemd set it.

    A job's group lies below the root, and any group above it may be narrower. None where nothing limits it.
    """
    return min((limit for _, limit in _limits(root)), default=None)


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that the control groups of this process let it and its neighbours in them have yet.

    Each limit is set against what its own group has taken, and the least counts. Pages of files do not count
    as taken, as they are given up; those of shared memory do. None where nothing limits it.
    """
    left: list[int] = []
    for group, limit in _limits(root):
        taken = numbers(group / "memory.stat")
        # Version 1 says what the groups below have taken too as total_…; version 2 always counts them.
        kinds = (("anon", "shmem"), ("total_rss", "total_shmem"))["total_rss" in taken]
        left.append(limit - sum(taken.get(kind, 0) for kind in kinds))
    return min(left, default=None)


def numbers(path: Path) -> Mapping[str, int]:
    """Numbers by name, of a file that has one on each line; nothing where it cannot be read."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _limits(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process's control groups, and of those above them, that limit memory; in bytes."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, name in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        own = top / name.strip("/")
        for group in (own, *own.parents):
            with suppress(OSError, ValueError):  # there is none, or it is "max"
                if (limit := int((group / file).read_text())) < _NO_LIMIT:
                    yield group, limit
            if group == top:
                break
