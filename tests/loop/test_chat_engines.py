"""`align chat` and `align iterate` on vLLM servers, as the command line asks for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import make_tiny_base
from typer.testing import CliRunner
from vllm_server import Fake, serving

from align.cli.app import app


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("chat") / "mine"))


def told(*arguments: str | Path) -> tuple[int, str, str]:
    """The exit code of a command that is asked one thing, what it answered, and what it said beside that."""
    result = CliRunner().invoke(app, list(map(str, arguments)), input="the film is\n")
    return result.exit_code, result.stdout, result.stderr


def test_a_server_answers_what_the_policy_does(run: Path, tiny_base: Path) -> None:
    fakes = [Fake(tiny_base), Fake(tiny_base)]
    here = told("chat", run, "--top-k", "1")
    with serving(fakes[0]) as first, serving(fakes[1]) as second:
        urls = ["--engine-url", first, "--engine-url", second]
        there = told("chat", run, "--top-k", "1", "--engine", "vllm", *urls)
    assert here[0] == there[0] == 0, there
    assert here[1] == there[1] and here[1].strip()
    assert fakes[0].loaded == fakes[1].loaded and len(fakes[0].asked) == 2  # one of them to compare
    assert not fakes[0].adapters and not fakes[1].adapters and not list(run.glob("engine-*"))


def test_a_server_with_another_base_answers_nothing(run: Path, tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "other", seed=1)
    recipe = (run / "recipe.yaml").read_text()
    changed = recipe.replace("engine_gap_stop: 0.5", "engine_gap_stop: 0.01")  # both are near uniform
    assert changed != recipe
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text(changed)
    fake = Fake(tmp_path / "other")
    with serving(fake) as url:
        code, out, error = told("chat", tmp_path / "run", "--engine", "vllm", "--engine-url", url)
    assert code == 1 and not out and "nats a token from those of this policy: another base" in error
    assert not fake.adapters and not list((tmp_path / "run").glob("engine-*"))


@pytest.mark.parametrize("command", ["chat", "iterate"])
def test_engine_and_address_go_together(run: Path, command: str) -> None:
    what = run if command == "chat" else run / "recipe.yaml"
    assert "say with --engine-url" in told(command, what, "--engine", "vllm")[2]
    assert "--engine-url is for --engine vllm" in told(command, what, "--engine-url", "http://x")[2]
    code, _, error = told(command, what, "--engine", "vllm", "--engine-url", "x:8000")
    assert code == 2 and "set --engine-url to where it listens, such as http://localhost:8000" in error


def test_a_second_policy_is_for_programs(run: Path) -> None:
    code, out, error = told("chat", run, "--beside", run)
    assert code == 2 and not out and "--beside goes with --json" in error
