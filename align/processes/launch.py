"""Starting one process a device, through accelerate (GPUs) or torch's elastic launcher (CPU, gloo).

accelerate's own launcher starts a single process on CPUs unless MPI is there, so several CPU
processes come from the launcher beneath it; inside each process everything is accelerate's again.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from align.errors import AlignError, ProcessDied, UserError

_EXIT_FILE = "ALIGN_EXIT_FILE"
# Of torchrun and Kubernetes operators, and of MPI: Open MPI, MPICH with Slurm, MVAPICH.
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_GOES_ON = "the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Configuration:
    """What counts of an accelerate configuration before the processes are there."""

    path: Path
    kind: str  # its distributed_type
    processes: int  # on all machines together
    machines: int
    cpu: bool
    zero_stage: str = ""  # DeepSpeed's

    @property
    def plain(self) -> bool:
        """Whether accelerate's own launcher would start a single process, whatever the number says."""
        return self.kind in ("NO", "MULTI_CPU")


def needed(num_processes: int | None, accelerate_config: Path | None) -> bool:
    """Whether this process should start others instead of working itself.

    Not when a launcher already started it; else when several processes are asked for, by a configuration
    too, or when there are several GPUs and nothing was said. Raises UserError for a configuration that
    cannot be read, or had, for one of several processes that do not know which GPU is theirs, and for one
    of several tasks of a Slurm step (SystemExit in all but the first, which tells).
    """
    if "LOCAL_RANK" in os.environ:
        return False
    config = None if accelerate_config is None else read_configuration(accelerate_config)
    name, size = _started()
    if size > 1 and not (config and config.machines > 1 and name != "WORLD_SIZE"):  # one on each machine
        if _gpus() and not (config and config.cpu) and not _on_cpu():
            raise UserError(_without_gpu(name, size))
        return False
    if "WORLD_SIZE" in os.environ:
        return False
    if name == "" and not (config and config.machines > 1):
        _refuse_tasks()
    if config is not None:
        if config.plain and config.cpu:
            os.environ["ACCELERATE_USE_CPU"] = "true"
        return not config.plain or (num_processes or config.processes) > 1
    if num_processes is not None:
        return num_processes > 1
    return _gpus() > 1


def how_many(num_processes: int | None, accelerate_config: Path | None) -> int:
    """How many processes work on a stage: those that a launcher started, or that `start` is going to."""
    name, size = _started()
    if name or "LOCAL_RANK" in os.environ:
        return size
    config = None if accelerate_config is None else read_configuration(accelerate_config)
    if num_processes is not None:
        return num_processes
    return config.processes if config is not None else max(1, _gpus())


def told(num_processes: int | None, accelerate_config: Path | None) -> str | None:
    """A line where the environment alone is why one process works, though more was asked for or is there."""
    if "LOCAL_RANK" in os.environ or os.environ.get("WORLD_SIZE") != "1":
        return None
    if num_processes is not None:
        more = f"--num-processes {num_processes} does not count" if num_processes > 1 else None
    elif accelerate_config is not None:
        more = f"--accelerate-config {accelerate_config} does not count"
    else:
        more = f"{count - 1} of {count} GPUs stay idle" if (count := _gpus()) > 1 else None
    why = "WORLD_SIZE is 1, as a launcher sets it, so one process works"
    return f"{why}, and {more}; to start them here, unset WORLD_SIZE" if more else None


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
    config = None if accelerate_config is None else read_configuration(accelerate_config)
    if config is not None and config.plain and config.machines > 1:
        raise UserError(
            f"--accelerate-config {config.path}: with distributed_type {config.kind} accelerate starts "
            "a process that knows of no other machine; start a torchrun on each, as docs/processes.md says"
        )
    gpus = 0 if config is not None and config.cpu else _gpus()
    count = num_processes or (config.processes if config is not None and config.plain else gpus)
    if gpus and count > gpus:
        raise UserError(
            f"--num-processes {count}: this machine has {gpus} GPU(s); a process needs one of its own"
        )
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _exit_code() as code:
        try:
            if config is not None and not config.plain:
                _accelerate(arguments, num_processes, config.path)
            elif gpus:
                _accelerate(arguments, count, None)
            else:
                _elastic(arguments, count)
        except _failures() as error:
            if not (known := code() or _signalled(error)):
                raise ProcessDied(_died(error)) from error
            return known
        except subprocess.CalledProcessError as error:  # DeepSpeed's launcher for several machines
            if not code():
                raise AlignError(
                    f"the launcher ended with exit code {error.returncode}; {_GOES_ON}"
                ) from error
        return code() or 0


