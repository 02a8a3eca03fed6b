"""What breaks under a labeling site: the process, the database, the disk. Nothing acknowledged is
ever lost.
"""

import os
import random
import sqlite3
import subprocess
import threading
import time
import uuid
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy import select

from app.labeling.application import create_site
from app.labeling.database import Database
from app.labeling.queue import recount
from app.labeling.site import Settings, Site, open_site
from app.labeling.task_tables import Submission, Task
from app.serving import serving
from benchmarks.labeling import PASSWORD, Load, free_port, prepare, random_answer
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to
from tests.launching import begin

KILLS = 20
GIVE_UP_SECONDS = 240


class Stubborn:
    """A labeler whose requests are sent again, with the same key, until the server answers: as the
    page's user does.
    """

    def __init__(self, address: str, number: int, acknowledged: set[int]) -> None:
        self.http = httpx.Client(base_url=address, timeout=10)
        self.number, self.acknowledged, self.rng = number, acknowledged, random.Random(number)
        self.failures: list[str] = []

    def insist(self, method: str, path: str, **options) -> httpx.Response:
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            try:
                reply = self.http.request(method, path, **options)
                if reply.status_code < 500:
                    return reply
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} was never answered")

    def work(self) -> None:
        try:
            login = {"handle": f"load-{self.number}", "password": PASSWORD}
            self.http.headers["X-CSRF-Token"] = self.insist(
                "POST", "/api/login", json=login
            ).json()["csrf_token"]
            while (task := self.insist("POST", "/api/next").json())["kind"] == "task":
                path = f"/api/assignments/{task['assignment']}/submit"
                key = {"Idempotency-Key": uuid.uuid4().hex}
                time.sleep(self.rng.random() * 0.05)
                reply = self.insist("POST", path, json=random_answer(task, self.rng), headers=key)
                assert reply.status_code == 200, reply.text
                self.acknowledged.add(reply.json()["saved"])
        except Exception as error:
            self.failures.append(repr(error))


def start_work(
    address: str, people: int, acknowledged: set[int]
) -> tuple[list[Stubborn], list[threading.Thread]]:
    workers = [Stubborn(address, number, acknowledged) for number in range(people)]
    threads = [threading.Thread(target=worker.work) for worker in workers]
    for thread in threads:
        thread.start()
    return workers, threads


def check(url: str, load: Load, workers: list[Stubborn], acknowledged: set[int]) -> None:
    assert [worker.failures for worker in workers if worker.failures] == []
    database = Database(url)
    with database.read() as session:
        stored = set(session.scalars(select(Submission.id)))
        assert acknowledged <= stored and len(stored) == load.tasks * load.overlap
        assert (
            session.scalars(select(Task.id).where(Task.n_done != Task.need)).all()
            == []
            == recount(session)
        )
    database.close()


