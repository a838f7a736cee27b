"""What the quick start changed: `python recipes/quickstart/table.py runs/quickstart [more runs]`.

Reads the metrics that the stages wrote and what the SFT policy and the PPO policy answered to the
held-out prompts. Of several runs (seeds) it prints the mean and the standard deviation between them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import gold
from align.errors import AlignError, MissingStage, UserError

Row = dict[str, Any]
EXAMPLES = 3


@dataclass(frozen=True)
class Policy:
    """What one policy did on the held-out prompts of one run."""

    compound: float  # VADER's mean compound score of prompt and response together
    compound_error: float  # its standard error over prompts
    positive: float  # share of texts that VADER calls positive
    score: float  # the reward model's mean score
    kl: float  # to the SFT policy, nats a response
    distinct_2: float
    eos: float  # share of responses that ended by themselves
    length: float  # tokens a response, EOS included


@dataclass(frozen=True)
class Result:
    """One run in numbers."""

    folder: Path
    sft_loss: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    comparisons: int
    before: Policy
    after: Policy
    rows: list[Row]


def read_jsonl(path: Path, stage: str) -> list[Row]:
    """The lines of a file that `stage` writes; raises MissingStage where there is none."""
    try:
        rows: list[Row] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except FileNotFoundError:
        raise MissingStage(f"{path} is not there: run `align {stage}` with this run's recipe first") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON lines ({error}); run `align {stage} --restart`") from None
    if not rows:
        raise MissingStage(f"{path} is empty: run `align {stage}` with this run's recipe first")
    return rows


def last(path: Path, stage: str, wanted: str) -> Row:
    """The newest line that has the metric `wanted`."""
    for row in reversed(read_jsonl(path, stage)):
        if wanted in row:
            return row
    raise MissingStage(f"{path} has no {wanted}: has `align {stage}` finished, with held-out records?")


def measure(rows: Sequence[Row], who: str) -> Policy:
    """The numbers of one policy; `who` is "reference" (the SFT policy) or "policy" (after PPO)."""
    compounds = [gold.compound(row["prompt"] + row[who]) for row in rows]
    mean, error = gold.mean_and_error(compounds)
    return Policy(
        compound=mean,
        compound_error=error,
        positive=gold.positive_share(compounds),
        score=fmean(row[f"{who}_score"] for row in rows),
        kl=fmean(row["kl"] for row in rows) if who == "policy" else 0.0,
        distinct_2=gold.distinct_2([row[who] for row in rows]),
        eos=fmean(row[f"{who}_eos"] for row in rows),
        length=fmean(row[f"{who}_length"] for row in rows),
    )


def read_run(folder: Path) -> Result:
    """All numbers of a run; raises MissingStage where a stage has not finished."""
    sft = last(folder / "sft" / "metrics.jsonl", "sft", "eval/loss")
    rm = last(folder / "rm" / "metrics.jsonl", "rm", "eval/accuracy")
    held_out = folder / "ppo" / "held_out.jsonl"
    rows = read_jsonl(held_out, "ppo")
    try:
        return Result(
            folder=folder,
            sft_loss=sft["eval/loss"],
            accuracy=rm["eval/accuracy"],
            accuracy_low=rm["eval/accuracy_low"],
            accuracy_high=rm["eval/accuracy_high"],
            comparisons=int(rm["eval/comparisons"]),
            before=measure(rows, "reference"),
            after=measure(rows, "policy"),
            rows=rows,
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{held_out} or a metrics.jsonl beside it lacks {error}: of another version?"
        ) from None


def spread(values: Sequence[float], digits: int, error: float | None = None) -> str:
    """One value with its standard error where it has one; of several the mean and standard deviation."""
    margin = stdev(values) if len(values) > 1 else error
    text = f"{fmean(values):.{digits}f}"
    return text if margin is None else f"{text} ± {margin:.{digits}f}"


NOTE = """VADER is no part of the training; it only chose prompts that it finds neutral. People rated the
snippets one by one: that four with the same opening make a ranking is the quick start's doing."""
GOLD = "VADER compound (gold, -1 to 1)"
# label, number, decimals
MEASURES: list[tuple[str, Callable[[Policy], float], int]] = [
    (GOLD, lambda p: p.compound, 2),
    ("called positive by VADER, %", lambda p: 100 * p.positive, 0),
    ("reward model's score", lambda p: p.score, 2),
    ("KL to the SFT policy, nats a response", lambda p: p.kl, 1),
    ("distinct word pairs (distinct-2)", lambda p: p.distinct_2, 2),
    ("ended by themselves (EOS), %", lambda p: 100 * p.eos, 0),
    ("tokens a response", lambda p: p.length, 1),
]


def models_table(results: Sequence[Result]) -> Table:
    """SFT and the reward model on held-out records."""
    table = Table(title="SFT and reward model, on held-out records", title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_row("SFT loss, nats a token", spread([r.sft_loss for r in results], 3))
    accuracy = spread([r.accuracy for r in results], 3)
    if len(results) == 1:
        accuracy += f"  [{results[0].accuracy_low:.3f}, {results[0].accuracy_high:.3f}]"
    table.add_row(f"reward model agrees with people, {results[0].comparisons} pairs", escape(accuracy))
    return table


def policies_table(results: Sequence[Result]) -> Table:
    """The policy before and after PPO on held-out prompts."""
    prompts = len(results[0].rows)
    means = "± standard error" if len(results) == 1 else f"mean ± standard deviation of {len(results)} runs"
    table = Table(title=f"The policy on {prompts} held-out prompts ({means})", title_justify="left")
    for column in ("measure", "after SFT", "after PPO", "change"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for label, number, digits in MEASURES:
        before = [number(r.before) for r in results]
        after = [number(r.after) for r in results]
        errors = (results[0].before.compound_error, results[0].after.compound_error)
        known = errors if label == GOLD else (None, None)
        change = f"{fmean(after) - fmean(before):+.{digits}f}"
        table.add_row(label, spread(before, digits, known[0]), spread(after, digits, known[1]), change)
    return table


def examples(result: Result, count: int = EXAMPLES) -> str:
    """The first held-out prompts with both responses; none is picked for its looks."""
    lines = [f"The first {min(count, len(result.rows))} held-out prompts, and how the policy goes on:"]
    for row in result.rows[:count]:
        lines += ["", f"  [bold]{escape(row['prompt'])}[/bold]"]
        for who, label in (("reference", "SFT"), ("policy", "PPO")):
            lines.append(f"    {label}  {escape(' '.join(row[who].split()))}")
    return "\n".join(lines)


def places(folder: Path) -> str:
    return "\n".join(
        [
            f"Everything lies in {folder}:",
            "  recipe.yaml                     the resolved recipe",
            "  sft/final  rm/final  ppo/final  the adapters, loadable with peft",
            "  */metrics.jsonl                 one line a logged step",
            "  ppo/held_out.jsonl              every held-out prompt with both responses",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what the quick start changed.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, such as runs/quickstart")
    console = Console(highlight=False)
    try:
        results = [read_run(folder) for folder in parser.parse_args().runs]
    except AlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    console.print(models_table(results), policies_table(results), sep="\n")
    console.print(NOTE, examples(results[0]), sep="\n\n", end="\n\n", soft_wrap=True)
    for result in results:
        console.print(places(result.folder), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
