"""The ways to start several processes, and what becomes of them when one dies or all are told to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import ROOT, align, make_recipe
from ranks import FSDP2, ZERO2, ZERO3, Ranks, needs_deepspeed

from align.errors import AlignError, UserError
from align.processes import launch, meeting
from align.processes.meeting import met

CONFIGURATIONS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
PATHS = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


def _final(recipe: Path, stage: str) -> dict[str, bytes]:
    final = recipe.parent / "runs" / "tiny" / stage / "final"
    return {p.name: p.read_bytes() for p in sorted(final.iterdir())}


def _port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_accelerate_reads_what_is_shipped(path: Path) -> None:
    args = launch_command_parser().parse_args(["--config_file", str(path), "-m", "align", "ppo", "r.yaml"])
    args, config, _ = _validate_launch_command(args)
    assert config.distributed_type.value in ("MULTI_GPU", "FSDP", "DEEPSPEED")
    assert args.mixed_precision == "no"
    assert args.num_processes == config.num_processes > 1
    assert args.use_fsdp == (path.stem == "fsdp2")
    if args.use_fsdp:
        assert args.fsdp_version == 2
    assert args.use_deepspeed == path.stem.startswith("zero")
    if args.use_deepspeed:
        assert f"zero{args.zero_stage}" == path.stem
    text = path.read_text()
    assert "# State: " in text  # what was run, and what not
    assert path.name in (ROOT / "docs" / "processes.md").read_text()


def test_there_are_configurations() -> None:
    assert {path.stem for path in CONFIGURATIONS} >= {"ddp", "fsdp2", "multi-node", "zero2", "zero3"}
    assert load_config_from_file(str(CONFIGURATIONS[0])).mixed_precision == "no"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 3}\n", "not installed: pip install"),
        ("distributed_type: MEGATRON_LM\n", "asks for Megatron-LM"),
        ("distributed_type: [\n", "is not an accelerate configuration"),
        ("distributed_type: FSDP\nno_such_key: 1\n", "is not an accelerate configuration"),
        ("distributed_type: XLA\n", "distributed_type XLA, which the stages do not run on"),
        ("distributed_type: MULTI_GPU\nmixed_precision: bf16\n", "mixed_precision bf16: set it to 'no'"),
        ("distributed_type: 'NO'\nnum_processes: 1\nmixed_precision: fp16\n", "mixed_precision fp16"),
        (
            "distributed_type: MULTI_GPU\ndynamo_config: {dynamo_backend: INDUCTOR}\n",
            "dynamo_backend INDUCTOR",
        ),
        ("distributed_type: MULTI_CPU\nnum_machines: 2\n", "knows of no other machine"),
        ("distributed_type: MULTI_GPU\nnum_processes: -1\n", "num_processes is -1"),
        ("distributed_type: MULTI_GPU\ngpu_ids: '0'\n", "accelerate refuses .*Less than two GPU ids"),
    ],
)
def test_a_configuration_that_cannot_be_had_is_refused(tmp_path: Path, text: str, said: str) -> None:
    config = written(tmp_path, text)
    with pytest.raises(UserError, match=said):
        assert launch.needed(None, config)
        launch.start("sft", ["sft", "recipe.yaml"], None, config)


def written(folder: Path, text: str) -> Path:
    """An accelerate configuration of two processes, but for what the text says."""
    config = folder / "accelerate.yaml"
    whole = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 2}
    whole |= {"mixed_precision": "no", "use_cpu": False}
    try:
        whole |= yaml.safe_load(text)
    except yaml.YAMLError:  # as it is
        config.write_text(text)
    else:
        config.write_text(yaml.safe_dump(whole))
    return config


@pytest.mark.parametrize(
    ("text", "asked", "started"),
    [
        ("distributed_type: MULTI_CPU\n", None, 2),  # of which accelerate's launcher starts one
        ("distributed_type: 'NO'\nnum_processes: 1\n", 2, 2),
        ("distributed_type: NO\nnum_processes: 1\n", None, None),  # a bare NO is false in YAML
        ("distributed_type: MULTI_CPU\n", 1, None),
    ],
)
def test_a_configuration_for_cpus_starts_as_many_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, asked: int | None, started: int | None
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(launch, "_elastic", lambda arguments, count: counts.append(count))
    config = written(tmp_path, text)
    if launch.needed(asked, config):
        assert launch.start("sft", ["sft", "recipe.yaml"], asked, config) == 0
    assert counts == ([] if started is None else [started])


def test_a_launcher_that_fails_is_no_bug_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's for several machines ends this way."""

    def fails(*_: object) -> None:
        raise subprocess.CalledProcessError(3, ["pdsh"])

    monkeypatch.setattr(launch, "_accelerate", fails)
    with pytest.raises(AlignError, match="ended with exit code 3; the same command goes on"):
        launch.start("sft", ["sft", "r.yaml"], None, written(tmp_path, "distributed_type: MULTI_GPU\n"))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed, which is not installed"),
        pytest.param(
            ZERO3 | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"},
            "asks for offload_param_device cpu",
            marks=needs_deepspeed,
        ),
        pytest.param(
            ZERO3 | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"},
            "names a deepspeed_config_file",
            marks=needs_deepspeed,
        ),
        pytest.param(
            ZERO3 | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "asks for zero_stage 0", marks=needs_deepspeed
        ),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "asks for FSDP 1"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "asks for mixed_precision bf16"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "asks for dynamo_backend INDUCTOR"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "has a parallelism_config"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "asks for fsdp_offload_params",
        ),
    ],
)
def test_another_launcher_s_wish_is_refused_too(
    group: Ranks, tiny_recipe: Callable[..., Path], environment: dict[str, str], said: str
) -> None:
    ended = group.run("sft", tiny_recipe(), **environment)
    assert ended.codes == [2, 2], ended.output
    assert said in ended.output[0]


