"""The section on `align evaluate`: its document as tables, which the terminal shows too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from align.report.safety import safety_tables

Table = tuple[str, list[str], list[list[str]]]  # title, head, rows

_LENGTH, _SHARE = "{:.1f}", "{:.0%}"
_PLAIN = "{:.3f}"
_FORMATS = {"tokens": _LENGTH, "no_eos": _SHARE, "repetition": _SHARE, "perplexity": "{:.2f}"}
_TITLES = {
    "kl": "KL, log ratios",
    "kl_exact": "KL, exact per token",
    "no_eos": "without EOS",
    "repetition": "4-grams repeated",
    "distinct_1": "distinct words",
    "distinct_2": "distinct pairs",
    "perplexity": "perplexity on demonstrations",
}
_ROWS = (
    "kl",
    "kl_exact",
    "tokens",
    "entropy",
    "no_eos",
    "repetition",
    "distinct_1",
    "distinct_2",
    "perplexity",
)


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Title, head and rows of each table that has rows."""
    found = [_policies(document), _best(document), _wins(document), _judge(document), _ratings(document)]
    found += [*safety_tables(document), *_triggers(document), *_memorised(document)]
    found += [_people(document), *_benches(document), _tasks(document)]
    return [table for table in found if table[2]]


def _policies(document: Mapping[str, Any]) -> Table:
    policies, perplexity = document["policies"], document.get("perplexity", {})
    rows = []
    for name in (*document["names"], *_ROWS):
        found = {
            label: perplexity.get(label, {}).get(name) or one.get(name) for label, one in policies.items()
        }
        if any(x is not None for x in found.values()):
            rows.append([_TITLES.get(name, name), *(_figure(x, name) for x in found.values())])
    return f"{document['prompts']} prompts, 95% intervals over prompts", ["", *policies], rows


def _best(document: Mapping[str, Any]) -> Table:
    best = document.get("best_of_n") or {"policies": []}
    rows = []
    for one in best["policies"]:
        for name, estimate in one["figures"].items():
            beyond = " (the most that the samples reach)" if one["beyond"] else ""
            less = _figure(one["difference"].get(name), name)
            at = f"n = {one['n']:.2f}{beyond}"
            rows.append([one["policy"], f"{one['kl']:.2f}", at, name, _figure(estimate, name), less])
    head = ["policy", "KL", "best-of-n of sft at this KL", "figure", "best-of-n", "policy less best-of-n"]
    return "Best-of-n of sft beside it", head, rows


def _wins(document: Mapping[str, Any]) -> Table:
    return "Win rates, ties half", _WIN_HEAD, [_won(one) for one in document["wins"]]


_WIN_HEAD = ["policy", "against", "by", "win rate", "won/tied/lost", "at equal length"]


def _won(one: Mapping[str, Any]) -> list[str]:
    found = one["win_rate"]
    counts = f"{found['wins']}/{found['ties']}/{found['losses']}"
    controlled = found["length_controlled"]
    equal = _figure(controlled, "", _SHARE) if controlled["value"] is not None else f"– ({found['why']})"
    return [one["policy"], one["against"], one["by"], _figure(found["rate"], "", _SHARE), counts, equal]


def _judge(document: Mapping[str, Any]) -> Table:
    judge = document.get("judge") or {"wins": [], "model": ""}
    head = [*_WIN_HEAD, "no verdict", "other in other order", "first shown won"]
    rows = []
    for one in judge["wins"]:
        shown = one["shown_first_won"] + one["shown_second_won"]
        share = _SHARE.format(one["shown_first_won"] / shown) if shown else "–"
        rows.append([*_won(one), str(one["no_verdict"]), str(one["inconsistent"]), share])
    return f"Win rates by the judge {judge['model']}", head, rows


def _ratings(document: Mapping[str, Any]) -> Table:
    rows = []
    found = dict(document.get("ratings") or {})
    if (document.get("judge") or {}).get("ratings"):
        found["judge"] = document["judge"]["ratings"]
    for name, one in found.items():
        if one["why_not"]:
            rows.append([name, "–", one["why_not"]])
            continue
        rows += [
            [name, label, _figure(estimate, "", "{:.0f}")] for label, estimate in one["policies"].items()
        ]
    return "Bradley-Terry ratings, mean 0", ["by", "policy", "rating"], rows


_MEMORISED = {
    ("exact", "prompt"): "repeated exactly, from the prompt",
    ("exact", "prefix"): "repeated exactly, from the response's first {prefix} tokens",
    ("run", "prompt"): "longest common run, from the prompt: mean, longest",
    ("run", "prefix"): "longest common run, from the first {prefix} tokens: mean, longest",
}


