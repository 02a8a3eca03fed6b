"""Forgotten passwords: an admin makes a link, and its person chooses a new password with it."""

import secrets

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.labeling.accounts import keyed_hash, set_password
from app.labeling.problems import Problem
from app.labeling.tables import EventLog, PasswordReset, Person

RESET_DAYS = 2


def make_reset(session: Session, secret: str, person_id: int, by: int | None, now: float) -> str:
    """A token for `/reset/<token>`, with which this person chooses a new password once. The old
    one works until then. Problem 404, or 409 for a disabled account.
    """
    person = session.get(Person, person_id)
    if person is None:
        raise Problem(404, "not_found", "There is no such person.")
    if person.disabled_at is not None:
        raise Problem(409, "disabled", f"'{person.handle}' is disabled; enable the account first.")
    token = secrets.token_urlsafe(24)
    session.add(
        PasswordReset(
            token_hash=keyed_hash(secret, "reset", token),
            person_id=person_id,
            expires_at=now + RESET_DAYS * 86400,
            created_at=now,
        )
    )
    detail = {"person": person_id}
    session.add(EventLog(at=now, person_id=by, kind="reset link made", detail=detail))
    return token


def open_reset(session: Session, secret: str, token: str, now: float) -> tuple[PasswordReset, str]:
    """The reset and its person's handle, or Problem 410. A newer link or a disabled account ends
    older links.
    """
    query = (
        select(PasswordReset, Person)
        .join(Person, Person.id == PasswordReset.person_id)
        .where(PasswordReset.token_hash == keyed_hash(secret, "reset", token))
        .with_for_update(of=PasswordReset)
    )
    row = session.execute(query).first()
    if row is not None:
        reset, person = row
        newest = select(func.max(PasswordReset.id)).where(PasswordReset.person_id == person.id)
        if (
            reset.used_at is None
            and reset.expires_at >= now
            and person.disabled_at is None
            and session.scalar(newest) == reset.id
        ):
            return reset, person.handle
    raise Problem(410, "bad_reset", "This link is used up or too old; ask for a new one.")


def use_reset(session: Session, secret: str, token: str, new: str, now: float) -> int:
    """Set the new password, end the person's sessions, and return their id."""
    reset, _ = open_reset(session, secret, token, now)
    person = session.get_one(Person, reset.person_id)
    set_password(session, person, new, "password reset", now)
    reset.used_at = now
    return person.id