@pytest.mark.parametrize(
    ("codes", "known"),
    [((143, 143), 143), ((143, -15), 143), ((130, -2), 130), ((143, -9), 0), ((1, -15), 0)],
)
def test_who_stops_and_who_is_ended_meanwhile_have_one_code(codes: tuple[int, int], known: int) -> None:
    """A process that stops is ended by the launcher where another has stopped before it."""
    failures = {rank: SimpleNamespace(exitcode=code) for rank, code in enumerate(codes)}
    assert launch._signalled(SimpleNamespace(failures=failures)) == known  # type: ignore[arg-type]


def test_a_killed_process_ends_the_command_with_a_message(
    group: Ranks, tmp_path: Path, tiny_base: Path
) -> None:
    """The launcher's own end: nobody waits for the one that is gone, and the next start goes on."""
    recipe = make_recipe(tmp_path, tiny_base)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import ranks\n"
        "    ranks.arm('align.stages.trainer:set_seed', 4, 'after', signal.SIGKILL)\n"
    )
    done = align("sft", recipe, "--num-processes", "2", PYTHONPATH=f"{tmp_path}:{PATHS['PYTHONPATH']}")
    assert done.returncode == 1, done.stderr
    assert "the same command goes on from the last checkpoint" in done.stderr
    assert (
        done.stderr.count(f"the last checkpoint is {tmp_path}/runs/tiny/sft/checkpoints/step-000002\n") == 1
    )
    assert "Traceback" not in done.stderr
    ended = group.run("sft", recipe)
    assert ended.codes == [0, 0], ended.output
    assert "sft goes on from step 2" in ended.output[0]


def test_a_process_whose_others_never_come_can_be_stopped(tmp_path: Path, tiny_base: Path) -> None:
    """It waits in C++ for run.timeout, half an hour; a batch system's SIGTERM must end it all the same."""
    recipe = make_recipe(tmp_path, tiny_base)
    port = _port()
    alone = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "align", "sft", str(recipe)],
        cwd=ROOT,
        env={**os.environ, **PATHS, **alone, "MASTER_PORT": port},
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 100
    while not _answers(int(port)) and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), stderr
    assert "Traceback" not in stderr


