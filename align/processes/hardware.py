"""What this machine has for a process: an NVIDIA device that torch cannot use, and a limit on memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
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
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found: list[int] = []
    for _, controllers, name in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        own = top / name.strip("/")
        for group in (own, *own.parents):
            with suppress(OSError, ValueError):  # there is none, or it is "max"
                found.append(int((group / file).read_text()))
            if group == top:
                break
    least = min(found, default=_NO_LIMIT)
    return least if least < _NO_LIMIT else None
