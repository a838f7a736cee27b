"""The memory that each process of a sharded base needs of the machine while it loads its part.

    python benchmarks/loading.py --base FOLDER [--processes 2] [--dtype bfloat16]

Processes on CPUs (gloo), FSDP2. "slices" is what stages do; "whole" is what they do where a base cannot be
read in slices, but all processes at once, as align did before. Counted is what is a process's alone (RssAnon,
every millisecond, above what there was before): pages of mapped files are the machine's to drop.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import torch

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--measure", choices=("slices", "whole"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    files = sum(path.stat().st_size for path in Path(arguments.base).glob("*.safetensors"))
    print(f"{arguments.base}: {files / MIB:,.0f} MiB in files, {arguments.dtype}")
    for how in ("slices", "whole"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        count = str(arguments.processes)
        processes = [
            subprocess.Popen(
                [sys.executable, *sys.argv, "--measure", how],
                env={
                    **os.environ,
                    **{"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"},
                    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"},
                    **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    **{"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count},
                },
            )
            for rank in range(arguments.processes)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            sys.exit(1)


def measure(arguments: argparse.Namespace) -> None:
    """In one of the processes."""
    from transformers.utils import logging

    from align.data.template import Template
    from align.models.base import find_base
    from align.processes import distributed, sharding
    from align.recipe.sections import Base
    from align.stages import frame

    logging.disable_progress_bar()
    accel = distributed.accelerator(600)
    base = find_base(Base.model_validate({"name": arguments.base, "dtype": arguments.dtype}))
    before, peak, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if arguments.measure == "slices":
        model = frame.Setup(accel, base, Template(base.tokenizer, "plain")).load_model()
    else:
        model = base.load_model(torch.device("cpu"))
        sharding.cut(frame._layers(model), accel)
    done.set()
    watcher.join()
    kept = (anonymous() - before) / MIB
    print(f"{arguments.measure}, process {accel.process_index}: {peak[0] / MIB:,.0f} MiB, {kept:,.0f} kept")
    del model


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
