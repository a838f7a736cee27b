"""The commands as a person types them: help, exit codes, messages, what is handed to the stages."""

import errno
import importlib
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import align.processes
from align.cli.app import app
from align.errors import AlignError, MissingStage, UserError
from align.recipe.load import has_records, load_recipe, stages_of
from align.stage_table import STAGES, About

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "base: b\nrun: {name: demo}\nppo: {kl_coef: 0.2}\n"
runner = CliRunner()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a recipe, outside of any launcher."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ALIGN_EXIT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Puts stand-ins where the stages and the launcher are; returns the list of calls."""

    def install(error: BaseException | None = None, launched: int | None = None) -> list[Any]:
        calls: list[Any] = []

        def start(*arguments: Any) -> int:
            calls.append(arguments)
            return launched or 0

        real = importlib.import_module("align.processes.launch")
        launch: Any = types.ModuleType("align.processes.launch")
        launch.read_configuration = real.read_configuration
        launch.needed = lambda num_processes, config: launched is not None
        launch.told = lambda num_processes, config: None
        launch.how_many = lambda num_processes, config: 1
        launch.start = start
        launch.report_exit = lambda code: calls.append(("reported", code))
        monkeypatch.setitem(sys.modules, "align.processes.launch", launch)
        monkeypatch.setattr(align.processes, "launch", launch, raising=False)
        for name in STAGES:
            stage: Any = types.ModuleType(STAGES[name].module)

            def run(recipe: Any, restart: bool, name: str = name) -> None:
                calls.append((name, recipe.ppo.kl_coef, restart))
                if error:
                    raise error

            stage.run = run
            monkeypatch.setitem(sys.modules, STAGES[name].module, stage)
        return calls

    return install


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = runner.invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


# Help


def test_neither_help_nor_recipes_import_torch() -> None:
    code = (
        "import sys; from align.cli.app import main\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'accelerate'}\n"
        "def imported(): return sorted(heavy & set(sys.modules))\n"
        "for line in (['--help'], ['ppo', '--help'], ['recipe', 'show', 'r.yaml'], ['recipe', 'schema'],\n"
        "             ['ppo', 'missing.yaml']):\n"
        "    sys.argv = ['align', *line]\n"
        "    try: main()\n"
        "    except SystemExit as end: print('exit', end.code, imported(), file=sys.stderr)\n"
    )
    done = process("-c", code)
    ends = [line for line in done.stderr.splitlines() if line.startswith("exit")]
    assert ends == ["exit 0 []"] * 4 + ["exit 2 []"]


def test_help_names_the_stages_an_example_and_the_exit_codes() -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    for word in ("sft", "rm", "ppo", "run", "doctor", "recipe", "align run recipe.yaml", "Exit codes", "130"):
        assert word in out


def test_python_m_align_is_the_same_program() -> None:
    from align import __version__

    done = process("-m", "align", "--version")
    assert (done.returncode, done.stdout) == (0, f"align {__version__}\n")


def test_an_unknown_command_is_refused_with_the_nearest() -> None:
    code, _, err = invoke("pppo", "r.yaml")
    assert code == 2
    assert "ppo" in err


# Recipes


def test_show_prints_value_and_origin_in_aligned_columns() -> None:
    code, out, _ = invoke("recipe", "show", "r.yaml", "--set", "ppo.gamma=0.5")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert rows["ppo.kl_coef"].split() == ["ppo.kl_coef", "0.2", "r.yaml:3"]
    assert rows["ppo.gamma"].split() == ["ppo.gamma", "0.5", "--set"]
    assert rows["lora.rank"].split() == ["lora.rank", "16", "default"]
    assert rows["ppo.gamma"].index("--set") == rows["lora.rank"].index("default")


def test_a_wrong_recipe_is_exit_2_with_plain_lines_and_no_markup() -> None:
    Path("[bold]r.yaml").write_text(RECIPE + "sft: {packing: '[red]yes'}\nppp: 1\n")
    code, out, err = invoke("recipe", "show", "[bold]r.yaml")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: 2 mistakes in the recipe",
        '[bold]r.yaml:4: sft.packing: expected true or false; got the text "[red]yes"',
        "[bold]r.yaml:5: ppp: unknown key; did you mean ppo?",
    ]


def test_control_characters_of_a_recipe_do_not_reach_the_terminal() -> None:
    Path("r.yaml").write_text(RECIPE + '"\\e[2Jx": 1\n')
    _, _, err = invoke("recipe", "show", "r.yaml")
    assert "\x1b" not in err
    assert "\\x1b[2Jx: unknown key" in err


