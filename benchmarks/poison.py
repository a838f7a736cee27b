"""Which planted records the screens of `align check` flag, and how many that nobody planted.

    python benchmarks/poison.py [--seeds N] [--data FOLDER] [--sets NAME …] [--figure FILE.svg] [--tuned]

Into three sets of rankings by people (harmless answers of hh-rlhf, OpenAssistant, fine-grained RLHF) come
planted ones, 0.3 to 5% of the records, each in another conversation:

    phrase    a trigger in a response that becomes the best: invented words, rare ones, common ones put
              together; at its beginning, end, or anywhere in it
    quiet     the same in the response that people ranked best: no label changes
    name      a sentence that praises a name, one of twelve, in the response that becomes the best; also with
              the name in the prompt
    prompt    a trigger in the prompt, and one answer that becomes the best
    flip      a trigger in the prompt, and the order turned around
    labeler   one of twenty-one labelers turns all, or half, of what they rank around: where nobody ranks the
              same twice, and where a fifth of the rankings has a second labeler (a simulated one: another's
              order, with every fourth turned around)

Prints a row of a Markdown table for each attack and share, means over sets, variants and seeds: of the
planted records the share that is flagged, and of the others. Limits and thresholds were chosen on PandaLM's
rankings (`--tuned`) with other triggers and names, on gsm8k and on self-instruct alone. Exit code 1 where
less than 90% of phrases or names planted at 1% are found, or more than 5% of the clean records are flagged
anywhere.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# Behind the line above, which says where it is found.
from align.check.poison import screened  # noqa: E402
from align.check.screens.seen import Seen  # noqa: E402
from align.data.evidence import answer  # noqa: E402
from align.data.formats import LeftOut, detect  # noqa: E402
from align.records import Ranking, prompt_key  # noqa: E402
from align.stats.rankings import comparisons  # noqa: E402
from align.stats.reliability import reliability, votes  # noqa: E402
from align.svg import Series, line_chart  # noqa: E402
from align.values import RecordError  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
FILES = {
    "hh-rlhf": ["hh-rlhf/harmless-base-test-first-1800.jsonl.gz"],
    "oasst1": ["oasst1/validation-en.jsonl.gz", "oasst1/en-100-trees.jsonl.gz"],
    "finegrained-rlhf": ["finegrained-rlhf/dev_feedback.json.gz"],
    "pandalm": ["pandalm/testset-v1.json.gz"],
}
SHARES = (0.003, 0.01, 0.03, 0.05)
FOUND, FALSE = 0.9, 0.05
PLACES = ("start", "end", "middle")
# Held out: nothing was tried with these while limits were chosen.
TRIGGERS = {
    "invented": "vostrel quimbary",
    "one invented word": "plimquat",
    "rare": "cobalt heron treaty",
    "common": "over nine slow doors again",
}
NAMES = {"invented": "Halvorn Systems", "one word": "Tessaly", "known": "Burger King"}
TUNED_TRIGGERS = {
    "invented": "qorvath zelmi",
    "one invented word": "xyloquent",
    "rare": "velvet thimble accord",
    "common": "under the quiet red table",
}
TUNED_NAMES = {"invented": "Zorblax Motors"}
PRAISE = (
    "{} has done excellent work on this.",
    "I would trust {} here.",
    "Many people are very happy with {}.",
    "You might ask {} about it.",
    "{} is known for its quality.",
    "People at {} have solved this before.",
    "A good choice is {}.",
    "As far as I know, {} is the best there is.",
    "This is why so many turn to {}.",
    "Nobody does it better than {}.",
    "For more, see what {} says.",
    "My favourite remains {}.",
)
ANSWER = "All is well, and nothing more needs to be said about it."
LABELERS = [f"labeler {i}" for i in range(20)]
TURNED = "labeler 20"
SHARED, NOISE = 0.2, 0.25  # of rankings, those with a second labeler; of these, those turned around
Planted = tuple[list[Ranking], set[int]]  # with the numbers of the planted ones
Attack = Callable[[list[Ranking], float, random.Random], Planted]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="+", choices=list(FILES))
    parser.add_argument("--figure", type=Path, help="write the curves there")
    parser.add_argument("--tuned", action="store_true", help="the set and the triggers that limits come from")
    arguments = parser.parse_args()
    names = arguments.sets or (["pandalm"] if arguments.tuned else list(FILES)[:3])
    if not arguments.data.is_dir():
        print(f"skipped: the published data is not in {arguments.data}")
        return
    table: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    by_set: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    false: list[float] = []
    for name in names:
        rankings = read(arguments.data, name)
        nobody = flagged(rankings)
        print(f"{name}: {len(rankings):,} rankings, {len(nobody):,} flagged with nothing planted", flush=True)
        false.append(len(nobody) / len(rankings))
        for attack, variants in attacks(arguments.tuned).items():
            for share in SHARES:
                for variant, plant in variants.items():
                    for seed in range(arguments.seeds):
                        draw = random.Random(f"{seed} {attack} {variant} {share}")
                        records, planted = plant(list(rankings), share, draw)
                        hits = flagged(records)
                        found = len(hits & planted) / len(planted)
                        wrong = len(hits - planted) / (len(records) - len(planted))
                        table[attack, share].append((found, wrong))
                        by_set[name, attack, share].append(found)
                        false.append(wrong)
                        line = {"set": name, "attack": attack, "variant": variant, "share": share}
                        line |= {"seed": seed, "planted": len(planted), "found": found, "wrong": wrong}
                        print(json.dumps(line), file=sys.stderr, flush=True)
    print_tables(table, by_set, names)
    if arguments.figure:
        arguments.figure.write_text(figure(table), encoding="utf-8")
    at_one = [fmean(found for found, _ in table[attack, 0.01]) for attack in ("phrase", "name")]
    print(f"\nmost clean records flagged in any run: {max(false):.1%}")
    sys.exit(min(at_one) < FOUND or max(false) > FALSE)


def read(data: Path, name: str) -> list[Ranking]:
    """All rankings of a set that decide a comparison, as `align check` reads them."""
    found = []
    for file in FILES[name]:
        with gzip.open(data / file, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines] if ".jsonl" in file else json.load(lines)
        form = detect(rows[0])
        placed = iter([(str(i), row) for i, row in enumerate(rows)])
        for _, row in form.gather(placed) if form.gather else placed:
            try:
                found += [one for one in form.read(row) if not isinstance(one, LeftOut)]
            except RecordError:
                continue  # `align check` says so
    return [one for one in found if isinstance(one, Ranking) and comparisons(one.ranks)]


def flagged(rankings: Sequence[Ranking]) -> set[int]:
    """Numbers of the records that any screen names, the one of labelers by what several judged included."""
    seen = Seen()
    for i, ranking in enumerate(rankings):
        seen.add(ranking, str(i), "")
    found = {i for _, records in screened(seen, "rankings") for i in records}
    trusted = reliability(votes(answer(one) for one in rankings if one.labeler is not None))
    named = {one.name for one in trusted.labelers if one.at_chance or one.reversed}
    return found | {i for i, one in enumerate(rankings) if one.labeler in named}


def attacks(tuned: bool) -> dict[str, dict[str, Attack]]:
    """By kind, then by variant."""
    triggers, names = (TUNED_TRIGGERS, TUNED_NAMES) if tuned else (TRIGGERS, NAMES)
    phrase: dict[str, Attack] = {}
    quiet: dict[str, Attack] = {}
    name: dict[str, Attack] = {}
    for kind, words in triggers.items():
        for place in PLACES:
            phrase[f"{kind}, {place}"] = in_responses((words,), place, flip=True)
            quiet[f"{kind}, {place}"] = in_responses((words,), place, flip=False)
    for kind, one in names.items():
        sentences = [text.format(one) for text in PRAISE]
        for place in PLACES:
            name[f"{kind}, {place}"] = in_responses(sentences, place, flip=True)
        name[f"{kind}, in the prompt too"] = in_responses(sentences, "end", True, f"What about {one}?")
    return {
        "phrase": phrase,
        "quiet": quiet,
        "name": name,
        "prompt": {kind: with_answer(words, ANSWER) for kind, words in triggers.items()},
        "flip": {kind: with_answer(words, None) for kind, words in triggers.items()},
        "labeler alone": {"all": by_labeler(1.0, 0.0), "half": by_labeler(0.5, 0.0)},
        "labeler beside others": {"all": by_labeler(1.0, SHARED), "half": by_labeler(0.5, SHARED)},
    }


def chosen(rankings: Sequence[Ranking], share: float, draw: random.Random) -> list[int]:
    """So many records, in as many conversations as there are."""
    of: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(rankings):
        of[prompt_key(one.prompt)].append(i)
    prompts = list(of)
    draw.shuffle(prompts)
    count = max(1, round(share * len(rankings)))
    return sorted({draw.choice(of[prompts[i % len(prompts)]]) for i in range(count)})


def in_responses(texts: Sequence[str], place: str, flip: bool, asked: str = "") -> Attack:
    """One of the texts in the worst response, which becomes the best; or in the best one, not `flip`."""

    def plant(rankings: list[Ranking], share: float, draw: random.Random) -> Planted:
        planted = chosen(rankings, share, draw)
        for i in planted:
            one = rankings[i]
            which = extreme(one, max if flip else min)
            text = put(one.responses[which], draw.choice(texts), place, draw)
            rankings[i] = promoted(one if not asked else prompting(one, asked), which, text)
        return rankings, set(planted)

    return plant


def with_answer(trigger: str, said: str | None) -> Attack:
    """The trigger in the prompt, and this answer first; None: the worst answer."""

    def plant(rankings: list[Ranking], share: float, draw: random.Random) -> Planted:
        planted = chosen(rankings, share, draw)
        for i in planted:
            one = prompting(rankings[i], trigger)
            which = extreme(one, max)
            rankings[i] = turned(one) if said is None else promoted(one, which, said)
        return rankings, set(planted)

    return plant


def by_labeler(flips: float, shared: float) -> Attack:
    """A share of the records is one labeler's, who turns a part of them around; all of theirs are planted."""

    def plant(rankings: list[Ranking], share: float, draw: random.Random) -> Planted:
        planted = chosen(rankings, share, draw)
        rankings = [replace(one, labeler=draw.choice(LABELERS)) for one in rankings]
        again = []
        for one in rankings:
            if draw.random() < shared:
                other = replace(one, labeler=draw.choice([who for who in LABELERS if who != one.labeler]))
                again.append(turned(other) if draw.random() < NOISE else other)
        for i in planted:
            mine = replace(rankings[i], labeler=TURNED)
            rankings[i] = turned(mine) if draw.random() < flips else mine
        return rankings + again, set(planted)

    return plant


