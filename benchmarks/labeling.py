"""Load on the labeling site: 100 labelers with two tabs each, every answer posted three times in
parallel.

    python -m benchmarks.labeling [--labelers 100] [--tasks 400] [--written 0] [--overlap 3]
                                  [--think 8] [--workers 1] [--view rendered] [--only sqlite]

The site runs as a process of its own (or as `--workers` of them), on SQLite and then on a private
PostgreSQL; the load comes from one more process on the same machine, so both share its processors.
Afterwards the database is counted: every acknowledged answer is there, no task has more than it
wanted, counters equal a recount. The last line is one JSON object; p95_next_seconds is what a
labeler waits for "next task", whole replies, from a load that has already logged in.

Think time. A person reads four to nine answers, rates each, ticks boxes and ranks: minutes. 100
people at two minutes a task ask for less than one task a second. `--think` is the mean of an
exponential for each of the 200 tabs, so the default of 8 s is a load some thirty times as heavy as
a hundred people are, and 2 s one of about a hundred times. Every client waits for its replies, so a
server that falls behind is asked less often.

`--written` adds so many tasks that are written: answers, edits and dialogues in turn, of which the
last begin with a suggestion. They are handed out first, and whoever writes also keeps a draft.

Beside the labelers a program with a token goes round and round the HTTP API, as a dashboard and a
nightly copy would: batches, tasks, and every new answer page by page.
"""

import argparse
import asyncio
import json
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from sqlalchemy import func, select

from app.labeling import accounts, tokens
from app.labeling.database import Database
from app.labeling.importing import BatchRules, Candidates, add_tasks, create_batch
from app.labeling.queue import recount
from app.labeling.seeds import Seed, add_writing, writing_rules
from app.labeling.site import Settings, open_site
from app.labeling.tables import Person
from app.labeling.task_tables import InstructionRead, InstructionSet, Submission, Task
from benchmarks.private_postgres import find_binaries, private_cluster
from data.records import Message

TABS, COPIES = 2, 3
PASSWORD = "a password for load"
LOGINS_AT_ONCE = 8
PROGRAM_SECONDS = 2.0
WRITTEN = ("demonstration", "edit", "dialogue")


@dataclass
class Load:
    """What is asked of the site, and what came back."""

    labelers: int = 100
    tasks: int = 400
    written: int = 0
    overlap: int = 3
    think: float = 8.0
    workers: int = 1
    view: Literal["text", "rendered"] = "text"
    next_seconds: list[float] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    statuses: Counter = field(default_factory=Counter)
    token: str = ""  # of the program beside them


def prepare(folder: Path, database: str | None, load: Load) -> None:
    """Accounts, instructions read, a batch of rankings, and those that are written."""
    site = open_site(Settings(folder=folder, database=database))
    rng = random.Random(0)
    # one hash for all: a hundred would take ten seconds
    shared_hash = accounts.HASHER.hash(PASSWORD)
    with site.database.write() as session:
        people = [
            Person(handle=f"load-{n}", password_hash=shared_hash, role="labeler", cohort="train")
            for n in range(load.labelers)
        ]
        session.add_all(people)
        for nth, kind in enumerate(WRITTEN):
            seeds = [written_seed(kind, n) for n in range(nth, load.written, len(WRITTEN))]
            if seeds:
                wanted = {"name": kind, "kind": kind, "overlap": load.overlap}
                add_writing(session, writing_rules(wanted), seeds)
        rules = BatchRules(name="load", overlap=load.overlap, view=load.view)
        batch = create_batch(session, rules, time.time())
        records = [
            Candidates(
                prompt=[Message(role="user", content=f"Question {n}: which answer is best?")],
                responses=[
                    f"**Answer** {k} to $x_{{{n}}}$. " + "word " * rng.randint(20, 120)
                    for k in range(rng.randint(4, 9))
                ],
            )
            for n in range(load.tasks)
        ]
        add_tasks(session, batch, records)
        instructions = session.scalars(select(InstructionSet.id)).all()
        session.add_all(
            [
                InstructionRead(person_id=person.id, instruction_set_id=one)
                for person in people
                for one in instructions
            ]
        )
        wish = tokens.wish_of("load", ("read", "export"), 1)
        load.token = tokens.make_token(session, wish, None, time.time())
    site.database.close()


