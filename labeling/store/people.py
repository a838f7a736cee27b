"""People, their roles, and the secrets with which they sign in."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from datetime import timedelta

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import ColumnElement, Select, and_, select, update
from sqlalchemy.orm import Session

from align.errors import UserError
from labeling.language import gettext
from labeling.store.models import PastName, Person, Setting, Token, in_turn, now
from labeling.store.names import ERASED, check_scripts, good_name, skeleton, tidy

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
    return end_tokens(session, Token.id == token.id) > 0


def add_person(session: Session, name: str, role: str, password: str | None = None) -> Person:
    """Raises UserError for a name that `check_free` refuses, for no name, and for too short a password."""
    name = good_name(name)
    if role not in ROLES:
        raise UserError(gettext("A role is one of %(roles)s.", roles=", ".join(ROLES)))
    in_turn(session, "people")
    check_free(session, name)
    person = Person(name=name, role=role, password=hashed_password(password) if password else None)
    session.add(person)
    session.flush()
    return person


def check_free(session: Session, name: str, but: Person | None = None) -> None:
    """Raises UserError where a name is somebody's, was somebody's, or looks like somebody's."""
    check_scripts(name)
    mine = but.id if but is not None else None
    past = session.scalar(select(PastName.person_id).where(PastName.hash == _past(session, name)))
    if past is not None and past != mine:
        raise UserError(gettext("The name %(name)s was another account's before: choose another.", name=name))
    for id, known in session.execute(select(Person.id, Person.name)):
        if id == mine:
            continue
        if known == name:
            raise UserError(gettext("The name %(name)s is taken: choose another.", name=name))
        if skeleton(known) == skeleton(name):
            raise UserError(
                gettext(
                    "The name %(name)s looks like %(known)s, which is taken: choose another.",
                    name=name,
                    known=known,
                )
            )
    if name.startswith(f"{ERASED} "):
        raise UserError(
            gettext(
                "Names that begin with “%(word)s” are kept for those who left: choose another.", word=ERASED
            )
        )


def keep_past_name(session: Session, person: Person) -> None:
    """Note, as a hash, that an account had the name that it has now."""
    session.merge(PastName(hash=_past(session, person.name), person_id=person.id))
    session.flush()


def past_person(session: Session, name: str) -> Person | None:
    """The account that had this name before it was renamed or erased."""
    found = session.get(PastName, _past(session, name))
    return session.get(Person, found.person_id) if found is not None else None


def _past(session: Session, name: str) -> str:
    """Keyed by the database's secret: without it nobody can try names."""
    secret = session.get(Setting, "secret")
    return hmac.new(
        (secret.value if secret else "").encode(), tidy(name).encode(), hashlib.sha256
    ).hexdigest()


def hashed_password(password: str) -> str:
    """What is kept of a password. Raises UserError for one that is too short or too long."""
    if len(password) < MIN_PASSWORD:
        raise UserError(gettext("A password needs at least %(least)s characters.", least=MIN_PASSWORD))
    if len(password) > 1000:
        raise UserError(gettext("A password can have at most 1000 characters."))
    with _AT_ONCE:
        return _HASHER.hash(password)


def check_password(session: Session, name: str, password: str) -> Person | None:
    """The person, if the password is theirs."""
    names = (tidy(name), " ".join(name.split()))  # the second: as earlier versions kept it
    possible = names[0].isprintable()  # a database may refuse to look for anything else
    person = session.scalars(select(Person).where(Person.name.in_(names))).first() if possible else None
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
    end_tokens(session, Token.person_id == person.id)


def end_sessions(session: Session, person: Person, but: str | None) -> None:
    """Sign a person out everywhere but in the session with this secret; links that would sign them in end."""
    kept = _hash(but) if but else ""
    here = Token.kind.in_(("session", "signin", "reset"))
    end_tokens(session, and_(Token.person_id == person.id, here, Token.hash != kept))


def end_links(session: Session) -> None:
    """End all links that `align label` printed before."""
    end_tokens(session, Token.kind.in_(("signin", "first")))


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


def end_tokens(session: Session, which: ColumnElement[bool]) -> int:
    """End tokens that are still good; how many."""
    done = session.execute(update(Token).where(which, Token.ended.is_(None)).values(ended=now()))
    return int(done.rowcount)  # type: ignore[attr-defined]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
