"""How much of what random labelers cost a reward model comes back by `weight_by: reliability`.

    python benchmarks/reliability.py [--seeds 5] [--busy 1]      a linear reward model
    python benchmarks/reliability.py --rm [--seeds 5] [--busy 1]  `align rm` on a tiny base: minutes a seed

Planted rankings: ten labelers rank K responses to each prompt, three of them each, with some noise in what
they see of each response's worth. Three reward models are trained on the same prompts from the same start:

    clean     all ten people judge so
    noisy     two of the ten (20%) order at random
    weighted  the same rankings as noisy, with `weight_by: reliability`
    dropped   noisy without the rankings of the two, as one could who knew

Each is measured by the planted worths. What comes back is (weighted - noisy) / (clean - noisy), where at
least a hundredth was lost. With --busy B the two that order at random do B times as many tasks as others.

Linear: a response is a vector, worth its product with a planted direction; scores are linear and fitted to
the end (Newton's method) by the reward model's loss with align's own weights and a little ridge, so that
nothing but the labels decides. With --rm a response is four letters, worth the sum of what each is worth,
each a token of the small random base. The clean run has to reach 0.9 in every seed: settings were chosen by
that alone (--clean). Prints a table in Markdown; exit code 1 where less than 90% comes back in the mean over
seeds, or a clean run falls short.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import string
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"

# Behind the lines above, which say where these are found.
from conftest import make_recipe, make_tiny_base, write_jsonl  # noqa: E402

from align.data.evidence import answer  # noqa: E402
from align.data.labeler_weights import LabelerWeights, weights_by  # noqa: E402
from align.records import Ranking  # noqa: E402
from align.stats.rankings import comparisons  # noqa: E402
from align.stats.reliability import reliability, votes  # noqa: E402

PEOPLE = [f"labeler {i}" for i in range(10)]
RANDOM = PEOPLE[:2]
ARMS = ("clean", "noisy", "weighted", "dropped")
OVERLAP, LENGTH, NOISE = 3, 4, 0.5
LEARNED = 0.9  # accuracy of the clean run in each seed, fixed before the other arms ran
MEASURED = 0.01  # accuracy that must be lost for a share of it to mean anything
WIDTH = 30  # of the linear model's vectors
LETTERS = string.ascii_uppercase  # each is one token of the tiny base


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--busy", type=float, default=1.0)
    parser.add_argument("--rm", action="store_true")
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--held-out", type=int, default=800)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument(
        "--clean", action="store_true", help="the clean reward model alone, to choose settings"
    )
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        if not arguments.rm:
            rows.append(linear(arguments, seed))
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_seed(arguments, seed, Path(folder)))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if arguments.clean:
        print("clean: " + ", ".join(f"{row['clean']:.3f}" for row in rows))
        sys.exit(0 if learned(rows) else 1)
    sys.exit(table(rows))


def linear(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The accuracies of the four linear reward models, and what the weights were."""
    draw, random_vectors = random.Random(seed), np.random.default_rng(seed)
    direction = random_vectors.normal(size=WIDTH)
    vectors = random_vectors.normal(size=(arguments.prompts, arguments.k, WIDTH))
    clean, noisy = [], []
    for prompt, worths in enumerate(vectors @ direction):
        for name in drawn_people(draw, arguments.busy):
            seen = [worth + draw.gauss(0, NOISE) for worth in worths]
            right = Ranking(f"{prompt}", tuple("abcdefghi"[: len(seen)]), ranks_of(seen), name)
            clean.append(right)
            shuffled = tuple(draw.sample(right.ranks, len(seen)))
            noisy.append(replace(right, ranks=shuffled) if name in RANDOM else right)
    found = weights_by(reliability(votes(map(answer, noisy))), Counter(row.labeler for row in noisy))
    arms = {"clean": (clean, None), "noisy": (noisy, None), "weighted": (noisy, found)}
    arms["dropped"] = ([row for row in noisy if row.labeler not in RANDOM], None)
    accuracies = {arm: linear_accuracy(vectors, direction, *given) for arm, given in arms.items()}
    share = sum(row.labeler in RANDOM for row in noisy) / len(noisy)
    return {"seed": seed, **accuracies, "weights": dict(found.by_name), "random labels": share}


