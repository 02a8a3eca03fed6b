"""The labeling site's tables of people, programs and what happened, and what all tables share.

They are portable between SQLite and PostgreSQL. Times are seconds since 1970 (UTC): both databases
compare them alike. What labelers are asked and answer is in `task_tables`, the chat in
`chat_tables`.
"""

import time
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON, Double

ROLES = ("labeler", "researcher", "admin")  # each may do what the ones before may
COHORTS = ("train", "heldout", "screening")


Json = Mapped[Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, float: Double, Any: JSON(none_as_null=True)}  # noqa: RUF012 - SQLAlchemy reads it from the class


def key() -> Any:
    return mapped_column(primary_key=True)


def link(column: str) -> Any:
    return mapped_column(ForeignKey(column))


def now_column() -> Any:
    return mapped_column(default=time.time)


# ---------------------------------------------------------------- people


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = key()
    handle: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str]  # argon2id
    role: Mapped[str] = mapped_column(String(16))
    cohort: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = now_column()
    disabled_at: Mapped[float | None]


class Invite(Base):
    """A link that lets one person choose a handle and a password."""

    __tablename__ = "invite"
    id: Mapped[int] = key()
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    cohort: Mapped[str] = mapped_column(String(16))
    expires_at: Mapped[float]
    created_at: Mapped[float] = now_column()
    used_by: Mapped[int | None] = link("person.id")
    revoked_at: Mapped[float | None]


class PasswordReset(Base):
    """A link that lets one person choose a new password once; an admin hands it over."""

    __tablename__ = "password_reset"
    id: Mapped[int] = key()
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    person_id: Mapped[int] = link("person.id")
    expires_at: Mapped[float]
    created_at: Mapped[float] = now_column()
    used_at: Mapped[float | None]


class LoginSession(Base):
    """One logged-in browser. The cookie holds the token, the table only its keyed hash."""

    __tablename__ = "login_session"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[int] = link("person.id")
    created_at: Mapped[float] = now_column()
    expires_at: Mapped[float]
    # to within `accounts.SEEN_SECONDS`; a session that nobody uses ends early
    last_seen_at: Mapped[float] = mapped_column(server_default="0")


class LoginFailure(Base):
    """Failed logins by handle and address, by handle, by address and by known device; they slow the
    next try down, also after a restart.
    """

    __tablename__ = "login_failure"
    id: Mapped[int] = key()
    source: Mapped[str] = mapped_column(String(128), index=True)
    at: Mapped[float] = now_column()


class KnownIdentity(Base):
    """A person as an identity provider knows them."""

    __tablename__ = "known_identity"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)
    id: Mapped[int] = key()
    issuer: Mapped[str]
    subject: Mapped[str] = mapped_column(String(255))
    person_id: Mapped[int] = link("person.id")
    created_at: Mapped[float] = now_column()


class SiteSetting(Base):
    """Facts of this site, such as the salt that turns handles into pseudonyms in exports."""

    __tablename__ = "site_setting"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str]


# ---------------------------------------------------------------- programs


class ApiToken(Base):
    """What a program shows in place of a login. The table holds only its hash."""

    __tablename__ = "api_token"
    id: Mapped[int] = key()
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(64))
    scopes: Json  # of tokens.SCOPES
    created_by: Mapped[int | None] = link("person.id")  # null: made by the command
    created_at: Mapped[float] = now_column()
    expires_at: Mapped[float]
    last_used_at: Mapped[float | None]  # to within `tokens.USED_SECONDS`
    revoked_at: Mapped[float | None]


class Webhook(Base):
    """An address that is told what happens. The secret is kept as it is: to sign one needs it."""

    __tablename__ = "webhook"
    id: Mapped[int] = key()
    url: Mapped[str]
    events: Json  # of webhooks.EVENTS
    secret: Mapped[str] = mapped_column(String(64))
    created_by: Mapped[int | None] = link("person.id")
    created_at: Mapped[float] = now_column()
    removed_at: Mapped[float | None]


class WebhookDelivery(Base):
    """One message to one webhook, written with what it tells of and sent by `delivery.py`."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        UniqueConstraint("webhook_id", "event", "subject"),
        Index("ix_webhook_delivery_due", "state", "next_try_at"),
    )
    id: Mapped[int] = key()
    webhook_id: Mapped[int] = link("webhook.id")
    event: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(64))  # what it tells of; told once
    body: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))  # waiting | delivered | given up
    attempts: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[float]
    last_error: Mapped[str | None]
    created_at: Mapped[float] = now_column()
    delivered_at: Mapped[float | None]


# ---------------------------------------------------------------- bookkeeping


class Export(Base):
    __tablename__ = "export"
    id: Mapped[int] = key()
    kind: Mapped[str] = mapped_column(String(16))  # rankings | pairs | votes
    filter: Json
    rows: Mapped[int] = mapped_column("n_rows")
    broken: Mapped[int] = mapped_column("n_broken", server_default="0")  # rows left out
    sha256: Mapped[str] = mapped_column(String(64))
    file: Mapped[str]
    card: Mapped[str]
    created_by: Mapped[int | None] = link("person.id")
    created_at: Mapped[float] = now_column()


class EventLog(Base):
    """Who did what, for the admin's eyes: logins, failed ones, accounts, expired leases, imports,
    exports.
    """

    __tablename__ = "event_log"
    id: Mapped[int] = key()
    at: Mapped[float] = now_column()
    person_id: Mapped[int | None] = link("person.id")
    kind: Mapped[str] = mapped_column(String(32), index=True)
    detail: Json
