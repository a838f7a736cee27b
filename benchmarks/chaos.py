"""Kill the three stages at random moments, start them again, and compare with the run that nobody killed.

    python benchmarks/chaos.py [--kills N] [--seed S] [--fresh]

A tiny model, all three stages. Each start is given a moment: in one of eight before its first step, else
after some of them. Then its whole process group gets SIGKILL, and the same is started again, until the
stage has finished; then adapters, heads, the last checkpoint's optimizers and state, final/, metrics
without their seconds, samples and held-out answers must be equal, bit for bit. Rounds go on until there
were enough kills. Starts are forks of a process that has imported torch, because importing it takes
longer than all the training; --fresh starts `python` anew each time, as a person would. Prints one line
of JSON; exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"

# Behind the lines above, which say where these are found.
from conftest import TIMED, make_recipe, make_tiny_base  # noqa: E402

from align.stage_table import STAGES  # noqa: E402

SECTIONS: dict[str, dict[str, object]] = {
    "lora": {"dropout": 0.1},
    "sft": {"steps": 24, "microbatch_size": 2, "checkpoint_every": 3, "evaluate_every": 4},
    "rm": {"steps": 24, "checkpoint_every": 3, "evaluate_every": 4},
    "ppo": {
        "iterations": 8,
        "evaluate_every": 2,
        "keep": "best",
        "samples_every": 2,
        "kl_target": 0.5,
        "kl_horizon": 40,
        "ptx_coef": 0.1,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=201)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="a new Python each time instead of a fork")
    parser.add_argument("--life", nargs=2, metavar=("STAGE", "RECIPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.life:
        live(*arguments.life)
        return
    if not arguments.fresh:
        for stage in STAGES:
            importlib.import_module(STAGES[stage].module)
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        result = Chaos(Path(name), random.Random(arguments.seed), arguments.fresh).run(arguments.kills)
    print(json.dumps({"seed": arguments.seed, "fresh": arguments.fresh, **result}))
    if result["mismatches"] or result["failures"]:
        sys.exit(1)


class Chaos:
    """Rounds of kills, each from nothing to a finished stage."""

    def __init__(self, folder: Path, draw: random.Random, fresh: bool) -> None:
        self.folder, self.draw, self.fresh = folder, draw, fresh
        make_tiny_base(folder / "base")
        self.recipe = make_recipe(folder / "whole", folder / "base", **SECTIONS)
        self.moments: Counter[str] = Counter()
        self.mismatches: list[str] = []
        self.failures: list[str] = []
        self.before = 1.0  # seconds before the first step, as last seen

    def run(self, kills: int) -> dict[str, object]:
        for stage in STAGES:
            process = self.start(stage, self.recipe)
            assert process.wait() == 0, (self.folder / "log").read_text()
        results = {}
        for stage in STAGES:
            self.lives: list[Life] = []
            rounds = killed = 0
            while killed < kills / len(STAGES):
                rounds += 1
                self.round(stage, rounds)
                killed = sum(life.killed for life in self.lives)
                print(f"{stage}: {killed} kills in {rounds} rounds", file=sys.stderr)
            resumed = [life for life in self.lives if life.resumed and life.first_step is not None]
            steps = [seconds for life in self.lives for seconds in life.step_seconds]
            redone = sum(life.redone for life in resumed) / len(resumed)
            back, step = statistics.mean(life.first_step or 0.0 for life in resumed), statistics.mean(steps)
            results[stage] = {
                "kills": killed,
                "resumes": sum(life.resumed for life in self.lives),
                "rounds": rounds,
                "steps_done_again": round(redone, 2),
                "seconds_to_start_again": round(back - step, 2),
                "seconds_lost_a_kill": round(back + (redone - 1) * step, 2),
            }
        return {
            "kills": sum(self.moments.values()),
            "mismatches": len(self.mismatches),
            "failures": len(self.failures),
            "killed_while": dict(self.moments.most_common()),
            **results,
            "what": self.mismatches + self.failures,
        }

    @property
    def whole(self) -> Path:
        return self.folder / "whole" / "runs" / "tiny"

    def round(self, stage: str, number: int) -> None:
        """One stage from nothing to its end, killed again and again."""
        target = self.folder / f"{stage}-{number}"
        shutil.copytree(self.folder / "whole", target)
        for later in list(STAGES)[list(STAGES).index(stage) :]:
            shutil.rmtree(target / "runs" / "tiny" / later)
        recipe = target / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(str(self.folder / "whole"), str(target)))
        folder = target / "runs" / "tiny" / stage
        ended = None
        while ended is None:
            life = Life(self.start(stage, recipe), folder)
            early = self.draw.random() < 1 / 8
            if early:
                life.go_on(self.draw.uniform(0, self.before))
            else:
                life.go_on(steps=1 + self.draw.randrange(3 if stage == "ppo" else 6))
                life.go_on(self.draw.uniform(0, 1.2) * life.step)
                self.before = life.first_step or self.before
            ended = life.process.wait(0)
            if ended is None:
                life.process.kill()
                life.killed = True
                self.moments["starting" if life.first_step is None else moment(folder)] += 1
            self.lives.append(life)
        if ended:
            self.failures.append(f"{stage} round {number}: {(self.folder / 'log').read_text()[-2000:]}")
        else:
            differing = differences(self.whole / stage, folder)
            self.mismatches += [f"{stage} round {number}: {name}" for name in differing]
        shutil.rmtree(target)

    def start(self, stage: str, recipe: Path) -> Process:
        log = self.folder / "log"
        return Fresh(stage, recipe, log) if self.fresh else Fork(stage, recipe, log)


class Life:
    """A start, watched by the lines of metrics.jsonl."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process, self.folder = process, folder
        self.had = self.lines = self.lowest = lines(folder)
        self.resumed = any(folder.glob("checkpoints/step-*"))
        self.killed = False
        self.started = self.last = time.monotonic()
        self.first_step: float | None = None  # seconds until the first new step was done
        self.step_seconds: list[float] = []

    def go_on(self, seconds: float | None = None, steps: int | None = None) -> None:
        """Let it live so long, or for so many new steps, or to its end."""
        begun = time.monotonic()
        while (seconds is None or time.monotonic() < begun + seconds) and steps != 0:
            if self.process.wait(0.004) is not None:
                return
            now, count = time.monotonic(), lines(self.folder)
            if count > self.lines:
                if self.first_step is None:
                    self.first_step = now - self.started
                else:
                    self.step_seconds.append((now - self.last) / (count - self.lines))
                self.last = now
                steps = None if steps is None else max(0, steps - (count - self.lines))
            self.lines, self.lowest = count, min(self.lowest, count)

    @property
    def redone(self) -> int:
        """Lines that were there, and were cut off to be written again."""
        return self.had - self.lowest

    @property
    def step(self) -> float:
        """Seconds of a step, as far as it was seen."""
        return statistics.mean(self.step_seconds or [0.2])


