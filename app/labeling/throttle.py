"""Slowing guessers down without locking anybody out.

Failed logins are rows, so a restart does not reset their count. A handle from one address waits
longer with each slip; a handle from everywhere, and an address for every handle, have a limit
each. A browser that has logged in before keeps a token: it is a known device, whose right password
is never refused, however many others guess (OWASP's device cookies).
"""

import hmac
import secrets

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.labeling.accounts import keyed_hash
from app.labeling.problems import Problem
from app.labeling.tables import LoginFailure, Person

DEVICE_DAYS = 365
# After some slips each further one doubles the wait, up to the longest.
FREE_FAILURES = 5
LONGEST_WAIT = 600.0
REMEMBER_SECONDS = 3600.0
THROTTLE_SECONDS = 600.0  # the window of the two counts below
FAILURES_BY_HANDLE = 100  # from everywhere together; known devices go on
FAILURES_BY_ADDRESS = 300  # a whole office may share one address
FAILURES_BY_DEVICE = 50  # then it is a guesser with a stolen cookie, and known no more


def note_attempt(
    session: Session, handle: str, address: str, now: float, device: str | None = None
) -> None:
    """Count a try before its password is looked at, so a thousand at once are throttled too.

    Args:
        device: the known device that tries (`known_device`); its tries are counted apart, and not
            refused.

    Raises:
        Problem: 429 with the seconds to wait.
    """
    session.execute(delete(LoginFailure).where(LoginFailure.at < now - REMEMBER_SECONDS))
    if device is not None:
        session.add(LoginFailure(source=f"device:{device}", at=now))
        return
    both, by_handle, by_address = _sources(handle, address)
    slips = _recent(session, both, now - REMEMBER_SECONDS)
    if len(slips) >= FREE_FAILURES:
        _wait_until(slips[0] + min(2.0 ** (len(slips) - FREE_FAILURES), LONGEST_WAIT), now)
    for source, limit in ((by_handle, FAILURES_BY_HANDLE), (by_address, FAILURES_BY_ADDRESS)):
        recent = _recent(session, source, now - THROTTLE_SECONDS)
        if len(recent) >= limit:
            _wait_until(recent[limit - 1] + THROTTLE_SECONDS, now)
    session.add_all(LoginFailure(source=s, at=now) for s in (both, by_handle, by_address))


def forgive_attempts(
    session: Session, handle: str, address: str, now: float, device: str | None = None
) -> None:
    """After a right password: this handle starts anew from this address, and this one try no
    longer counts for either alone.
    """
    both, by_handle, by_address = _sources(handle, address)
    anew = both if device is None else f"device:{device}"
    session.execute(delete(LoginFailure).where(LoginFailure.source == anew))
    session.execute(
        delete(LoginFailure).where(
            LoginFailure.source.in_((by_handle, by_address)), LoginFailure.at == now
        )
    )


def _recent(session: Session, source: str, since: float) -> list[float]:
    """Times of the failures from there, newest first."""
    query = select(LoginFailure.at).where(LoginFailure.source == source, LoginFailure.at > since)
    return list(session.scalars(query.order_by(LoginFailure.at.desc())))


def _wait_until(free_at: float, now: float) -> None:
    if now >= free_at:
        return
    wait = int(free_at - now) + 1
    said = f"{wait} seconds" if wait < 90 else f"{wait // 60 + 1} minutes"
    raise Problem(429, "throttled", f"Too many failed logins. Try again in {said}.", wait)


def _sources(handle: str, address: str) -> tuple[str, str, str]:
    short = handle[:64]
    return f"both:{short}|{address[:48]}", f"handle:{short}", f"address:{address[:64]}"


def device_token(secret: str, person_id: int) -> str:
    """What a browser keeps after a login, and is known by afterwards; not a login by itself."""
    name = secrets.token_urlsafe(12)
    return f"{name}.{keyed_hash(secret, f'device {person_id}', name)}"


def known_device(session: Session, secret: str, handle: str, token: str, now: float) -> str | None:
    """The device's name, when this token was given to this handle's person and has not been
    guessing.
    """
    person_id = session.scalar(select(Person.id).where(Person.handle == handle))
    name, _, signed = token.partition(".")
    right = keyed_hash(secret, f"device {person_id}", name)
    if person_id is None or not hmac.compare_digest(right.encode(), signed.encode()):
        return None
    guesses = _recent(session, f"device:{name}", now - REMEMBER_SECONDS)
    return name if len(guesses) < FAILURES_BY_DEVICE else None
