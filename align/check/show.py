"""A report on the terminal: what there is, then what is wrong with it, then what to do."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from align.check.personal import INSTALL, LOOKED_FOR
from align.check.result import (
    SEVERITIES,
    Example,
    Finding,
    LabelFacts,
    Report,
    Set,
    Spread,
    Understood,
    number,
    percent,
)
from align.data.reading import Reading, shown_names
from align.text import printable, span

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_NAMED = 14  # of what stands beside a name
_ANSWERS = 3  # of a record that are shown
_INDENT = 22  # of what stands beside a fact's name
_LABELERS = 6  # in a line
_ONE_LINE = 85  # characters of places that may stand side by side
Cell = tuple[str, str]  # text and style
Cells = Sequence[Cell]


def show(report: Report, written: str, console: Console) -> None:
    """Print; the worst comes last but for the line that says what to do, where the eye rests.

    written: where the report lies, or why it does not.
    """
    for line in lines(report, written, console.width if console.is_terminal else None):
        text = Text.assemble(*((printable(part), style) for part, style in line))
        console.print(text, soft_wrap=True, highlight=False)


def lines(report: Report, written: str, width: int | None) -> Iterator[Cells]:
    """The report's lines; long ones are wrapped to a width, None: not at all."""
    yield [(f"align check {report.recipe}", "bold")]
    yield [(f"run {report.run}, base {_path(report.base)}", "dim")]
    unit = next((found.lengths.unit for found in report.sets if found.lengths), "tokens")
    for understood in report.read:
        yield []
        yield from _understood(understood, width)
    if report.sets:
        yield []
        yield from _table(_records(report.sets), left=(0, 1))
        yield []
        yield from _table(_lengths(report.sets, unit), left=(0, 1, 6))
        yield []
    yield from _facts(report, written, width)
    for severity in reversed(SEVERITIES):
        found = [finding for finding in report.findings if finding.severity == severity]
        if found:
            yield []
            yield [(number(len(found), severity), _STYLES[severity])]
        for finding in found:
            yield from _finding(finding, width)
    yield []
    style = "bold red" if report.exit_code else "bold green"
    yield [(report.next, style)]  # whole, for the command in it


def _understood(found: Understood, width: int | None) -> Iterator[Cells]:
    """How files were read, column by column, and the first records."""
    reading = found.reading
    side = f" {_side(found.side)}" if found.side else ""
    yield [(f"{found.kind}{side} ", "bold"), (shown_names([_path(name) for name in found.files]), "bold")]
    facts = [
        ("format", f"{reading.format}, {reading.why}" if reading.format else "none: no row could be read")
    ]
    if not reading.format:
        pass  # nothing is known of the columns
    elif reading.columns is None:
        facts.append(("used", "what the function takes of a row"))
    else:
        facts.append(("used", _uses(reading.columns) or "none"))
    if reading.ignored:
        facts.append(("not used", ", ".join(_unused(name, reading) for name in reading.ignored)))
    facts.append(("read", _path(reading.counted())))
    for name, text in facts:
        first, *more = _wrapped(text, width, _NAMED)
        yield [(f"  {name:{_NAMED - 2}}", "dim"), (first, "")]
        yield from ([(" " * _NAMED + part, "")] for part in more)
    for example in found.examples:
        yield [(f"  {_path(example.place)}", "dim")]
        rows = [("prompt", example.prompt), *_answers(example)]
        yield from ([(f"    {name:14}", "dim"), (_start(text), "")] for name, text in rows)


def _answers(example: Example) -> Iterator[tuple[str, str]]:
    """What stands beside each answer, and the answer; the best two and the last of many."""
    many = len(example.answers) > _ANSWERS
    shown = [*example.answers[: _ANSWERS - 1], example.answers[-1]] if many else example.answers
    for i, (rank, text) in enumerate(shown):
        if rank is None:
            yield ("unranked" if len(shown) > 1 else "answer"), text
        else:
            yield f"rank {rank}" + (", best" if i == 0 else ""), text


