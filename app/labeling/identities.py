"""Which identity of a provider is which person here.

A person is known by issuer and subject, which never change, and by nothing else: an equal e-mail
address or handle ties nobody to an account. An account is tied to an identity in two ways, both an
admin's doing: an invitation that is accepted with it, or a link as for a forgotten password.
"""

import secrets

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.labeling import accounts, resets
from app.labeling.oidc import Identity, Intent
from app.labeling.problems import Problem
from app.labeling.tables import EventLog, KnownIdentity, Person


def person_of(session: Session, identity: Identity) -> Person | None:
    query = (
        select(Person)
        .join(KnownIdentity, KnownIdentity.person_id == Person.id)
        .where(KnownIdentity.issuer == identity.issuer, KnownIdentity.subject == identity.subject)
    )
    return session.scalar(query)


def arrive(
    session: Session, secret: str, identity: Identity, intent: Intent, role: str | None, now: float
) -> int:
    """The person who came back from the provider, made or tied to it where they were let.

    Args:
        role: what the provider's mapped claims say; None = nothing is mapped, and it stays.

    Raises:
        Problem: 403 for an identity that nobody let in, 409 for one that is somebody else's, 410
            for a used link, 422 for a handle that will not do.
    """
    known = person_of(session, identity)
    if intent.purpose == "login":
        if known is None or known.disabled_at is not None:
            detail = {"issuer": identity.issuer}
            session.add(EventLog(at=now, kind="login failed", detail=detail))
            session.flush()
            raise Stranger
        person = known
    elif known is not None:
        raise Problem(
            409, "identity_taken", "This identity already has an account here: log in with it."
        )
    else:
        person = _join(session, secret, intent, now)
        row = KnownIdentity(
            issuer=identity.issuer,
            subject=identity.subject,
            person_id=person.id,
            created_at=now,
        )
        session.add(row)
        detail = {"issuer": identity.issuer, "by": intent.purpose}
        session.add(EventLog(at=now, person_id=person.id, kind="identity tied", detail=detail))
    if role is not None and role != person.role:
        _take_role(session, person, role, now)
    return person.id


class Stranger(Exception):
    """An identity that has no account here; the failed login is to be kept in the log."""


def _join(session: Session, secret: str, intent: Intent, now: float) -> Person:
    if intent.purpose == "invite":
        # nobody knows this password; an admin's link gives another
        password = secrets.token_urlsafe(32)
        return accounts.accept_invite(session, secret, intent.token, intent.handle, password, now)
    reset, _ = resets.open_reset(session, secret, intent.token, now)
    reset.used_at = now
    person = session.get_one(Person, reset.person_id)
    # one identity a person: the new one replaces it
    session.execute(delete(KnownIdentity).where(KnownIdentity.person_id == person.id))
    accounts.end_sessions(session, person.id)
    return person


def _take_role(session: Session, person: Person, role: str, now: float) -> None:
    """As the provider says, except that the last admin stays one."""
    try:
        accounts.change_person(session, person.id, role, person.cohort, None, now)
    except Problem as problem:
        if problem.code != "last_admin":
            raise
