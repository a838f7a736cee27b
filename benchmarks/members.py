"""What several members of a reward model (rm.members) cost beside as many reward models.

    python benchmarks/members.py --base FOLDER [--members 1 2 4] [--lora-layers N] [--steps N]

Members share the base and each pass through the layers below all adapters. Each measurement is a process of
its own on one CPU thread, and prints CPU seconds a step (the median without the first), the bytes that all
processes' weights, gradients and optimizers take, and the peak of resident memory. The rankings are those of
benchmarks/reward_model.py: four responses of about 32 tokens to a prompt of about 128, two rankings a step.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from reward_model import rankings
from transformers import AutoTokenizer

RESPONSES, BATCH, RATE = 4, 2, 1e-4


def measure(arguments: argparse.Namespace) -> None:
    """Steps with one number of members: a line of seconds, MiB held and MiB at the peak."""
    from align.models.base import find_base
    from align.models.probes import share_prompts
    from align.processes import distributed
    from align.recipe.sections import RM, Base
    from align.stages import rm
    from align.stages.members import members_of, trained
    from align.stages.ranking_gradients import gradients
    from align.stages.ranking_rows import RankingRow

    (count,) = arguments.members
    cfg = RM(members=count, microbatch_tokens=10**6, gradient_checkpointing=False)
    base = find_base(Base(name=str(arguments.base), dtype="float32"))
    setup = argparse.Namespace(load_model=lambda: base.load_model(torch.device("cpu")), shard_group=None)
    forward = rm._model(setup, arguments.adapter, 0, cfg, False)
    share_prompts(forward, "reward", 10**4)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    made = rankings(tokenizer, RESPONSES, BATCH * arguments.steps, "members", 128, 32)
    accel, members, seconds = distributed.accelerator(60), members_of(cfg, 0), []
    optimizers = {m.role: torch.optim.AdamW(trained(forward.roles, m.role).values()) for m in members}
    for step in range(arguments.steps):
        rows = [RankingRow(*one) for one in made[BATCH * step : BATCH * (step + 1)]]
        before = time.process_time()
        sums = gradients(forward, rows, cfg, accel, members)
        rm._update_all(forward, optimizers, sums, RATE, cfg, accel)
        seconds.append(time.process_time() - before)
    weights = sum(p.nbytes for p in forward.roles.parameters())
    training = 3 * sum(p.nbytes for m in members for p in trained(forward.roles, m.role).values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(statistics.median(seconds[1:]), (weights + training) / 2**20, peak)


def make_adapter(arguments: argparse.Namespace, folder: Path) -> None:
    """An adapter as sft would leave it, in this process, so that its base is in no measured one."""
    from align.models.adapters import save_adapter
    from align.models.base import find_base
    from align.models.lora import lora_config
    from align.models.roles import Roles
    from align.recipe.sections import Base, Lora

    roles = Roles(find_base(Base(name=str(arguments.base), dtype="float32")).load_model(torch.device("cpu")))
    roles.add("policy", lora_config(Lora(layers=arguments.lora_layers), roles.base), trains=True)
    save_adapter(roles.peft, "policy", folder)


def main() -> None:
    """Measure each number of members in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--lora-layers", type=int)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--adapter", type=Path, help=argparse.SUPPRESS)  # one measurement, by a child
    arguments = parser.parse_args()
    if arguments.adapter:
        torch.set_num_threads(1)
        measure(arguments)
        return
    print("| members | CPU s a step | of as many models | MiB held | of as many models | MiB at the peak |")
    print("|---|---|---|---|---|---|")
    first: tuple[float, float] | None = None
    with tempfile.TemporaryDirectory() as folder:
        make_adapter(arguments, Path(folder))
        for count in arguments.members:
            same = ["--base", arguments.base, "--steps", arguments.steps, "--members", count]
            child = [sys.executable, __file__, "--adapter", folder, *map(str, same)]
            done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)
            seconds, held, peak = map(float, done.stdout.split()[-3:])
            first = first or (seconds / count, held / count)
            shares = [f"{x / (count * own):.0%}" for x, own in zip((seconds, held), first, strict=True)]
            row = f"{seconds:.2f} | {shares[0]} | {held:,.0f} | {shares[1]} | {peak:,.0f}"
            print(f"| {count} | {row} |", flush=True)


if __name__ == "__main__":
    main()
