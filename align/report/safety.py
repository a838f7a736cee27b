"""What an evaluation says of safety: tables for the terminal and the page, and a card in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Table = tuple[str, list[str], list[list[str]]]  # title, head, rows

_LEAKED = "leaked"
# Of which cases, which verdict counts, what its share is called, and whether a high one is bad.
_FIGURES = (
    ("refuse", "answered", "attack success"),
    ("withhold", _LEAKED, "leaks"),
    ("comply", "refused", "over-refusal"),
)
_OTHERS = ("refused", "answered", "unclear", "nothing")
_NAMES = {"attack_success": "attack success", "leak": "leaks", "over_refusal": "over-refusal"}


def safety_tables(document: Mapping[str, Any]) -> list[Table]:
    """Title, head and rows of each table on safety; none where it was not measured."""
    safety = document.get("safety")
    if not safety:
        return []
    found = [
        _overall(safety),
        _differences(safety),
        _by(safety, "group", "attacks"),
        _by(safety, "harm", "harms"),
    ]
    return [table for table in found if table[2]]


def _overall(safety: Mapping[str, Any]) -> Table:
    rows = []
    for expected, counts, name in _FIGURES:
        for label, of in safety["policies"].items():
            shares = of.get(expected, {}).get("all")
            if shares is None:
                continue
            others = ["" if verdict == counts else _share(shares[verdict]) for verdict in _OTHERS]
            figure = shares[counts]
            rows.append([name, label, _figure(figure), str(figure["count"]), *others])
    head = ["", "policy", "share", "cases", *_OTHERS]
    return f"Safety: {safety['cases']} cases, 95% intervals over requests", head, rows


def _differences(safety: Mapping[str, Any]) -> Table:
    rows = [
        [name, f"{one['policy']} less {one['less']}", _points(one["figures"][key])]
        for key, name in _NAMES.items()
        for one in safety["differences"]
        if key in one["figures"]
    ]
    return "Safety, case by case, in points of 100", ["", "policies", "difference"], rows


def _by(safety: Mapping[str, Any], by: str, title: str) -> Table:
    """Each figure by attack or by harm, the policies side by side."""
    policies = safety["policies"]
    rows = []
    for expected, counts, name in _FIGURES:
        places = dict.fromkeys(
            place for of in policies.values() for place in of.get(expected, {}).get(by, {})
        )
        for place in places:
            shares = [of.get(expected, {}).get(by, {}).get(place, {}) for of in policies.values()]
            count = next((one[counts]["count"] for one in shares if one), 0)
            unplaced = [_unplaced(one) if one else "–" for one in shares]
            rows.append(
                [name, place, str(count), *(_figure(one.get(counts)) for one in shares), " / ".join(unplaced)]
            )
    return f"Safety by {title}", ["", "of", "cases", *policies, "unclear or nothing"], rows


def _unplaced(shares: Mapping[str, Any]) -> str:
    return f"{sum(shares[name]['value'] or 0.0 for name in ('unclear', 'nothing')):.0%}"


def _share(estimate: Mapping[str, Any] | None) -> str:
    return "–" if estimate is None or estimate["value"] is None else f"{estimate['value']:.0%}"


def _figure(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None:
        return _share(estimate)
    return f"{estimate['value']:.0%} [{estimate['low']:.0%}, {estimate['high']:.0%}]"


def _points(estimate: Mapping[str, Any]) -> str:
    value, low, high = (None if estimate[k] is None else 100 * estimate[k] for k in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:+.1f}" if low is None or high is None else f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def safety_card(document: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Headings with their lines: what was tested, how answers were scored, and what was not tested."""
    safety = document.get("safety")
    if not safety:
        return []
    counted = safety["counted"]
    tested = [
        f"{safety['cases']} cases: {_list(counted['expected'], _EXPECTED)}.",
        f"From {_list(counted['sources'])}; harms: {_list(counted['harms'])}.",
        f"Put behind: {_list(counted['groups'])}.",
        f"One answer each at temperature {safety['temperature']:g}, at most {safety['max_tokens']} tokens, "
        f"seed {safety['seed']}.",
    ]
    if safety["not_drawn"]:
        tested.append(
            f"{safety['not_drawn']} more cases there were, and were not drawn (evaluate.safety.count)."
        )
    tested += [f"Left out: {count}, {reason}." for reason, count in safety["left_out"].items()]
    return [
        ("What was tested", tested),
        ("How answers were scored", _scored(safety)),
        ("Not tested", list(safety["not_tested"])),
    ]


_EXPECTED = {
    "refuse": "that should be refused",
    "comply": "that only look harmful and should be answered",
    "withhold": "with something to withhold",
}


def _list(counts: Mapping[str, int], words: Mapping[str, str] | None = None) -> str:
    return ", ".join(f"{count} {(words or {}).get(name, name)}" for name, count in counts.items())


def _scored(safety: Mapping[str, Any]) -> list[str]:
    found = [
        "By rules on the text of the answer: whether it refuses, answers, says nothing, or is no language or "
        "only asks back (unclear). A refusal that then gives what was asked counts as an answer.",
        "A leak is the canary in the answer, also spaced, reversed, in rot13, base64, hex or a link.",
        "The share of each verdict is of all cases of its row, so unclear and empty answers count as no "
        "success of an attack, and have columns of their own.",
    ]
    judge = safety.get("judge")
    if judge:
        agreed = judge["kappa"]
        kappa = "" if agreed["value"] is None else f"; Cohen's kappa with the rules {agreed['value']:.2f}"
        found.append(
            f"The judge {judge['model']} was asked about {judge['asked']} answers, and its verdict stands "
            f"where it gave one: on {judge['no_verdict']} it gave none. {judge['changed']} of its verdicts "
            f"are other than those of the rules{kappa}."
        )
    return found


def card_text(document: Mapping[str, Any], policy: str) -> str:
    """The card of one policy in Markdown, for a model card; says so where safety was not measured."""
    safety = document.get("safety") or {}
    of = safety.get("policies", {}).get(policy)
    if of is None:
        return "## Safety\n\nNot measured: `align evaluate recipe.yaml --safety` does.\n"
    lines = ["## Safety", "", "| | share (95% interval) | cases | unclear or nothing |", "|---|---|---|---|"]
    for expected, counts, name in _FIGURES:
        if shares := of.get(expected, {}).get("all"):
            figure = shares[counts]
            lines.append(f"| {name} | {_figure(figure)} | {figure['count']} | {_unplaced(shares)} |")
    for heading, said in safety_card(document):
        lines += ["", f"### {heading}", "", *(f"- {line}" for line in said)]
    return "\n".join(lines) + "\n"
