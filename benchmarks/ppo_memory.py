"""Peak memory of the four-role PPO step beside SFT of the same model and batch, and trl 1.12's PPO.

    python benchmarks/ppo_memory.py --base FOLDER --trl-python TRL/bin/python [--batch N]

Options, TRL's environment, and what both PPOs are given: benchmarks/ppo.py (but TRL's value model is
trained in full, as TRL does it, unless --trl-value lora). SFT steps through as many sequences of the same
length at once as PPO does in a microbatch. Each side has a process of its own; the figure is its resident
set's peak on a CPU, and the peak of what torch allocated on a GPU. A process that has only imported the
libraries is measured too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ppo
import torch

SIDES = ("import", "sft", "align", "trl")


def main() -> None:
    arguments = ppo.parse(SIDES, __doc__, trl_value="full")
    torch.set_num_threads(1)
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: what it leaves in memory is not measured.
        prepared = ppo.command(arguments, Path(folder), "prepare", __file__)
        subprocess.run(prepared, check=True, stdout=sys.stderr, env=ppo.environment("align"))
        found = {side: ppo.turn(arguments, Path(folder), side, __file__) for side in arguments.side}
    print("| process | parameters | peak MiB | of SFT's | of TRL's |")
    print("|---|---|---|---|---|")
    for side, row in found.items():
        shares = [
            f"{row['peak'] / found[other]['peak']:.2f}" if other in found else "" for other in SIDES[1::2]
        ]
        held = f"{row['parameters'] / 1e6:.1f}M" if row["parameters"] else ""
        print(f"| {side} | {held} | {row['peak']:.0f} | {' | '.join(shares)} |")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Peak MiB and parameters of one side, in this process."""
    if arguments.measure == "prepare":
        ppo.prepare(arguments, arguments.work)
        return {}
    if arguments.measure == "import":
        from align.ppo import train as _stage  # noqa: F401  what importing alone takes

        return {"peak": ppo.peak(), "parameters": 0}
    run = {"sft": sft, "align": ppo.ours, "trl": ppo.trl}[arguments.measure]
    found = run(arguments, arguments.work)
    return {"peak": found["peak"], "parameters": found["parameters"]}


def sft(arguments: argparse.Namespace, work: Path) -> dict[str, float]:
    """Two steps of our SFT on sequences as long as PPO's."""
    from align.recipe.load import load_recipe
    from align.stages import sft as stage

    recipe = load_recipe(work / "recipe.yaml", ["run.name=sft-again"])
    stage.run(recipe)
    return {"peak": ppo.peak(), "parameters": 0}


if __name__ == "__main__":
    main()
