"""The cases that a policy is asked: the built-in suite and files, behind attacks, all or a balanced part."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from align.errors import UserError
from align.safety.adapters import read_cases
from align.safety.attacks import PLAIN, Attack, all_attacks, put_behind
from align.safety.cases import Case
from align.seeds import order

FOLDER = Path(__file__).parent / "suite"
SOURCE = "built-in"

Unit = tuple[Case, ...]  # a harmful request and its twin behind the same attack; a case without a twin alone


@dataclass(frozen=True)
class Selection:
    """The cases to ask, in the suite's order, and those that a count left out."""

    cases: list[Case]
    left_out: list[Case]


def cases(
    files: Sequence[Path] | None = None,
    attacks: Sequence[str] | None = None,
    suffixes: Path | None = None,
    count: int | None = None,
    seed: int = 0,
) -> list[Case]:
    """The cases of the built-in suite and of `files`, as `select` chooses them."""
    return select(files, attacks, suffixes, count, seed).cases


def select(
    files: Sequence[Path] | None = None,
    attacks: Sequence[str] | None = None,
    suffixes: Path | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Selection:
    """The cases, and which ones `count` left out.

    `attacks`: names as `encoding/base64`, or groups as `encoding`; None: all, and `plain`. `suffixes`: a file
    of more suffixes. `count`: at most so many cases, attacks and harms as evenly as they go, pairs whole.
    `seed`: which ones these are, and the order of many-shot's turns. Raises UserError.
    """
    base = with_twins([*built_in(), *(case for path in files or () for case in read_cases(path))])
    _check_ids(base)
    every = behind(base, all_attacks(suffixes, seed))
    wanted = every if attacks is None else chosen(every, attacks)
    return Selection(wanted, []) if count is None else balanced(wanted, count, seed)


def built_in() -> list[Case]:
    """The suite that comes with the package; raises UserError where its files are damaged."""
    paths = sorted(FOLDER.glob("*.jsonl"))
    if not paths:
        raise UserError(f"{FOLDER}: the suite's files are not there: install the package again")
    return [replace(case, source=SOURCE) for path in paths for case in read_cases(path, prefix="")]


def with_twins(found: Sequence[Case]) -> list[Case]:
    """The cases, with no pair where a request has no twin among them."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for case in found:
        if case.pair is not None:
            kinds[case.pair].add(case.expected)
    return [case if len(kinds.get(case.pair or "", ())) > 1 else replace(case, pair=None) for case in found]


def behind(base: Sequence[Case], attacks: Mapping[str, Attack]) -> list[Case]:
    """Every case, and every plain request also behind each attack.

    What hides an instruction or guards a secret is an attack by itself, and its control stays plain.
    """
    held = {case.pair for case in base if case.expected == "withhold"} - {None}
    found = []
    for case in base:
        found.append(case)
        if case.attack != PLAIN or case.expected == "withhold" or case.pair in held:
            continue
        for name, attack in attacks.items():
            prompt = put_behind(case.prompt, attack)
            found.append(replace(case, id=f"{case.id}/{name}", prompt=prompt, attack=name))
    return found


def group_of(attack: str) -> str:
    """The group of an attack: `encoding` of `encoding/base64`."""
    return attack.partition("/")[0]


def chosen(every: Sequence[Case], attacks: Sequence[str]) -> list[Case]:
    """The cases behind one of the attacks, by their names or groups; controls come with what they control.

    Raises UserError for a name that there is no attack of, and where none is named.
    """
    if not attacks:
        raise UserError("no attack is named: leave `attacks` away for all of them")
    names = sorted({case.attack for case in every})
    groups = {group_of(name) for name in names}
    for asked in attacks:
        if asked not in groups and asked not in names:
            near = difflib.get_close_matches(asked, [*groups, *names], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"there is no attack {asked[:60]!r}: {hint}There are {', '.join(sorted(groups))}")
    wanted = {name for name in names if name in attacks or group_of(name) in attacks}
    hit = [case for case in every if case.attack in wanted]
    held = {case.pair for case in hit if case.expected == "withhold"} - {None}
    return [case for case in every if case.attack in wanted or (case.attack == PLAIN and case.pair in held)]


def balanced(found: Sequence[Case], count: int, seed: int) -> Selection:
    """At most `count` of the cases, pairs whole, a function of the arguments.

    One unit after the other is taken of the group of attacks, in it of the attack, and of the harm, of which
    the fewest were taken so far. Raises UserError where the count holds no unit.
    """
    cells: dict[tuple[str, str], deque[Unit]] = defaultdict(deque)
    for unit in _shuffled(_units(found), seed):
        cells[_cell(unit)].append(unit)
    so_far: Counter[str] = Counter()  # units by group, by attack and by harm
    taken: list[Unit] = []
    room = count
    while True:
        open_cells = [cell for cell, units in cells.items() if units and len(units[0]) <= room]
        if not open_cells:
            break
        cell = min(open_cells, key=lambda cell: [so_far[name] for name in _counted(cell)])
        unit = cells[cell].popleft()
        so_far.update(_counted(cell))
        room -= len(unit)
        taken.append(unit)
    if not taken:
        raise UserError(f"a count of {count} holds no request with its twin: say 2 or more")
    ids = {case.id for unit in taken for case in unit}
    return Selection(
        [case for case in found if case.id in ids], [case for case in found if case.id not in ids]
    )


def _units(found: Iterable[Case]) -> list[Unit]:
    """Cases that stay together: those of a pair behind the same attack, or an attack with its control."""
    units: dict[tuple[str, str], list[Case]] = defaultdict(list)
    found = list(found)
    held = {case.pair for case in found if case.expected == "withhold"} - {None}
    for case in found:
        name = case.id if case.pair is None else case.pair
        units[name, "" if case.pair in held else case.attack].append(case)
    return [tuple(unit) for unit in units.values()]


def _shuffled(units: Sequence[Unit], seed: int) -> list[Unit]:
    return [units[i] for i in order(seed, "safety", 0, len(units))]


def _cell(unit: Unit) -> tuple[str, str]:
    """The attack and the harm of a unit; where a control lies in it, those of what it controls."""
    case = next((case for case in unit if case.attack != PLAIN), unit[0])
    return case.attack, case.harm


def _counted(cell: tuple[str, str]) -> tuple[str, str, str]:
    attack, harm = cell
    return f"group {group_of(attack)}", f"attack {attack}", f"harm {harm}"


def _check_ids(found: Sequence[Case]) -> None:
    seen: set[str] = set()
    for case in found:
        if case.id in seen:
            raise UserError(
                f"the id {case.id[:80]!r} stands in two files: one was given twice, or two have the same name"
            )
        seen.add(case.id)
