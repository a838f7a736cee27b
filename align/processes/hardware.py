"""An NVIDIA device that torch cannot use: never a reason to train on the CPU without a word."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from align.errors import UserError


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
