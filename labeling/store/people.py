"""People, their roles, and the secrets with which they sign in."""

from __future__ import annotations

import hashlib
import secrets
import threading
from datetime import timedelta

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import ColumnElement, Select, and_, select, update
from sqlalchemy.orm import Session

from align.errors import UserError
from labeling.store.models import Person, Token, now

ROLES = ("admin", "reviewer", "labeler", "machine")
MIN_PASSWORD = 10
_HASHER = PasswordHasher()
_AT_ONCE = threading.BoundedSemaphore(2)  # each takes 64 MiB
_NOBODY = _HASHER.hash(secrets.token_hex(16))  # checked for unknown names, so that these take as long


def new_token(
    session: Session,
    kind: str,
    *,
    person: Person | None = None,
    role: str | None = None,
    lasts: timedelta | None = None,
) -> str:
    """Make a secret, keep its hash, and return the secret, which cannot be read again later."""
    secret = secrets.token_urlsafe(32)
    session.add(
        Token(
            kind=kind,
            hash=_hash(secret),
            person_id=person.id if person else None,
            role=role,
            expires=now() + lasts if lasts else None,
        )
    )
    return secret


def find_token(session: Session, kind: str, secret: str) -> Token | None:
    """The token with this secret, unless it has ended or expired or its person's account is closed."""
    token = session.scalar(select(Token).where(Token.hash == _hash(secret), Token.kind == kind))
    if token is None or token.ended is not None or (token.expires is not None and token.expires <= now()):
        return None
    return None if token.person is not None and token.person.disabled is not None else token


def use_up(session: Session, token: Token) -> bool:
    """End a token; False where another request has used it already."""
    return _end(session, Token.id == token.id) > 0


def add_person(session: Session, name: str, role: str, password: str | None = None) -> Person:
    """Raises UserError for a name that is taken or no name, and for a password that is too short."""
    name = good_name(name)
    if role not in ROLES:
        raise UserError(f"A role is one of {', '.join(ROLES)}.")
    if session.scalar(select(Person.id).where(Person.name == name)) is not None:
        raise UserError(f"The name {name} is taken: choose another.")
    person = Person(name=name, role=role, password=hashed_password(password) if password else None)
    session.add(person)
    session.flush()
    return person


def good_name(name: str) -> str:
    """A name as it is kept; raises UserError where it can't be one."""
    name = " ".join(name.split())
    if not name or len(name) > 80 or not name.isprintable():
        raise UserError("A name needs 1 to 80 characters that can be printed.")
    return name


def hashed_password(password: str) -> str:
    """What is kept of a password. Raises UserError for one that is too short or too long."""
    if len(password) < MIN_PASSWORD:
        raise UserError(f"A password needs at least {MIN_PASSWORD} characters.")
    if len(password) > 1000:
        raise UserError("A password can have at most 1000 characters.")
    with _AT_ONCE:
        return _HASHER.hash(password)


def check_password(session: Session, name: str, password: str) -> Person | None:
    """The person, if the password is theirs."""
    name = " ".join(name.split())
    possible = name.isprintable()  # a database may refuse to look for anything else
    person = session.scalar(select(Person).where(Person.name == name)) if possible else None
    known = person.password if person and not person.disabled else None
    try:
        with _AT_ONCE:
            _HASHER.verify(known or _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return None
    return person if known else None


def disable(session: Session, person: Person) -> None:
    """Close an account: its sessions and tokens end, its labels stay."""
    person.disabled = now()
    _end(session, Token.person_id == person.id)


def end_sessions(session: Session, person: Person, but: str | None) -> None:
    """Sign a person out everywhere but in the session with this secret; links that would sign them in end."""
    kept = _hash(but) if but else ""
    _end(
        session, and_(Token.person_id == person.id, Token.kind.in_(("session", "signin")), Token.hash != kept)
    )


def end_links(session: Session) -> None:
    """End all links that `align label` printed before."""
    _end(session, Token.kind.in_(("signin", "first")))


def has_admin_account(session: Session) -> bool:
    """Whether an admin can come in by name and password."""
    found = _admins().where(Person.password.is_not(None))
    return session.scalars(found.limit(1)).first() is not None


def admin_for_link(session: Session) -> Person:
    """The first admin, for whom `align label` prints its link; made when there is none."""
    found = session.scalars(_admins().order_by(Person.id)).first()
    if found is not None:
        return found
    taken = set(session.scalars(select(Person.name)))
    name = next(n for n in ("admin", *(f"admin {i}" for i in range(2, 10_000))) if n not in taken)
    return add_person(session, name, "admin")


def _admins() -> Select[Person]:
    return select(Person).where(Person.role == "admin", Person.disabled.is_(None))


def _end(session: Session, which: ColumnElement[bool]) -> int:
    """End tokens that are still good; how many."""
    done = session.execute(update(Token).where(which, Token.ended.is_(None)).values(ended=now()))
    return int(done.rowcount)  # type: ignore[attr-defined]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
