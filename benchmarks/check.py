"""How long `align check` takes on 100,000 rankings, and how much memory: the first time and once more.

    python benchmarks/check.py [--rankings N] [--cores N]

Each ranking has a prompt of about 60 words and four responses of about 30, drawn word by word from the
quick start's texts (recipes/quickstart/prepare.py makes them); the tokenizer is the quick start's. Runs
the command as a person would, on two cores unless told otherwise, with a cache that is empty the first
time, and prints a line of JSON for each of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / ".cache" / "quickstart"
LIMIT = 120.0  # seconds, for 100,000 rankings on two cores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rankings", type=int, default=100_000)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    texts = QUICKSTART / "data" / "demonstrations.jsonl"
    if not texts.is_file():
        sys.exit(
            "error: the quick start's base and data are not here; run recipes/quickstart/prepare.py first"
        )
    words = " ".join(json.loads(line)["response"] for line in texts.read_text().splitlines()).split()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_rankings(folder / "rankings.jsonl", words, arguments.rankings)
        recipe = folder / "recipe.yaml"
        recipe.write_text(
            f"base: {QUICKSTART / 'base'}\nrun: {{name: check, folder: {folder / 'runs'}}}\n"
            f"data: {{rankings: rankings.jsonl, cache: {folder / 'cache'}}}\n"
        )
        keep_cores(arguments.cores)
        for cache in ("empty", "filled"):
            line = {"rankings": arguments.rankings, "megabytes": round(size / 1e6), "cache": cache}
            line |= {"cores": arguments.cores, **measured(recipe)}
            print(json.dumps(line), flush=True)
            if line["exit_code"] or line["seconds"] > LIMIT * max(1, arguments.rankings / 100_000):
                sys.exit(1)


def measured(recipe: Path) -> dict[str, float]:
    """Check once: time, memory and exit code."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.Popen([sys.executable, "-m", "align", "check", str(recipe)], cwd=ROOT, env=environment)
    _, status, used = os.wait4(done.pid, 0)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),  # KiB on Linux
        "exit_code": os.waitstatus_to_exitcode(status),
    }


def write_rankings(path: Path, words: list[str], count: int) -> int:
    """Write the rankings; returns the file's size in bytes."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=max(3, round(draw.gauss(length, length / 4)))))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            ranks = draw.choices((1, 2, 3, 4), k=4)
            row = {"prompt": text(60), "responses": [text(30) for _ in range(4)], "ranks": ranks}
            row["labeler"] = f"labeler-{draw.randrange(40)}"
            file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def keep_cores(count: int) -> None:
    """Leave this process and its children as many cores as a small machine has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


if __name__ == "__main__":
    main()
