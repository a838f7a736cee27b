"""How much of what random labelers cost a reward model comes back by `weight_by: reliability`.

    python benchmarks/reliability.py [--seeds 5] [--busy 1]

Planted rankings: a response is a few words, each word has a worth that is drawn, and a response is worth
their sum. Ten labelers rank K responses to each prompt, three of them each, with some noise in what they see.
Three reward models are trained by `align rm` on a tiny base, with the same seed, prompts and steps:

    clean     all ten people judge so
    noisy     two of the ten (20%) order at random
    weighted  the same rankings as noisy, with `weight_by: reliability`
    dropped   noisy without the rankings of the two, as one could who knew (with --dropped)

Each is measured on held-out prompts by the planted worths themselves. What comes back is (weighted - noisy) /
(clean - noisy). With --busy B the two that order at random do B times as many tasks as anybody else. Prints a
table in Markdown; exit code 1 where less than 90% comes back in the mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"

from conftest import make_recipe, make_tiny_base, words, write_jsonl  # noqa: E402

PEOPLE = [f"labeler {i}" for i in range(10)]
RANDOM = PEOPLE[:2]
ARMS = ("clean", "noisy", "weighted")
OVERLAP, LENGTH, NOISE = 3, 4, 0.5
VOCABULARY = sorted(set(words(40)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--busy", type=float, default=1.0)
    parser.add_argument("--dropped", action="store_true")
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--held-out", type=int, default=800)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-2)
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_seed(arguments, seed, Path(folder)))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    sys.exit(table(rows))


def one_seed(arguments: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """The accuracies of the three reward models, and what the weights were."""
    make_tiny_base(folder / "base", seed)
    draw = random.Random(seed)
    worth = {word: draw.gauss(0, 1) for word in VOCABULARY}
    tasks = [one_task(draw, arguments.k, f"task {i}") for i in range(arguments.prompts)]
    tests = [one_task(draw, arguments.k, f"test {i}") for i in range(arguments.held_out)]
    write_jsonl(folder / "test.jsonl", [judged(draw, task, worth, 0.0) for task in tests])
    clean, noisy = labels(draw, tasks, worth, arguments.busy)
    found: dict[str, Any] = {"seed": seed}
    without = [row for row in noisy if row["labeler"] not in RANDOM]
    for arm in (*ARMS, "dropped") if arguments.dropped else ARMS:
        write_jsonl(folder / "labels.jsonl", {"clean": clean, "dropped": without}.get(arm, noisy))
        found |= trained(arguments, seed, folder, arm)
    found["random labels"] = sum(row["labeler"] in RANDOM for row in noisy) / len(noisy)
    return found


def one_task(draw: random.Random, k: int, prompt: str) -> dict[str, Any]:
    """A prompt with K different responses."""
    responses: set[str] = set()
    while len(responses) < k:
        responses.add(" " + " ".join(draw.sample(VOCABULARY, LENGTH)))
    return {"prompt": prompt, "responses": sorted(responses)}


def judged(
    draw: random.Random, task: dict[str, Any], worth: dict[str, float], noise: float
) -> dict[str, Any]:
    """A task with the ranks of one who sees each response's worth with noise."""
    seen = [sum(worth[word] for word in text.split()) + draw.gauss(0, noise) for text in task["responses"]]
    order = sorted(seen, reverse=True)
    return {**task, "ranks": [order.index(value) + 1 for value in seen]}


def labels(
    draw: random.Random, tasks: list[dict[str, Any]], worth: dict[str, float], busy: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Everybody's rankings, and the same with those of two people drawn at random."""
    clean, noisy = [], []
    for task in tasks:
        weights = {name: busy if name in RANDOM else 1.0 for name in PEOPLE}
        for _ in range(OVERLAP):
            (name,) = draw.choices(list(weights), list(weights.values()))
            del weights[name]
            row = judged(draw, task, worth, NOISE) | {"labeler": name}
            clean.append(row)
            shuffled = draw.sample(row["ranks"], len(row["ranks"]))
            noisy.append(row | {"ranks": shuffled} if name in RANDOM else row)
    return clean, noisy


def trained(arguments: argparse.Namespace, seed: int, folder: Path, arm: str) -> dict[str, Any]:
    """One reward model's accuracy on the planted order, and the weights where there are some."""
    from align.recipe.load import load_recipe
    from align.stages import rm, sft

    data = {"train": "labels.jsonl", "held_out": ["test.jsonl"]}
    recipe = make_recipe(
        folder,
        folder / "base",
        run={"name": arm, "seed": seed},
        data={"rankings": data | ({"weight_by": "reliability"} if arm == "weighted" else {})},
        lora={"rank": 8, "alpha": 16, "targets": "all-linear", "layers": 4},
        sft={"steps": 1},
        rm={
            "steps": arguments.steps,
            "batch_size": 16,
            "microbatch_tokens": 4096,
            "learning_rate": arguments.rate,
            "checkpoint_every": arguments.steps,
            "schedule": "cosine",
        },
    )
    since = time.process_time()
    sft.run(load_recipe(recipe))
    rm.run(load_recipe(recipe))
    manifest = json.loads((folder / "runs" / arm / "rm" / "manifest.json").read_text())
    found = {arm: manifest["results"]["eval/accuracy"], f"{arm} CPU s": time.process_time() - since}
    weights = manifest["data"].get("labeler_weights")
    return found | ({"weights": json.loads(weights)} if weights else {})


def table(rows: list[dict[str, Any]]) -> int:
    """Print the seeds and their mean; the exit code."""
    print("| seed | clean | noisy | weighted | lost | comes back | weights of the two | of the others |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        lost, back = row["clean"] - row["noisy"], row["weighted"] - row["noisy"]
        two, others = (
            [
                weight
                for name, weight in row["weights"].items()
                if (name in RANDOM) == chosen and name != "others"
            ]
            for chosen in (True, False)
        )
        spans = [f"{min(part):.2f} to {max(part):.2f}" for part in (two, others)]
        numbers = " | ".join(f"{row[arm]:.3f}" for arm in ARMS)
        print(f"| {row['seed']} | {numbers} | {lost:.3f} | {back / lost:.0%} | {spans[0]} | {spans[1]} |")
    means = {arm: statistics.mean(row[arm] for row in rows) for arm in ARMS}
    lost, back = means["clean"] - means["noisy"], means["weighted"] - means["noisy"]
    numbers = " | ".join(f"{means[arm]:.3f}" for arm in ARMS)
    print(f"| mean | {numbers} | {lost:.3f} | {back / lost:.0%} | | |")
    if "dropped" in rows[0]:
        print(f"\nWithout the two: {statistics.mean(row['dropped'] for row in rows):.3f}.")
    share = statistics.mean(row["random labels"] for row in rows)
    print(f"\n{share:.0%} of the rankings are by the two that order at random.")
    return 0 if back >= 0.9 * lost else 1


if __name__ == "__main__":
    main()
