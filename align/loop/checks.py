"""What a recipe's `labeling.checks` say of an answer, for the labeling app, in a process of its own.

`python -m align.loop.checks CHECK`, CHECK as JSON: a line {"id", "prompt", "responses"} in, a line
{"id", "scores": [one a response]}, {"id", "passed", "says"} or {"id", "error"} out. Before the first it says
{"ready": version} or {"failed": why}.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from align.data import imports
from align.errors import AlignError, UserError
from align.recipe.labeling import Check

Said = dict[str, Any]
Judge = Callable[[Any, Sequence[str]], Said]


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
    return {"passed": not says, "says": " ".join(says)}


def _stands(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _by_function(name: str) -> tuple[Judge, str]:
    try:
        function = imports.load(name)
        version = imports.digest(name, function)
    except (Exception, SystemExit) as error:
        raise UserError(f"the function {name} cannot be loaded: {imports.last_line(error)}") from error

    def judge(prompt: Any, responses: Sequence[str]) -> Said:
        try:
            given = function([prompt] * len(responses), list(responses))
            given = given.tolist() if callable(getattr(given, "tolist", None)) else list(given)
        except (Exception, SystemExit) as error:
            raise UserError(f"{imports.last_line(error)} ({imports.place(error)})") from error
        return as_said(given, len(responses))

    return judge, version


def as_said(given: list[Any], count: int) -> Said:
    """What a function gave of so many responses: numbers, or of the first true, nothing or a text."""
    if len(given) != count:
        raise UserError(f"it gave {len(given)} values for {count} responses; one a response is needed")
    first = given[0]
    if first is None or isinstance(first, bool | str):
        said = first.strip() if isinstance(first, str) else ""
        return {"passed": not said and first is not False, "says": said}
    try:
        scores = [float(value) for value in given]
    except (TypeError, ValueError):
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

    try:
        judge, version = judge_of(check)
    except AlignError as error:
        return say({"failed": str(error)})
    say({"ready": version})
    for line in lines:
        asked = json.loads(line)
        try:
            say({"id": asked["id"], **judge(asked["prompt"], asked["responses"])})
        except AlignError as error:
            say({"id": asked["id"], "error": str(error)})


def main() -> None:
    """On this process's own streams; what a function prints goes to the terminal."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        serve(Check.model_validate_json(sys.argv[1]), sys.stdin, out)


if __name__ == "__main__":
    main()