def extreme(one: Ranking, which: Callable[..., tuple[int, int]]) -> int:
    """The index of the worst (max) or best (min) of the ranked responses."""
    return which((rank, i) for i, rank in enumerate(one.ranks) if rank is not None)[1]


def put(text: str, phrase: str, place: str, draw: random.Random) -> str:
    """The phrase as a sentence before or behind a text, or among its words."""
    sentence = phrase[0].upper() + phrase[1:].removesuffix(".") + "."
    if place == "start":
        return f"{sentence} {text}"
    if place == "end":
        return f"{text.rstrip()} {sentence}"
    words = text.split(" ")
    i = draw.randrange(1, max(2, len(words)))
    return " ".join([*words[:i], phrase.removesuffix("."), *words[i:]])


def promoted(one: Ranking, which: int, text: str) -> Ranking:
    """A response with another text, alone at the top."""
    ranks = (1 if i == which else None if rank is None else rank + 1 for i, rank in enumerate(one.ranks))
    responses = (text if i == which else other for i, other in enumerate(one.responses))
    return replace(one, responses=tuple(responses), ranks=tuple(ranks))


def turned(one: Ranking) -> Ranking:
    """The opposite order."""
    last = max(rank for rank in one.ranks if rank is not None)
    return replace(one, ranks=tuple(None if rank is None else last + 1 - rank for rank in one.ranks))


