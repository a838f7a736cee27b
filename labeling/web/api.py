"""The REST API: tasks in, labels out; for machines' tokens and signed-in admins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from align.recipe.labeling import MAX_RESPONSES
from align.records import RecordKind
from labeling.client import Added, Task
from labeling.figures.shapes import Figures
from labeling.store import sheets
from labeling.store.audit import note
from labeling.store.models import Item, Label, Person
from labeling.store.models import standing as that_stands
from labeling.store.records import Filters, prompt_of, records
from labeling.store.suggestions import AddedSuggestions, add_suggestions, unscored
from labeling.web.config import Config
from labeling.web.figures import all_figures
from labeling.web.news import newest_label
from labeling.web.security import SignedInRoute, Visitor, needs

Machine = Annotated[Visitor, needs("admin", "machine")]
Reader = Annotated[Visitor, needs("admin", "reviewer", "machine")]
Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
Version = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Name = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Score = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class SuggestionUse(BaseModel):
    """The suggestion that a label goes with: how it was shown, whether exactly it was taken, and how far."""

    id: int
    shown: str
    taken: bool | None
    agreed: float | None


class LabelOut(BaseModel):
    """A label as it was given; `content` speaks of responses in the task's own order."""

    id: int
    task: int
    kind: str
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
    created: datetime


class Labels(BaseModel):
    """A page of labels."""

    labels: list[LabelOut]
    next: int  # give this as `after` to get what comes later
    more: bool  # there is a next page already


class Tasks(BaseModel):
    """A page of tasks."""

    tasks: list[Task]
    next: int
    more: bool


class Suggested(BaseModel):
    """Scores of one task's responses, in the task's own order; more is better."""

    task: Id
    scores: Annotated[list[Score], Field(min_length=2, max_length=MAX_RESPONSES)]


class Suggestions(BaseModel):
    """The scores that one version of a reward model gave to tasks."""

    source: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
    version: Version
    suggestions: Annotated[list[Suggested], Field(max_length=10_000)]


router = APIRouter(
    prefix="/api/v1",
    tags=["v1"],
    route_class=SignedInRoute,
    responses={status: {"model": Problem} for status in (400, 401, 403, 409, 413, 422)},
)


@router.post("/tasks")
def create_tasks(tasks: Annotated[list[dict[str, Any]], Field(max_length=10_000)], who: Machine) -> Added:
    """Add tasks (prompt; responses, kind, priority, overlap, gold, meta); none where one is wrong."""
    from labeling.store.imports import add_tasks  # slow to load, and seldom needed

    added = add_tasks(who.config.store, tasks, who.config.settings.overlap, who.person)
    return Added(ids=added.ids, known=len(added.before))


@router.get("/tasks")
def list_tasks(
    who: Machine,
    after: Id = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    unscored_by: Version | None = None,
) -> Tasks:
    """Tasks; with `unscored_by` those for which this version of a reward model has suggested nothing yet."""
    with who.config.store.read() as session:
        query = select(Item).where(Item.id > after, *([unscored(unscored_by)] if unscored_by else []))
        found = session.scalars(query.order_by(Item.id).limit(limit + 1)).all()
        tasks, more = [_task(item) for item in found[:limit]], len(found) > limit
        return Tasks(tasks=tasks, next=tasks[-1]["id"] if tasks else after, more=more)


@router.post("/suggestions")
def create_suggestions(given: Suggestions, who: Annotated[Visitor, needs("machine")]) -> AddedSuggestions:
    """What a reward model makes of tasks' responses, all or none; each task once for each version."""
    with who.config.store.write() as session:
        return add_suggestions(
            session,
            who.person,
            given.source,
            given.version,
            [(one.task, one.scores) for one in given.suggestions],
            secret=who.config.secret,
            labels=who.config.settings.suggestions == "machine",
        )


