"""`align suggest`: what a run's reward model makes of the tasks in a labeling app. Torch comes late."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rich.console import Console

from align.errors import UserError
from align.loop.labeling_app import connected
from align.records import Prompt
from align.run.hub import quiet_bars
from align.run.lineage import as_trained
from align.run.manifest import ADAPTER
from align.run.progress import ProgressBar, say
from align.serving.records import SCORES, ScoreItem
from labeling.client import Client, Task

_WINDOW = 256  # tasks that are scored, by length, and sent together: what an interruption may cost
_SHOWN = 5  # tasks that cannot be scored and are told one by one


def suggest(
    run: Path,
    url: str,
    token_file: Path | None = None,
    base: Path | None = None,
    console: Console | None = None,
) -> None:
    """Score the responses of all tasks that this reward model has not scored yet, and send the scores.

    Raises UserError for a run without a reward model, an app that doesn't answer and a token that it
    doesn't take, all before anything heavy is loaded.
    """
    recipe, manifest = as_trained(run, "rm", base)
    version, source = manifest.final[ADAPTER], f"{recipe.run.name}/rm"
    with connected(url, token_file) as app:
        tasks = list(app.tasks(unscored_by=version))
        if not tasks:
            print(f"{source} has already scored every task to rank or compare in {app.url}")
            return
        sent = _score_and_send(app, run, base, source, version, tasks, console or Console(stderr=True))
        print(f"{sent} {'task' if sent == 1 else 'tasks'} scored by {source}, sent to {app.url}")


def _score_and_send(
    app: Client,
    run: Path,
    base: Path | None,
    source: str,
    version: str,
    tasks: Sequence[Task],
    console: Console,
) -> int:
    from align.serving.run import open_run, reward_model
    from align.serving.score import encoded_pairs, scores_of

    quiet_bars()
    trained = open_run(run, "rm", base)
    ready, problems = [], []
    for task in tasks:
        prompt = Prompt.from_dict({"prompt": task["prompt"]}).prompt
        item = ScoreItem(f"task {task['id']}", {}, prompt, tuple(task["responses"]), SCORES)
        try:
            ready.append((task["id"], encoded_pairs(item, trained.setup.template)))
        except UserError as error:
            problems.append(str(error))
    _tell(console, problems)
    if not ready:
        return 0
    forward = reward_model(trained)
    rest = iter(ready)
    with ProgressBar(console, "suggest", sum(len(pairs) for _, pairs in ready)) as bar:
        while window := list(islice(rest, _WINDOW)):
            scores = scores_of(forward, [pairs for _, pairs in window], trained, bar)
            asked = (task for task, _ in window)
            app.add_suggestions(source, version, zip(asked, scores, strict=True))
    return len(ready)


def _tell(console: Console, problems: Sequence[str]) -> None:
    if not problems:
        return
    more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    many = "1 task" if len(problems) == 1 else f"{len(problems)} tasks"
    lines = [f"{many} cannot be scored and get no suggestion", *problems[:_SHOWN], *more]
    say(console, "\n  ".join(lines))
