"""The tables. Labels, guidelines, suggestions, verdicts, checks and the audit log are only ever added to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    and_,
    event,
    exists,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column, relationship
from sqlalchemy.types import TypeDecorator


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


class Moment(TypeDecorator[datetime]):
    """A point in time, UTC in every database (SQLite keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """As SQLAlchemy writes it."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """As SQLAlchemy reads it."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Tables(DeclarativeBase):
    """What all tables have in common."""

    type_annotation_map = {datetime: Moment, dict[str, Any]: JSON, list[Any]: JSON}


class Setting(Tables):
    """What the app keeps for itself: the key that signs cookies and draws orders."""

    __tablename__ = "setting"
    key: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class Person(Tables):
    """An account: of a person, or of a machine that sends tokens."""

    __tablename__ = "person"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    role: Mapped[str] = mapped_column(String(20))  # admin, reviewer, labeler, machine
    password: Mapped[str | None] = mapped_column(Text)  # argon2's hash
    created: Mapped[datetime] = mapped_column(default=now)
    disabled: Mapped[datetime | None] = mapped_column()
    language: Mapped[str | None] = mapped_column(String(20))  # of the interface, where one was chosen


class PastName(Tables):
    """A name that an account had before: nobody else gets it; its labels in files are theirs."""

    __tablename__ = "past_name"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))


class Token(Tables):
    """A secret that opens something; only its sha256 is kept."""

    __tablename__ = "token"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))  # signin, reset, first, invite, session, api
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"))  # an invite makes one
    role: Mapped[str | None] = mapped_column(String(20))
    created: Mapped[datetime] = mapped_column(default=now)
    expires: Mapped[datetime | None] = mapped_column()
    ended: Mapped[datetime | None] = mapped_column()  # used up, signed out or revoked
    person: Mapped[Person | None] = relationship(lazy="joined")


class Item(Tables):
    """One task: a prompt, and for all kinds but demonstrate its responses."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(12))  # one of labeling.answers.KINDS
    key: Mapped[str] = mapped_column(String(64), unique=True)  # the same task is never asked twice
    prompt: Mapped[list[Any]] = mapped_column()  # messages
    plain: Mapped[bool] = mapped_column(default=True)  # the prompt came as text
    priority: Mapped[float] = mapped_column(Float, default=0.0)
    overlap: Mapped[int] = mapped_column(Integer)
    gold: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))  # known ranks
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created: Mapped[datetime] = mapped_column(default=now)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("person.id"))
    hidden: Mapped[datetime | None] = mapped_column()  # given to nobody any more
    characters: Mapped[int] = mapped_column(
        default=0, server_default=text("0")
    )  # to read, prompt and responses
    needs: Mapped[list[Need]] = relationship(order_by="Need.kind, Need.value", cascade="all, delete-orphan")
    responses: Mapped[list[Response]] = relationship(order_by="Response.position", lazy="selectin")


class Need(Tables):
    """What a person must have to be given a task: to be one of the people, a skill, a language."""

    __tablename__ = "need"
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), primary_key=True)  # person, skill, language
    value: Mapped[str] = mapped_column(String(80), primary_key=True)  # of a person the number


class Ability(Tables):
    """A skill or a language of a person."""

    __tablename__ = "ability"
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), primary_key=True)  # skill, language
    value: Mapped[str] = mapped_column(String(80), primary_key=True)


Index("item_queue", Item.priority.desc(), Item.id)  # the queue's order


class Response(Tables):
    """One of an item's responses."""

    __tablename__ = "response"
    __table_args__ = (UniqueConstraint("item_id", "position"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))
    position: Mapped[int] = mapped_column(Integer)
    text: Mapped[str] = mapped_column(Text)
    origin: Mapped[str | None] = mapped_column(String(200))  # which policy wrote it; never shown to labelers
    author_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"))


