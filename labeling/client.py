"""A client of the labeling app's REST API: tasks in, labels and training records out, changes as they come.

    with Client("http://127.0.0.1:8700", token) as client:
        client.add_tasks([{"prompt": "Why is the sky blue?", "responses": ["…", "…"]}])
        for label in client.changes():
            print(label["labeler"], label["content"])

The token is made under *People*. Every request may be repeated: a task that is there is not added again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, cast

import httpx2
from typing_extensions import TypedDict  # before Python 3.12 pydantic reads no other

from align.errors import AlignError
from align.records import RecordKind

_TRIES = 4
_PAUSE = 0.5  # seconds before the second try; twice as long before each further one
_LONGEST_PAUSE = 15.0
_PAGE = 500
_BUSY = (429, 502, 503, 504)


class ClientError(AlignError):
    """Something between this program and the labeling app went wrong."""


class Unreachable(ClientError):
    """The app did not answer, also after some tries."""


class Refused(ClientError):
    """The app answered no: `status` as in HTTP (401: the token, 403: its role, 422: the data)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} ({status})")
        self.status = status


class Added(TypedDict):
    """The new tasks' numbers, and how many of those sent were there before."""

    ids: list[int]
    known: int


class Task(TypedDict):
    """A task as it was sent; `origins` are the policies that wrote the responses."""

    id: int
    kind: str  # one of labeling.answers.KINDS
    prompt: Any  # text, or messages
    responses: list[str]
    origins: list[str | None]
    priority: float
    overlap: int
    gold: list[int | None] | None
    meta: dict[str, Any]


class SuggestionUse(TypedDict):
    """The suggestion that a label goes with."""

    id: int
    shown: str  # how; empty: not at all
    taken: bool | None  # exactly
    agreed: float | None  # share of its pairs that the label orders alike


class Label(TypedDict):
    """One thing that one person did; `content` speaks of the responses in the task's own order."""

    id: int
    task: int
    kind: str  # the task's kind, skip, rejected, or withdrawn
    labeler: str
    content: dict[str, Any]
    shown_order: list[int]
    guideline: str | None
    seconds: float | None
    adjudicates: bool
    affirmed: bool  # what the person was shown is right as it stands: nothing was changed
    replaces: int | None
    suggestion: SuggestionUse | None
    checks: list[dict[str, Any]] | None  # of their own text, that the person asked for before sending it
    created: str


class Client:
    """Signed in by a machine's token. Raises Refused and Unreachable."""

    def __init__(
        self, url: str, token: str, *, timeout: float = 60.0, transport: httpx2.BaseTransport | None = None
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"{url}: an address starts with http:// or https://")
        self.url = url.rstrip("/")
        try:
            self._http = httpx2.Client(
                base_url=f"{self.url}/api/v1/",
                headers={"Authorization": f"Bearer {token}"},
                timeout=timeout,
                transport=transport,
            )
        except httpx2.InvalidURL as error:
            raise ClientError(f"{url}: {error}") from error

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def add_tasks(self, tasks: Iterable[Mapping[str, Any]]) -> Added:
        """Add tasks, in requests of up to 500; a task that is there already is not added again.

        A request adds all of its tasks or none: where Refused comes, those before it are added.
        """
        added = Added(ids=[], known=0)
        rows = iter(tasks)
        while some := [dict(row) for row in islice(rows, _PAGE)]:
            one = self._request("POST", "tasks", json=some)
            added["ids"] += one["ids"]
            added["known"] += one["known"]
        return added

    def tasks(self, after: int = 0, unscored_by: str | None = None) -> Iterator[Task]:
        """All tasks with a number above `after`, in their order.

        unscored_by: only those that this version of a reward model has not scored.
        """
        for page in self._pages("tasks", after, {"unscored_by": unscored_by} if unscored_by else {}):
            yield from cast(list[Task], page["tasks"])

    def add_suggestions(
        self, source: str, version: str, scores: Iterable[tuple[int, Sequence[float]]]
    ) -> None:
        """Send a reward model's scores: tasks' numbers, each with a score for each of its responses."""
        made = [{"task": task, "scores": list(given)} for task, given in scores]
        self._request("POST", "suggestions", json={"source": source, "version": version, "suggestions": made})

    def labels(self, after: int = 0, standing: bool = False) -> Iterator[Label]:
        """All labels that there are now; with `standing` those that nothing replaced."""
        for page in self._pages("labels", after, {"standing": standing}):
            yield from cast(list[Label], page["labels"])

    def changes(self, after: int = 0, wait: float = 30.0) -> Iterator[Label]:
        """Labels as they come, without an end: give the last one's `id` as `after` to go on later.

        What is taken back comes as a label of the kind `rejected` (by a reviewer) or `withdrawn` (in earlier
        versions) that replaces it. While the app is away this waits for it. `wait`: how many seconds (up to
        60) one request stays open when nothing comes.
        """
        pause = _PAUSE
        while True:
            parameters = {"after": after, "wait": wait, "limit": _PAGE}
            try:
                page = self._once("GET", "labels", params=parameters, timeout=wait + 30)
            except Unreachable:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _PAUSE
            yield from cast(list[Label], page["labels"])
            after = page["next"]

    def records(self, kind: RecordKind, **filters: Any) -> Iterator[dict[str, Any]]:
        """Training records as `align rm` and `align sft` read them; `guideline=`, `labeler=[…]` choose."""
        rest = b""
        try:
            with self._http.stream("GET", f"records/{kind}.jsonl", params=filters) as reply:
                if not reply.is_success:
                    reply.read()
                    raise Refused(reply.status_code, _detail(reply))
                for part in reply.iter_bytes():  # not by iter_lines: texts hold other ends of lines
                    *lines, rest = (rest + part).split(b"\n")
                    yield from map(json.loads, lines)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def _pages(self, path: str, after: int, parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        more = True
        while more:
            given = {"after": after, "limit": _PAGE, **parameters}
            page = self._request("GET", path, params=given)
            yield page
            after, more = page["next"], page["more"]

    def _request(self, method: str, path: str, **given: Any) -> Any:
        """Some tries, because every request may be repeated."""
        for attempt in range(1, _TRIES):
            try:
                return self._once(method, path, **given)
            except Unreachable:
                time.sleep(_PAUSE * 2 ** (attempt - 1))
        return self._once(method, path, **given)

    def _once(self, method: str, path: str, **given: Any) -> Any:
        """What is in the answer's JSON."""
        try:
            reply = self._http.request(method, path, **given)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        if reply.status_code in _BUSY:
            raise Unreachable(f"{reply.url} answered {reply.status_code}")
        if not reply.is_success:
            raise Refused(reply.status_code, _detail(reply))
        try:
            return reply.json()
        except ValueError as error:
            raise Refused(reply.status_code, f"no labeling app is at {self.url}") from error

    def _unreachable(self, error: httpx2.TransportError) -> Unreachable:
        return Unreachable(f"{self.url} does not answer: {error}")


def _detail(reply: httpx2.Response) -> str:
    try:
        return str(reply.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return "no labeling app is at this address" if reply.status_code == 404 else "the request was refused"
