"""The guideline's versions: those that a file brought, and those that somebody wrote in the app."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from align.errors import UserError
from labeling.language import gettext, number
from labeling.store.audit import note
from labeling.store.labels import keep_guideline
from labeling.store.models import Guideline, GuidelineVersion, Label, Person, in_turn

MAX_TEXT = 200_000  # characters
_AROUND = 3  # lines that stayed, around those that changed


@dataclass(frozen=True)
class Version:
    """One version, who wrote it (None: it came from the file), and how many labels were given under it."""

    version: GuidelineVersion
    name: str | None
    labels: int


class Edited(UserError):
    """Somebody else changed the guideline since the page was opened."""


def digest(text: str) -> str:
    """What a version is called."""
    return hashlib.sha256(text.encode()).hexdigest()


def current(session: Session, file: str | None, is_template: bool) -> str | None:
    """The text that holds now: the file's where it changed after the newest version, else the newest version.

    `file`: its text, None where it cannot be read. A template holds until somebody writes a version.
    """
    newest = _newest(session)
    if file is not None and _is_news(session, file, is_template):
        return file
    if newest is None:
        return file
    return session.get_one(Guideline, newest.hash).text


def note_file(session: Session, file: str, is_template: bool) -> None:
    """Add the file's text as a version where it says something else than when it was last seen."""
    if not _is_news(session, file, is_template):
        return
    in_turn(session, "guideline")
    if _is_news(session, file, is_template):
        session.add(GuidelineVersion(hash=keep_guideline(session, file), remark=""))
        session.flush()


def edit(session: Session, by: Person, text: str, remark: str, base: str, now: str) -> str:
    """Write a version in place of `now`, the text that holds; its hash. `base`: the hash it was made from.

    Raises Edited where another version holds by now, UserError where the text cannot be one.
    """
    text = text.replace("\r\n", "\n").rstrip() + "\n"
    if not text.strip() or len(text) > MAX_TEXT or "\0" in text:
        raise UserError(gettext("A guideline has 1 to %(most)s characters.", most=number(MAX_TEXT)))
    in_turn(session, "guideline")
    if digest(now) != base:
        raise Edited(
            gettext("The guideline was changed meanwhile: see what changed, and put your changes to it.")
        )
    found = keep_guideline(session, text)
    if found != base:
        session.add(GuidelineVersion(hash=found, person_id=by.id, remark=remark.strip()[:500]))
        note(session, by, "changed the guideline", "guideline", version=found[:12])
        session.flush()
    return found


def versions(session: Session) -> list[Version]:
    """All versions, newest first."""
    counted = (
        select(Label.guideline, func.count()).where(Label.guideline.is_not(None)).group_by(Label.guideline)
    )
    labels = dict(session.execute(counted).all())
    query = select(GuidelineVersion, Person.name).outerjoin(Person, Person.id == GuidelineVersion.person_id)
    found = session.execute(query.order_by(GuidelineVersion.id.desc()))
    return [Version(version, name, labels.get(version.hash, 0)) for version, name in found]


def last_seen(session: Session, person: Person) -> str | None:
    """The hash of the version under which somebody gave their newest label."""
    query = select(Label.guideline).where(Label.person_id == person.id, Label.guideline.is_not(None))
    return session.scalars(query.order_by(Label.id.desc()).limit(1)).first()


def text_of(session: Session, hash: str) -> str | None:
    """A version's text."""
    found = session.get(Guideline, hash)
    return found.text if found is not None else None


def differences(old: str, new: str) -> Iterator[tuple[str, str]]:
    """Lines as (what became of them, the line): "-" gone, "+" new, " " the same, "…" some left out."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=_AROUND)
    for i, line in enumerate(lines):
        if i < 2:
            continue  # the names of the two files
        if line.startswith("@@"):
            if not line.startswith("@@ -1,"):
                yield "…", ""
        else:
            yield line[:1], line[1:]


def _newest(session: Session) -> GuidelineVersion | None:
    return session.scalars(select(GuidelineVersion).order_by(GuidelineVersion.id.desc()).limit(1)).first()


def _is_news(session: Session, file: str, is_template: bool) -> bool:
    """Whether the file says something else than when it was last seen."""
    written = GuidelineVersion.person_id.is_not(None)
    query = select(GuidelineVersion).order_by(GuidelineVersion.id.desc()).limit(1)
    if is_template and session.scalars(query.where(written)).first() is not None:
        return False
    last = session.scalars(query.where(~written)).first()
    return last is None or last.hash != digest(file)
