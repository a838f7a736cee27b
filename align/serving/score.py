"""`align score`: what a run's reward model gives to responses in a file."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from align.data.formats import Format, LeftOut
from align.data.one_file import OneFile
from align.data.template import Template
from align.errors import UserError
from align.models.batch import Pair
from align.models.ensemble import spread
from align.models.forward import Forward
from align.models.scoring import score_members, score_pairs
from align.run.files import whole_file
from align.run.progress import ProgressBar, say
from align.serving.records import SCORE, ScoreItem, read_items
from align.serving.run import Trained, open_run, reward_model
from align.values import RecordError

_SHOWN = 20  # problems that are printed one by one
_WINDOW = 2048  # records that are sorted by length together: what lies in memory
_DECIMALS = 6  # float32 has no more

Write = Callable[[str], object]


@dataclass
class Found:
    """What the first reading of a file counts."""

    responses: int = 0
    long: int = 0  # responses with more tokens than the reward model was trained on
    left_out: Counter[str] = field(default_factory=Counter)  # what the format makes no record of, by reason
    unread: list[str] = field(default_factory=list)  # columns with texts of which nothing is used


def score(
    run: Path,
    file: Path,
    to: Path | None = None,
    form: Format | None = None,
    base: Path | None = None,
    console: Console | None = None,
    trusted: bool = False,
    ignore: Sequence[str] = (),
) -> None:
    """Write each record of the file with its score (a list: `scores`), in the file's order, as JSON Lines.

    To stdout, or into `to`, which is complete or absent. The whole file is read and checked before
    anything is scored: UserError names file, line and field of up to 20 problems.
    """
    console = console or Console(stderr=True)
    if to is not None:
        _check_target(to, file)
    trained = open_run(run, "rm", base, trusted)
    found = _check(file, form, trained, ignore)
    limit = trained.recipe.rm.max_length
    if found.long:
        say(
            console,
            f"{found.long} of {found.responses} responses have more tokens, with their prompts, than the "
            f"{limit} that the reward model was trained on (rm.max_length): trust their scores less",
        )
    if found.left_out:
        reasons = "; ".join(f"{count:,} × {reason}" for reason, count in found.left_out.items())
        say(console, f"{found.left_out.total():,} left out, and not scored: {reasons}")
    if found.unread:
        names = ", ".join(f"`{name}`" for name in found.unread)
        say(console, f"nothing of {names} is used: if it matters, map it by --columns, else --ignore it")
    if to is None and sys.stdout.isatty():
        console = Console(quiet=True)  # a bar would stand among the lines
    forward = reward_model(trained)
    with _output(to) as write, ProgressBar(console, "score", found.responses) as bar:
        items = (item for item in read_items(file, form, OneFile(ignore)) if isinstance(item, ScoreItem))
        for row in _scored(items, trained, forward, bar):
            write(_json_line(row))


def _check_target(to: Path, file: Path) -> None:
    if to.is_dir():
        raise UserError(f"--to {to} is a folder: name a file in it")
    if not to.parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}: make it first")
    if to.exists() and file.exists() and to.samefile(file):
        raise UserError(f"--to {to} is the file that is read: name another")


def _check(file: Path, form: Format | None, run: Trained, ignore: Sequence[str]) -> Found:
    """Count what will be scored; UserError where a record cannot be."""
    found, problems, count, one = Found(), list[str](), 0, OneFile(ignore)
    for item in read_items(file, form, one):
        if isinstance(item, LeftOut):
            found.left_out[item.reason] += 1
            continue
        try:
            if isinstance(item, RecordError):
                raise item
            lengths = [len(p) + len(r) for p, r in encoded_pairs(item, run.setup.template)]
        except UserError as error:
            count += 1
            if len(problems) < _SHOWN:
                problems.append(str(error))
            continue
        found.responses += len(lengths)
        found.long += sum(length > run.recipe.rm.max_length for length in lengths)
    if count:
        more = [f"… and {count - _SHOWN} more"] if count > _SHOWN else []
        many = "1 problem" if count == 1 else f"{count} problems"
        lines = [f"{many} in the records; nothing was scored", *problems, *more]
        raise UserError("\n  ".join(lines))
    if not found.responses:
        raise UserError(f"{file}: has no records")
    found.unread = one.reading.unread
    return found


def encoded_pairs(item: ScoreItem, template: Template) -> list[Pair]:
    """The ids of prompt and response, for each response; UserError with the item's place."""
    try:
        prompt = template.prompt_ids(item.prompt)
        pairs = [(prompt, template.response_ids(response)) for response in item.responses]
    except UserError as error:
        raise UserError(f"{item.place}: {error}") from error
    longest = max(len(prompt) + len(response) for _, response in pairs)
    if template.positions is not None and longest > template.positions:
        raise UserError(
            f"{item.place}: {longest} tokens, and the base reads at most {template.positions}: shorten it"
        )
    return pairs


