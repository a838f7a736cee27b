"""Several processes of one run, forked from one that has imported everything: seconds instead of minutes.

`python ranks.py` reads commands from stdin, a JSON object a line, and answers each with another. It
stands for a launcher (torchrun, say) in tests of what processes do together.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# What accelerate's launcher says of a configuration. `make oracles` puts DeepSpeed into a folder of its own.
DEEPSPEED = Path(os.environ.get("ALIGN_DEEPSPEED", Path(sys.prefix) / "deepspeed"))
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO2, ZERO3 = (
    {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage,
        "PYTHONPATH": str(DEEPSPEED),
    }
    for stage in "23"
)
needs_deepspeed = pytest.mark.skipif(
    not (DEEPSPEED / "deepspeed").is_dir(), reason=f"DeepSpeed is not in {DEEPSPEED} (make oracles)"
)


@dataclass
class Ended:
    """How the processes ended, rank by rank; a code below 0 is a signal's."""

    codes: list[int]
    output: list[str]
    seconds: float


@dataclass
class Ranks:
    """The process that forks; `run` is a launcher's work."""

    process: subprocess.Popen[str]

    def run(
        self,
        *arguments: str | Path,
        processes: int = 2,
        at: tuple[str, int, str] | None = None,
        do: dict[int, str] | None = None,
        limit: float = 240,
        after: float = 60,
        **environment: str,
    ) -> Ended:
        """Run `align ARGUMENTS` in each of the processes, or "call", "module:function" and what it takes.

        at: (function as module:name, how many calls of it, "before" or "after"); there the ranks of `do`
        get a signal: {1: "SIGKILL"}. A process that runs longer than `limit` seconds is killed, and so
        is one that runs on for `after` seconds when another has failed.
        """
        command = {
            "arguments": list(map(str, arguments)),
            "processes": processes,
            "at": at,
            "do": {str(rank): name for rank, name in (do or {}).items()},
            "limit": limit,
            "after": after,
            "environment": environment,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))


@contextmanager
def started() -> Iterator[Ranks]:
    """A process that has imported the stages and forks as it is told."""
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, __file__],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Ranks(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _serve() -> None:
    from align.cli.app import _quiet_libraries
    from align.stage_table import STAGES

    _quiet_libraries()
    for stage in STAGES:
        importlib.import_module(STAGES[stage].module)
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


def _fork(command: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    count = command["processes"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        pids = []
        for rank in range(count):
            pid = os.fork()
            if not pid:
                _be(rank, port, command, Path(folder))
            pids.append(pid)
        codes = _wait(pids, command["limit"], command["after"])
        output = [(Path(folder) / str(rank)).read_text() for rank in range(count)]
    return {"codes": codes, "output": output, "seconds": time.monotonic() - started}


def _wait(pids: list[int], limit: float, after: float) -> list[int]:
    codes: dict[int, int] = {}
    end = time.monotonic() + limit
    while len(codes) < len(pids):
        for pid in pids:
            if pid in codes:
                continue
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid]:
                    end = min(end, time.monotonic() + after)
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def _be(rank: int, port: str, command: dict[str, Any], folder: Path) -> None:
    """Become one of the processes; never returns."""
    code = 70
    try:
        descriptor = os.open(folder / str(rank), os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(command["processes"]),
            LOCAL_WORLD_SIZE=str(command["processes"]),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            **command["environment"],
        )
        sys.path += command["environment"].get("PYTHONPATH", "").split(os.pathsep)
        if command["at"] and (name := command["do"].get(str(rank))):
            arm(*command["at"], signal.Signals[name])
        from align.cli.app import app

        first, *rest = command["arguments"]
        try:
            if first == "call":
                module, _, name = rest[0].partition(":")
                getattr(importlib.import_module(module), name)(*rest[1:])
            else:
                app(command["arguments"], prog_name="align")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def arm(where: str, count: int, when: str, number: signal.Signals) -> None:
    """Let the function's count-th call send a signal to this process, before or after it."""
    module, _, path = where.rpartition(":")
    owner: Any = importlib.import_module(module)
    *parts, last = path.split(".")
    for part in parts:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, last)
    calls = 0

    def wrapped(*positional: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), number)
        result = original(*positional, **named)
        if calls == count and when == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, last, wrapped)


if __name__ == "__main__":
    _serve()