class Process:
    """A start of a stage, in a process group of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, or None where it still runs after so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.002)
        return self.code

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class Fork(Process):
    def __init__(self, stage: str, recipe: Path, log: Path) -> None:
        pid = os.fork()
        if not pid:
            os.setsid()
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1), os.dup2(file, 2)
            code = 1
            try:
                live(stage, str(recipe))
                code = 0
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        super().__init__(pid)


class Fresh(Process):
    def __init__(self, stage: str, recipe: Path, log: Path) -> None:
        with log.open("w") as file:
            command = [sys.executable, __file__, "--life", stage, str(recipe)]
            self.popen = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        super().__init__(self.popen.pid)


def live(stage: str, recipe: str) -> None:
    """Run a stage; what lay in its checkpoints before it finished is kept in `last`, to compare it."""
    from align.recipe.load import load_recipe
    from align.run.folder import StageRun

    finish = StageRun.finish

    def keep(self: StageRun, *arguments: object, **named: object) -> None:
        last = self.folder / "last"
        shutil.rmtree(last, ignore_errors=True)
        shutil.copytree(sorted(self.checkpoints.glob("step-*"))[-1], last)
        finish(self, *arguments, **named)  # type: ignore[arg-type]

    StageRun.finish = keep  # type: ignore[method-assign]
    importlib.import_module(STAGES[stage].module).run(load_recipe(Path(recipe)))


def lines(folder: Path) -> int:
    """Of the stage's metrics.jsonl."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def moment(folder: Path) -> str:
    """What the killed process was at, by what it left."""
    if any(folder.glob("checkpoints/.step-*")):
        return "saving"
    if any(folder.glob(".final.*")):
        return "exporting"
    return "training"


def differences(one: Path, other: Path) -> list[str]:
    """Files that are not the same; of metrics.jsonl what was measured, not how long it took."""
    names = {p.relative_to(folder).as_posix() for folder in (one, other) for p in compared(folder)}
    found = []
    for name in sorted(names):
        paths = (one / name, other / name)
        if not all(path.is_file() for path in paths) or len({content(path) for path in paths}) > 1:
            found.append(name)
    return found


def compared(folder: Path) -> list[Path]:
    # sizes.json counts the bytes of metrics.jsonl, and so the digits of its seconds; hashes.json hashes it.
    left_out = {"sizes.json", "hashes.json"}
    kept = [p for sub in ("final", "last") for p in (folder / sub).rglob("*") if p.is_file()]
    names = ("metrics.jsonl", "samples.jsonl", "held_out.jsonl", "evaluation.json")
    kept += [path for name in names if (path := folder / name).is_file()]
    return [path for path in kept if path.name not in left_out]


def content(path: Path) -> bytes:
    if path.name != "metrics.jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return json.dumps([{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]).encode()


if __name__ == "__main__":
    main()