@router.get("/labels")
async def list_labels(
    who: Machine,
    after: Id = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    standing: bool = False,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to wait where nothing is new")] = 0,
) -> Labels:
    """All that people and machines did, in its order; with `standing` only labels that nothing replaces."""
    config, news = who.config, who.request.app.state.news
    found = await run_in_threadpool(_labels, config, after, limit, standing)
    if wait and found.next == after:
        await news.later_than(after, wait)
        found = await run_in_threadpool(_labels, config, after, limit, standing)
    return found


def chosen(
    guideline: Annotated[str | None, Query(pattern=r"^[0-9a-f]{1,64}$")] = None,
    labeler: Annotated[list[Name], Query(max_length=100)] = [],  # noqa: B006  FastAPI copies it
    agreement: Annotated[float | None, Query(gt=0, le=1)] = None,
    corrections: bool = False,
    until: Id | None = None,
) -> Filters:
    """What chooses among labels, as in a recipe."""
    return Filters(guideline, labeler, agreement, corrections, until)


Chosen = Annotated[Filters, Depends(chosen)]


@router.get(
    "/records/{kind}.jsonl",
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
    response_class=StreamingResponse,
)
def export(kind: RecordKind, who: Machine, filters: Chosen) -> StreamingResponse:
    """Training records in align's own form, as `align rm` reads them from the database."""
    _note_export(who, kind, "jsonl")

    def lines() -> Iterator[str]:
        with who.config.store.read() as session:
            for row in records(session, kind, filters):
                yield json.dumps(row, ensure_ascii=False) + "\n"

    return StreamingResponse(lines(), media_type="application/jsonl")


@router.get(
    "/records/{kind}.csv",
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    response_class=StreamingResponse,
)
def export_table(kind: RecordKind, who: Machine, filters: Chosen) -> StreamingResponse:
    """The same for a spreadsheet: a column for each response and rank, and no formulas."""
    _note_export(who, kind, "csv")

    def lines() -> Iterator[str]:
        with who.config.store.read() as session:
            rows = map(sheets.record_cells, records(session, kind, filters))
            yield from sheets.lines(sheets.COLUMNS[kind], rows)

    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8")


def _note_export(who: Visitor, kind: RecordKind, form: str) -> None:
    with who.config.store.write() as session:
        note(session, who.person, "exported records", "records", kind=kind, form=form)


@router.get("/figures")
def read_figures(who: Reader) -> Figures:
    """Progress, pace, agreement, gold accuracy, win rates and ratings, as they are now."""
    return all_figures(who.config)


def _labels(config: Config, after: int, limit: int, standing: bool) -> Labels:
    newest = newest_label(config.store)
    with config.store.read() as session:
        query = select(Label, Person.name).join(Person, Person.id == Label.person_id)
        query = query.where(Label.id > after, Label.id <= newest, *([that_stands()] if standing else []))
        found = session.execute(query.order_by(Label.id).limit(limit + 1)).all()
        labels, more = [_label(label, name) for label, name in found[:limit]], len(found) > limit
        return Labels(labels=labels, next=labels[-1].id if more else max(after, newest), more=more)


def _task(item: Item) -> Task:
    return Task(
        id=item.id,
        kind=item.kind,
        prompt=prompt_of(item),
        responses=[response.text for response in item.responses],
        origins=[response.origin for response in item.responses],
        priority=item.priority,
        overlap=item.overlap,
        gold=item.gold,
        meta=item.meta,
    )


def _label(label: Label, name: str) -> LabelOut:
    suggestion = None
    if label.suggestion_id is not None:
        suggestion = SuggestionUse(
            id=label.suggestion_id,
            shown=label.suggestion_shown or "",
            taken=label.suggestion_taken,
            agreed=label.suggestion_agreed,
        )
    return LabelOut(
        id=label.id,
        task=label.item_id,
        kind=label.kind,
        labeler=name,
        content=label.content,
        shown_order=label.shown_order,
        guideline=label.guideline,
        seconds=label.seconds,
        adjudicates=label.adjudicates,
        affirmed=label.affirmed,
        replaces=label.replaces,
        suggestion=suggestion,
        checks=label.checks,
        created=label.created,
    )