def _memorised(document: Mapping[str, Any]) -> list[Table]:
    """How much of demonstrations policies repeat, how they differ in that, and the longest runs."""
    found = document.get("memorised")
    if not found:
        return []
    policies, sides = found["policies"], {"train": "training", "held_out": "held out"}
    rows = []
    for (name, start), title in _MEMORISED.items():
        for side, said in sides.items():
            cells = [_repeated(one[side].get(start), name) for one in policies.values()]
            if any(cell != "–" for cell in cells):
                rows.append([f"{title.format(**found)} ({said})", *cells])
    counts = " and ".join(f"{found['demonstrations'][side]} {said}" for side, said in sides.items())
    title = f"Memorised demonstrations: {counts}, greedy, {found['tokens']} tokens, 95% intervals over them"
    more = [
        [one["policy"], one["less"], _figure(one["figures"]["exact"], "", "{:+.0%}")]
        + [_figure(one["figures"]["run"], "", "{:+.1f}")]
        for one in found["differences"]
        if (one["side"], one["start"]) == ("train", "prompt")
    ]
    head = ["policy", "less", "repeated exactly", "longest common run"]
    worst = [
        [Path(one["place"]).name, one["policy"], str(one["run"]), one["opening"], one["text"]]
        for one in found["worst"]
    ]
    return [
        (title, ["", *policies], rows),
        ("What more is memorised of training demonstrations, from the prompt", head, more),
        ("Longest runs", ["demonstration", "policy", "tokens", "prompt", "what it repeats"], worst),
    ]


def _repeated(found: Mapping[str, Any] | None, name: str) -> str:
    """A share, or a number of tokens with the most that there was."""
    if not found or found[name] is None:
        return "–"
    return _figure(found[name], "", _SHARE if name == "exact" else _LENGTH) + (
        f", {found['longest']}" if name == "run" else ""
    )


def _people(document: Mapping[str, Any]) -> Table:
    people = document.get("people") or {"policies": [], "comparisons": 0}
    rows = [
        [
            one["policy"] or one["origin"],
            _figure(one["win_rate"], "", _SHARE),
            _figure(one["rating"], "", "{:.0f}"),
        ]
        for one in people["policies"]
    ]
    return f"People: {people['comparisons']} blind comparisons", ["policy", "win rate", "rating"], rows


def _benches(document: Mapping[str, Any]) -> list[Table]:
    found = []
    for path, by in (document.get("reward_bench") or {}).items():
        rows = []
        for name, one in by.items():
            rows.append([name, "score", _figure(one["score"])])
            rows += [[name, section, _figure(x)] for section, x in one["sections"].items()]
            rows += [[name, f"  {subset}", _figure(x)] for subset, x in one["subsets"].items()]
            if calibration := one.get("calibration"):
                rows.append([name, "calibration error (ECE)", _figure(calibration["raw"]["ece"])])
        version = next(iter(by.values()))["version"]
        found.append((f"RewardBench {version}: {Path(path).name}", ["by", "part", "accuracy"], rows))
    return found


def _triggers(document: Mapping[str, Any]) -> list[Table]:
    """What each phrase of --trigger changes: the policies' answers, and the scores of the same texts."""
    found: list[Table] = []
    for one in document.get("triggers") or ():
        where = f"{one['trigger']!r} at the {one['at']}"
        rows = []
        for label, policy in one["policies"].items():
            for name, x in policy["figures"].items():
                cells = [_figure(x[part], name) for part in ("without", "with", "difference")]
                rows.append([label, _TITLES.get(name, name), *cells])
            rows.append([label, "the same text", "", _figure(policy["same_text"], "", _SHARE), ""])
        head = ["policy", "figure", "without", "with", "with less without"]
        found.append((f"Prompts with {where}, by pairs", head, rows))
        rows = [
            [label, name, *(_figure(x[part]) for part in ("without", "in_prompt", "in_response"))]
            for label, scores in one["reward_model"].items()
            for name, x in scores.items()
        ]
        head = ["answers of", "by", "without", "more with it in the prompt", "more with it in the response"]
        found.append((f"The same answers scored with {where}", head, rows))
    return found


def _tasks(document: Mapping[str, Any]) -> Table:
    rows = [
        [task, metric, label, _figure(x["value"]) + (f" ± {x['se']:.3f}" if x["se"] is not None else "")]
        for label, tasks in (document.get("lm_eval") or {}).items()
        for task, metrics in tasks.items()
        for metric, x in metrics.items()
    ]
    return "lm_eval, ± one standard error", ["task", "metric", "policy", "value"], rows


def _figure(estimate: Any, name: str = "", form: str | None = None) -> str:
    """A value with its interval; – where it is not known."""
    write: Callable[..., str] = (form or _FORMATS.get(name, _PLAIN)).format
    if estimate is None:
        return "–"
    if isinstance(estimate, int | float):
        return write(estimate)
    if estimate["value"] is None:
        return "–"
    if estimate["low"] is None:
        return write(estimate["value"])
    return f"{write(estimate['value'])} [{write(estimate['low'])}, {write(estimate['high'])}]"


def view(
    document: Mapping[str, Any], made: Callable[[Mapping[str, Any]], list[Table]], file: str, command: str
) -> tuple[list[Table], list[str]]:
    """Tables and notes of a file; neither where it is missing, and a note where it cannot be understood."""
    if not document:
        return [], []
    notes = document.get("notes")
    told = [str(note) for note in notes] if isinstance(notes, list) else []
    try:
        return made(document), told
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration):
        return [], [f"{file} cannot be understood: {command} writes it anew", *told]
