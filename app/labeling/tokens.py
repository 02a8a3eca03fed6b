"""API tokens: what a program shows in place of a login.

A token is random and 256 bits long, shown once, and kept as its SHA-256: a stolen database gives
none away. It opens `/api/v1` and no page; what it may do there is in its scopes. It ends when it
expires, when it is revoked, and when the admin who made it is one no longer.

Every function works inside the caller's transaction and takes `now`.
"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from pydantic import Field, ValidationError
from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session

from app.labeling.forms import ShortText, Strict
from app.labeling.problems import Problem, first_fault
from app.labeling.tables import ApiToken, EventLog, Person

Scope = Literal["read", "import", "export", "manage", "people"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SCOPE_WORDS: dict[str, str] = {
    "read": "batches, tasks, progress, agreement, results",
    "import": "make batches",
    "export": "the answers: make exports, download them, read records",
    "manage": "pause, withdraw, delete and restore batches",
    "people": "list people, invite labelers and researchers, revoke invitations",
}
PREFIX = "podium_"  # so that scanners for leaked secrets know one when they see it
DAYS = 90
MAX_DAYS = 3660
USED_SECONDS = 60.0  # how exactly a token's last use is kept: not every request writes

BY_HASH = (  # built once: every request of a program asks
    select(ApiToken.id, ApiToken.name, ApiToken.scopes, ApiToken.created_by, ApiToken.last_used_at)
    .outerjoin(Person, Person.id == ApiToken.created_by)
    .where(
        ApiToken.token_hash == bindparam("token_hash"),
        ApiToken.expires_at > bindparam("now"),
        ApiToken.revoked_at.is_(None),
        or_(
            ApiToken.created_by.is_(None),
            (Person.role == "admin") & Person.disabled_at.is_(None),
        ),
    )
)


class TokenWish(Strict):
    """What an admin says of a new token, on the page and on the command line."""

    name: ShortText
    scopes: list[Scope] = Field([], min_length=1, validate_default=True)
    days: int = Field(DAYS, ge=1, le=MAX_DAYS, description="it ends after so many")


class Caller(NamedTuple):
    """Which program is asking."""

    token_id: int
    name: str
    scopes: list[str]
    person_id: int | None  # the admin who made the token
    last_used_at: float | None


def wish_of(name: str, scopes: Sequence[str], days: int) -> TokenWish:
    """Raises Problem 422 naming the first field that will not do."""
    try:
        return TokenWish.model_validate({"name": name, "scopes": scopes, "days": days})
    except ValidationError as error:
        raise first_fault(error) from None


def make_token(session: Session, wish: TokenWish, by: int | None, now: float) -> str:
    """A new token, to be shown once."""
    token = PREFIX + secrets.token_urlsafe(32)
    scopes = [scope for scope in SCOPES if scope in wish.scopes]
    row = ApiToken(
        token_hash=_hash(token),
        name=wish.name,
        scopes=scopes,
        created_by=by,
        created_at=now,
        expires_at=now + 86400 * wish.days,
    )
    session.add(row)
    session.flush()
    detail = {"token": row.id, "name": row.name, "scopes": scopes, "days": wish.days}
    session.add(EventLog(at=now, person_id=by, kind="token made", detail=detail))
    return token


def caller_of(session: Session, token: str, now: float) -> Caller | None:
    """None when the token is forged, expired, revoked, or was made by who is no longer an admin."""
    row = session.execute(BY_HASH, {"token_hash": _hash(token), "now": now}).first()
    return Caller(*row) if row else None


def note_use(session: Session, caller: Caller, call: str | None, now: float) -> None:
    """Date the token's use; a call that changes something is also a line of the event log."""
    used = update(ApiToken).where(ApiToken.id == caller.token_id).values(last_used_at=now)
    session.execute(used)
    if call is not None:
        detail = {"token": caller.token_id, "name": caller.name, "call": call}
        session.add(EventLog(at=now, person_id=caller.person_id, kind="api", detail=detail))


def all_tokens(session: Session) -> list[tuple[ApiToken, str | None]]:
    """(token, handle of who made it), newest first; the ended ones too."""
    query = select(ApiToken, Person.handle).outerjoin(Person, Person.id == ApiToken.created_by)
    return [(token, who) for token, who in session.execute(query.order_by(ApiToken.id.desc()))]


def state_of(token: ApiToken, now: float) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "active" if token.expires_at > now else "expired"


def revoke_token(session: Session, token_id: int, by: int | None, now: float) -> None:
    """From the next request on. Problem 404 when there is no token of that number to revoke."""
    token = session.get(ApiToken, token_id)
    if token is None or token.revoked_at is not None:
        raise Problem(404, "not_found", "There is no token of that number that could be revoked.")
    token.revoked_at = now
    detail = {"token": token_id, "name": token.name}
    session.add(EventLog(at=now, person_id=by, kind="token revoked", detail=detail))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
