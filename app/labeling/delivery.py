"""Sending what waits for the webhooks, from a thread of the server.

A message counts as delivered when the address answers 2xx within `TIMEOUT_SECONDS`. Otherwise it is
tried again after each of `WAITS`, and then given up. What one address misses delays no other by
more than a timeout. Several server processes share the work: who moves a message's next try first
sends it. A server that dies between sending and writing that down sends again, with the same id.
"""

import logging
import threading
import time
from contextlib import suppress
from typing import NamedTuple

import httpx
from sqlalchemy import String, bindparam, cast, delete, exists, literal, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from app.labeling.database import Database
from app.labeling.signing import signed_headers
from app.labeling.tables import Webhook, WebhookDelivery
from app.labeling.task_tables import Assignment, Batch, Task
from app.labeling.webhooks import ACTIVE, message

WAITS = (5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)  # seconds before each retry
TIMEOUT_SECONDS = 10.0
LEASE_SECONDS = 60.0  # for one try; longer than any
LOOK_SECONDS = 1.0
SENT_AT_ONCE = 50
KEPT_DAYS = 30.0
log = logging.getLogger("podium.labeling")


class Due(NamedTuple):
    id: int
    webhook_id: int
    body: str
    attempts: int
    next_try_at: float
    url: str
    secret: str


DUE = (  # built once
    select(
        WebhookDelivery.id,
        WebhookDelivery.webhook_id,
        WebhookDelivery.body,
        WebhookDelivery.attempts,
        WebhookDelivery.next_try_at,
        Webhook.url,
        Webhook.secret,
    )
    .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
    .where(WebhookDelivery.state == "waiting", WebhookDelivery.next_try_at <= bindparam("now"))
    .where(Webhook.removed_at.is_(None))
    .order_by(WebhookDelivery.id)
    .limit(SENT_AT_ONCE)
)


class Courier:
    """The thread that delivers.

    Args:
        transport: what HTTP goes through; tests that need no socket give one.
    """

    def __init__(self, database: Database, transport: httpx.BaseTransport | None = None) -> None:
        self.database = database
        # A proxy named in the environment would be asked for addresses on this machine.
        self.http = httpx.Client(
            timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False, transport=transport
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A message under way is finished, or sent again by the next server."""
        self._stop.set()
        self._thread.join(timeout=2 * LOOK_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.deliver(time.time())
            except DBAPIError as error:  # a full disk, a database that restarts: later, then
                if not self._stop.is_set():
                    log.error("webhooks: %s", error.orig)
            except Exception:  # of any kind: the thread must not end, and the log tells all
                if not self._stop.is_set():
                    log.exception("webhooks: a round failed; the next one goes on")
        self.http.close()

    def deliver(self, now: float) -> int:
        """Send everything that is due; returns how many messages arrived."""
        with self.database.read() as session:
            if session.scalar(select(exists().where(Webhook.removed_at.is_(None)))) is False:
                return 0
            finished = _finished_batches(session)
        if finished:
            # Another process may have told of the same batch a moment ago.
            with suppress(IntegrityError), self.database.write() as session:
                for webhook_id, batch_id, name in finished:
                    data = {"batch_id": batch_id, "batch": name}
                    subject = f"batch-{batch_id}"
                    session.add(message(webhook_id, "batch.finished", subject, data, now))
        with self.database.read() as session:
            due = [Due(*row) for row in session.execute(DUE, {"now": now})]
        arrived = 0
        for waiting in due:
            if self._stop.is_set() or not self._take(waiting, now):
                continue
            problem = self._send(waiting, now)
            self._note(waiting, problem, now)
            arrived += problem is None
        return arrived

    def _take(self, waiting: Due, now: float) -> bool:
        """Whether this process is the one that sends it, and its address has not failed since."""
        mine = update(WebhookDelivery).where(
            WebhookDelivery.id == waiting.id,
            WebhookDelivery.state == "waiting",
            WebhookDelivery.next_try_at == waiting.next_try_at,
        )
        taken = mine.values(next_try_at=now + LEASE_SECONDS).returning(WebhookDelivery.id)
        with self.database.write() as session:
            return bool(session.execute(taken).all())

    def _send(self, waiting: Due, now: float) -> str | None:
        """What went wrong; None when it arrived. The reply is not read: it could be endless, and
        is nobody's business here.
        """
        body = waiting.body.encode()
        name = f"msg_{waiting.webhook_id}_{waiting.id}"
        headers = signed_headers(waiting.secret, name, body, now)
        headers |= {"content-type": "application/json", "user-agent": "podium"}
        try:
            with self.http.stream("POST", waiting.url, content=body, headers=headers) as reply:
                return None if reply.is_success else f"answered {reply.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            return f"{type(error).__name__}: {error}"[:200]

    def _note(self, sent: Due, problem: str | None, now: float) -> None:
        row = update(WebhookDelivery).where(WebhookDelivery.id == sent.id)
        tries = sent.attempts + 1
        if problem is None:
            values = {"state": "delivered", "delivered_at": now, "last_error": None}
        elif sent.attempts >= len(WAITS):
            log.error("webhook %d: given up after %d tries: %s", sent.webhook_id, tries, problem)
            values = {"state": "given up", "last_error": problem}
        else:
            values = {"next_try_at": now + WAITS[sent.attempts], "last_error": problem}
        with self.database.write() as session:
            session.execute(row.values(attempts=tries, **values))
            if problem is not None:  # what else is due for that address waits as long
                others = update(WebhookDelivery).where(
                    WebhookDelivery.webhook_id == sent.webhook_id,
                    WebhookDelivery.state == "waiting",
                    WebhookDelivery.next_try_at <= now,
                )
                session.execute(others.values(next_try_at=now + WAITS[0]))
            else:
                _forget_old(session, sent.webhook_id, now)


def _finished_batches(session: Session) -> list[tuple[int, int, str]]:
    """(webhook, batch, its name) of batches whose last wanted answer came after the webhook was
    made, and of which it was not told. Asked of the tables and not of the last answer: two last
    answers at once each see the other's task open.
    """
    hooks = [row.id for row in session.execute(ACTIVE) if "batch.finished" in row.events]
    if not hooks:
        return []
    wanted = (Task.batch_id == Batch.id) & Task.gold_ranks.is_(None)
    told = exists().where(
        WebhookDelivery.webhook_id == Webhook.id,
        WebhookDelivery.event == "batch.finished",
        WebhookDelivery.subject == literal("batch-") + cast(Batch.id, String),
    )
    answered = (
        exists()
        .where(wanted, Assignment.task_id == Task.id, Assignment.state == "submitted")
        .where(Assignment.closed_at >= Webhook.created_at)
    )
    query = (
        select(Webhook.id, Batch.id, Batch.name)
        .join(Batch, Batch.state != "deleted")  # each with each
        .where(Webhook.id.in_(hooks))
        .where(~exists().where(wanted, Task.n_done < Task.need), ~told, answered)
    )
    return [(hook, batch, name) for hook, batch, name in session.execute(query)]


def _forget_old(session: Session, webhook_id: int, now: float) -> None:
    """Messages that arrived long ago; that a batch was told of stays known."""
    old = delete(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook_id,
        WebhookDelivery.event != "batch.finished",
        WebhookDelivery.delivered_at < now - 86400 * KEPT_DAYS,
    )
    session.execute(old)