def test_a_port_that_another_program_has(tmp_path: Path, tiny_base: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        one = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", **where}
        done = align("sft", make_recipe(tmp_path, tiny_base), **PATHS, **one)
    assert done.returncode == 2, done.stderr
    assert f"has the port at which the processes meet, 127.0.0.1:{where['MASTER_PORT']}" in done.stderr
    assert "bug" not in done.stderr


TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"MASTER_ADDR": "no-such-host.invalid"}, "this machine does not know that name"),
        ({"MASTER_PORT": "hello"}, "MASTER_PORT is hello: it has to be a number"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
        ({"RANK": "2"}, "WORLD_SIZE is 2, and RANK is 2: it has to be a number from 0 to 1"),
        ({"RANK": ""}, "WORLD_SIZE is 2, and RANK is not set"),
        ({}, "and this one did not get there within run.timeout (0.5 s): see that process 0 runs there"),
    ],
)
def test_where_the_processes_meet_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], says: str
) -> None:
    """torch tries a name that nobody knows for the whole of run.timeout, half an hour."""
    for key, value in (TWO | wrong).items():
        monkeypatch.setenv(key, value)
    started = time.monotonic()
    with pytest.raises(UserError) as refused, met(0.5):
        pytest.fail("nobody listens on this port")
    assert says in str(refused.value)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("greets", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"], ids=["silent", "talks"])
def test_another_program_answers_where_the_processes_meet(
    monkeypatch: pytest.MonkeyPatch, greets: bytes
) -> None:
    """torch would wait for it without end, whatever run.timeout says."""
    monkeypatch.setattr(meeting, "_GREETING", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as program:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    kept.append(program.accept()[0])
                    kept[-1].sendall(greets)

        kept: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        for key, value in (TWO | {"MASTER_PORT": str(program.getsockname()[1])}).items():
            monkeypatch.setenv(key, value)
        with pytest.raises(UserError, match="another program, often another run, answers where"), met(1800):
            pytest.fail("this is no process 0")
    for one in kept:
        one.close()


def test_who_waits_says_for_what(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(meeting, "_NOTICE", 0.05)
    for rank, address, says in (
        (
            "1",
            "127.0.0.1",
            "process 1 of 2 waits for process 0 at 127.0.0.1:9 (MASTER_ADDR, MASTER_PORT), for",
        ),
        (
            "0",
            "127.0.0.1",
            "process 0 of 2 waits for the other processes at 127.0.0.1:9 (MASTER_ADDR, MASTER_PORT), for",
        ),
        ("0", "192.0.2.1", "MASTER_PORT), which is no address of this machine, for run.timeout (0.5 s)"),
    ):
        for key, value in (TWO | {"RANK": rank, "MASTER_ADDR": address}).items():
            monkeypatch.setenv(key, value)
        with suppress(UserError), met(0.5):
            time.sleep(0.3)
        assert says in capfd.readouterr().err
    with met(0.5):  # all are there at once
        pass
    assert capfd.readouterr().err == ""


def test_a_process_that_process_0_keeps_waiting_says_it_without_a_stack(
    tmp_path: Path, tiny_base: Path
) -> None:
    recipe = make_recipe(tmp_path, tiny_base)
    done = align("sft", recipe, "--set", "run.timeout=1", **PATHS, **TWO)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: process 1: the processes meet at 127.0.0.1:9"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_others_that_do_not_come_in_time(tmp_path: Path, tiny_base: Path) -> None:
    one = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    recipe = make_recipe(tmp_path, tiny_base)
    done = align("sft", recipe, "--set", "run.timeout=3", **PATHS, **one, MASTER_PORT=_port())
    assert done.returncode == 2, done.stderr
    assert "not all of the 2 processes came to 127.0.0.1:" in done.stderr
    assert "bug" not in done.stderr


def test_processes_that_are_not_told_where_they_meet(tmp_path: Path, tiny_base: Path) -> None:
    """As mpirun and `srun --mpi=pmi2` start them."""
    done = align("sft", make_recipe(tmp_path, tiny_base), PMI_RANK="0", PMI_SIZE="2", **PATHS)
    assert done.returncode == 2, done.stderr
    assert "MASTER_ADDR does not say where they meet: start them by torchrun" in done.stderr


def _slurm(tasks: int, task: int, step: bool = True) -> dict[str, str]:
    """What Slurm sets in a task that srun started, or in a batch script."""
    all_have = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": str(tasks), "SLURM_PROCID": str(task)}
    all_have |= {"SLURM_LOCALID": str(task), "SLURM_NODELIST": "node0", "SLURM_JOB_NODELIST": "node0"}
    return all_have | ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(tasks)} if step else {})


def test_srun_of_several_tasks_is_refused_before_anything(tmp_path: Path, tiny_base: Path) -> None:
    """Each would train alone, all in one folder."""
    recipe = make_recipe(tmp_path, tiny_base)
    for command in ("sft", "run"):
        done = [align(command, recipe, **PATHS, **_slurm(4, task)) for task in (0, 3)]
        assert [one.returncode for one in done] == [2, 2], done
        assert "srun started this command 4 times (task 0 of 4)" in done[0].stderr
        assert "`srun --ntasks-per-node=1 torchrun … -m align …`" in done[0].stderr
        assert done[0].stderr.count("error:") == 1 and done[0].stdout == ""
        assert done[1].stderr == done[1].stdout == ""  # the first has told it for all
    assert not (tmp_path / "runs").exists()


def test_what_runs_once_under_slurm_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_gpus", lambda: 4)
    once = {"one task": _slurm(1, 0), "batch script": _slurm(4, 0, step=False)}
    once |= {"shell": _slurm(4, 0) | {"SLURM_PTY_PORT": "40000"}}
    once |= {"torchrun": _slurm(2, 1) | {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16"}}
    for name, environment in once.items():
        with monkeypatch.context() as context:
            for key, value in environment.items():
                context.setenv(key, value)
            assert launch.needed(None, None) == (name != "torchrun"), name
    for key, value in _slurm(4, 2, step=False).items():  # no batch script has another task than the first
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match="srun started this command 4 times"):
        launch.needed(None, None)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE"])
def test_one_of_several_processes_starts_none_for_every_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_gpus", lambda: 4)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match=f"{name} is 2: .*LOCAL_RANK does not say"):
        launch.needed(None, None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not launch.needed(None, None)


def test_a_world_of_one_is_told_where_gpus_stay_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_gpus", lambda: 4)
    assert launch.told(None, None) is None and launch.needed(None, None)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launch.needed(None, None)
    assert "3 of 4 GPUs stay idle" in str(launch.told(None, None))
    assert "--num-processes 2 does not count" in str(launch.told(2, None))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_sigterm_reaches_every_process(group: Ranks, tmp_path: Path, tiny_base: Path) -> None:
    settings = {"sft": {"steps": 400, "batch_size": 4, "checkpoint_every": 2}}
    recipe = make_recipe(tmp_path, tiny_base, **settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "align", "sft", str(recipe), "--num-processes", "2"],
        cwd=ROOT,
        env={**os.environ, **PATHS},
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoints = tmp_path / "runs" / "tiny" / "sft" / "checkpoints"
    end = time.monotonic() + 200
    while not list(checkpoints.glob("step-*")) and time.monotonic() < end:
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "stopped: the same command goes on from the last checkpoint" in stderr
    assert "Traceback" not in stderr
    assert not psutil.wait_procs(workers, timeout=5)[1]
    again = group.run("sft", recipe, at=("align.stages.trainer:set_seed", 3, "after"), do={0: "SIGKILL"})
    assert "sft goes on from step" in again.output[0], again.output


def _machines(recipe: Path, lines: list[list[str]]) -> None:
    """Start a launcher for each of the machines, and wait for all of them."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *line, "-m", "align", "sft", str(recipe)],
            cwd=ROOT,
            env={**os.environ, **PATHS},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in lines
    ]
    output = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], output
    assert sum("sft has finished" in text for text in output) == 1


def _torchrun(port: str, number: int) -> list[str]:
    options = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port}"
    return ["torch.distributed.run", *options.split()]


def _accelerate(port: str, number: int) -> list[str]:
    where = f"--main_process_ip 127.0.0.1 --main_process_port {port} --machine_rank {number}"
    file = str(ROOT / "recipes" / "accelerate" / "multi-node.yaml")
    options = ["--config_file", file, "--num_processes", "2", *where.split()]
    return ["accelerate.commands.launch", *options]


@pytest.mark.parametrize(
    "launcher", [_torchrun, pytest.param(_accelerate, marks=pytest.mark.slow)], ids=["torchrun", "accelerate"]
)
def test_two_machines_give_what_one_with_two_processes_gives(
    group: Ranks, tmp_path: Path, tiny_base: Path, launcher: Callable[[str, int], list[str]]
) -> None:
    """Two launchers with a process each, over loopback."""
    apart, together = make_recipe(tmp_path / "2", tiny_base), make_recipe(tmp_path / "1", tiny_base)
    port = _port()
    _machines(apart, [launcher(port, number) for number in (0, 1)])
    assert group.run("sft", together).codes == [0, 0]
    assert _final(apart, "sft") == _final(together, "sft")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fsdp2", *(pytest.param(zero, marks=needs_deepspeed) for zero in ("zero2", "zero3"))]
)
def test_the_shipped_configurations_share_out(
    group: Ranks, tmp_path: Path, tiny_base: Path, name: str
) -> None:
    recipe, other = make_recipe(tmp_path / "1", tiny_base), make_recipe(tmp_path / "2", tiny_base)
    config = ROOT / "recipes" / "accelerate" / f"{name}.yaml"
    said = {"fsdp2": FSDP2, "zero2": ZERO2, "zero3": ZERO3}[name]
    paths = os.pathsep.join([str(ROOT), said.get("PYTHONPATH", "")])
    asked = ["--accelerate-config", config, "--num-processes", "2"]
    done = align("sft", recipe, *asked, PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    assert "are shared out among 2 processes" in done.stdout
    assert group.run("sft", other, **said).codes == [0, 0]
    assert _final(recipe, "sft") == _final(other, "sft")


def test_how_many_processes_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "accelerate.yaml"
    file.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 4\n")
    monkeypatch.setattr(launch, "_gpus", lambda: 8)
    assert launch.how_many(None, None) == 8
    assert launch.how_many(3, None) == 3
    assert (launch.how_many(None, file), launch.how_many(2, file)) == (4, 2)
    monkeypatch.setenv("WORLD_SIZE", "16")  # a launcher's word counts, whatever the command line says
    assert launch.how_many(2, file) == 16