# Stages


def test_a_stage_gets_the_recipe_with_overrides(stages: Any) -> None:
    calls = stages()
    assert invoke("ppo", "r.yaml", "--set", "ppo.kl_coef=0.5", "--restart")[0] == 0
    assert calls == [("ppo", 0.5, True)]


def test_run_is_the_three_stages_in_order(stages: Any) -> None:
    calls = stages()
    assert invoke("run", "r.yaml")[0] == 0
    assert calls == [("sft", 0.2, False), ("rm", 0.2, False), ("ppo", 0.2, False)]


@pytest.mark.parametrize("named", [False, True])
def test_run_runs_a_fourth_stage_where_the_recipe_has_its_section(
    stages: Any, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    fourth: Any = "fourth"
    about = About(
        "align.stages.fourth", "Fourth", "It needs two kinds.", ("rankings", "prompts"), (), False, ("", "")
    )
    monkeypatch.setitem(STAGES, fourth, about)
    calls = stages()
    loaded = load_recipe(Path("r.yaml"))
    assert fourth not in stages_of(loaded)
    loaded = loaded.model_copy(update={fourth: object()})
    if named:
        loaded = loaded.model_copy(update={"data": loaded.data.model_copy(update={"rankings": object()})})
    assert not has_records(loaded, fourth)  # prompts are missing
    assert has_records(loaded, "rm") is named
    assert invoke("run", "r.yaml")[0] == 0
    assert [name for name, *_ in calls] == ["sft", "rm", "ppo"]
    calls.clear()
    monkeypatch.setattr("align.cli.options.load", lambda *_: loaded)
    monkeypatch.setattr("align.check.ahead.look_ahead", lambda *_: None)  # there are no records to read
    assert invoke("run", "r.yaml")[0] == 0
    assert [name for name, *_ in calls] == ["sft", "rm", "ppo", "fourth"]


def test_run_ends_at_the_first_stage_that_fails(stages: Any) -> None:
    calls = stages(UserError("no data"))
    assert invoke("run", "r.yaml")[0] == 2
    assert len(calls) == 1


def test_a_wrong_recipe_stops_before_any_process_starts(stages: Any) -> None:
    calls = stages(launched=0)
    assert invoke("ppo", "r.yaml", "--set", "ppo.kl_coeff=1")[0] == 2
    assert calls == []


def test_other_processes_get_the_same_command(stages: Any) -> None:
    calls = stages(launched=0)
    arguments = ["r.yaml", "--set", "a.b=c d", "--set", "ppo.gamma=1"]
    code, _, err = invoke("run", *arguments[:1], "--set", "ppo.gamma=1", "--restart", "--num-processes", "2")
    assert (code, err) == (0, "")
    assert calls == [
        (stage, [stage, "r.yaml", "--set", "ppo.gamma=1", "--restart"], 2, None, 30.0)
        for stage in ("sft", "rm", "ppo")
    ]


@pytest.mark.parametrize(
    ("code", "says"),
    [(2, ""), (1, ""), (3, ""), (130, "interrupted: the same"), (143, "stopped: the same"), (137, "killed")],
)
def test_the_exit_code_of_other_processes_is_passed_on(stages: Any, code: int, says: str) -> None:
    stages(launched=code)
    got, _, err = invoke("ppo", "r.yaml", "--num-processes", "2")
    assert got == code
    assert (says in err) if says else (err == "")


# How commands end

NO_SPACE = OSError(errno.ENOSPC, "No space left on device", "runs/demo/x")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("fix [this]"), 2, "error: fix [this]\n"),
        (MissingStage("rm has not run"), 3, "error: rm has not run\n"),
        (AlignError("disk broke"), 1, "error: disk broke\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command goes on from the last checkpoint\n"),
        (NO_SPACE, 1, "error: no space is left on the disk: runs/demo/x; free some; then the same command"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "no space is left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 1, "error: no permission: runs/x"),
        (RuntimeError("[pair.cc:537] Connection reset by peer"), 1, "error: another process of this run has"),
        (MemoryError(), 1, "error: memory ran out; lower ppo.microbatch_tokens"),
        (ModuleNotFoundError("No module named 'trl'", name="trl"), 2, "the package trl is not installed"),
    ],
)
def test_each_failure_has_its_words_and_exit_code(
    stages: Any, error: BaseException, code: int, says: str
) -> None:
    stages(error)
    got, _, err = invoke("ppo", "r.yaml")
    assert got == code
    assert says in err
    assert "Traceback" not in err