def written_seed(kind: str, n: int) -> Seed:
    """An edit has one answer, a dialogue two to begin with."""
    answers = {"demonstration": [], "edit": ["One."], "dialogue": ["One.", "Two."]}[kind]
    return Seed(
        prompt=[Message(role="user", content=f"Question {n}: what is so?")], responses=answers
    )


@contextmanager
def server(
    folder: Path, database: str | None, workers: int = 1
) -> Iterator[tuple[str, subprocess.Popen]]:
    """The site as a process of its own (or several); yields its address."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "app.labeling.cli",
        "serve",
        "--folder",
        str(folder),
        "--port",
        str(port),
        "--workers",
        str(workers),
    ]
    process = subprocess.Popen(
        command + (["--database", database] if database else []), stdout=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(address, process)
        yield address, process
    finally:
        process.terminate()
        process.wait(30)


def wait_until_up(address: str, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            httpx.get(f"{address}/healthz", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise RuntimeError("the server did not answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def run_load(address: str, load: Load) -> None:
    """Everybody at once; returns when nobody gets a task any more."""
    gate = asyncio.Semaphore(LOGINS_AT_ONCE)
    limits = httpx.Limits(max_connections=TABS * COPIES, max_keepalive_connections=TABS * COPIES)
    clients = [
        httpx.AsyncClient(base_url=address, timeout=120, limits=limits)
        for _ in range(load.labelers)
    ]

    async def login(n: int) -> None:
        async with gate:
            reply = await clients[n].post(
                "/api/login", json={"handle": f"load-{n}", "password": PASSWORD}
            )
            clients[n].headers["X-CSRF-Token"] = reply.raise_for_status().json()["csrf_token"]

    await asyncio.gather(*(login(n) for n in range(load.labelers)))
    copying = asyncio.create_task(program(address, load))
    await asyncio.gather(
        *(
            tab(clients[n], random.Random(f"{n}/{t}"), load)
            for n in range(load.labelers)
            for t in range(TABS)
        )
    )
    copying.cancel()
    await asyncio.gather(copying, return_exceptions=True)
    await asyncio.gather(*(client.aclose() for client in clients))


async def tab(client: httpx.AsyncClient, rng: random.Random, load: Load) -> None:
    """One browser tab. Two tabs of a person hold the same task; one answers it, the other is told
    so (409).
    """
    await asyncio.sleep(rng.random() * load.think)
    while True:
        begun = time.perf_counter()
        reply = await client.post("/api/next")
        load.next_seconds.append(time.perf_counter() - begun)
        load.statuses[f"next {reply.status_code}"] += 1
        task = reply.raise_for_status().json()
        if task["kind"] not in ("task", "writing"):
            return
        thinking = rng.expovariate(1 / load.think) if load.think else 0.0
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if task["kind"] == "writing":
            path = f"/api/writing/{task['assignment']}/submit"
            answer = await write(client, task["assignment"], thinking, load)
        else:
            await asyncio.sleep(thinking)
            path = f"/api/assignments/{task['assignment']}/submit"
            answer = random_answer(task, rng)
        replies = await asyncio.gather(
            *(client.post(path, json=answer, headers=headers) for _ in range(COPIES))
        )
        load.statuses.update(f"submit {r.status_code}" for r in replies)
        load.acknowledged.update(r.json()["saved"] for r in replies if r.status_code == 200)


async def write(
    client: httpx.AsyncClient, assignment: int, thinking: float, load: Load
) -> dict[str, Any]:
    """Read the task, take a suggestion where there is one, keep a draft; what is sent then."""
    place = f"/api/writing/{assignment}"
    task = (await client.get(place)).raise_for_status().json()
    turn: dict[str, Any] = {"role": "assistant", "content": f"An answer of {uuid.uuid4().hex}."}
    if task["suggests"]:
        # refused while this person's other tab is asking (429)
        reply = await client.post(f"{place}/suggestions", json={"turns": [], "round": 0})
        load.statuses[f"suggest {reply.status_code}"] += 1
        if reply.status_code == 200:
            turn["suggestion"] = reply.json()["suggestions"][0]["id"]
    await asyncio.sleep(thinking / 2)
    draft = await client.put(f"{place}/draft", json={"turns": [], "text": turn["content"]})
    load.statuses[f"draft {draft.status_code}"] += 1
    await asyncio.sleep(thinking / 2)
    return {"turns": [turn], "active_seconds": 30.0}


async def program(address: str, load: Load) -> None:
    """What goes on over the HTTP API meanwhile; an error of it ends the load."""
    headers = {"Authorization": f"Bearer {load.token}"}
    async with httpx.AsyncClient(
        base_url=f"{address}/api/v1", headers=headers, timeout=120
    ) as client:
        after = 0
        while True:
            for path in ("batches", "tasks?limit=20", f"records?after={after}&limit=50"):
                reply = await client.get(f"/{path}")
                load.statuses[f"api {reply.status_code}"] += 1
                reply.raise_for_status()
            after = reply.json()["next"] or after
            await asyncio.sleep(PROGRAM_SECONDS)


def random_answer(task: dict, rng: random.Random) -> dict:
    """A ranking with ties, rated and flagged at random."""
    positions = [r["position"] for r in task["responses"]]
    tiers: list[list[int]] = [[] for _ in positions]
    for position in positions:
        rng.choice(tiers).append(position)
    flags = [flag["name"] for flag in task["form"]["response_flags"]]
    return {
        "tiers": tiers,
        "active_seconds": 30.0,
        "responses": [
            {
                "position": p,
                "likert": rng.randint(1, 7),
                "flags": rng.sample(flags, min(2, len(flags))),
            }
            for p in positions
        ],
    }


def verdict(database_url: str, load: Load) -> dict[str, float]:
    """Count the database against what was acknowledged. Raises AssertionError when counters and
    rows differ.
    """
    database = Database(database_url)
    with database.read() as session:
        ids = set(session.scalars(select(Submission.id).where(Submission.revision == 1)))
        assignments = (
            session.scalar(select(func.count(func.distinct(Submission.assignment_id)))) or 0
        )
        surplus = func.coalesce(func.sum(Task.n_done - Task.need), 0)
        over = session.scalar(select(surplus).where(Task.n_done > Task.need))
        wrong = recount(session)
    database.close()
    if wrong:
        raise AssertionError(f"counters of tasks {wrong[:5]} differ from their rows")
    return {
        "wanted": (load.tasks + load.written) * load.overlap,
        "stored": len(ids),
        "lost": len(load.acknowledged - ids),
        "doubled": len(ids) - assignments + int(over or 0),
        "p95_next_seconds": round(p95(load.next_seconds), 4),
    }


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def measure(name: str, database: str | None, load: Load) -> dict[str, float]:
    """Prepare, serve, load, count."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), database, load)
        begun = time.monotonic()
        own = cpu_seconds(resource.RUSAGE_SELF)
        servers = cpu_seconds(resource.RUSAGE_CHILDREN)
        with server(Path(folder), database, load.workers) as (address, _):
            asyncio.run(run_load(address, load))
            wall = time.monotonic() - begun
        own = cpu_seconds(resource.RUSAGE_SELF) - own
        servers = cpu_seconds(resource.RUSAGE_CHILDREN) - servers
        found = verdict(database or f"sqlite:///{folder}/labeling.sqlite", load)
    median = sorted(load.next_seconds)[len(load.next_seconds) // 2]
    print(
        f"{name}: {sum(load.statuses.values())} requests in {wall:.0f} s, median of "
        f"{len(load.next_seconds)} next "
        f"{median:.3f} s; CPU: server {servers:.0f} s, load generator {own:.0f} s; "
        f"{dict(sorted(load.statuses.items()))}"
    )
    return found


def cpu_seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--labelers", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument(
        "--written", type=int, default=0, help="tasks that are written, beside them"
    )
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--think", type=float, default=8.0, help="mean seconds over a task")
    parser.add_argument("--workers", type=int, default=1, help="server processes")
    parser.add_argument("--view", choices=["text", "rendered"], default="text")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    given = parser.parse_args()
    result = {}
    size = {
        name: getattr(given, name)
        for name in ("labelers", "tasks", "written", "overlap", "think", "workers", "view")
    }
    if given.only != "postgresql":
        result["sqlite"] = measure("sqlite", None, Load(**size))
    binaries = find_binaries()
    if given.only != "sqlite" and binaries is None:
        print("postgresql: initdb is not installed here, left out")
    elif given.only != "sqlite" and binaries is not None:
        with private_cluster(binaries) as cluster:
            result["postgresql"] = measure("postgresql", cluster.url("load"), Load(**size))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
