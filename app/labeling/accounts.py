"""People, passwords, invitations and logins.

Passwords are argon2id. A login is a random token in a cookie; the database keeps only its hash,
keyed with the site's secret, so neither a stolen database nor a guess makes a session. Sessions are
rows and survive a restart. Failed logins are counted by handle and by address, in the database, so
a restart does not reset the count.

Every function works inside the caller's transaction and takes `now`.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.orm import Session

from app.labeling.problems import Problem
from app.labeling.tables import (
    COHORTS,
    ROLES,
    EventLog,
    Invite,
    LoginFailure,
    LoginSession,
    Person,
    SiteSetting,
)

SESSION_DAYS = 14
INVITE_DAYS = 7
MIN_PASSWORD = 10
THROTTLE_SECONDS = 600
FAILURES_BY_HANDLE = 10
FAILURES_BY_ADDRESS = 300  # a whole office may share one address
HANDLE = re.compile(r"[\w.@+-]{1,64}")

HASHER = PasswordHasher()
# verified for unknown handles, so both take equally long
UNKNOWN_HASH = HASHER.hash("nobody has this password")

LOGGED_IN = (  # built once: every request asks
    select(Person.id, Person.handle, Person.role, Person.cohort)
    .join(LoginSession)
    .where(
        LoginSession.token_hash == bindparam("token_hash"),
        LoginSession.expires_at > bindparam("now"),
        Person.disabled_at.is_(None),
    )
)


@dataclass(frozen=True)
class User:
    """Who is asking, from the session cookie."""

    id: int
    handle: str
    role: str
    cohort: str
    csrf_token: str

    def may(self, role: str) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


def keyed_hash(secret: str, purpose: str, value: str) -> str:
    return hmac.new(secret.encode(), f"{purpose}:{value}".encode(), hashlib.sha256).hexdigest()


def add_person(
    session: Session, handle: str, password: str, role: str, cohort: str, now: float
) -> Person:
    """Raises Problem 422 for a handle, password, role or cohort that will not do."""
    if not HANDLE.fullmatch(handle):
        raise Problem(422, "bad_handle", "A handle has 1 to 64 letters, digits or . @ + - _")
    if not MIN_PASSWORD <= len(password) <= 200:
        raise Problem(422, "bad_password", f"A password has {MIN_PASSWORD} to 200 characters.")
    if role not in ROLES or cohort not in COHORTS:
        raise Problem(
            422, "bad_role", f"Roles are {', '.join(ROLES)}; cohorts are {', '.join(COHORTS)}."
        )
    if session.scalar(select(Person.id).where(Person.handle == handle)):
        raise Problem(422, "handle_taken", f"'{handle}' is taken; choose another handle.")
    person = Person(
        handle=handle, password_hash=HASHER.hash(password), role=role, cohort=cohort, created_at=now
    )
    session.add(person)
    session.flush()
    session.add(
        EventLog(
            at=now,
            person_id=person.id,
            kind="person added",
            detail={"role": role, "cohort": cohort},
        )
    )
    return person


def change_password(session: Session, person_id: int, old: str, new: str) -> None:
    """Sets the new password and ends all of the person's sessions."""
    person = session.get_one(Person, person_id)
    if not _verify(person.password_hash, old):
        raise Problem(422, "bad_password", "The present password is not right.")
    if not MIN_PASSWORD <= len(new) <= 200:
        raise Problem(422, "bad_password", f"A password has {MIN_PASSWORD} to 200 characters.")
    person.password_hash = HASHER.hash(new)
    end_sessions(session, person_id)


def set_disabled(session: Session, person_id: int, disabled: bool, now: float) -> None:
    """Lock a person out at once, or let them back in. Their answers stay. The last admin cannot be
    disabled.
    """
    person = session.get(Person, person_id)
    if person is None:
        raise Problem(404, "not_found", "There is no such person.")
    others = select(Person.id).where(
        Person.role == "admin", Person.disabled_at.is_(None), Person.id != person_id
    )
    if disabled and person.role == "admin" and session.scalar(others.limit(1)) is None:
        raise Problem(409, "last_admin", "This is the last admin; make another one first.")
    person.disabled_at = now if disabled else None
    if disabled:
        end_sessions(session, person_id)


# ---------------------------------------------------------------- invitations


def make_invite(session: Session, secret: str, role: str, cohort: str, now: float) -> str:
    """A token for `/invite/<token>`; only its hash is kept, so it can be shown once."""
    if role not in ROLES or cohort not in COHORTS:
        raise Problem(
            422, "bad_role", f"Roles are {', '.join(ROLES)}; cohorts are {', '.join(COHORTS)}."
        )
    token = secrets.token_urlsafe(24)
    session.add(
        Invite(
            token_hash=keyed_hash(secret, "invite", token),
            role=role,
            cohort=cohort,
            expires_at=now + INVITE_DAYS * 86400,
            created_at=now,
        )
    )
    return token


