"""Over-optimisation as a laboratory: how far a policy goes past what its reward model knows, and what helps.

    python benchmarks/overoptimise.py run FILE [--golds 6] [--sizes 200 1600] [--noise 0 0.25]
    python benchmarks/overoptimise.py table FILE [--figure FILE.svg]

A gold reward model labels pairs (overoptimise_world.py). From so many pairs, with so many of them turned
round, `align rm` trains proxies, and `align ppo` runs long past the peak with hardly any price on KL.
Each in four arms, which a guard watches: a reward model trained on as many other pairs.

    free        one proxy, its raw score is the reward
    protected   four members that have to agree (reward_reduce) and bounded rewards (reward_shape: sigmoid)
    held        the same, and the KL penalty that is the recipe's default (kl_coef: 0.05)
    again       as free, with another seed; half of its guard's pairs are answers that free gave on its way

`run` adds a line to FILE for each run, with its curves, and goes on where it was interrupted. What
`ppo.keep: best` would have kept follows from the curves, so `table` has it for every arm;
overoptimise_table.py says how it counts. World and settings were chosen on golds 0 to 2, so runs begin at 3.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"

# noqa: E402, as these stand behind the lines above, which say where they are found.
import overoptimise_world as world  # noqa: E402
from conftest import make_recipe, write_jsonl  # noqa: E402
from overoptimise_figure import figure  # noqa: E402
from overoptimise_table import table  # noqa: E402

MEMBERS = 4
AGAIN = 1000  # between the seeds of the first and of the second run
RM_STEPS = (60, 150)  # at least and at most; between them three passes
PROTECTED = {"reward_reduce": "mean_minus_std", "reward_shape": "sigmoid"}
ARMS: dict[str, dict[str, Any]] = {
    "free": {},
    "protected": PROTECTED,
    "held": PROTECTED | {"kl_coef": 0.05},
    "again": {},
}
CURVES = {
    "kl": "kl/reference",
    "proxy": "reward/score",
    "gold": "reward/gold",
    "guard": "guard/score",
    "guard_held_out": "guard/eval_score",
}


@dataclass(frozen=True)
class Lab:
    """What all runs share: a folder with base and sft, and how long ppo runs."""

    folder: Path
    iterations: int
    every: int  # iterations between evaluations
    responses: int  # an iteration

    def stage(self, stage: str, name: str, **sections: Any) -> Path:
        """Run a stage of the recipe that all share; returns its folder. sections: of this run."""
        from align.recipe.load import load_recipe
        from align.stage_table import STAGES

        start = {} if name == "start" else {"sft": str(self.folder / "runs" / "start")}
        recipe = make_recipe(
            self.folder,
            self.folder / "base",
            run={"name": name} | sections.get("run", {}),
            data={
                "demonstrations": {"train": "letters.jsonl"},
                "rankings": {
                    "train": sections.get("labels", "labels.jsonl"),
                    "held_out": ["test.jsonl"],
                },
                "prompts": {"train": "asked.jsonl", "held_out": 0.0625},
            },
            lora={"rank": 16, "alpha": 32, "targets": "all-linear", "layers": 2},
            sft={"steps": 20, "batch_size": 32, "checkpoint_every": 20},
            rm=start
            | {"batch_size": 32, "microbatch_tokens": 4096, "learning_rate": 5e-3, "checkpoint_every": 1000}
            | sections.get("rm", {}),
            ppo=start
            | {
                "iterations": self.iterations,
                "rollout_batch_size": self.responses,
                "minibatch_size": self.responses,
                "microbatch_tokens": 4096,
                "learning_rate": 1e-3,
                "schedule": "constant",
                "advantage": "reinforce++",  # prompts do not matter here, so a value model has little to say
                "min_response_tokens": world.LENGTH,
                "max_response_tokens": 1 + world.LENGTH,
                "kl_coef": 0.001,
                "evaluate_every": self.every,
                "checkpoint_every": 1000,
                "rewards": [
                    {"run": "this"},
                    {"function": "overoptimise_world:score", "name": "gold", "weight": 0.0},
                ],
            }
            | sections.get("ppo", {}),
        )
        importlib.import_module(STAGES[stage].module).run(load_recipe(recipe))
        return self.folder / "runs" / name / stage


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--golds", type=int, default=6, help="how many gold reward models")
    parser.add_argument("--first", type=int, default=3, help="number of the first one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 1600])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.25])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--responses", type=int, default=128)
    arguments = parser.parse_args()
    if arguments.do == "run":
        with tempfile.TemporaryDirectory() as folder:
            run(arguments, Lab(Path(folder), arguments.iterations, arguments.every, arguments.responses))
        return
    rows = read(arguments.file)
    print(table(rows))
    if arguments.figure:
        arguments.figure.write_text(figure(rows))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(arguments: argparse.Namespace, lab: Lab) -> None:
    """All runs that the file has not."""
    done = {(row["gold"], row["size"], row["noise"], row["arm"]) for row in read(arguments.file)}
    cells = [
        (gold, size, noise)
        for gold in range(arguments.first, arguments.first + arguments.golds)
        for size in arguments.sizes
        for noise in arguments.noise
    ]
    draw = random.Random(0)
    world.make_base(lab.folder / "base", seed=0)
    asked = world.prompts(draw, 1024)
    write_jsonl(lab.folder / "asked.jsonl", asked)
    write_jsonl(lab.folder / "letters.jsonl", [row | {"response": world.answer(draw)} for row in asked])
    lab.stage("sft", "start")
    for cell in cells:
        arms = [arm for arm in ARMS if (*cell, arm) not in done]
        if arms:
            one_cell(arguments.file, lab, cell, arms)


def one_cell(file: Path, lab: Lab, cell: tuple[int, int, float], arms: list[str]) -> None:
    """The runs from one gold reward model, with so many labels, of which so many are wrong."""
    gold, size, noise = cell
    os.environ[world.GOLD] = str(gold)
    draw = random.Random(f"{gold} {size} {noise}")
    write_jsonl(lab.folder / "test.jsonl", world.rankings(draw, gold, 512, 0.0))
    for name in ("labels", "others"):
        write_jsonl(lab.folder / f"{name}.jsonl", world.rankings(draw, gold, size, noise))
    name = f"{gold}-{size}-{noise}"
    own = {"run": {"seed": gold}}
    steps = {"steps": max(RM_STEPS[0], min(3 * size // 32, RM_STEPS[1]))}

    def ppo(arm: str, guard: Path) -> tuple[Path, Path]:
        """The arm's reward model and its run; what another arm has trained already is not trained again."""
        members = {"members": MEMBERS} if "reward_reduce" in ARMS[arm] else {}
        proxy = lab.stage("rm", f"members-{name}" if members else f"proxy-{name}", **own, rm=steps | members)
        fields = ARMS[arm] | {"rm": str(proxy.parent), "guard": str(guard)}
        seed = {"run": {"seed": gold + AGAIN}} if arm == "again" else own
        return proxy, lab.stage("ppo", f"{arm}-{name}", **seed, ppo=fields)

    guard = lab.stage("rm", f"guard-{name}", labels="others.jsonl", **own, rm=steps).parent
    for arm in arms:
        since = time.process_time()
        watching = guard
        if arm == "again":
            seen = answers(ppo("free", guard)[1])
            half = world.rankings(draw, gold, size // 2, noise, lambda d, seen=seen: d.choice(seen))
            others = world.rankings(draw, gold, size - size // 2, noise)
            write_jsonl(lab.folder / "fresh.jsonl", half + others)
            watching = lab.stage("rm", f"fresh-{name}", labels="fresh.jsonl", **own, rm=steps).parent
        proxy, ran = ppo(arm, watching)
        row = {
            "gold": gold,
            "kind": world.gold(gold).kind,
            "size": size,
            "noise": noise,
            "arm": arm,
            "accuracy": results(proxy)["eval/accuracy"],
            "seconds": round(time.process_time() - since, 1),  # of the CPU
            "every": lab.every,
            "curves": curves(ran),
        }
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")


def answers(ppo: Path) -> list[str]:
    """What the run wrote into its samples: a few answers of every iteration."""
    rows = [json.loads(line) for line in (ppo / "samples.jsonl").read_text().splitlines()]
    return sorted({"".join(row["response"].split()) for row in rows})


def results(stage: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage / "manifest.json").read_text())["results"]
    return found


def curves(ppo: Path) -> dict[str, list[float]]:
    """By iteration, what the run's records say; `guard_held_out` by evaluation."""
    rows = [json.loads(line) for line in (ppo / "metrics.jsonl").read_text().splitlines()]
    return {name: [round(row[key], 4) for row in rows if key in row] for name, key in CURVES.items()}


if __name__ == "__main__":
    main()
