"""`align suggest`: what a run's reward model makes of the tasks in a labeling app. Torch comes late."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
from rich.console import Console

from align.errors import UserError
from align.records import Prompt
from align.runtime.lineage import ADAPTER
from align.runtime.progress import Bar
from align.runtime.trained import as_trained
from align.serving.records import SCORES, Item

TOKEN = "ALIGN_LABELING_TOKEN"
_PAGE = 500  # tasks a request
_WINDOW = 256  # tasks that are scored, by length, and sent together: what an interruption may cost
_SECONDS = 60.0  # for one answer
_SHOWN = 5  # tasks that cannot be scored and are told one by one


class App:
    """A labeling app's REST API. Everything that goes wrong with it is a UserError."""

    def __init__(self, url: str, token: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--to {url}: name the app's address; it starts with http:// or https://")
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"}
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=_SECONDS)

    def __enter__(self) -> App:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def unscored(self, version: str) -> Iterator[dict[str, Any]]:
        """All tasks for which this version of a reward model has suggested nothing yet."""
        after = 0
        while True:
            query = {"after": after, "limit": _PAGE, "unscored_by": version}
            page = self._asked("GET", "/api/v1/tasks", params=query)
            yield from page["tasks"]
            after = page["next"]
            if len(page["tasks"]) < _PAGE:
                return

    def suggest(self, source: str, version: str, scores: Sequence[tuple[int, Sequence[float]]]) -> None:
        made = [{"task": task, "scores": list(given)} for task, given in scores]
        body = {"source": source, "version": version, "suggestions": made}
        self._asked("POST", "/api/v1/suggestions", json=body)

    def _asked(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._client.request(method, path, **more)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UserError(
                f"no labeling app answers at {self.url} ({str(error) or type(error).__name__}): "
                "start it with `align label`, or name its address with --to"
            ) from error
        if response.status_code == 401:
            raise UserError(f"{self.url} does not know this token: an admin makes one under People")
        if response.status_code == 403:
            raise UserError(
                f"this token is not one of a machine ({_detail(response)}): make one under People"
            )
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        said = f"{response.status_code} {_detail(response)}".strip()
        raise UserError(f"{self.url}{path} answers {said}: is that the address of `align label`, and as new?")


def suggest(
    run: Path,
    to: str,
    token_file: Path | None = None,
    base: Path | None = None,
    console: Console | None = None,
) -> None:
    """Score the responses of all tasks that this reward model has not scored yet, and send the scores.

    Raises UserError for a run without a reward model, an app that doesn't answer and a token that it
    doesn't take, all before anything heavy is loaded.
    """
    recipe, manifest = as_trained(run, "rm", base)
    version, source = str(manifest["final"][ADAPTER]), f"{recipe.run.name}/rm"
    with App(to, _token(token_file)) as app:
        tasks = list(app.unscored(version))
        if not tasks:
            print(f"{source} has scored every task there is in {app.url} to rank or compare")
            return
        sent = _score_and_send(app, run, base, source, version, tasks, console or Console(stderr=True))
        print(f"{sent} {'task' if sent == 1 else 'tasks'} scored by {source}, sent to {app.url}")


def _score_and_send(
    app: App,
    run: Path,
    base: Path | None,
    source: str,
    version: str,
    tasks: Sequence[dict[str, Any]],
    console: Console,
) -> int:
    from align.serving.run import open_run, reward_model
    from align.serving.score import encoded_pairs, scores_of

    trained = open_run(run, "rm", base)
    ready, problems = [], []
    for task in tasks:
        prompt = Prompt.from_dict({"prompt": task["prompt"]}).prompt
        item = Item(f"task {task['id']}", {}, prompt, tuple(task["responses"]), SCORES)
        try:
            ready.append((task["id"], encoded_pairs(item, trained.setup.template)))
        except UserError as error:
            problems.append(str(error))
    _tell(console, problems)
    if not ready:
        return 0
    forward = reward_model(trained)
    budget, pad_id = trained.recipe.rm.microbatch_tokens, trained.setup.base.pad_id
    rest = iter(ready)
    with Bar(console, "suggest", sum(len(pairs) for _, pairs in ready)) as bar:
        while window := list(islice(rest, _WINDOW)):
            found = iter(scores_of(forward, [p for _, pairs in window for p in pairs], budget, pad_id, bar))
            app.suggest(source, version, [(task, list(islice(found, len(pairs)))) for task, pairs in window])
    return len(ready)


def _tell(console: Console, problems: Sequence[str]) -> None:
    if not problems:
        return
    more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    many = "1 task" if len(problems) == 1 else f"{len(problems)} tasks"
    lines = [f"{many} cannot be scored and get no suggestion", *problems[:_SHOWN], *more]
    console.print("\n  ".join(lines), highlight=False, markup=False, soft_wrap=True)


def _token(file: Path | None) -> str:
    """From the file, or the environment: a command's arguments are seen by everybody on the machine."""
    where, token = f"{TOKEN} in the environment", os.environ.get(TOKEN, "")
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not a text"
            raise UserError(f"{where}: {reason}") from error
    token = token.strip()
    if not token:
        raise UserError(
            f"a machine's token is needed: an admin makes one under People. Put it into {TOKEN}, or into a "
            "file that you name with --token-file"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where}: is not a token")
    return token


def _detail(response: httpx2.Response) -> str:
    """What the app says is wrong."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return ""
