"""Everything about align on this GPU, in one table: `make gpu`.

    python benchmarks/gpu/run.py [--shapes 135m 1b 8b] [--results FOLDER] [--vllm-url URL] [--only PART …]

Llamas with random weights in the shapes of SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B. Of each: tokens a
second of sft; rankings a second of rm with 4 and 9 responses, prompts read once ("packed") or behind each
response ("pairs"); responses a second of ppo by part, for each engine; peaks of memory beside `align plan`;
seconds of a checkpoint. Before that the tests with the mark `gpu`, at the end every stage killed twice and
started again, whose weights must have the same bits.

Each part is a process of its own, and its figures are written when it ends: a run that was stopped goes on
with the next part. It is made for less than ten minutes on one H100, and has not been seen on one yet.
Figures: RESULTS/table.md and RESULTS/results.json (default: runs/gpu). `floor` is the share of what this
card did in a plain matrix product (training) or could read at the measured bandwidth (sampling).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

# Behind the lines above, which say where these are found.
from parts import Figures, parts  # noqa: E402
from shapes import SHAPES, work_folder  # noqa: E402

from table import table  # noqa: E402


def main() -> None:
    arguments = parse()
    known = {part.name: part for part in parts(arguments.shapes, arguments.vllm_url)}
    if arguments.part:
        figures = known[arguments.part].measure(arguments.work)
        (arguments.results / f"{arguments.part}.json").write_text(json.dumps(figures))
        return
    if unknown := set(arguments.only) - set(known):
        sys.exit(f"error: --only {unknown.pop()}: parts are {', '.join(known)}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    print(f"bases and runs lie in {arguments.work}", flush=True)
    wanted = {
        *arguments.only,
        *(need for name in arguments.only for need in known[name].needs),
    } or known.keys()
    found: dict[str, Figures] = {}
    started = time.monotonic()
    for number, (name, part) in enumerate(known.items(), 1):
        path = arguments.results / f"{name}.json"
        if path.exists() and name not in arguments.only:
            print(f"[{number}/{len(known)}] {name}: done before", flush=True)
        elif name not in wanted:
            continue
        elif missing := [need for need in part.needs if found[need].get("failed")]:
            path.write_text(json.dumps({"failed": f"{missing[0]} did"}))
        else:
            print(f"[{number}/{len(known)}] {name} …", flush=True)
            path.write_text(json.dumps(measured(name, arguments)))
        found[name] = json.loads(path.read_text())
        (arguments.results / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        (arguments.results / "table.md").write_text(table(found))
    print(f"\n{table(found)}\n{time.monotonic() - started:.0f} s; {arguments.results / 'table.md'}")
    if not arguments.keep:
        shutil.rmtree(arguments.work, ignore_errors=True)
    if any(figures.get("failed") for figures in found.values()):
        sys.exit(1)


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a part gave, in a process of its own; how it failed, where it did."""
    began = time.monotonic()
    command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--part", name]
    command += ["--work", str(arguments.work)]
    with (arguments.results / f"{name}.log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    path = arguments.results / f"{name}.json"
    seconds = {"seconds": round(time.monotonic() - began, 1)}
    if code:
        lines = Path(log.name).read_text().strip().splitlines()
        return {"failed": (lines or [f"exit code {code}"])[-1], **seconds}
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures | seconds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="default: 135m 1b 8b")
    parser.add_argument("--results", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--vllm-url", help="of a vLLM server with the shape's base, for ppo through it")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="measure these anew, and what they need"
    )
    parser.add_argument("--keep", action="store_true", help="the bases and runs, in the work folder")
    parser.add_argument("--work", type=Path, help="for bases and runs; default: in memory, if they fit")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.shapes is None and not torch.cuda.is_available():
        sys.exit(
            "error: torch sees no GPU here (`align doctor` says why); on a CPU: "
            "make gpu GPU_FLAGS='--shapes tiny'"
        )
    arguments.shapes = arguments.shapes or ["135m", "1b", "8b"]
    arguments.work = arguments.work or work_folder(arguments.shapes)
    return arguments


if __name__ == "__main__":
    main()