class Slot(Tables):
    """One of an item's `overlap` places in the queue: free, leased to a person, or done.

    One that is reopened stays its person's: their answer stands until they give another one.
    """

    __tablename__ = "slot"
    __table_args__ = (
        UniqueConstraint("item_id", "number"),
        UniqueConstraint("item_id", "person_id"),
        Index("slot_queue", "state", "leased_until"),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))
    number: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(8), default="free")  # free, leased, done, reopened
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), index=True)
    leased_until: Mapped[datetime | None] = mapped_column()
    taken: Mapped[datetime | None] = mapped_column()
    item: Mapped[Item] = relationship(lazy="joined")


class Suggestion(Tables):
    """What a reward model makes of a task's responses."""

    __tablename__ = "suggestion"
    __table_args__ = (UniqueConstraint("item_id", "version"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))  # the machine that sent it
    source: Mapped[str] = mapped_column(String(200))  # run name/stage
    version: Mapped[str] = mapped_column(String(64))  # the reward model's hash
    scores: Mapped[list[Any]] = mapped_column()  # in the item's own order of responses
    ranks: Mapped[list[Any]] = mapped_column()
    draw: Mapped[float] = mapped_column(Float)  # in [0, 1): below `labeling.audit` people judge it too
    created: Mapped[datetime] = mapped_column(default=now)


class Guideline(Tables):
    """Every version that somebody labelled under."""

    __tablename__ = "guideline"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(default=now)


class GuidelineVersion(Tables):
    """When a text became the guideline; the newest row is the one that holds."""

    __tablename__ = "guideline_version"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    hash: Mapped[str] = mapped_column(ForeignKey("guideline.hash"))
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"))  # None: it came from the file
    remark: Mapped[str] = mapped_column(Text, default="")
    created: Mapped[datetime] = mapped_column(default=now)


class Label(Tables):
    """One thing that one person did, once. A later one may replace it; both stay."""

    __tablename__ = "label"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), index=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    kind: Mapped[str] = mapped_column(String(12))  # the item's kind, skip, or one of TAKEN_BACK
    content: Mapped[dict[str, Any]] = mapped_column()  # in the item's own order of responses
    guideline: Mapped[str | None] = mapped_column(ForeignKey("guideline.hash"))
    shown_order: Mapped[list[Any]] = mapped_column()
    seconds: Mapped[float | None] = mapped_column(Float)
    adjudicates: Mapped[bool] = mapped_column(default=False)  # a reviewer's decision, which stands
    replaces: Mapped[int | None] = mapped_column(ForeignKey("label.id"), unique=True)
    submission: Mapped[str] = mapped_column(String(40), unique=True)  # the browser's: a second try adds none
    created: Mapped[datetime] = mapped_column(default=now)
    affirmed: Mapped[bool] = mapped_column(
        default=False, server_default=text("false")
    )  # "right as it stands"
    suggestion_id: Mapped[int | None] = mapped_column(ForeignKey("suggestion.id"))
    suggestion_shown: Mapped[str | None] = mapped_column(String(10))  # how: labeling.store.suggestions says
    suggestion_taken: Mapped[bool | None] = mapped_column()  # the order is exactly the suggested one
    suggestion_agreed: Mapped[float | None] = mapped_column(Float)  # share of pairs ordered as suggested
    checks: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))  # labeling.store.checks says


def is_newest(until: int | None = None) -> ColumnElement[bool]:
    """The condition that no later label (up to label `until`) replaces a label."""
    later = aliased(Label)
    replaced = exists().where(later.replaces == Label.id)
    return ~(replaced if until is None else replaced.where(later.id <= until))


TAKEN_BACK = ("withdrawn", "rejected")  # kinds of labels that only say that the one they replace is gone


def standing(until: int | None = None) -> ColumnElement[bool]:
    """The condition that a label stands: nothing (up to label `until`) replaces it, it takes nothing back."""
    return and_(is_newest(until), Label.kind.not_in(TAKEN_BACK))


