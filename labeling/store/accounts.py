"""What becomes of an account: opened again, renamed, a new password or token, erased."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

from sqlalchemy import Text, and_, cast, delete, select
from sqlalchemy.orm import Session

from align.errors import UserError
from labeling.language import gettext
from labeling.store.audit import note
from labeling.store.models import Ability, Draft, Item, Person, Response, Slot, Token, now
from labeling.store.names import ERASED, good_name
from labeling.store.people import check_free, end_sessions, end_tokens, keep_past_name, new_token
from labeling.store.queue import HELD, release

RESET_LASTS = timedelta(days=2)


def is_erased(person: Person) -> bool:
    """Whether nothing but a pseudonym is left of a person."""
    return person.name == f"{ERASED} {person.id}"


def reopen_account(session: Session, by: Person, person: Person) -> None:
    """Open a closed account again. Raises UserError where its person was erased."""
    _check_there(person)
    person.disabled = None
    note(session, by, "opened an account again", "person", person.id)


def reset(session: Session, by: Person, person: Person) -> str:
    """The secret of a link by which a person comes in and sets a new password; the old one is gone."""
    _check_there(person)
    if person.disabled is not None or person.role == "machine":
        raise UserError(gettext("A link is for people whose account is open."))
    end_sessions(session, person, None)
    person.password = None
    note(session, by, "made a link to reset a password", "person", person.id)
    return new_token(session, "reset", person=person, lasts=RESET_LASTS)


def renew_token(session: Session, by: Person, machine: Person) -> str:
    """A machine's new token; those before it end."""
    _check_there(machine)
    if machine.disabled is not None or machine.role != "machine":
        raise UserError(gettext("A token is for a machine whose account is open."))
    end_tokens(session, and_(Token.person_id == machine.id, Token.kind == "api"))
    note(session, by, "made a new token", "person", machine.id)
    return new_token(session, "api", person=machine)


def rename(session: Session, by: Person, person: Person, name: str) -> None:
    """Another name, also on what the person did before; the old one is nobody else's. Raises UserError."""
    _check_there(person)
    name = good_name(name)
    if name == person.name:
        return
    check_free(session, name, person)
    keep_past_name(session, person)
    old, person.name = person.name, name
    if person.role != "machine":  # whose name may be a policy's
        _replace_in_tasks(session, old, name)
    note(session, by, "renamed", "person", person.id)


def erase(session: Session, by: Person, person: Person) -> str:
    """Put a pseudonym in the place of a person's name, everywhere, for good; what they did stays.

    Returns the pseudonym. Unfinished work and what they know go; texts that people wrote stay as they are.
    """
    _check_there(person)
    if person.id == by.id:
        raise UserError(gettext("This is your own account: another admin has to erase it."))
    keep_past_name(session, person)
    old, person.name = person.name, f"{ERASED} {person.id}"
    person.password, person.language, person.disabled = None, None, person.disabled or now()
    end_tokens(session, Token.person_id == person.id)
    session.execute(delete(Ability).where(Ability.person_id == person.id))
    for slot in session.scalars(select(Slot).where(Slot.person_id == person.id, Slot.state.in_(HELD))):
        if slot.state == "reopened":
            slot.state, slot.leased_until = "done", None
        else:
            release(slot)
    session.execute(delete(Draft).where(Draft.person_id == person.id))
    if person.role != "machine":
        _replace_in_tasks(session, old, person.name)
    note(session, by, "erased a person", "person", person.id)
    return person.name


def _check_there(person: Person) -> None:
    if is_erased(person):
        raise UserError(gettext("This person was erased: nothing of the account is left."))


def _replace_in_tasks(session: Session, old: str, new: str) -> None:
    """Put another name in the place of one that came with tasks, in `meta` and as a response's `origin`."""
    word = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
    written = json.dumps(old)[1:-1]
    for item in session.scalars(select(Item).where(cast(Item.meta, Text).contains(written, autoescape=True))):
        item.meta = _replaced(item.meta, word, new)
    named = select(Response).where(Response.origin.contains(old, autoescape=True))
    for response in session.scalars(named):
        response.origin = str(_replaced(response.origin, word, new))[:200]


def _replaced(value: Any, word: re.Pattern[str], new: str) -> Any:
    if isinstance(value, str):
        return word.sub(lambda found: new, value)
    if isinstance(value, dict):
        return {_replaced(key, word, new): _replaced(part, word, new) for key, part in value.items()}
    return [_replaced(part, word, new) for part in value] if isinstance(value, list) else value
