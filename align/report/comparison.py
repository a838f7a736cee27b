"""What `align compare` found, as tables; the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from align.report.evaluation import Table
from align.text import span


def comparison_tables(document: Mapping[str, Any]) -> list[Table]:
    """Title, head and rows: what the methods are worth, what they cost, and each seed's score."""
    return [_worth(document), _cost(document), *_seeds(document)]


def _title(document: Mapping[str, Any], what: str) -> str:
    count = len(document["seeds"])
    interval = f"mean of {count} seeds with a 95% interval" if count > 1 else "one seed, so without intervals"
    return f"{what}: {interval}, {document['prompts']} prompts"


def _worth(document: Mapping[str, Any]) -> Table:
    wins = [
        name
        for name in dict.fromkeys(name for row in document["rows"] for name in row["figures"])
        if name.startswith("win/")
    ]
    names = [name for name in document["names"] if not name.startswith("reward/")]
    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        *(
            column
            for name in names
            for column in (
                (name, _shown(name, "{:.3f}")),
                (f"{name} less sft's", _shown(f"gain/{name}", "{:+.3f}")),
            )
        ),
        ("KL to sft, nats (± standard error)", _kl),
        *((f"wins against sft by {name.removeprefix('win/')}", _shown(name, "{:.0%}")) for name in wins),
        ("tokens", _shown("tokens", "{:.1f}")),
        ("perplexity on demonstrations", _shown("perplexity", "{:.2f}")),
        ("training demonstrations repeated exactly", _shown("memorised", "{:.0%}")),
    ]
    rows = [[_name(document, row), *(show(row) for _, show in columns)] for row in document["rows"]]
    return _without_empty(
        _title(document, "What the methods are worth"), ["", *(t for t, _ in columns)], rows
    )


def _cost(document: Mapping[str, Any]) -> Table:
    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("operations", _mean("flops", lambda x: f"{x:.3g}")),
        ("of the budget", _mean("share", lambda x: f"{x:.0%}")),
        ("device time", _mean("seconds", span)),
        ("energy", _energy),
        ("operations an answer more", _mean("flops_an_answer", lambda x: f"{x:.3g}")),
    ]
    rows = [
        [_name(document, row), *(show(row) for _, show in columns)]
        for row in document["rows"]
        if "flops" in row["figures"] or "seconds" in row["figures"]
    ]
    title = "What they took after the SFT policy, the reward model included where they need it (means)"
    return _without_empty(title, ["", *(t for t, _ in columns)], rows)


def _seeds(document: Mapping[str, Any]) -> list[Table]:
    """Of each seed the first score, where there are several."""
    if len(document["seeds"]) < 2 or not document["names"]:
        return []
    name, seeds = document["names"][0], [str(seed) for seed in document["seeds"]]
    rows = []
    for row in document["rows"][1:]:
        found = row["figures"].get(f"gain/{name}", {"by_seed": {}})["by_seed"]
        rows.append([_name(document, row), *(f"{found[s]:+.3f}" if s in found else "–" for s in seeds)])
    return [(f"{name} less sft's, of each seed", ["", *(f"seed {seed}" for seed in seeds)], rows)]


def _name(document: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    method: str = row["method"]
    return f"{method} (n = {document['best_of']})" if method == "best-of-n" else method


def _shown(name: str, form: str) -> Callable[[Mapping[str, Any]], str]:
    def show(row: Mapping[str, Any]) -> str:
        found = row["figures"].get(name)
        if found is None:
            return "–"
        if found["low"] is None:
            return form.format(found["value"])
        return f"{form.format(found['value'])} [{form.format(found['low'])}, {form.format(found['high'])}]"

    return show


def _mean(name: str, write: Callable[[float], str]) -> Callable[[Mapping[str, Any]], str]:
    def show(row: Mapping[str, Any]) -> str:
        found = row["figures"].get(name)
        return "–" if found is None else write(found["value"])

    return show


def _kl(row: Mapping[str, Any]) -> str:
    """Over seeds the error is theirs; of one seed it is that over prompts. Best-of-n's is a formula's."""
    found = row["figures"].get("kl_exact")
    if found is None or row["method"] == "sft":
        return "–"
    if row["method"] == "best-of-n":
        return f"{found['value']:.3f} (at most, log n − (n − 1)/n)"
    errors = [x for x in row["kl_se"].values() if x is not None]
    error = found["se"] if found["se"] is not None else errors[0] if errors else None
    return f"{found['value']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _energy(row: Mapping[str, Any]) -> str:
    found = row["figures"].get("joules")
    if found is None:
        return "–"
    return f"{found['value'] / 3600:.3g} Wh" + (" (estimated)" if row["joules_estimated"] else "")


def _without_empty(title: str, head: list[str], rows: list[list[str]]) -> Table:
    """The table without the columns in which no row says anything."""
    kept = [0, *(i for i in range(1, len(head)) if any(row[i] != "–" for row in rows))]
    return title, [head[i] for i in kept], [[row[i] for i in kept] for row in rows]
