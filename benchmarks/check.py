"""How long `align check` takes, and how much memory, on three files: the first time and once more.

    python benchmarks/check.py [--rows N] [--rankings N] [--cores N]

  three     a JSON list of three pairs
  pairs     a JSON list of 108,665 pairs (instruction, input, chosen, rejected), 368 MB
  rankings  100,000 rankings in JSON Lines, each with a prompt of about 60 words and four responses of 30

Their words are drawn from the quick start's texts (recipes/quickstart/prepare.py makes them); the tokenizer
is the quick start's. Runs the command as a person would, on two cores unless told otherwise, with a cache
that is empty the first time, and prints a line of JSON for each run.
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
LIMIT = 120.0  # CPU seconds, for either of the large files
SMALL_LIMIT = 3.0  # for three rows
PAIRS = 108_665


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=PAIRS, help="pairs in the JSON list")
    parser.add_argument("--rankings", type=int, default=100_000)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    texts = QUICKSTART / "data" / "demonstrations.jsonl"
    if not texts.is_file():
        sys.exit(
            "error: the quick start's base and data are not here; run recipes/quickstart/prepare.py first"
        )
    words = " ".join(json.loads(line)["response"] for line in texts.read_text().splitlines()).split()
    keep_cores(arguments.cores)
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, count, write, limit in (
            ("three", 3, write_pairs, SMALL_LIMIT),
            ("pairs", arguments.rows, write_pairs, LIMIT),
            ("rankings", arguments.rankings, write_rankings, LIMIT),
        ):
            data = folder / (f"{title}.json" if write is write_pairs else f"{title}.jsonl")
            size = write(data, words, count)
            recipe = folder / f"{title}.yaml"
            recipe.write_text(
                f"base: {QUICKSTART / 'base'}\nrun: {{name: {title}, folder: {folder / 'runs'}}}\n"
                f"data: {{cache: {folder / 'cache'}, rankings: {{train: {data.name}, held_out: "
                f"{0.0 if title == 'three' else 0.05}}}}}\n"
            )
            for cache in ("empty", "filled"):
                line = {"file": title, "records": count, "megabytes": round(size / 1e6), "cache": cache}
                line |= {"cores": arguments.cores, **measured(recipe)}
                print(json.dumps(line), flush=True)
                good = good and not line["exit_code"] and line["cpu_seconds"] <= limit
            data.unlink()
    sys.exit(not good)


def measured(recipe: Path) -> dict[str, float]:
    """Check once: time, memory and exit code."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "align", "check", str(recipe)]
    done = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(done.pid, 0)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 2**10),  # KiB on Linux
        "exit_code": os.waitstatus_to_exitcode(status),
    }


def write_rankings(path: Path, words: list[str], count: int) -> int:
    """Write the rankings; returns the file's size in bytes."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return drawn(draw, words, length)

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            ranks = draw.choices((1, 2, 3, 4), k=4)
            row = {"prompt": text(60), "responses": [text(30) for _ in range(4)], "ranks": ranks}
            row["labeler"] = f"labeler-{draw.randrange(40)}"
            file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def write_pairs(path: Path, words: list[str], count: int) -> int:
    """Write pairs of about 3.4 KB as one JSON list; returns the file's size in bytes."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            instruction, given = drawn(draw, words, 53), drawn(draw, words, 106) if i % 3 == 0 else ""
            row = {"instruction": instruction, "input": given}
            row |= {"chosen": drawn(draw, words, 231), "rejected": drawn(draw, words, 213)}
            file.write(("[\n" if i == 0 else ",\n") + json.dumps(row))
        file.write("\n]\n")
    return path.stat().st_size


def drawn(draw: random.Random, words: list[str], length: int) -> str:
    """A text of about so many words."""
    return " ".join(draw.choices(words, k=max(3, round(draw.gauss(length, length / 4)))))


def keep_cores(count: int) -> None:
    """Leave this process and its children as many cores as a small machine has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


if __name__ == "__main__":
    main()
