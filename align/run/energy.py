"""What a stage's machine took from the mains, by the meters of its cards and processors."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

RAPL = Path("/sys/class/powercap")
# Of a server's busy core, where no meter can be read: data sheets give 4.4 (EPYC 7763: 280 W, 64 cores),
# 6.3 (Xeon 8480+: 350 W, 56) and 8.8 (EPYC 9354: 280 W, 32).
WATTS_A_CORE = 6.0
Meter = Callable[[], float]  # joules so far, from any beginning


class Energy:
    """Joules since the last call, by name in metrics.jsonl.

    `energy/gpu` are the cards that this machine's processes use, `energy/cpu` its whole processors (RAPL,
    which most systems let only root read). With neither, `energy/cpu_estimated` is this process's CPU time
    at 6 W a core. Memory, fans and losses are in none of them, nor are other machines.
    """

    def __init__(self, cards: Meter | None = None, rapl: Path = RAPL) -> None:
        self._meters = {"energy/gpu": cards} if cards else {}
        if processors := _processors(rapl):
            self._meters["energy/cpu"] = processors
        if not self._meters:
            self._meters["energy/cpu_estimated"] = lambda: WATTS_A_CORE * time.process_time()
        self._last = self._read()

    def __call__(self) -> dict[str, float]:
        """What was taken since the last call; a meter that has gone away is left out."""
        now = self._read()
        found = {name: joules - self._last[name] for name, joules in now.items()}
        self._last = now
        return {name: taken for name, taken in found.items() if math.isfinite(taken) and taken >= 0}

    def _read(self) -> dict[str, float]:
        return {name: _joules(meter) for name, meter in self._meters.items()}


def cards(count: int) -> Meter | None:
    """The meters of the first `count` cards that torch sees; None without them, or without `pynvml`."""
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        uuids = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(count)]
        handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        of = pynvml.nvmlDeviceGetTotalEnergyConsumption  # mJ since the driver was loaded; Volta and later
        sum(map(of, handles))
    except Exception:  # whatever a driver, a container or an old card answers: there is no meter then
        return None
    return (lambda: sum(map(of, handles)) / 1000) if handles else None


def on_this_machine() -> Energy:
    """The meters of this machine for one process, its node's first, to read."""
    import torch

    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Energy(cards(min(local, torch.cuda.device_count())))


def _processors(rapl: Path) -> Meter | None:
    """The packages' counters, in microjoules, which begin again at their range."""
    packages = [
        folder for folder in sorted(rapl.glob("intel-rapl:*")) if folder.name.count(":") == 1
    ]  # the parts of a package have a second colon
    try:
        ranges = [_number(folder / "max_energy_range_uj") for folder in packages]
        last = [_number(folder / "energy_uj") for folder in packages]
    except (OSError, ValueError):  # as root alone may read them
        return None
    if not packages:
        return None
    total = 0.0

    def read() -> float:
        nonlocal total, last
        now = [_number(folder / "energy_uj") for folder in packages]
        total += sum((new - old) % size for new, old, size in zip(now, last, ranges, strict=True)) / 1e6
        last = now
        return total

    return read


def _number(path: Path) -> int:
    return int(path.read_text())


def _joules(meter: Meter) -> float:
    try:
        return meter()
    except Exception:  # a card that fell off the bus ends no training here
        return math.nan