def linear_accuracy(
    vectors: Any, direction: Any, rankings: list[Ranking], weights: LabelerWeights | None
) -> float:
    """How often the fitted direction orders two random vectors as the planted one: 1 - angle / pi."""
    pairs = [
        (
            vectors[int(str(row.prompt)), i] - vectors[int(str(row.prompt)), j],
            1.0 if weights is None else weights.of(row),
        )
        for row in rankings
        for i, j in comparisons(row.ranks)
    ]
    apart, weight = np.array([difference for difference, _ in pairs]), np.array([w for _, w in pairs])
    found = np.zeros(WIDTH)
    for _ in range(30):
        wrong = 1 / (1 + np.exp(apart @ found))  # P of the other order, as Bradley and Terry have it
        slope = apart.T @ (weight * wrong) - found
        curve = (apart * (weight * wrong * (1 - wrong))[:, None]).T @ apart + np.eye(WIDTH)
        found = found + np.linalg.solve(curve, slope)
    cosine = found @ direction / np.linalg.norm(found) / np.linalg.norm(direction)
    return float(1 - np.arccos(cosine) / np.pi)


def drawn_people(draw: random.Random, busy: float) -> list[str]:
    """Who does a task: OVERLAP different people."""
    found: list[str] = []
    while len(found) < OVERLAP:
        others = [name for name in PEOPLE if name not in found]
        found += draw.choices(others, [busy if name in RANDOM else 1.0 for name in others])
    return found


def ranks_of(seen: list[float]) -> tuple[int, ...]:
    """Ranks, 1 for the highest."""
    order = sorted(seen, reverse=True)
    return tuple(order.index(value) + 1 for value in seen)


def one_seed(arguments: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """The accuracies of the three reward models, and what the weights were."""
    make_tiny_base(folder / "base", seed)
    draw = random.Random(seed)
    worth = {letter: draw.gauss(0, 1) for letter in LETTERS}
    tasks = [one_task(draw, arguments.k, f"task {i}") for i in range(arguments.prompts)]
    tests = [one_task(draw, arguments.k, f"task {arguments.prompts + i}") for i in range(arguments.held_out)]
    write_jsonl(folder / "test.jsonl", [judged(draw, task, worth, 0.0) for task in tests])
    clean, noisy = labels(draw, tasks, worth, arguments.busy)
    found: dict[str, Any] = {"seed": seed}
    without = [row for row in noisy if row["labeler"] not in RANDOM]
    for arm in ARMS[:1] if arguments.clean else ARMS:
        write_jsonl(folder / "labels.jsonl", {"clean": clean, "dropped": without}.get(arm, noisy))
        found |= trained(arguments, seed, folder, arm)
    found["random labels"] = sum(row["labeler"] in RANDOM for row in noisy) / len(noisy)
    return found


def one_task(draw: random.Random, k: int, prompt: str) -> dict[str, Any]:
    """A prompt with K different responses."""
    responses: set[str] = set()
    while len(responses) < k:
        responses.add(" " + "".join(draw.sample(LETTERS, LENGTH)))
    return {"prompt": prompt, "responses": sorted(responses)}


def judged(
    draw: random.Random, task: dict[str, Any], worth: dict[str, float], noise: float
) -> dict[str, Any]:
    """A task with the ranks of one who sees each response's worth with noise."""
    worths = [sum(worth[letter] for letter in text.strip()) for text in task["responses"]]
    seen = [right + draw.gauss(0, noise) for right in worths]
    return {**task, "ranks": list(ranks_of(seen))}


def labels(
    draw: random.Random, tasks: list[dict[str, Any]], worth: dict[str, float], busy: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Everybody's rankings, and the same with those of two people drawn at random."""
    clean, noisy = [], []
    for task in tasks:
        for name in drawn_people(draw, busy):
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
            "warmup": 0.1,
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
    head = ("seed", *ARMS, "lost", "comes back", "weights of the two", "of the others")
    print(f"| {' | '.join(head)} |")
    print("|---|---|---|---|---|---|---|---|---|")
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
        print(
            f"| {row['seed']} | {numbers} | {lost:.3f} | {share_of(back, lost)} | {spans[0]} | {spans[1]} |"
        )
    means = {arm: statistics.mean(row[arm] for row in rows) for arm in ARMS}
    lost, back = means["clean"] - means["noisy"], means["weighted"] - means["noisy"]
    numbers = " | ".join(f"{means[arm]:.3f}" for arm in ARMS)
    print(f"| mean | {numbers} | {lost:.3f} | {share_of(back, lost)} | | |")
    share = statistics.mean(row["random labels"] for row in rows)
    print(f"\n{share:.0%} of the rankings are by the two that order at random.")
    return 0 if learned(rows) and back >= 0.9 * lost else 1


def share_of(back: float, lost: float) -> str:
    """What of the lost accuracy came back; nothing where too little was lost to measure."""
    return f"{back / lost:.0%}" if lost >= MEASURED else "–"


def learned(rows: list[dict[str, Any]]) -> bool:
    """Whether the clean run did in every seed; without that nothing was lost that could come back."""
    return all(row["clean"] >= LEARNED for row in rows)


if __name__ == "__main__":
    main()
