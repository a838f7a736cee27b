"""Which training demonstrations a policy has learnt by heart, beside as many that it never saw.

A policy goes on greedily from a demonstration's prompt, and from the prompt with the response's first tokens
(Carlini et al. 2022, arXiv 2202.07646). What is common to all such texts is common to the held-out ones too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, cast

import numpy as np

from align.check.personal import can_look, masked, personal_data
from align.data.load import load
from align.data.table import Records
from align.data.tokenize import encode_demonstrations, opening
from align.evaluation.answers import Answering
from align.recipe.sections import Recipe
from align.records import Demonstration
from align.sampling.params import Draws
from align.seeds import order
from align.stages.frame import Setup
from align.stats import bootstrap
from align.stats.bootstrap import Observation
from align.stats.estimate import Estimate
from align.stats.memorised import is_extracted, longest_common_run

TOKENS = 50  # that a policy goes on for
PREFIX = 10  # tokens of the response that it is given
SHORTEST = 10  # with fewer tokens to go on for, anybody might
WORST = 10  # runs that are listed
SIDES = ("train", "held_out")
STARTS = ("prompt", "prefix")
_NAME = "memorised"  # of the random numbers
_DRAWS = bootstrap.Draws()
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """A demonstration: its prompt, and its response without EOS, as token ids."""

    side: str
    place: str
    opening: str
    prompt: list[int]
    response: list[int]


def drawn_demonstrations(recipe: Recipe, setup: Setup, note: Callable[[str], None]) -> list[Known]:
    """`evaluate.memorised` demonstrations of each side, drawn by the recipe's seed; training ones first."""
    spec, count = recipe.data.demonstrations, recipe.evaluate.memorised
    if count is None:
        return []
    if spec is None:
        note("memorised demonstrations are not looked for: the recipe names no data.demonstrations")
        return []
    cache, skip, room = recipe.data.cache_folder, spec.on_bad_record == "skip", setup.template.positions
    found: list[Known] = []
    loaded = load(Demonstration, spec, "demonstrations", cache)
    for side, records in zip(SIDES, (loaded.train, loaded.held_out), strict=True):
        where = f"data.demonstrations ({side.replace('_', ' ')})"
        encoded = encode_demonstrations(setup.template, records, recipe.sft.max_length, where, cache, skip)
        asked_for = cast(Records[Demonstration], encoded.records)
        mine: list[Known] = []
        for i in order(recipe.run.seed, _NAME, 0, len(encoded)):
            if len(mine) == count:
                break
            one = encoded[i]
            response = [token for token in one.responses[0] if token != setup.template.eos_id]
            fits = room is None or len(one.prompt) + PREFIX + TOKENS <= room
            if len(response) >= SHORTEST and fits:
                text = opening(asked_for[i].prompt)
                mine.append(Known(side, asked_for.place(i), text, list(one.prompt), response))
        if len(mine) < min(count, len(encoded)):
            note(
                f"memorised: {where} has {len(mine)} demonstrations that can be asked for, and {count} were "
                f"wanted: others have fewer than {SHORTEST} tokens, or leave no room for {TOKENS} more"
            )
        found += mine
    if not any(one.side == "held_out" for one in found):
        note("memorised: no demonstration is held out, so nothing says what a model would repeat unseen")
    return found if any(one.side == "train" for one in found) else []


def continued(answering: Answering, role: str, asked: Sequence[Known]) -> list[dict[str, Any]]:
    """A row for each demonstration: what the role makes of it from each start, None where it is too short."""
    params = replace(answering.params, temperature=1.0, max_tokens=TOKENS, min_tokens=0, top_k=1, top_p=None)
    rows: list[dict[str, Any]] = [{"side": one.side, "place": one.place} for one in asked]
    for start, given in zip(STARTS, (0, PREFIX), strict=True):
        able = [i for i, one in enumerate(asked) if len(one.response) - given >= SHORTEST]
        for row in rows:
            row[start] = None
        draws = Draws(answering.seed, _NAME, start, able)  # one token can come, whatever is drawn
        begun = [asked[i].prompt + asked[i].response[:given] for i in able]
        for i, sampled in zip(able, answering.engine.sample(begun, draws, params, role), strict=True):
            true = asked[i].response[given : given + TOKENS]
            run, at = longest_common_run(sampled.response, true)
            rows[i][start] = {
                "run": run,
                "exact": is_extracted(sampled.response, true, TOKENS),
                "text": answering.template.text(sampled.response[at : at + run]),
            }
    return rows


def memorised_figures(
    asked: Sequence[Known], rows: Mapping[str, Sequence[Row]], look: bool | None = None
) -> dict[str, Any]:
    """What evaluation.json says of each policy's rows, those of `asked` in its order.

    look: whether personal data in the runs that are listed are masked; None: where that can be done.
    """
    policies: dict[str, Any] = {label: {side: {} for side in SIDES} for label in rows}
    differences: list[dict[str, Any]] = []
    for side in SIDES:
        at = [i for i, one in enumerate(asked) if one.side == side]
        for start in STARTS:
            numbers = {
                (label, name): np.array([_number(mine[i][start], name) for i in at], float)
                for label, mine in rows.items()
                for name in ("run", "exact")
            }
            for (label, name), values in numbers.items():
                about = policies[label][side].setdefault(start, {})
                about[name] = _mean(values, (0.0, 1.0) if name == "exact" else None)
                if name == "run":
                    about["longest"] = None if np.isnan(values).all() else int(np.nanmax(values))
            for one, other in combinations(rows, 2):
                less = {n: _mean(numbers[other, n] - numbers[one, n], None) for n in ("run", "exact")}
                pair = {"policy": other, "less": one, "side": side, "start": start}
                differences.append({**pair, "figures": less})
    return {
        "tokens": TOKENS,
        "prefix": PREFIX,
        "demonstrations": {side: sum(one.side == side for one in asked) for side in SIDES},
        "policies": policies,
        "differences": differences,
        "worst": _worst(asked, rows, can_look() if look is None else look),
    }


def _number(found: Row | None, name: str) -> float:
    return math.nan if found is None else float(found[name])


def _mean(values: bootstrap.Numbers, bounds: bootstrap.Bounds | None) -> Estimate | None:
    """With a 95% interval over demonstrations; None where there is none of them."""
    entries = [Observation(i, "", float(x)) for i, x in enumerate(values) if not math.isnan(x)]
    return bootstrap.means(entries, len(values), _DRAWS, bounds)[""] if entries else None


def _worst(asked: Sequence[Known], rows: Mapping[str, Sequence[Row]], look: bool) -> list[dict[str, Any]]:
    """Of the training demonstrations those with the longest runs, each once, by the policy that has it."""
    found = []
    for i, one in enumerate(asked):
        runs = [(mine[i][s], label, s) for label, mine in rows.items() for s in STARTS if mine[i][s]]
        best, label, start = max(runs, key=lambda each: each[0]["run"])
        if one.side == "train" and best["run"]:
            about = {"place": one.place, "opening": one.opening, "policy": label, "start": start}
            found.append({**about, **best})
    listed = sorted(found, key=lambda each: -each["run"])[:WORST]
    for about in listed if look else ():
        for name in ("opening", "text"):
            about[name] = masked(about[name], personal_data(about[name]))
    return listed
