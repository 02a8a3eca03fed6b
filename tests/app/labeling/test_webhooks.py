"""Webhooks: what is told, how it is signed, and what happens when nobody listens."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app.labeling import delivery
from app.labeling.application import create_site
from app.labeling.cli import app
from app.labeling.collecting import ExportFilter
from app.labeling.delivery import KEPT_DAYS, WAITS, Courier
from app.labeling.exporting import make_export
from app.labeling.problems import Problem
from app.labeling.signing import verify_webhook
from app.labeling.site import Site
from app.labeling.tables import Webhook, WebhookDelivery
from app.labeling.webhooks import (
    EVENTS,
    add_webhook,
    remove_webhook,
    send_test,
    webhook_wish,
)
from app.serving import serving
from podium.errors import PodiumError
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to


class Receiver:
    """A server on this machine that keeps what it is sent and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                outer.got.append(({}, b"a redirect was followed"))

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def messages(self) -> list[dict]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def hook_to(site: Site, url: str, *events: str, at: float | None = None) -> Webhook:
    with site.database.write() as session:
        wish = webhook_wish(url, list(events or EVENTS))
        return add_webhook(session, wish, None, time.time() if at is None else at)


def deliveries(session: Session) -> list[tuple[str, str, int]]:
    rows = session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id))
    return [(row.event, row.state, row.attempts) for row in rows]


def answer_all(client: Browser) -> int:
    answered = 0
    while (task := client.next())["kind"] == "task":
        assert client.submit(task["assignment"], answer_to(task)).status_code == 200
        answered += 1
    return answered


def test_answers_a_finished_batch_and_an_export_are_told_once_and_signed(any_site, receiver):
    """Mutation seen red: `told` left out of the question which batches are finished, so that the
    first one stood in the way of all later ones.
    """
    hook = hook_to(any_site, receiver.url)
    add_batch(any_site, count=2)
    add_batch(any_site, count=1, name="nobody has begun this", cohorts=["heldout"])
    add_person(any_site, "lea")
    lea = Browser(any_site, "lea")
    assert answer_all(lea) == 2
    now = time.time()
    chosen = ExportFilter(batches=["batch"])
    make_export(any_site.database, any_site.exports, "rankings", chosen, None, now)
    courier = Courier(any_site.database)
    assert courier.deliver(now) == 4
    assert courier.deliver(now + 1) == 0
    told = receiver.messages()
    assert [m["type"] for m in told] == ["answer.stored"] * 2 + ["export.ready", "batch.finished"]
    assert told[0]["data"] == {
        "answer": "answer-1",
        "revision": 1,
        "batch": "batch",
        "extra": False,
    }
    assert told[2]["data"]["rows"] == 2 and told[3]["data"]["batch"] == "batch"
    for headers, body in receiver.got:
        assert verify_webhook(hook.secret, headers, body) == json.loads(body)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 4
    add_batch(any_site, count=1, name="second")
    assert answer_all(lea) == 1 and courier.deliver(now + 2) == 2
    assert receiver.messages()[-1]["data"]["batch"] == "second"


def test_a_forged_changed_or_old_message_is_refused(site, receiver):
    """Mutation seen red: a signature without the time."""
    hook, other = hook_to(site, receiver.url, "answer.stored"), hook_to(site, receiver.url)
    with site.database.write() as session:
        send_test(session, hook.id, time.time())
    now = time.time()
    Courier(site.database).deliver(now)
    headers, body = receiver.got[0]
    assert verify_webhook(hook.secret, headers, body)["type"] == "test"
    later = {**headers, "webhook-timestamp": str(int(now) + 1)}
    renamed = {**headers, "webhook-id": "msg_1_2"}
    for secret, sent, what in (
        (other.secret, headers, body),
        (hook.secret, headers, body + b" "),
        (hook.secret, later, body),
        (hook.secret, renamed, body),
        (hook.secret, {}, body),
    ):
        with pytest.raises(PodiumError, match="does not fit"):
            verify_webhook(secret, sent, what)
    with pytest.raises(PodiumError, match="too old"):
        verify_webhook(hook.secret, headers, body, now + 301)
    with pytest.raises(PodiumError, match="no webhook's secret"):
        verify_webhook("whsec_!", headers, body)


def test_a_signature_is_the_specifications(site):
    """The example of standardwebhooks.com's own documentation, and of Svix's libraries."""
    from app.labeling.signing import signed_headers

    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    made = signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", body, 1614265330)
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_does_not_arrive_is_tried_again_and_at_last_given_up(site, receiver):
    """Mutation seen red: the next try at the time of the last one."""
    hook = hook_to(site, receiver.url)
    receiver.status = 500
    now = time.time()
    with site.database.write() as session:
        send_test(session, hook.id, now)
    courier = Courier(site.database)
    for number, wait in enumerate(WAITS, start=1):
        assert courier.deliver(now) == 0 and courier.deliver(now + wait - 0.5) == 0
        assert len(receiver.got) == number
        now += wait
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    courier.deliver(now)
    courier.deliver(now + 10 * WAITS[-1])
    with site.database.read() as session:
        assert deliveries(session) == [("test", "given up", len(WAITS) + 1)]
        assert session.scalars(select(WebhookDelivery.last_error)).one() == "answered 500"
    assert len(receiver.got) == len(WAITS) + 1
    receiver.status = 200
    with site.database.write() as session:
        send_test(session, hook.id, now)
    assert courier.deliver(now) == 1  # the address itself is not given up


