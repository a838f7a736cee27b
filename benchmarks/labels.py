"""Which rankings to ask people for: held-out accuracy against the number of labelled rankings.

    python benchmarks/labels.py --base FOLDER --data FOLDER [--sets hh-rlhf oasst1 …] [--seeds 20]
                                [--kept FOLDER] [--figure FILE.svg] [--curves FILE.json]

A data set's rankings are split by conversation: 30% are held out, the others are the pool. A tenth of the
pool is labelled at first, the same for all rules. Then, round by round, a reward model is fitted to what is
labelled, a rule says by it which of the others come next, and another tenth is labelled, until all are:

    random         no order
    margin         the two best scores lie close together
    gap            the two best scores lie far apart
    spread         the best and the worst score lie far apart
    disagreement   an ensemble of MEMBERS differs in P(one beats the other): variance, mean over pairs
    information    p (1 - p) x' S x, mean over pairs: x a pair's difference, S the posterior's covariance
    design         the same, one by one: what is chosen already counts as seen in S (D-optimal)

Reward models are linear (Bradley and Terry's, with a ridge, fitted to the end) in features of the base, so
that only the choice of labels decides. Points are means over seeds; each seed has its own split and first
labels. Accuracies are compared within a seed: to its model of the whole pool, and to `random`. Intervals are
95%, by Student's t over seeds. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

# What lies there can be imported only now.
from label_features import FILES, Dataset, Task, dataset, planted  # noqa: E402

from align.errors import AlignError  # noqa: E402
from align.svg import Series, line_chart  # noqa: E402

WIDE, HIGH = 360, 200  # of a chart
TONES = {"random": "a", "margin": "b", "gap": "c", "disagreement": "d", "information": "e"}
COLOURS = {"a": "#5b6470", "b": "#c2410c", "c": "#2457c5", "d": "#15803d", "e": "#9333ea"}
STYLE = """
text { fill: #5b6470; font: 11px system-ui, sans-serif; } .title { fill: #1b1f24; font-weight: 600; }
.grid { stroke: #dfe3e8; } .axis, .reference { stroke: #5b6470; } .reference { stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
""" + "".join(f".line.{t} {{ stroke: {c}; }} tspan.{t} {{ fill: {c}; }}\n" for t, c in COLOURS.items())

Numbers = NDArray[np.float64]
HELD_OUT, WIDTH, MEMBERS = 0.3, 64, 5
SHARES = tuple(i / 10 for i in range(1, 11))
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
NEAR = 0.005  # so close to the whole pool's accuracy counts as there
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 10: 2.26, 20: 2.09, 40: 2.02}  # seeds -> Student's t


@dataclass(frozen=True)
class Pool:
    """Tasks as matrices. P pairs that people ordered, Q pairs of responses whatever people say of them."""

    seen: Numbers  # [P, D]: chosen minus rejected
    seen_task: NDArray[np.int64]  # [P]
    asked: Numbers  # [Q, D]: one response minus another
    asked_task: NDArray[np.int64]  # [Q]
    responses: list[Numbers]  # a task's [K, D]

    @property
    def weights(self) -> Numbers:
        """[P]: each task counts once, as in `align rm`."""
        return 1 / np.bincount(self.seen_task, minlength=len(self.responses))[self.seen_task]


@dataclass(frozen=True)
class Model:
    """A linear reward model: its weights [D] and the covariance [D, D] of their posterior (Laplace)."""

    weights: Numbers
    covariance: Numbers


def pool_of(features: Numbers, tasks: Sequence[Task]) -> Pool:
    """features: [responses, D]."""
    seen = [(i, a, b) for i, task in enumerate(tasks) for a, b in task.pairs]
    asked = [(i, a, b) for i, task in enumerate(tasks) for a, b in combinations(task.rows, 2)]
    (i, a, b), (j, c, d) = np.array(seen).T, np.array(asked).T
    own = [features[list(task.rows)] for task in tasks]
    return Pool(features[a] - features[b], i, features[c] - features[d], j, own)


def sigmoid(x: Numbers) -> Numbers:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(x / 2))


def fit(apart: Numbers, weight: Numbers, ridge: float) -> Model:
    """Newton's method on sum of weight × -log sigmoid(apart · w) + ridge/2 |w|²; apart [P, D], weight [P]."""
    found = np.zeros(apart.shape[1])
    for _ in range(50):
        wrong = sigmoid(-apart @ found)
        slope = apart.T @ (weight * wrong) - ridge * found
        curve = (apart * (weight * wrong * (1 - wrong))[:, None]).T @ apart + ridge * np.eye(len(found))
        step = np.linalg.solve(curve, slope)
        found = found + step
        if np.abs(step).max() < 1e-6:
            break
    return Model(found, np.linalg.inv(curve))


def fit_labelled(
    pool: Pool, labelled: NDArray[np.int64], ridge: float, counts: Numbers | None = None
) -> Model:
    """The model of these tasks; counts [tasks]: how often each counts, for a bootstrap's member."""
    times = np.zeros(len(pool.responses))
    times[labelled] = 1.0 if counts is None else counts[labelled]
    weight = pool.weights * times[pool.seen_task]
    rows = weight > 0
    return fit(pool.seen[rows], weight[rows], ridge)


def accuracy(pool: Pool, weights: Numbers) -> float:
    """The share of a task's pairs that are ordered as people do (a tie counts half), mean over tasks."""
    gaps = pool.seen @ weights
    right = (gaps > 0) + 0.5 * (gaps == 0)
    return float((pool.weights * right).sum() / len(pool.responses))


def mean_over_pairs(pool: Pool, values: Numbers) -> Numbers:
    """values [Q] of pairs, as means [tasks]."""
    counts = np.bincount(pool.asked_task, minlength=len(pool.responses))
    return np.bincount(pool.asked_task, values, len(pool.responses)) / counts


@dataclass(frozen=True)
class Round:
    """What a rule may look at. `left` are those of the pool's tasks that have no label."""

    pool: Pool
    model: Model
    members: Sequence[Model]
    left: NDArray[np.int64]
    count: int  # how many come next
    draw: np.random.Generator


def best_two(scores: Numbers) -> float:
    """How far apart they lie."""
    second, best = np.sort(scores)[-2:]
    return float(best - second)


def _by_scores(value: Callable[[Numbers], float]) -> Callable[[Round], NDArray[np.int64]]:
    """A rule that reads one model's scores of a task's responses."""
    return lambda now: highest(now, np.array([value(own @ now.model.weights) for own in now.pool.responses]))


def highest(now: Round, values: Numbers) -> NDArray[np.int64]:
    """The tasks without a label whose values [tasks] are highest."""
    return now.left[np.argsort(-values[now.left], kind="stable")[: now.count]]


def random_order(now: Round) -> NDArray[np.int64]:
    """Any."""
    return now.draw.permutation(now.left)[: now.count]


def disagreement(now: Round) -> NDArray[np.int64]:
    """The variance over members of P(one beats the other)."""
    beats = np.stack([sigmoid(now.pool.asked @ member.weights) for member in now.members])
    return highest(now, mean_over_pairs(now.pool, beats.var(0)))


def information(now: Round) -> NDArray[np.int64]:
    """p (1 - p) x' S x."""
    return highest(now, mean_over_pairs(now.pool, _information(now, now.model.covariance)))


def _information(now: Round, covariance: Numbers) -> Numbers:
    """[Q]."""
    asked = now.pool.asked
    p = sigmoid(asked @ now.model.weights)
    return p * (1 - p) * ((asked @ covariance) * asked).sum(1)


def design(now: Round) -> NDArray[np.int64]:
    """Greedily: after each choice S shrinks by what the chosen task's pairs will tell."""
    covariance, chosen, left = now.model.covariance, [], list(now.left)
    p = sigmoid(now.pool.asked @ now.model.weights)
    for _ in range(now.count):
        values = mean_over_pairs(now.pool, _information(now, covariance))
        best = max(left, key=lambda task: values[task])
        left.remove(best)
        chosen.append(best)
        rows = now.pool.asked_task == best
        known = now.pool.asked[rows] * np.sqrt(p[rows] * (1 - p[rows]) / rows.sum())[:, None]
        along = covariance @ known.T
        covariance = covariance - along @ np.linalg.solve(np.eye(len(known)) + known @ along, along.T)
    return np.array(chosen)


RULES: dict[str, Callable[[Round], NDArray[np.int64]]] = {
    "random": random_order,
    "margin": _by_scores(lambda scores: -best_two(scores)),
    "gap": _by_scores(best_two),
    "spread": _by_scores(lambda scores: float(np.ptp(scores))),
    "disagreement": disagreement,
    "information": information,
    "design": design,
}


def curve(
    rule: str, pool: Pool, held_out: Pool, ridge: float, first: NDArray[np.int64], seed: int
) -> list[float]:
    """Held-out accuracies at SHARES of the pool."""
    draw = np.random.default_rng([seed, 1])
    everything, labelled = np.arange(len(pool.responses)), first
    model = fit_labelled(pool, labelled, ridge)
    found = [accuracy(held_out, model.weights)]
    for share in SHARES[1:]:
        left = np.setdiff1d(everything, labelled)
        members = []
        if rule == "disagreement":
            counts = draw.poisson(1.0, (MEMBERS, len(everything))).astype(float)
            members = [fit_labelled(pool, labelled, ridge, one) for one in counts]
        count = round(share * len(everything)) - len(labelled)
        labelled = np.append(labelled, RULES[rule](Round(pool, model, members, left, count, draw)))
        model = fit_labelled(pool, labelled, ridge)
        found.append(accuracy(held_out, model.weights))
    return found


def split(tasks: Sequence[Task], seed: int) -> tuple[list[Task], list[Task]]:
    """Pool and held out; a conversation is on one side."""
    groups = sorted({task.group for task in tasks})
    order = np.random.default_rng([seed, 0]).permutation(len(groups))
    apart = {groups[i] for i in order[: round(HELD_OUT * len(groups))]}
    return [t for t in tasks if t.group not in apart], [t for t in tasks if t.group in apart]


def principal(rows: Numbers, width: int) -> Numbers:
    """The first principal directions [D, width] of rows [N, D], by subspace iteration (arXiv 0909.4061)."""
    width = min(width, *rows.shape)
    some = np.random.default_rng(0).normal(size=(rows.shape[1], min(width + 16, *rows.shape)))
    for _ in range(4):
        some, _ = np.linalg.qr(rows.T @ (rows @ some))
    _, _, turned = np.linalg.svd(rows @ some, full_matrices=False)
    return (some @ turned.T)[:, :width]


def reduced(features: Numbers, tasks: Sequence[Task], width: int = WIDTH) -> Numbers:
    """[responses, width]: principal components of the differences within the pool's tasks; no labels needed.

    Scaled so that a difference has a mean square length of 1.
    """
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    rows = [scaled[list(task.rows)] for task in tasks]
    within = np.concatenate([own - own.mean(0) for own in rows])
    found = scaled @ principal(within, width)
    pairs = np.array([pair for task in tasks for pair in combinations(task.rows, 2)])
    return found / np.sqrt(((found[pairs[:, 0]] - found[pairs[:, 1]]) ** 2).sum(1).mean())


def best_ridge(pool: Pool, seed: int) -> float:
    """The one of RIDGES whose models of two thirds of the pool order the other third best."""
    parts = np.array_split(np.random.default_rng([seed, 2]).permutation(len(pool.responses)), 3)

    def right(ridge: float) -> float:
        found = []
        for part in parts:
            model = fit_labelled(pool, np.setdiff1d(np.arange(len(pool.responses)), part), ridge)
            rows = np.isin(pool.seen_task, part)
            found.append((pool.weights[rows] * (pool.seen[rows] @ model.weights > 0)).sum())
        return float(sum(found))

    return max(RIDGES, key=right)


def one_seed(found: Dataset, seed: int, rules: Sequence[str]) -> dict[str, Any]:
    """Each rule's curve; the sizes; the accuracy of "the longer one wins"."""
    tasks, held_out_tasks = split(found.tasks, seed)
    features = reduced(found.features.astype(float), tasks)
    pool, held_out = pool_of(features, tasks), pool_of(features, held_out_tasks)
    ridge = best_ridge(pool, seed)
    size = round(SHARES[0] * len(tasks))
    first = np.random.default_rng([seed, 3]).permutation(len(tasks))[:size]
    longer = pool_of(found.tokens[:, None].astype(float), held_out_tasks)
    return {
        "seed": seed,
        "pool": len(tasks),
        "held out": len(held_out_tasks),
        "ridge": ridge,
        "longer": accuracy(longer, np.ones(1)),
        "curves": {rule: curve(rule, pool, held_out, ridge, first, seed) for rule in rules},
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of values over seeds, and half of its 95% interval's width by Student's t."""
    count = len(values)
    if count < 2:
        return float(np.mean(values)), float("nan")
    t = T95[max(seeds for seeds in T95 if seeds <= count)]  # of fewer seeds: wider
    return float(np.mean(values)), t * float(np.std(values, ddof=1)) / count**0.5


def labels_needed(found: Sequence[Sequence[float]], whole: Sequence[float], sizes: Sequence[int]) -> int:
    """The labels from which on the mean curve stays within NEAR of the whole pool's accuracy.

    found: for each seed its accuracies at `sizes`; whole: for each seed the accuracy with all labels.
    """
    behind = np.mean(np.array(found) - np.array(whole)[:, None], axis=0)
    needed = sizes[-1]
    for size, difference in zip(reversed(sizes), behind[::-1], strict=True):
        if difference < -NEAR:
            break
        needed = size
    return needed


def table(name: str, seeds: Sequence[dict[str, Any]]) -> str:
    """A data set's curves in Markdown."""
    pool = round(np.mean([one["pool"] for one in seeds]))
    sizes = [round(share * pool) for share in SHARES]
    whole = [one["curves"]["random"][-1] for one in seeds]
    shown = [0, 1, 2, 4, 6, 9]
    mean, half = interval(whole)
    longer = interval([one["longer"] for one in seeds])
    lines = [
        f"{name}: {pool} rankings in the pool, {np.mean([one['held out'] for one in seeds]):.0f} held out, "
        f"{len(seeds)} seeds; with all labels {mean:.3f} ± {half:.3f} (a seed's own split), "
        f"the longer one wins {longer[0]:.3f} ± {longer[1]:.3f}.",
        "",
        "| rule | " + " | ".join(str(sizes[i]) for i in shown) + " | mean over the curve, minus random "
        "| at half of the labels, minus all | labels until within half a point of all |",
        "|---" * (len(shown) + 4) + "|",
    ]
    half_way = SHARES.index(0.5)
    for rule in seeds[0]["curves"]:
        curves = [one["curves"][rule] for one in seeds]
        better = interval(
            [np.mean(np.subtract(one["curves"][rule], one["curves"]["random"])) for one in seeds]
        )
        behind = interval([a[half_way] - b for a, b in zip(curves, whole, strict=True)])
        points = np.mean(curves, axis=0)
        needed = labels_needed(curves, whole, sizes)
        lines.append(
            f"| `{rule}` | "
            + " | ".join(f"{points[i]:.3f}" for i in shown)
            + f" | {better[0]:+.4f} ± {better[1]:.4f} | {behind[0]:+.4f} ± {behind[1]:.4f} "
            f"| {needed} ({needed / pool:.0%}) |"
        )
    return "\n".join(lines)


def figure(everything: dict[str, list[dict[str, Any]]]) -> str:
    """Mean curves of each data set as one SVG; dashed: the whole pool's accuracy."""
    legend = "".join(
        f'<tspan class="{tone}" dx="14">{"any order" if rule == "random" else rule}</tspan>'
        for rule, tone in TONES.items()
    )
    parts = [f'<text x="32" y="16">{legend}</text>']
    for i, (name, seeds) in enumerate(everything.items()):
        x, y = WIDE * (i % 2), 24 + (HIGH + 26) * (i // 2)
        pool = float(np.mean([one["pool"] for one in seeds]))
        series = [
            Series(
                rule,
                list(
                    zip(
                        np.multiply(SHARES, pool), np.mean([s["curves"][rule] for s in seeds], 0), strict=True
                    )
                ),
                tone,
            )
            for rule, tone in TONES.items()
        ]
        whole = float(np.mean([one["curves"]["random"][-1] for one in seeds]))
        chart = str(line_chart(name, series, x="labelled rankings", reference=whole))
        parts.append(f'<text class="title" x="{x + 46}" y="{y + 20}">{name}: held-out accuracy</text>')
        parts.append(chart.replace("<svg ", f'<svg x="{x}" y="{y + 26}" width="{WIDE}" height="{HIGH}" ', 1))
    height = 24 + (HIGH + 26) * -(-len(everything) // 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDE} {height}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of a causal language model")
    parser.add_argument("--data", type=Path, required=True, help="folder that has FILES of label_features.py")
    parser.add_argument("--sets", nargs="+", choices=["planted", *FILES], default=["planted", *FILES])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--kept", type=Path, default=Path("/tmp/align-labels"), help="where features are kept"
    )
    parser.add_argument("--figure", type=Path, help="draw the curves here, as SVG")
    parser.add_argument("--curves", type=Path, help="write the curves here, as JSON")
    try:
        run(parser.parse_args())
    except AlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def run(arguments: argparse.Namespace) -> None:
    """Play every rule through on every data set, and print what came of it."""
    everything = {}
    for name in arguments.sets:
        files = (arguments.data, arguments.base, arguments.kept)
        found = planted() if name == "planted" else dataset(name, *files)
        everything[name] = [one_seed(found, seed, list(RULES)) for seed in range(arguments.seeds)]
        print(table(name, everything[name]), end="\n\n", flush=True)
    if arguments.figure:
        arguments.figure.write_text(figure(everything))
    if arguments.curves:
        arguments.curves.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