def wait_until_up(address: str, process: BaseProcess) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        assert process.is_alive(), "the server ended by itself"
        try:
            httpx.get(f"{address}/healthz", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError("the server did not answer")


@pytest.mark.slow
def test_twenty_kills_under_load(tmp_path, database_url):
    """kill -9 of the server, again and again, at random moments: all acknowledged answers are
    there, none twice.
    """
    load = Load(labelers=6, tasks=400, overlap=3)
    prepare(tmp_path, database_url, load)
    port, acknowledged, rng = free_port(), set(), random.Random(0)
    address = f"http://127.0.0.1:{port}"
    command = ["app.labeling.cli", "serve", "--folder", tmp_path, "--database", database_url]
    start = partial(begin, *command, "--port", port, output=tmp_path / "said.txt")
    process = start()
    workers, threads = start_work(address, load.labelers, acknowledged)
    kills_under_load = 0
    try:
        for _ in range(KILLS):
            wait_until_up(address, process)
            time.sleep(0.1 + rng.random())
            kills_under_load += any(thread.is_alive() for thread in threads)
            process.kill()
            process.join()
            process = start()
        wait_until_up(address, process)
        for thread in threads:
            thread.join(GIVE_UP_SECONDS)
    finally:
        process.kill()
        process.join()
    assert kills_under_load == KILLS
    check(database_url, load, workers, acknowledged)


@pytest.mark.postgres
@pytest.mark.timeout(300)
def test_postgres_restarts_under_load(tmp_path, cluster):
    """The database dies under the running site twice; requests fail with a sentence and succeed
    when sent again.
    """
    load, acknowledged = Load(labelers=6, tasks=60, overlap=3), set()
    url = cluster.url(f"restart{uuid.uuid4().hex[:8]}")
    prepare(tmp_path, url, load)
    site = open_site(Settings(folder=tmp_path, database=url))
    with serving(create_site(site)) as address:
        workers, threads = start_work(address, load.labelers, acknowledged)
        for _ in range(2):
            time.sleep(0.5)
            cluster.restart_hard()
        for thread in threads:
            thread.join(GIVE_UP_SECONDS)
    check(url, load, workers, acknowledged)


@pytest.mark.postgres
def test_a_stopped_postgres_is_told_and_the_draft_is_kept(tmp_path, cluster):
    site = open_site(Settings(folder=tmp_path, database=cluster.url(f"stop{uuid.uuid4().hex[:8]}")))
    add_batch(site)
    add_person(site, "lea")
    lea = Browser(site, "lea")
    task = lea.next()
    lea.put(f"/api/assignments/{task['assignment']}/draft", {"comment": "half done"})
    cluster.stop("immediate")
    reply = lea.submit(task["assignment"], answer_to(task), key="sent-in-the-dark")
    assert reply.status_code == 503 and "Your draft is kept" in reply.json()["message"]
    cluster.start()
    assert lea.next()["draft"]["comment"] == "half done"
    assert (
        lea.submit(task["assignment"], answer_to(task), key="sent-in-the-dark").status_code == 200
    )
    site.database.close()


def test_a_locked_database_is_waited_for_then_told(site):
    """Another program holds the write lock longer than we wait: 503 with Retry-After; the same key
    works later.
    """
    add_batch(site)
    add_person(site, "lea")
    hasty = replace(site, database=Database(site.settings.database_url, busy_timeout=0.2))
    lea = Browser(hasty, "lea")
    task = lea.next()
    other = sqlite3.connect(site.settings.folder / "labeling.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    reply = lea.submit(task["assignment"], answer_to(task), key="while-it-is-locked")
    assert (
        reply.status_code == 503
        and reply.headers["retry-after"]
        and "Your draft is kept" in reply.json()["message"]
    )
    other.execute("ROLLBACK")
    assert (
        lea.submit(task["assignment"], answer_to(task), key="while-it-is-locked").status_code == 200
    )


def test_a_short_lock_is_only_waited_for(site):
    add_batch(site)
    add_person(site, "lea")
    lea = Browser(site, "lea")
    task = lea.next()
    other = sqlite3.connect(
        site.settings.folder / "labeling.sqlite", isolation_level=None, check_same_thread=False
    )
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.5, lambda: other.execute("ROLLBACK")).start()
    assert lea.submit(task["assignment"], answer_to(task)).status_code == 200


def fill_database(site: Site) -> None:
    """From now on SQLite may not grow: its own "database or disk is full"."""

    def freeze(connection, _record) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(site.database.engine, "connect", freeze)
    site.database.engine.dispose()


def test_a_full_disk_is_told_and_the_draft_is_kept(site):
    add_batch(site)
    add_person(site, "lea")
    lea = Browser(site, "lea")
    task = lea.next()
    path = f"/api/assignments/{task['assignment']}/draft"
    lea.put(path, {"comment": "half done"})
    fill_database(site)
    replies = [lea.put(path, {"comment": "x" * 9000}) for _ in range(3)]
    assert replies[-1].status_code == 507 and "disk is full" in replies[-1].json()["message"]
    assert (
        lea.get(f"/api/assignments/{task['assignment']}").json()["draft"]["comment"] == "half done"
    )


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A real file system of two megabytes; skips where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_an_answer_to_a_full_disk_goes_through_when_there_is_room(small_disk):
    site = open_site(Settings(folder=small_disk))
    add_batch(site)
    add_person(site, "lea")
    lea = Browser(site, "lea")
    task = lea.next()
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    long = answer_to(task) | {"comment": "x" * 9000}
    codes = {
        lea.submit(task["assignment"], long, key="to-a-full-disk").status_code for _ in range(3)
    }
    assert codes == {507}
    ballast.unlink()
    assert lea.submit(task["assignment"], long, key="to-a-full-disk").json()["new"]
    site.database.close()
