"""People, passwords, invitations and logins.

Passwords are argon2id. A login is a random token in a cookie; the database keeps only its hash,
keyed with the site's secret, so neither a stolen database nor a guess makes a session. Sessions are
rows and survive a restart, and end when nobody uses them. `throttle.py` slows guessers down,
`resets.py` helps who forgot.

Every function works inside the caller's transaction and takes `now`.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from app.labeling.passwords import check_password, skeleton
from app.labeling.problems import Problem
from app.labeling.tables import COHORTS, ROLES, EventLog, Invite, LoginSession, Person, SiteSetting

SESSION_DAYS = 14
INVITE_DAYS = 7
IDLE_HOURS = 24.0  # a session that nobody has used for so long is over
SEEN_SECONDS = 300.0  # how exactly a session's last use is kept: not every request writes
HANDLE = re.compile(r"[\w.@+-]{1,64}")

HASHER = PasswordHasher()
# verified for unknown handles, so both take equally long
UNKNOWN_HASH = HASHER.hash("nobody has this password")

LOGGED_IN = (  # built once: every request asks
    select(Person.id, Person.handle, Person.role, Person.cohort, LoginSession.last_seen_at)
    .join(LoginSession)
    .where(
        LoginSession.token_hash == bindparam("token_hash"),
        LoginSession.expires_at > bindparam("now"),
        LoginSession.last_seen_at > bindparam("idle_since"),
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
    last_seen_at: float
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
    check_password(password, handle)
    _check_role(role, cohort)
    if session.scalar(select(Person.id).where(Person.handle == handle)):
        raise Problem(422, "handle_taken", f"'{handle}' is taken; choose another handle.")
    look = skeleton(handle)
    if any(skeleton(other) == look for other in session.scalars(select(Person.handle))):
        raise Problem(
            422, "handle_taken", f"'{handle}' looks like a handle there is; choose another one."
        )
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


def change_password(session: Session, person_id: int, old: str, new: str, now: float) -> None:
    """Sets the new password and ends all of the person's sessions."""
    person = session.get_one(Person, person_id)
    if not _verify(person.password_hash, old):
        raise Problem(422, "bad_password", "The present password is not right.")
    set_password(session, person, new, "password changed", now)


def set_password(session: Session, person: Person, new: str, kind: str, now: float) -> None:
    check_password(new, person.handle)
    person.password_hash = HASHER.hash(new)
    end_sessions(session, person.id)
    session.add(EventLog(at=now, person_id=person.id, kind=kind, detail={}))


def change_person(
    session: Session, person_id: int, role: str, cohort: str, by: int | None, now: float
) -> None:
    """Another role and cohort, from the next request on. Answers keep the cohort they were given
    in. The last admin stays one.
    """
    _check_role(role, cohort)
    person = session.get(Person, person_id)
    if person is None:
        raise Problem(404, "not_found", "There is no such person.")
    if role != "admin":
        _keep_an_admin(session, person)
    detail = {
        "person": person_id,
        "before": [person.role, person.cohort],
        "after": [role, cohort],
    }
    person.role, person.cohort = role, cohort
    session.add(EventLog(at=now, person_id=by, kind="role changed", detail=detail))


def person_named(session: Session, handle: str) -> Person:
    person = session.scalar(select(Person).where(Person.handle == handle))
    if person is None:
        raise Problem(404, "not_found", f"Nobody here is called '{handle}'.")
    return person


def _check_role(role: str, cohort: str) -> None:
    if role not in ROLES or cohort not in COHORTS:
        raise Problem(
            422, "bad_role", f"Roles are {', '.join(ROLES)}; cohorts are {', '.join(COHORTS)}."
        )


def _keep_an_admin(session: Session, person: Person) -> None:
    others = select(Person.id).where(
        Person.role == "admin", Person.disabled_at.is_(None), Person.id != person.id
    )
    if person.role == "admin" and session.scalar(others.limit(1)) is None:
        raise Problem(409, "last_admin", "This is the last admin; make another one first.")


def set_disabled(session: Session, person_id: int, disabled: bool, now: float) -> None:
    """Lock a person out at once, or let them back in. Their answers stay. The last admin cannot be
    disabled.
    """
    person = session.get(Person, person_id)
    if person is None:
        raise Problem(404, "not_found", "There is no such person.")
    if disabled:
        _keep_an_admin(session, person)
    person.disabled_at = now if disabled else None
    if disabled:
        end_sessions(session, person_id)


# ---------------------------------------------------------------- invitations


def make_invite(session: Session, secret: str, role: str, cohort: str, now: float) -> str:
    """A token for `/invite/<token>`; only its hash is kept, so it can be shown once."""
    _check_role(role, cohort)
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
    if invite is None or not _is_open(invite, now):
        raise Problem(
            410, "bad_invite", "This invitation is used up, revoked or too old; ask for a new one."
        )
    return invite


def open_invites(session: Session, now: float) -> list[Invite]:
    """Those that somebody could still use, newest first."""
    rows = session.scalars(select(Invite).order_by(Invite.id.desc())).all()
    return [invite for invite in rows if _is_open(invite, now)]


def revoke_invite(session: Session, invite_id: int, by: int | None, now: float) -> None:
    """The link no longer works. Problem 404 when there is no open invitation of that id."""
    invite = session.get(Invite, invite_id)
    if invite is None or not _is_open(invite, now):
        raise Problem(404, "not_found", "There is no open invitation of that number.")
    invite.revoked_at = now
    detail = {"invite": invite_id, "role": invite.role}
    session.add(EventLog(at=now, person_id=by, kind="invite revoked", detail=detail))


def _is_open(invite: Invite, now: float) -> bool:
    return invite.used_by is None and invite.revoked_at is None and invite.expires_at >= now


def accept_invite(
    session: Session, secret: str, token: str, handle: str, password: str, now: float
) -> Person:
    invite = open_invite(session, secret, token, now)
    person = add_person(session, handle, password, invite.role, invite.cohort, now)
    invite.used_by = person.id
    return person


# ---------------------------------------------------------------- sessions


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
            last_seen_at=now,
        )
    )
    session.add(EventLog(at=now, person_id=person_id, kind="login", detail={}))
    return token


def user_of_token(
    session: Session, secret: str, token: str, now: float, idle_hours: float = IDLE_HOURS
) -> User | None:
    """Who this cookie belongs to; None when it is forged, expired, idle for too long, logged out or
    the account is disabled.
    """
    row = session.execute(
        LOGGED_IN,
        {
            "token_hash": keyed_hash(secret, "session", token),
            "now": now,
            "idle_since": now - 3600 * idle_hours,
        },
    ).first()
    return User(*row, csrf_token=keyed_hash(secret, "csrf", token)) if row else None


def touch_session(session: Session, secret: str, token: str, now: float) -> None:
    """This session was used."""
    mine = LoginSession.token_hash == keyed_hash(secret, "session", token)
    session.execute(update(LoginSession).where(mine).values(last_seen_at=now))


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