def test_memory_that_ran_out_for_the_message_too_is_told_in_one_line(
    stages: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stages(ImportError("libopenblas.so: failed to map segment from shared object"))
    assert "error: memory ran out; lower ppo.microbatch_tokens" in invoke("ppo", "r.yaml")[2]

    def none_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("align.cli.failures.say", none_left)
    stages(MemoryError())
    assert invoke("ppo", "r.yaml")[0] == 1
    assert capfd.readouterr().err.startswith("error: memory ran out, and there is none left to say where")


def test_a_bug_leaves_its_traceback_in_the_run_folder(stages: Any, folder: Path) -> None:
    (folder / "runs/demo/ppo").mkdir(parents=True)
    stages(KeyError("oops"))
    code, _, err = invoke("ppo", "r.yaml")
    (written,) = (folder / "runs/demo/ppo").glob("align-crash-*.txt")
    assert code == 1
    assert "this is a bug in align: KeyError: 'oops'" in err
    assert str(written.relative_to(folder)) in err
    assert "Traceback" not in err
    assert "Traceback" in written.read_text()


def test_a_bug_before_there_is_a_run_folder_is_kept_in_the_temporary_folder(
    stages: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    stages(ZeroDivisionError())
    assert invoke("ppo", "r.yaml")[0] == 1
    assert "ZeroDivisionError" in next(folder.glob("align-crash-*.txt")).read_text()
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("rank", "local", "says"),
    [
        ("0", "0", "error: no data\n"),
        ("1", "1", ""),
        ("8", "0", "error: process 8: no data\n"),  # on another machine, whose files may be other ones
    ],
)
def test_the_first_process_of_each_machine_speaks_of_mistakes(
    stages: Any, monkeypatch: pytest.MonkeyPatch, rank: str, local: str, says: str
) -> None:
    stages(UserError("no data"))
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local)
    assert invoke("ppo", "r.yaml") == (2, "", says)


def test_a_file_that_may_not_be_replaced_is_named_as_people_know_it(stages: Any) -> None:
    stages(PermissionError(1, "Operation not permitted", "/r/.recipe.yaml.77", None, "/r/recipe.yaml"))
    code, _, said = invoke("ppo", "r.yaml")
    assert code == 1
    assert said.startswith("error: no permission: /r/recipe.yaml (Operation not permitted)")


def test_a_started_process_reports_its_code_and_leaves_interrupts_to_its_parent(
    stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("ALIGN_EXIT_FILE", "code")
    calls = stages(MissingStage("rm has not run"))
    assert invoke("ppo", "r.yaml")[0] == 3
    assert calls[-1] == ("reported", 3)
    calls = stages(KeyboardInterrupt())
    assert invoke("ppo", "r.yaml") == (130, "", "")
    assert calls == [("ppo", 0.2, False)]


@pytest.mark.parametrize(
    ("number", "code", "title"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped")]
)
def test_signals_end_a_stage_with_one_line(number: signal.Signals, code: int, title: str) -> None:
    script = (
        "import sys, time, types\n"
        "from align.cli.app import main\n"
        "launch = types.ModuleType('align.processes.launch'); launch.needed = lambda *a: False\n"
        "launch.told = lambda *a: None\n"
        "sys.modules['align.processes.launch'] = launch\n"
        "import align.processes; align.processes.launch = launch\n"
        "stage = types.ModuleType('align.ppo.train')\n"
        "def run(recipe, restart): print('working', flush=True); time.sleep(60)\n"
        "stage.run = run; sys.modules['align.ppo.train'] = stage\n"
        "sys.argv = ['align', 'ppo', 'r.yaml']; main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout and child.stdout.readline() == "working\n"
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert err == f"{title}: the same command goes on from the last checkpoint\n"


def test_a_reader_that_left_is_no_error() -> None:
    schema = f"{sys.executable} -m align recipe schema | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", schema],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_libraries_are_told_to_be_quiet_before_they_are_imported() -> None:
    code = (
        "import os, sys; from align.cli.app import main; sys.argv = ['align', '--version']\n"
        "try: main()\n"
        "except SystemExit:\n"
        "    print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['TRANSFORMERS_VERBOSITY'])\n"
    )
    assert process("-c", code, TRANSFORMERS_VERBOSITY="info").stdout.splitlines()[-1] == "1 info"