def test_an_address_that_is_down_keeps_nobody_waiting(site, receiver, monkeypatch):
    """Its other messages wait with the first; answers are stored, and other addresses told.

    Mutation seen red: the messages for the same address left where they were.
    """
    dead = Receiver()
    dead.server.server_close()
    tries: list[str] = []
    real = Courier._send

    def send(self, waiting, now):
        tries.append(waiting.url)
        return real(self, waiting, now)

    monkeypatch.setattr(Courier, "_send", send)
    hook_to(site, dead.url, "answer.stored")
    hook_to(site, receiver.url, "answer.stored")
    add_batch(site, count=3)
    add_person(site, "lea")
    assert answer_all(Browser(site, "lea")) == 3
    now = time.time()
    assert Courier(site.database).deliver(now) == 3
    assert tries.count(dead.url) == 1 and len(receiver.got) == 3
    Courier(site.database).deliver(now + 1)
    assert tries.count(dead.url) == 1


def test_redirects_are_not_followed(site, receiver):
    """Seen red with `follow_redirects=True`."""
    receiver.status = 302
    hook = hook_to(site, receiver.url)
    with site.database.write() as session:
        send_test(session, hook.id, time.time())
    assert Courier(site.database).deliver(time.time()) == 0
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0:80/",
        "http://localhost.evil.example/",
        "http://127.0.0.1@evil.example/",
        "https://user:word@example.org/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://",
        "https://exa mple.org/",
        "https://example.org/\nHost: b",
        "https://[::1/",
        "https://example.org:99999/",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "",
        "https://example.org/" + "x" * 2000,
    ],
)
def test_addresses_are_https_or_on_this_machine(site, url):
    with pytest.raises(Problem) as refused:
        hook_to(site, url)
    assert refused.value.status == 422 and refused.value.field == "url"


@pytest.mark.parametrize(
    "url", ["https://example.org/a?b=c", "http://localhost:9/", "http://[::1]/"]
)
def test_good_addresses_are_taken(site, url):
    assert hook_to(site, url).url == url


def test_a_new_webhook_is_not_told_of_what_was_finished_before_it(site, receiver):
    """Mutation seen red: the time of the last answer not asked for."""
    add_batch(site, count=1)
    add_person(site, "lea")
    answer_all(Browser(site, "lea"))
    hook_to(site, receiver.url, "batch.finished", at=time.time() + 5)
    Courier(site.database).deliver(time.time() + 10)
    assert receiver.got == []


def test_a_removed_webhook_is_sent_nothing(site, receiver):
    hook = hook_to(site, receiver.url)
    with site.database.write() as session:
        send_test(session, hook.id, time.time())
        remove_webhook(session, hook.id, None, time.time())
    hook_to(site, receiver.url, "export.ready")
    assert Courier(site.database).deliver(time.time()) == 0 and receiver.got == []
    for change in (remove_webhook, lambda s, i, _by, now: send_test(s, i, now)):
        with site.database.write() as session, pytest.raises(Problem, match="no webhook"):
            change(session, hook.id, None, time.time())


def test_old_messages_are_forgotten_but_not_that_a_batch_was_told_of(site, receiver):
    hook_to(site, receiver.url)
    add_batch(site, count=1)
    add_person(site, "lea")
    answer_all(Browser(site, "lea"))
    courier, now = Courier(site.database), time.time()
    courier.deliver(now)
    later = now + 86400 * (KEPT_DAYS + 1)
    hook = hook_to(site, receiver.url, "export.ready")
    with site.database.write() as session:
        send_test(session, 1, later)
        send_test(session, hook.id, later)
    courier.deliver(later)
    with site.database.read() as session:
        kinds = [event for event, _, _ in deliveries(session)]
    assert sorted(kinds) == ["batch.finished", "test", "test"]


def test_the_server_delivers_by_itself(site, receiver, monkeypatch):
    """A real server and its thread. Mutation seen red: a server that starts no courier."""
    monkeypatch.setattr(delivery, "LOOK_SECONDS", 0.05)
    with serving(create_site(site)):
        hook_to(site, receiver.url)
        with site.database.write() as session:
            send_test(session, 1, time.time())
        deadline = time.monotonic() + 30
        while not receiver.got and time.monotonic() < deadline:
            time.sleep(0.02)
    assert [m["type"] for m in receiver.messages()] == ["test"]


def test_webhooks_by_command_and_by_page(site, browser, receiver):
    """The secret is shown once and stands in no page, list or event afterwards."""
    folder = ["--folder", str(site.settings.folder)]

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["webhook", *words, *folder])
        assert done.exit_code == 0, done.output
        return done.output

    secret = run("add", receiver.url, "--event", "export.ready").strip()
    assert secret.startswith("whsec_")
    run("test", "1")
    Courier(site.database).deliver(time.time())
    assert verify_webhook(secret, *receiver.got[0])["data"] == {"webhook": 1}
    listed = run("list")
    assert receiver.url in listed and "export.ready" in listed
    ada = browser("ada", role="admin")
    made = ada.form("/admin/programs/webhooks", url=receiver.url, events="answer.stored").text
    shown = made.partition('<code id="secret">')[2].partition("<")[0]
    assert shown.startswith("whsec_") and shown != secret
    assert ada.form("/admin/programs/webhooks/2/test").status_code == 303
    pages = ada.get("/admin/programs").text + ada.get("/admin/events").text + listed
    assert receiver.url in pages and "waiting" in pages
    assert "whsec_" not in pages and secret not in pages
    assert ada.form("/admin/programs/webhooks/2/remove").status_code == 303
    run("remove", "1")
    assert run("list").count("\n") == 1  # the message that waits for nobody
    wrong = CliRunner().invoke(app, ["webhook", "add", "http://x.org", "--event", "a", *folder])
    assert wrong.exit_code == 2 and "url" in wrong.output and "fix:" in wrong.output