def _scored(
    items: Iterator[ScoreItem], run: Trained, forward: Forward, bar: ProgressBar
) -> Iterator[dict[str, Any]]:
    """Rows with their scores in the items' order; within a window, batches are of like length."""
    while window := list(islice(items, _WINDOW)):
        encoded = [encoded_pairs(item, run.setup.template) for item in window]
        if "reward" not in forward.roles.ensembles:
            for item, scores in zip(window, scores_of(forward, encoded, run, bar), strict=True):
                yield {**item.row, item.key: scores[0] if item.key == SCORE else scores}
            continue
        for item, (scores, apart) in zip(window, _with_disagreement(forward, encoded, run, bar), strict=True):
            alone = item.key == SCORE
            yield {
                **item.row,
                item.key: scores[0] if alone else scores,
                "disagreement": apart[0] if alone else apart,
            }


def _with_disagreement(
    forward: Forward, groups: Sequence[Sequence[Pair]], run: Trained, bar: ProgressBar
) -> list[tuple[list[float], list[float]]]:
    """For each group the scores, and how far the reward model's members disagree on each."""
    tokens, pairs = run.recipe.rm.microbatch_tokens, [pair for group in groups for pair in group]
    members = score_members(forward, "reward", pairs, tokens, lambda done: bar.advance(count=done))
    both = torch.stack([forward.roles.ensembles["reward"].reduced(members), spread(members)])
    found, start = [], 0
    for group in groups:
        scores, apart = both[:, start : start + len(group)].double().tolist()
        found.append(([round(x, _DECIMALS) for x in scores], [round(x, _DECIMALS) for x in apart]))
        start += len(group)
    return found


def scores_of(
    forward: Forward, groups: Sequence[Sequence[Pair]], run: Trained, bar: ProgressBar
) -> list[list[float]]:
    """For each group of pairs the score of each, in as many digits as float32 has."""
    tokens, pairs = run.recipe.rm.microbatch_tokens, [pair for group in groups for pair in group]
    scores = score_pairs(forward, "reward", pairs, tokens, lambda done: bar.advance(count=done))
    rest = (round(score, _DECIMALS) for score in scores.tolist())
    return [list(islice(rest, len(group))) for group in groups]


@contextmanager
def _output(to: Path | None) -> Iterator[Write]:
    if to is None:
        stream = sys.stdout  # the bar puts its own, on stderr, in its place

        def write(line: str) -> int:
            try:
                line.encode(stream.encoding or "utf-8")
            except UnicodeEncodeError:  # JSON has its own way to say it in ASCII
                line = json.dumps(json.loads(line)) + "\n"
            return stream.write(line)

        yield write
        stream.flush()
        return
    with whole_file(to) as file:
        yield file.write


def _json_line(row: dict[str, Any]) -> str:
    line = json.dumps(_json_value(row), ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair in a column that nothing was asked of
        line = json.dumps(_json_value(row))
    return line + "\n"


def _json_value(value: Any) -> Any:
    """A value of any kind of file as JSON has it: what is not a number is null, dates and such are text."""
    if isinstance(value, dict):
        return {str(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