def _uses(columns: Mapping[str, str]) -> str:
    """`question: prompt; chosen: best; rejected: worst`."""
    return "; ".join(f"{name}: {role}" for name, role in columns.items())


def _unused(name: str, reading: Reading) -> str:
    return f"{name} (text)" if name in reading.unread else name


def _start(text: str, width: int = 70) -> str:
    """A text's first words, and its last ones where it is long, on one line."""
    flat = json.dumps(text[:1000] if len(text) > 1000 else text, ensure_ascii=False)
    return flat if len(flat) <= width else flat[:width] + "…"


def _records(sets: Sequence[Set]) -> list[list[Cell]]:
    head = ["records", "", "number", "prompts", "K", "comparisons", "tied pairs", "all tied", "unranked"]
    rows: list[list[Cell]] = [[(title, "bold") for title in head]]
    for found in sets:
        row = [f"{found.records:,}", f"{found.repeats.prompts:,}"]
        label = found.labels
        if label:
            tied = f"{label.ties:,} ({100 * label.tied_share:.1f}%)" if label.ties else "0"
            row += [_k(label), f"{label.comparisons:,}", tied, f"{label.all_tied:,}", f"{label.unranked:,}"]
        rows.append([*_name(found), *((text, "") for text in row)])
    return rows


def _k(label: LabelFacts) -> str:
    """`4`, or `2-9, most 3`."""
    if len(label.k) < 2:
        return str(next(iter(label.k), ""))
    common = max(label.k, key=lambda k: label.k[k])
    return f"{min(label.k)}-{max(label.k)}, most {common}"


def _lengths(sets: Sequence[Set], unit: str) -> list[list[Cell]]:
    head = [unit, "", "prompt", "response", "sequence", "over", "limit"]
    rows: list[list[Cell]] = [[(title, "bold") for title in head]]
    rows.append([("median / 95% / max", "dim")])
    for found in sets:
        if found.lengths is None:
            continue
        spreads = (found.lengths.prompt, found.lengths.response, found.lengths.sequence)
        rows.append([*_name(found), *((_spread(part), "") for part in spreads)])
        for i, limit in enumerate(found.lengths.limits):
            if i and not limit.over:
                continue
            if i:
                rows.append([("", "")] * 5)
            name = "the base reads" if limit.key == "base" else limit.key
            rows[-1] += [
                (f"{limit.over:,}", "bold red" if limit.over else ""),
                (f"{name} {limit.tokens:,}", ""),
            ]
    return rows


def _spread(found: Spread | None) -> str:
    return f"{found.median:,} / {found.p95:,} / {found.max:,}" if found else ""


def _name(found: Set) -> tuple[Cell, Cell]:
    return (found.kind if found.side == "train" else "", ""), (_side(found.side), "")


def _side(side: str) -> str:
    return side.replace("_", "-")


def _table(rows: list[list[Cell]], left: Sequence[int]) -> Iterator[Cells]:
    """Aligned columns, those in `left` to the left and the others to the right."""
    rows = [row + [("", "")] * (len(rows[0]) - len(row)) for row in rows]
    # A line with one cell reaches over the columns.
    widths = [
        max(len(row[i][0]) for row in rows if any(text for text, _ in row[1:])) for i in range(len(rows[0]))
    ]
    for row in rows:
        cells = [
            (f"{text:<{width}}" if i in left else f"{text:>{width}}", style)
            for i, ((text, style), width) in enumerate(zip(row, widths, strict=True))
        ]
        while cells and not cells[-1][0].strip():
            cells.pop()
        if cells:
            cells[-1] = (cells[-1][0].rstrip(), cells[-1][1])
        yield [part for cell in cells for part in (cell, ("  ", ""))][:-1]


