"""Starting one process a device, through accelerate (GPUs) or torch's elastic launcher (CPU, gloo).

accelerate's own launcher starts a single process on CPUs unless MPI is there, so several CPU
processes come from the launcher beneath it; inside each process everything is accelerate's again.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from align.errors import AlignError, UserError

_EXIT_FILE = "ALIGN_EXIT_FILE"


def needed(num_processes: int | None, accelerate_config: Path | None) -> bool:
    """Whether this process should start others instead of working itself.

    Not when a launcher already started it; else when several processes or a configuration are asked
    for, or when there are several GPUs and nothing was said.
    """
    if "LOCAL_RANK" in os.environ or "WORLD_SIZE" in os.environ:
        return False
    if accelerate_config is not None:
        return True
    if num_processes is not None:
        return num_processes > 1
    return _gpus() > 1


def start(
    stage: str,
    arguments: list[str],
    num_processes: int | None,
    accelerate_config: Path | None,
    grace: float = 30.0,
) -> int:
    """Run `align ARGUMENTS` in every process and return the exit code that the first to fail gave.

    grace: seconds that the processes take to stop when told to; the launcher kills what is there later.
    """
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(math.ceil(grace) + 5)
    if accelerate_config is not None and not accelerate_config.is_file():
        raise UserError(f"--accelerate-config {accelerate_config}: there is no such file")
    gpus = _gpus()
    count = num_processes or gpus
    if gpus and count > gpus:
        raise UserError(
            f"--num-processes {count}: this machine has {gpus} GPU(s); a process needs one of its own"
        )
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _exit_code() as code:
        try:
            if accelerate_config is not None or gpus:
                _accelerate(
                    arguments,
                    count if num_processes or accelerate_config is None else None,
                    accelerate_config,
                )
            else:
                _elastic(arguments, count)
        except _failures() as error:
            if not (known := code() or _signalled(error)):
                raise AlignError(_died(error)) from error
            return known
        except SystemExit as error:  # accelerate's simple launcher ends this way
            return code() or int(error.code or 0)
        return code() or 0


def report_exit(code: int) -> None:
    """Tell the launching process which exit code the stage ended with; the first process to fail decides."""
    if path := os.environ.get(_EXIT_FILE):
        with suppress(FileExistsError), Path(path).open("x") as file:
            file.write(str(code))


def _accelerate(arguments: list[str], count: int | None, config: Path | None) -> None:
    from accelerate.commands.config import load_config_from_file
    from accelerate.commands.launch import launch_command, launch_command_parser

    from align.processes.sharding import refuse

    if config is not None:
        try:
            kind = load_config_from_file(str(config)).distributed_type.value
        except Exception as error:  # accelerate checks little, so it may be of any kind
            said = " ".join(str(error).split())
            raise UserError(
                f"--accelerate-config {config} is not an accelerate configuration: {said}"
            ) from error
        refuse(kind)
    flags = [] if config is None else ["--config_file", str(config)]
    if count is not None:
        flags += ["--num_processes", str(count)]
    if config is None:
        flags += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        if count is not None and count > 1:
            flags.append("--multi_gpu")
    launch_command(launch_command_parser().parse_args([*flags, "-m", "align", *arguments]))


def _elastic(arguments: list[str], count: int) -> None:
    from torch.distributed import run

    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or count) // count)))
    flags = ["--standalone", "--nproc-per-node", str(count), "-m", "align", *arguments]
    run.run(run.parse_args(flags))


@contextmanager
def _exit_code() -> Iterator[Callable[[], int]]:
    """A file in which a process leaves its exit code; launchers only tell that one failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code"
        os.environ[_EXIT_FILE] = str(path)
        try:
            yield lambda: int(path.read_text()) if path.exists() else 0
        finally:
            del os.environ[_EXIT_FILE]


def _failures() -> tuple[type[BaseException], ...]:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    return (ChildFailedError, SignalException)


def _signalled(error: BaseException) -> int:
    """128 + the signal's number where one told the processes to end, here or one of them, else 0."""
    number = getattr(error, "sigval", None)
    if number is not None:
        return 128 + int(number)
    ended = [failure.exitcode for failure in getattr(error, "failures", {}).values()]
    codes = {128 - code if code < 0 else code for code in ended}  # below 0: the launcher was faster
    stopped = {128 + signal.SIGINT, 128 + signal.SIGTERM}
    return min(codes) if codes and codes <= stopped else 0


def _died(error: BaseException) -> str:
    """Which process ended, and how, where none of them could tell."""
    failures = getattr(error, "failures", {})
    first = min(failures.values(), key=lambda failure: failure.timestamp, default=None)
    if first is None:
        return (
            f"a process ended without a message ({error}); the same command goes on from the last checkpoint"
        )
    how = first.signal_name() if first.exitcode < 0 else f"exit code {first.exitcode}"
    hint = ", most often because memory ran out" if how == "SIGKILL" else ""
    rank = next(rank for rank, failure in failures.items() if failure is first)
    return f"process {rank} ended with {how}{hint}; the same command goes on from the last checkpoint"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
