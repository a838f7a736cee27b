"""A lead's tasks: the list with its filters, what is done to many at once, and the form to add more."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, UploadFile
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

from align.errors import UserError
from labeling.answers import KINDS
from labeling.language import N_, gettext, ngettext, number, read_number
from labeling.store import tasks as store
from labeling.store.items import names_of
from labeling.web.numbers import whole
from labeling.web.pages import page
from labeling.web.review import Kind, Number
from labeling.web.security import Admin, Fields, SignedInRoute, Visitor
from labeling.web.uploads import Job, Uploads

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
_SHORT = 3.0  # seconds: an import that takes longer is watched on its page
_MOST_CHOSEN = 1000
_BECAME = {  # by the words of the log
    "hidden": N_("%(number)s hidden"),
    "shown": N_("%(number)s shown"),
    "requeued": N_("%(number)s requeued"),
    "deleted": N_("%(number)s deleted"),
    "reordered": N_("%(number)s reordered"),
    "left as they are, being gold": N_("%(number)s left as they are, being gold"),
    "changed": N_("%(number)s changed"),
    "assigned": N_("%(number)s assigned"),
}
State = Literal["open", "worked", "done", "gold", "hidden", "skipped", "flagged", "stuck", ""]


@router.get("/tasks")
def tasks(who: Admin, kind: Kind = "", state: State = "", number: Number = 1) -> Response:
    """How far the queue is, the form to import more, and all tasks."""
    job: Job | None = who.request.app.state.uploads.last
    return _tasks(who, view=_View(kind, state, number), job=job)


@router.post("/tasks")
def import_tasks(file: UploadFile, who: Admin) -> Response:
    """Add the tasks of a file; nothing where a row is wrong. A long one goes on beside the requests."""
    uploads: Uploads = who.request.app.state.uploads
    try:
        job = uploads.begin(file.file, file.filename or "file", who.config.settings.overlap, who.person)
    except UserError as error:
        return _tasks(who, 409, error=str(error))
    if not job.ended.wait(_SHORT):
        return RedirectResponse("/tasks", 303)
    return _tasks(who, 422 if job.error else 200, error=job.error, said=job.said)


@router.post("/tasks/change")
def change(given: Fields, who: Admin) -> Response:
    """Do something to many tasks, when it is confirmed for as many as there are."""
    chosen = _chosen(given)
    with who.config.store.read() as session:
        wanted = _wanted(given, names_of(session))
        number = store.count(session, chosen)
    if not number:
        raise UserError(
            gettext("No task is chosen: mark some in the list, or choose all that the filter shows.")
        )
    confirmed = given.get("confirmed")
    if confirmed != str(number):
        values = [(key, value) for key, value in given.multi_items() if key not in ("confirmed", "csrf")]
        grown = confirmed is not None
        what = _what(wanted.action, number)
        status = 409 if grown else 200
        return page(
            who,
            "confirm_tasks.html",
            status,
            number=number,
            what=what,
            wanted=wanted,
            grown=grown,
            values=values,
        )
    done = store.change(who.config.store, who.person, chosen, wanted)
    return _tasks(who, said=_told(done))


@dataclass(frozen=True)
class _View:
    """What of the list is shown."""

    kind: str = ""
    state: str = ""
    number: int = 1


def _what(action: str, number_of: int) -> str:
    """What is to be done, and with how many tasks."""
    match action:
        case "hide":
            return ngettext("Hide %(num)s task", "Hide %(num)s tasks", number_of)
        case "show":
            return ngettext("Show %(num)s task again", "Show %(num)s tasks again", number_of)
        case "requeue":
            return ngettext("Requeue %(num)s task", "Requeue %(num)s tasks", number_of)
        case "delete":
            return ngettext("Delete %(num)s task", "Delete %(num)s tasks", number_of)
        case "priority":
            return ngettext(
                "Change the priority of %(num)s task", "Change the priority of %(num)s tasks", number_of
            )
        case "overlap":
            return ngettext(
                "Change how many people do %(num)s task", "Change how many people do %(num)s tasks", number_of
            )
    return ngettext("Change who gets %(num)s task", "Change who gets %(num)s tasks", number_of)


def _told(done: Counter[str]) -> str:
    parts = [gettext(_BECAME[what], number=number(count)) for what, count in done.items() if count]
    return gettext("Tasks: %(what)s.", what=", ".join(parts))


def _chosen(given: FormData) -> store.Chosen:
    kind, state = str(given.get("kind") or ""), str(given.get("state") or "")
    if kind and kind not in KINDS or state and state not in store.STATES:
        raise UserError(gettext("There is no such filter."))
    if given.get("scope") == "filter":
        return store.Chosen((), kind or None, state or None, by_filter=True)
    ids = [number for value in given.getlist("task") if (number := whole(str(value))) is not None]
    return store.Chosen(ids[:_MOST_CHOSEN])


def _wanted(given: FormData, names: dict[str, int]) -> store.Change:
    action = str(given.get("action") or "")
    if action not in store.ACTIONS:
        raise UserError(gettext("Choose what to do with the tasks."))
    if action == "priority":
        return store.Change(action, priority=_priority(str(given.get("priority") or "")))
    if action == "overlap":
        return store.Change(action, overlap=_overlap(str(given.get("overlap") or "")))
    if action == "assign":
        texts = [str(given.get(key) or "") for key in ("people", "skills", "language")]
        return store.Change(action, needs=store.wanted(texts[0], texts[1], texts[2], names))
    return store.Change(action)


def _priority(typed: str) -> float:
    value = read_number(typed)
    if value is None:
        raise UserError(gettext("Write a number as the priority."))
    return value


def _overlap(typed: str) -> int:
    value = read_number(typed)
    if value is None or value != int(value):
        raise UserError(gettext("Write a whole number as the number of people."))
    return int(value)


def _tasks(
    who: Visitor,
    status: int = 200,
    error: str | None = None,
    said: str | None = None,
    view: _View | None = None,
    job: Job | None = None,
) -> Response:
    view = view or _View()
    with who.config.store.read() as session:
        found = store.listing(session, view.kind or None, view.state or None, view.number)
        ids = [item.id for (item,) in found.rows]
        values: dict[str, Any] = {
            **store.counts(session),
            "found": found,
            "places": store.places(session, ids),
            "reasons": store.reasons(session, ids),
            "names": {str(id): name for name, id in names_of(session).items()},
            "limit": who.config.settings.upload_limit,
            "all_kinds": KINDS,
            "states": [(state, gettext(text)) for state, text in store.STATES.items()],
            "kind": view.kind,
            "state": view.state,
        }
    running = None
    if job is not None and not job.ended.is_set():
        running = str(job)
    elif job is not None:
        error, said = job.error, job.said
    return page(who, "tasks.html", status, error=error, said=said, running=running, **values)