def in_turn(session: Session | Connection, what: str) -> None:
    """Let one transaction at a time go on from here, until it ends; in SQLite this holds for all writers.

    Rows inserted after this are committed in the order of their numbers, so that a reader who continues from
    the last number seen misses nothing.
    """
    bind = session.get_bind() if isinstance(session, Session) else session
    if bind.dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:what))"), {"what": f"align {what}"})


@event.listens_for(Label, "before_insert")
def _label_in_turn(mapper: object, connection: Connection, label: Label) -> None:
    in_turn(connection, "labels")


class Draft(Tables):
    """What a person has done so far on a task; in the order shown."""

    __tablename__ = "draft"
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column()
    revision: Mapped[int] = mapped_column(default=0, server_default=text("0"))  # orders drafts
    saved: Mapped[datetime] = mapped_column(default=now)
    suggestion_id: Mapped[int | None] = mapped_column(ForeignKey("suggestion.id"))  # that the page began with
    suggestion_shown: Mapped[str | None] = mapped_column(String(10))


class AnswerCheck(Tables):
    """One time that a person had their own answer checked, before it was sent: to a task, or in a talk."""

    __tablename__ = "answer_check"
    __table_args__ = (
        Index("answer_check_of", "item_id", "person_id"),
        Index("answer_check_in_talk", "talk"),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    item_id: Mapped[int | None] = mapped_column(ForeignKey("item.id"))
    talk: Mapped[str | None] = mapped_column(String(64))  # the seal of the policy's answer that it corrects
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    name: Mapped[str] = mapped_column(String(200))  # what the recipe calls the check
    version: Mapped[str | None] = mapped_column(String(64))  # of a reward model or a function its files' hash
    text_hash: Mapped[str] = mapped_column(String(64))  # sha256 of the text that was checked
    said: Mapped[dict[str, Any]] = mapped_column()
    created: Mapped[datetime] = mapped_column(default=now)


class Verdict(Tables):
    """What was said of one label: accepted, returned, rejected; kept: by its person, when it was returned."""

    __tablename__ = "verdict"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    label_id: Mapped[int] = mapped_column(ForeignKey("label.id"), index=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))  # who said so
    said: Mapped[str] = mapped_column(String(10))
    remark: Mapped[str] = mapped_column(Text, default="")
    replaces: Mapped[int | None] = mapped_column(ForeignKey("verdict.id"), unique=True)
    created: Mapped[datetime] = mapped_column(default=now)


class Summary(Tables):
    """What stands on an item, counted when a label comes, so that long lists need not read labels."""

    __tablename__ = "summary"
    __table_args__ = (Index("summary_apart", "decided", "apart", "item_id"),)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    answers: Mapped[int] = mapped_column(Integer)  # people's, without skips and decisions
    undecided: Mapped[int] = mapped_column(Integer)  # of these, without a verdict
    skips: Mapped[int] = mapped_column(Integer)
    flags: Mapped[int] = mapped_column(Integer)  # answers with a flag
    decided: Mapped[bool] = mapped_column()  # a reviewer's own order stands
    apart: Mapped[float] = mapped_column(Float)  # share of pairs ordered differently; -1: not two orders


class Audit(Tables):
    """Who did what, when. People are named by number, so that a name that is erased is in no entry."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"))  # None: the command line
    action: Mapped[str] = mapped_column(String(40))
    about: Mapped[str] = mapped_column(String(20))  # label, task, person, guideline, …
    about_id: Mapped[int | None] = mapped_column(Integer)
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created: Mapped[datetime] = mapped_column(default=now)


class Calibration(Tables):
    """What became of a labeler's first gold tasks; the newest row of a person counts."""

    __tablename__ = "calibration"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    said: Mapped[str] = mapped_column(String(10))  # passed, failed, again, waived
    share: Mapped[float | None] = mapped_column(Float)  # of the known pairs
    last_label: Mapped[int] = mapped_column(Integer)  # the newest label then, of anybody
    created: Mapped[datetime] = mapped_column(default=now)
