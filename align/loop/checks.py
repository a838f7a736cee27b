"""What a recipe's `labeling.checks` say of an answer, for the labeling app, in a process of its own.

`python -m align.loop.checks`: the first line in is a check of a recipe, and {"ready": version} or
{"failed": why} comes out; then a line {"id", "prompt", "responses"} in, a line {"id", "scores": [one a
response]}, {"id", "passed", "says"} or {"id", "error"} out. What a function raised may hold what isn't for
everybody: that goes to the terminal.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from align.data import imports
from align.errors import AlignError, UserError
from align.recipe.labeling import Check

Said = dict[str, Any]
Judge = Callable[[Any, Sequence[str]], Said]
SAYS_AT_MOST = 2000  # characters
LOADS_WITHIN = 300  # seconds: a large base takes its time
_GRACE = 5  # seconds after the time that the app gives a check


def judge_of(check: Check) -> tuple[Judge, str]:
    """What judges the first of several responses to a prompt, and its version; UserError without it."""
    if check.run:
        return _by_model(Path(check.run))
    if check.function:
        return _by_function(check.function)
    rule = json.dumps(check.model_dump(), sort_keys=True)
    return lambda _, responses: by_rule(check, responses[0]), hashlib.sha256(rule.encode()).hexdigest()


def by_rule(check: Check, text: str) -> Said:
    """Whether a text is as the rule wants it, and what is not."""
    says, length = [], len(text)
    if check.min_characters and length < check.min_characters:
        says.append(f"It has {length:,} characters; {check.min_characters:,} are the fewest.")
    if check.max_characters and length > check.max_characters:
        says.append(f"It has {length:,} characters; {check.max_characters:,} are the most.")
    words = [word for word in check.forbidden or () if _stands(word, text)]
    if words:
        says.append(f"It has words that are not wanted: {', '.join(words)}.")
    if check.pattern and not re.search(check.pattern, text):
        says.append(f"It has nothing that looks like {check.pattern}")
    return {"passed": not says, "says": "\n".join(says)}


def _stands(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _by_function(name: str) -> tuple[Judge, str]:
    function = imports.load_judge(name)
    version = imports.digest(name, function)

    def judge(prompt: Any, responses: Sequence[str]) -> Said:
        count = len(responses)
        try:
            given = function([prompt] * count, list(responses))
            given = given.tolist() if callable(getattr(given, "tolist", None)) else given
            if isinstance(given, str | bytes | dict) or not hasattr(given, "__iter__"):
                raise UserError(f"it gave a {type(given).__name__}; a list, one value a response, is needed")
            given = list(islice(given, count + 1))  # a generator may have no end
        except AlignError:
            raise
        except (Exception, SystemExit) as error:
            where = imports.place(error)
            _tell(f"{name} raised {imports.last_line(error)} ({where})")
            raise UserError(
                f"it raised {type(error).__name__} ({where}); the app's terminal says more"
            ) from error
        return as_said(given, count)

    return judge, version


def as_said(given: list[Any], count: int) -> Said:
    """What a function gave of so many responses: numbers, or of the first true, nothing or a text."""
    if len(given) != count:
        found = len(given) if len(given) < count else f"more than {count}"
        raise UserError(f"it gave {found} values for {count} responses; one a response is needed")
    first = given[0]
    if first is None or isinstance(first, bool | str):
        said = first.strip() if isinstance(first, str) else ""
        return {"passed": not said and first is not False, "says": said[:SAYS_AT_MOST]}
    try:
        scores = [float(value) for value in given]
    except (TypeError, ValueError, OverflowError):
        scores = []
    if not scores or not all(math.isfinite(score) for score in scores):
        raise UserError("it gave something else than numbers, or true or a text for the answer")
    return {"scores": scores}


def _by_model(run: Path) -> tuple[Judge, str]:
    from align.models.scoring import score_pairs
    from align.records import Prompt
    from align.run.hub import quiet_bars
    from align.run.manifest import ADAPTER
    from align.serving.records import SCORES, ScoreItem
    from align.serving.run import open_run, reward_model
    from align.serving.score import encoded_pairs

    quiet_bars()
    trained = open_run(run, "rm")
    forward = reward_model(trained)

    def judge(prompt: Any, responses: Sequence[str]) -> Said:
        asked = Prompt.from_dict({"prompt": prompt}).prompt
        item = ScoreItem("the answer", {}, asked, tuple(responses), SCORES)
        pairs = encoded_pairs(item, trained.setup.template)
        return {"scores": score_pairs(forward, "reward", pairs, trained.recipe.rm.microbatch_tokens).tolist()}

    return judge, trained.manifest.final[ADAPTER]


def serve(check: Check, lines: Iterable[str], out: TextIO) -> None:
    """Answer until the lines end."""

    def say(answer: Said) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    _end_within(LOADS_WITHIN)
    try:
        judge, version = judge_of(check)
    except AlignError as error:
        _tell(str(error))
        why = "its function cannot be loaded; the app's terminal says why" if check.function else str(error)
        return say({"failed": why})
    _end_within(0)
    say({"ready": version})
    for line in lines:
        asked = json.loads(line)
        _end_within(math.ceil(check.timeout) + _GRACE)
        try:
            said = judge(asked["prompt"], asked["responses"])
        except AlignError as error:
            said = {"error": str(error)}
        _end_within(0)
        say({"id": asked["id"], **said})


def _tell(what: str) -> None:
    """To the app's terminal."""
    print(f"labeling.checks: {what}", file=sys.stderr, flush=True)


def _end_within(seconds: int) -> None:
    """The kernel ends this process, whatever it does then; 0: not any more.

    The app ends it earlier, unless it was killed itself.
    """
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)


def _own_streams() -> tuple[TextIO, TextIO]:
    """This process's input and output; a function reads nothing and prints to the terminal."""
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return lines, out


def main() -> None:
    """Serve a check, or with `--try` say what is wrong with a function, or null."""
    lines, out = _own_streams()
    given = json.loads(lines.readline())
    if sys.argv[1:] == ["--try"]:
        json.dump(_wrong_with(given), out)
        out.flush()
    else:
        serve(Check.model_validate(given), lines, out)


def _wrong_with(function: str) -> str | None:
    try:
        _by_function(function)
    except UserError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
