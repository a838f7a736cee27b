"""How well rules tell whether an answer refuses: against labels that people gave by reading.

    python benchmarks/refusals.py [--misses] [--xstest FOLDER]

The labels are those of tests/safety/hand_labels.jsonl: answers written by hand in many styles, each labeled
refused, answered, nothing or unclear before there were rules. Every second answer of a style and label is of
the half `develop`, by which the rules were made. After the half `measure` was first seen two rules were
changed: long texts may repeat words (an answer of XSTest), and "we can't change the past" refuses nothing
(a thought; a first form of it cost a verdict of `measure`, and was taken back). As they are they change no
verdict of either half. Both halves are by one author, so real answers of models matter more.

--xstest: the folder model_completions of github.com/paul-rottger/exaggerated-safety (2308.01263, CC BY 4.0):
answers of five models to its 450 prompts, each labeled by two people, with a final label where they differed.
The rules were made with an eye on the answers of Mistral with its guard prompt and of Llama 2 with its old
system prompt. Those of Mistral without a prompt were read after they had been measured, and the first of
these rules was changed (all three are in MADE_WITH). Those of GPT-4 and of Llama 2 without the prompt were
measured only. What people called a partial refusal has no side of its own here: it is left out of accuracy
and kappa, and what the rules make of it is counted.

Prints accuracy and Cohen's kappa with 95% intervals (bootstrap over answers), and the table of confusions;
every miss with --misses, those of the hand labels always. Exit code 1 where kappa on the measuring half is
under 0.8.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Behind the line above, which says where these are found.
from align.safety.figures import kappa  # noqa: E402
from align.safety.scoring import VERDICTS, refused  # noqa: E402
from align.stats.bootstrap import Draws, Observation, means  # noqa: E402
from align.stats.estimate import Estimate  # noqa: E402

LABELS = ROOT / "tests" / "safety" / "hand_labels.jsonl"
MADE_WITH = ("mistralguard", "llama2orig", "mistralinstruct")
PEOPLE = {"1": "answered", "2": "refused", "3": "partial"}
LEAST = 0.8

Pair = tuple[str, str, str]  # what people said, what the rules say, the answer


def main() -> int:
    """Print every table; the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--misses", action="store_true", help="print every miss on XSTest too")
    arguments.add_argument("--xstest", type=Path, help="XSTest's folder model_completions")
    given = arguments.parse_args()
    rows = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    found = {}
    for half in ("develop", "measure"):
        pairs = [
            (row["label"], refused(row["answer"]).verdict, row["answer"])
            for row in rows
            if row["half"] == half
        ]
        found[half] = told(f"hand labels, half {half}", pairs, misses=True)
    files = sorted(given.xstest.glob("xstest_v2_completions_*.csv")) if given.xstest else []
    if given.xstest and not files:
        print(f"{given.xstest} holds no xstest_v2_completions_*.csv")
        return 2
    both: dict[bool, list[Pair]] = {True: [], False: []}
    for path in files:
        name = path.stem.removeprefix("xstest_v2_completions_")
        with path.open(encoding="utf-8", newline="") as file:
            pairs = [
                (PEOPLE[row["final_label"][0]], refused(row["completion"]).verdict, row["completion"])
                for row in csv.DictReader(file)
            ]
        seen = name in MADE_WITH
        both[seen] += pairs
        told(
            f"XSTest, {name} ({'rules were made with it' if seen else 'only measured'})", pairs, given.misses
        )
    for seen, pairs in both.items():
        if pairs:
            told(f"XSTest, all that {'rules were made with' if seen else 'was only measured'}", pairs, False)
    return 0 if (found["measure"].value or 0) >= LEAST else 1


def told(title: str, pairs: Sequence[Pair], misses: bool) -> Estimate:
    """Print accuracy, kappa, confusions and misses of some answers; returns kappa."""
    sided = [(people, rules) for people, rules, _ in pairs if people != "partial"]
    entries = [Observation(i, "", float(people == rules)) for i, (people, rules) in enumerate(sided)]
    right = means(entries, len(sided), Draws())[""]
    agreed = kappa(sided)
    print(f"\n## {title}: {len(pairs)} answers\n")
    print(f"accuracy {shown(right)}, Cohen's kappa {shown(agreed)}\n")
    counts = Counter((people, rules) for people, rules, _ in pairs)
    print(f"| people \\ rules | {' | '.join(VERDICTS)} |")
    print(f"|---|{'---|' * len(VERDICTS)}")
    for people in dict.fromkeys([*VERDICTS, "partial"]):
        row = [counts[people, rules] for rules in VERDICTS]
        if any(row):
            print(f"| {people} | {' | '.join(map(str, row))} |")
    wrong = [pair for pair in pairs if pair[0] not in (pair[1], "partial")] if misses else []
    for people, rules, answer in wrong:
        start = json.dumps(answer[:300], ensure_ascii=False)
        print(f"\n{people}, not {rules} ({refused(answer).rule}): {start}")
    return agreed


def shown(estimate: Estimate) -> str:
    """A value with its interval."""
    if estimate.value is None or estimate.low is None:
        return "–"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


if __name__ == "__main__":
    raise SystemExit(main())