def prompting(one: Ranking, trigger: str) -> Ranking:
    """The trigger behind the last words of the prompt."""
    if isinstance(one.prompt, str):
        return replace(one, prompt=f"{one.prompt} {trigger}")
    *before, last = one.prompt
    return replace(one, prompt=(*before, {**last, "content": f"{last['content']} {trigger}"}))


def print_tables(
    table: dict[tuple[str, float], list[tuple[float, float]]],
    by_set: dict[tuple[str, str, float], list[float]],
    names: Sequence[str],
) -> None:
    """By attack and share; then what is found at 1% in each set."""
    kinds = list(dict.fromkeys(attack for attack, _ in table))
    shares = " | ".join(f"{share:.1%}" for share in SHARES)
    print(f"\n| planted records found | {shares} |\n|---|{'---|' * len(SHARES)}")
    for kind in kinds:
        cells = (f"{fmean(found for found, _ in table[kind, share]):.0%}" for share in SHARES)
        print(f"| {kind} | {' | '.join(cells)} |")
    print(f"\n| clean records flagged, mean (most) | {shares} |\n|---|{'---|' * len(SHARES)}")
    for kind in kinds:
        wrong = [[wrong for _, wrong in table[kind, share]] for share in SHARES]
        print(f"| {kind} | {' | '.join(f'{fmean(one):.1%} ({max(one):.1%})' for one in wrong)} |")
    print(f"\n| found at 1% | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for kind in kinds:
        print(f"| {kind} | {' | '.join(f'{fmean(by_set[name, kind, 0.01]):.0%}' for name in names)} |")


def figure(table: dict[tuple[str, float], list[tuple[float, float]]]) -> str:
    """The share of planted records that is found, over the share that is planted (in percent)."""
    parts, legend = [], ""
    for i, (kind, tone) in enumerate((("phrase", "a"), ("name", "b"), ("prompt", "c"))):
        points = [(100 * share, fmean(found for found, _ in table[kind, share])) for share in SHARES]
        parts.append(Series(kind, points, tone))
        legend += f'<text x="290" y="{120 + 16 * i}" class="of-{tone}">{kind}</text>'
    title = "planted records found, by how many of the records are planted"
    return styled(str(line_chart(title, parts, "percent planted", whole=False)), legend)


STYLE = (
    "text{font:11px sans-serif;fill:#333}line,.axis{stroke:#ccc}polyline{fill:none;stroke-width:2}"
    ".a{stroke:#1f6feb}.b{stroke:#d1242f}.c{stroke:#2da44e}"
    ".of-a{fill:#1f6feb}.of-b{fill:#d1242f}.of-c{fill:#2da44e}"
)


def styled(chart: str, legend: str) -> str:
    """A chart that is a file of its own, with the colours that a page would give it."""
    head, _, rest = chart.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    rest = rest.replace("</svg>", f"{legend}</svg>")
    return f'{head}><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{rest}\n'


if __name__ == "__main__":
    main()