def open_invite(session: Session, secret: str, token: str, now: float) -> Invite:
    """The invitation if it can still be used, else Problem 410."""
    query = (
        select(Invite)
        .where(Invite.token_hash == keyed_hash(secret, "invite", token))
        .with_for_update()
    )
    invite = session.scalar(query)
    if invite is None or invite.used_by is not None or invite.expires_at < now:
        raise Problem(
            410, "bad_invite", "This invitation is used up or too old; ask for a new one."
        )
    return invite


def accept_invite(
    session: Session, secret: str, token: str, handle: str, password: str, now: float
) -> Person:
    invite = open_invite(session, secret, token, now)
    person = add_person(session, handle, password, invite.role, invite.cohort, now)
    invite.used_by = person.id
    return person


# ---------------------------------------------------------------- sessions


def note_attempt(session: Session, handle: str, address: str, now: float) -> None:
    """Count a try before its password is looked at, so a thousand at once are throttled too
    (Problem 429).
    """
    session.execute(delete(LoginFailure).where(LoginFailure.at < now - THROTTLE_SECONDS))
    for source, limit in _sources(handle, address):
        recent = session.scalars(
            select(LoginFailure.at)
            .where(LoginFailure.source == source)
            .order_by(LoginFailure.at.desc())
            .limit(limit)
        ).all()
        if len(recent) == limit:
            wait = int(recent[-1] + THROTTLE_SECONDS - now) + 1
            raise Problem(
                429,
                "throttled",
                f"Too many failed logins. Try again in {wait // 60 + 1} minutes.",
                wait,
            )
        session.add(LoginFailure(source=source, at=now))


def forgive_attempts(session: Session, handle: str, address: str, now: float) -> None:
    """After a right password: the handle starts anew, and this one try no longer counts for the
    address.
    """
    by_handle, by_address = (source for source, _ in _sources(handle, address))
    session.execute(delete(LoginFailure).where(LoginFailure.source == by_handle))
    session.execute(
        delete(LoginFailure).where(LoginFailure.source == by_address, LoginFailure.at == now)
    )


def _sources(handle: str, address: str) -> list[tuple[str, int]]:
    return [
        (f"handle:{handle[:64]}", FAILURES_BY_HANDLE),
        (f"address:{address}", FAILURES_BY_ADDRESS),
    ]


def verify_login(session: Session, handle: str, password: str) -> int | None:
    """The person's id if handle and password fit and the account is active; takes equally long for
    unknown handles.
    """
    person = session.scalar(select(Person).where(Person.handle == handle))
    fits = _verify(person.password_hash if person else UNKNOWN_HASH, password)
    return person.id if person and fits and person.disabled_at is None else None


def start_session(session: Session, secret: str, person_id: int, now: float) -> str:
    """A fresh token for the cookie (never one that the browser sent: no session fixation)."""
    token = secrets.token_urlsafe(32)
    session.execute(delete(LoginSession).where(LoginSession.expires_at < now))
    session.add(
        LoginSession(
            token_hash=keyed_hash(secret, "session", token),
            person_id=person_id,
            created_at=now,
            expires_at=now + SESSION_DAYS * 86400,
        )
    )
    session.add(EventLog(at=now, person_id=person_id, kind="login", detail={}))
    return token


def user_of_token(session: Session, secret: str, token: str, now: float) -> User | None:
    """Who this cookie belongs to; None when it is forged, expired, logged out or the account is
    disabled.
    """
    row = session.execute(
        LOGGED_IN, {"token_hash": keyed_hash(secret, "session", token), "now": now}
    ).first()
    return User(*row, csrf_token=keyed_hash(secret, "csrf", token)) if row else None


def end_session(session: Session, secret: str, token: str) -> None:
    session.execute(
        delete(LoginSession).where(LoginSession.token_hash == keyed_hash(secret, "session", token))
    )


def end_sessions(session: Session, person_id: int) -> None:
    session.execute(delete(LoginSession).where(LoginSession.person_id == person_id))


def count_admins(session: Session) -> int:
    query = (
        select(func.count())
        .select_from(Person)
        .where(Person.role == "admin", Person.disabled_at.is_(None))
    )
    return session.scalars(query).one()


# ---------------------------------------------------------------- pseudonyms


def pseudonym(session: Session, handle: str) -> str:
    """What exports call a labeler: stable on this site, not to be reversed without its database."""
    return keyed_hash(site_setting(session, "pseudonym_salt"), "labeler", handle)[:16]


def site_setting(session: Session, name: str) -> str:
    """A random value made at `init` and never changed."""
    return session.get_one(SiteSetting, name).value


def _verify(password_hash: str, password: str) -> bool:
    try:
        return HASHER.verify(password_hash, password)
    except (VerifyMismatchError, InvalidHashError):
        return False
