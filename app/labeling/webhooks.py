"""Webhooks: which addresses are told what, and the messages that wait for them.

A message is a row written in the transaction of what it tells of, so an answer that is stored is
told of, one that is not is not, and no labeler waits for somebody else's server. `delivery.py`
sends the rows. Messages say what happened, never what anybody answered: for that a program asks
the API, with a token.

Only admins name addresses. They are HTTPS, or HTTP on this machine; where one leads on is not
followed, and nothing of what it replies is kept or shown but the status.
"""

import json
import time
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling.forms import Strict
from app.labeling.problems import Problem, first_fault
from app.labeling.signing import new_secret
from app.labeling.tables import EventLog, Webhook, WebhookDelivery
from app.middleware import is_local

Event = Literal["answer.stored", "batch.finished", "export.ready"]
EVENTS: tuple[Event, ...] = get_args(Event)
TEST = "test"  # an event that is sent when an admin asks for it
ACTIVE = select(Webhook.id, Webhook.events).where(Webhook.removed_at.is_(None))  # built once


def safe_url(url: str) -> str:
    """HTTPS anywhere, HTTP to this machine alone, and no password in it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no address: {error}") from None
    if not url.isascii() or not url.isprintable() or " " in url or not host:
        raise ValueError("is no address: write https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or password; messages are signed instead")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local(host)):
        raise ValueError("must begin with https://, or lead to this machine (http://127.0.0.1...)")
    return url


class WebhookWish(Strict):
    """What an admin says of a new webhook, on the page and on the command line."""

    url: Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(safe_url)]
    events: list[Event] = Field([], min_length=1, validate_default=True)


def webhook_wish(url: str, events: list[str]) -> WebhookWish:
    """Raises Problem 422 naming the first field that will not do."""
    try:
        return WebhookWish.model_validate({"url": url, "events": events})
    except ValidationError as error:
        raise first_fault(error) from None


def add_webhook(session: Session, wish: WebhookWish, by: int | None, now: float) -> Webhook:
    """The new row; its secret is to be shown once."""
    events = [event for event in EVENTS if event in wish.events]
    row = Webhook(url=wish.url, events=events, secret=new_secret(), created_by=by, created_at=now)
    session.add(row)
    session.flush()
    detail = {"webhook": row.id, "url": row.url, "events": events}
    session.add(EventLog(at=now, person_id=by, kind="webhook made", detail=detail))
    return row


def active_webhooks(session: Session) -> list[Webhook]:
    query = select(Webhook).where(Webhook.removed_at.is_(None)).order_by(Webhook.id)
    return list(session.scalars(query))


def remove_webhook(session: Session, webhook_id: int, by: int | None, now: float) -> None:
    """What still waits for it is not sent. Problem 404 when there is none of that number."""
    hook = _webhook(session, webhook_id)
    hook.removed_at = now
    detail = {"webhook": webhook_id, "url": hook.url}
    session.add(EventLog(at=now, person_id=by, kind="webhook removed", detail=detail))


def send_test(session: Session, webhook_id: int, now: float) -> None:
    """A message to try the receiver with. Problem 404."""
    hook = _webhook(session, webhook_id)
    session.add(message(hook.id, TEST, f"test-{time.time_ns()}", {"webhook": hook.id}, now))


def tell(session: Session, event: Event, subject: str, data: dict[str, Any], now: float) -> None:
    """Put a message in the way of every webhook that wants this event.

    Args:
        subject: what it tells of; one webhook is told of it once.
    """
    for hook in session.execute(ACTIVE):
        if event in hook.events:
            session.add(message(hook.id, event, subject, data, now))


def recent_deliveries(session: Session, limit: int = 30) -> list[tuple[WebhookDelivery, str]]:
    """(message, address), newest first."""
    query = select(WebhookDelivery, Webhook.url).join(Webhook)
    rows = session.execute(query.order_by(WebhookDelivery.id.desc()).limit(limit))
    return [(delivery, url) for delivery, url in rows]


def message(
    webhook_id: int, event: str, subject: str, data: dict[str, Any], now: float
) -> WebhookDelivery:
    """A message that waits for its first try."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    body = json.dumps({"type": event, "timestamp": at, "data": data}, ensure_ascii=False)
    return WebhookDelivery(
        webhook_id=webhook_id,
        event=event,
        subject=subject,
        body=body,
        state="waiting",
        next_try_at=now,
        created_at=now,
    )


def _webhook(session: Session, webhook_id: int) -> Webhook:
    hook = session.get(Webhook, webhook_id)
    if hook is None or hook.removed_at is not None:
        raise Problem(404, "not_found", "There is no webhook of that number.")
    return hook