def _facts(report: Report, written: str, width: int | None) -> Iterator[Cells]:
    """Who labelled, how far they agree, what length alone would reach, and whose code runs."""
    facts: list[Cell] = []
    for found in report.sets:
        label = found.labels
        if label and label.labelers:
            top = ", ".join(f"{name} {count:,}" for name, count in label.by_labeler[:4])
            more = ", …" if label.labelers > 4 else ""
            unnamed = f"; {label.unnamed:,} unnamed" if label.unnamed else ""
            facts.append((f"labelers, {_side(found.side)}", f"{label.labelers:,}: {top}{more}{unnamed}"))
        if label and label.timed:
            took = f"{span(label.seconds)} for {number(label.timed, 'ranking')}"
            facts.append((f"people's time, {_side(found.side)}", took))
    for agreement in report.agreement:
        if agreement.agreement is not None:
            share = f"{100 * agreement.agreement:.1f}% of {number(agreement.judgements, 'judgement')}"
            text = f"{share} of one pair by two people ({number(agreement.judged_twice, 'pair')})"
            facts.append((f"agreement, {_side(agreement.side)}", text))
    known = [(one.name, one.accuracy.value) for one in report.reliability.labelers]
    if shares := [f"{name} {100 * value:.0f}%" for name, value in known if value is not None]:
        named = ", ".join(shares[:_LABELERS]) + (", …" if len(shares) > _LABELERS else "")
        pairs = number(report.reliability.pairs, "pair")
        facts.append(("ordered right", f"{named}, by {pairs} that several judged"))
    bias = report.length_bias
    if bias and bias.accuracy is not None:
        side, wins = ("training", bias.train) if bias.train.comparisons else ("held-out", bias.held_out)
        longer, shorter = percent(wins.longer, wins.comparisons), percent(wins.shorter, wins.comparisons)
        right = f"{100 * bias.accuracy:.1f}% right ({_side(bias.measured_on)})"
        facts.append(("length", f"longer wins {longer}, shorter {shorter} ({side}); length alone is {right}"))
    facts.append(("personal data", _personal(report)))
    facts += [("runs code", code) for code in report.code] or [("runs code", "none but align's")]
    facts.append(("written", _path(written)))
    for name, text in facts:
        first, *more_lines = _wrapped(text, width, _INDENT)
        yield [(f"{name:{_INDENT}}", "bold"), (first, "yellow" if text in report.code else "")]
        yield from ([(" " * _INDENT + part, "")] for part in more_lines)


def _personal(report: Report) -> str:
    """What was looked for, and in how many records something stands."""
    if report.personal_data is None:
        return f"not looked for: {INSTALL}"
    of = f"in {number(report.personal_data.looked_at, 'record')} ({LOOKED_FOR}; not names)"
    places = len({(one.kind, one.place) for one in report.personal_data.found})
    return f"{number(places, 'record')} with some, {of}" if places else f"none found {of}"


def _finding(finding: Finding, width: int | None) -> Iterator[Cells]:
    style = _STYLES[finding.severity]
    for i, part in enumerate(_wrapped(f"{finding.where}: {finding.message}", width, 4)):
        rest = part.removeprefix(finding.where)
        if i == 0 and rest != part:
            yield [("  ", ""), (finding.where, style), (rest, "")]
        else:
            yield [(f"    {part}", "")]
    examples = [_path(example) for example in finding.examples]
    if sum(map(len, examples)) <= _ONE_LINE and not any(" " in example for example in examples):
        examples = ["  ".join(examples)] if examples else []
    for example in examples:
        first, *more = _wrapped(example, width, 6)
        yield [(f"    {first}", "dim")]
        yield from ([(f"      {part}", "dim")] for part in more)


def _wrapped(text: str, width: int | None, indent: int) -> list[str]:
    """The text in lines that leave room for an indent; one line where there is no width."""
    if width is None:
        return [text]
    wide = max(40, width - indent)
    return textwrap.wrap(text, wide, break_long_words=False, break_on_hyphens=False) or [""]


def _path(text: str) -> str:
    """Places in the working directory, said from there."""
    return text.replace(os.getcwd() + os.sep, "")