def report_exit(code: int) -> None:
    """Tell the launching process which exit code the stage ended with; the first process to fail decides."""
    if path := os.environ.get(_EXIT_FILE):
        with suppress(FileExistsError), Path(path).open("x") as file:
            file.write(str(code))


def _accelerate(arguments: list[str], count: int | None, config: Path | None) -> None:
    from accelerate.commands.launch import launch_command, launch_command_parser

    flags = [] if config is None else ["--config_file", str(config)]
    if count is not None:
        flags += ["--num_processes", str(count)]
    if config is None:
        flags += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        if count is not None and count > 1:
            flags.append("--multi_gpu")
    try:
        launch_command(launch_command_parser().parse_args([*flags, "-m", "align", *arguments]))
    except ValueError as error:  # accelerate's own checks, before it starts anything
        raise UserError(
            f"accelerate refuses {config or 'to start'}: {' '.join(str(error).split())}"
        ) from error


def read_configuration(path: Path, starts: bool = True) -> Configuration:
    """An accelerate configuration; UserError where it is none, or asks for what the stages cannot do.

    starts: whether it is for processes here, which need DeepSpeed where it says so; else for a plan.
    """
    from accelerate.commands.config import load_config_from_file

    from align.processes.sharding import refuse

    if not path.is_file():
        raise UserError(f"--accelerate-config {path}: there is no such file")
    try:
        found = load_config_from_file(str(path))
        # YAML reads a bare NO as false
        kind = "NO" if found.distributed_type is False else found.distributed_type.value
        precision, dynamo = found.mixed_precision or "no", (found.dynamo_config or {}).get("dynamo_backend")
        processes, machines = int(found.num_processes or 1), int(found.num_machines or 1)
        cpu, zero = bool(found.use_cpu), str((found.deepspeed_config or {}).get("zero_stage", ""))
    except Exception as error:  # accelerate checks little, so it may be of any kind
        said = " ".join(str(error).split())
        raise UserError(f"--accelerate-config {path} is not an accelerate configuration: {said}") from error
    if processes < 1:
        raise UserError(f"--accelerate-config {path}: num_processes is {processes}; it has to be 1 or more")
    refuse(kind, str(precision), str(dynamo or "NO"), starts)
    return Configuration(path, kind, processes, machines, cpu, zero)


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
        return f"a process ended without a message ({error}); {_GOES_ON}"
    how = first.signal_name() if first.exitcode < 0 else f"exit code {first.exitcode}"
    hint = ", most often because memory ran out" if how == "SIGKILL" else ""
    rank = next(rank for rank, failure in failures.items() if failure is first)
    return f"process {rank} ended with {how}{hint}; {_GOES_ON}"


def _started() -> tuple[str, int]:
    """By which variable a launcher says how many processes it started, and how many; 1 where none does."""
    for name in _SIZES:
        if (value := os.environ.get(name, "")).isdigit():
            return name, int(value)
    return "", 1


def _refuse_tasks() -> None:
    """Raise where srun started this command several times: each would be a run of its own, in one folder.

    SLURM_STEP_NUM_TASKS is srun's alone. SLURM_NTASKS is not enough: a batch script, which runs once, has it
    too, with SLURM_PROCID 0 (https://slurm.schedmd.com/srun.html, "OUTPUT ENVIRONMENT VARIABLES"). A shell
    from `srun --pty` is a person's, whatever the number says.
    """
    if "SLURM_PTY_PORT" in os.environ:
        return
    steps, task = os.environ.get("SLURM_STEP_NUM_TASKS", ""), os.environ.get("SLURM_PROCID", "0")
    count = steps or (os.environ.get("SLURM_NTASKS", "") if task != "0" else "")
    if not count.isdigit() or int(count) < 2:
        return
    if steps and task != "0":
        raise SystemExit(2)  # the first task tells it for all
    raise UserError(
        f"srun started this command {count} times (task {task} of {count}), and they would not know of each "
        "other. On one machine leave out srun, or say `srun --ntasks=1`: align starts a process for each "
        "GPU itself (--num-processes N takes another number). On several machines give each one task, "
        "`srun --ntasks-per-node=1 torchrun … -m align …` (docs/processes.md has the whole line). If it does "
        "run once, unset SLURM_STEP_NUM_TASKS"
    )


def _without_gpu(name: str, size: int) -> str:
    return (
        f"{name} is {size}: this is one of {size} processes that mpirun, srun or an operator started, and "
        "LOCAL_RANK does not say which GPU is its own: start one torchrun or accelerate launch on each "
        f"machine, which sets it (docs/processes.md); or unset {name}, and align starts a process for each "
        "GPU here"
    )


def _on_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
