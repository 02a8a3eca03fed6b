"""A world's simulated labelers at work through the same HTTP API that people's browsers use.

Each has an account and a thread: log in, read the instructions, take a task, rate, rank, submit or
skip, until nothing is left. What comes back is ordinary rankings, so the loop from checkpoints to a
reward model runs without people.
"""

import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from sqlalchemy import select

from app.labeling import accounts
from app.labeling.forms import SKIP_REASONS
from app.labeling.importing import Candidates
from app.labeling.site import Site
from app.labeling.tables import Person
from data.records import Message, Prompt
from data.worlds import Labeler
from podium.errors import PodiumError

PATIENCE_SECONDS = 60.0


class LabelerClient:
    """One logged-in person as a program: the calls that the page's JavaScript makes."""

    def __init__(
        self, address: str, handle: str, password: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.http = httpx.Client(base_url=address, timeout=PATIENCE_SECONDS, transport=transport)
        reply = self._checked(
            self.http.post("/api/login", json={"handle": handle, "password": password})
        )
        self.http.headers["X-CSRF-Token"] = reply["csrf_token"]

    def next(self) -> dict[str, Any]:
        """The next task, after saying that new instructions were read; `kind` is task, writing or
        empty.
        """
        found = self._checked(self.http.post("/api/next"))
        while found["kind"] == "instructions":
            self._checked(self.http.post(f"/api/instructions/{found['id']}/read"))
            found = self._checked(self.http.post("/api/next"))
        return found

    def submit(
        self, assignment: int, answer: dict[str, Any], key: str | None = None
    ) -> dict[str, Any]:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._checked(
            self.http.post(f"/api/assignments/{assignment}/submit", json=answer, headers=headers)
        )

    def skip(self, assignment: int, reason: str) -> None:
        self._checked(
            self.http.post(f"/api/assignments/{assignment}/skip", json={"reason": reason})
        )

    def close(self) -> None:
        self.http.close()

    @staticmethod
    def _checked(reply: httpx.Response) -> Any:
        if reply.is_error:
            raise PodiumError(
                f"{reply.request.method} {reply.request.url} answered {reply.status_code}: "
                f"{reply.text}"
            )
        return reply.json()


def judge(
    labeler: Labeler, prompt: Prompt, task: dict[str, Any], rng: random.Random
) -> dict[str, Any] | str:
    """What the labeler sends: an answer for the task's form, or the reason to skip it."""
    shown = task["responses"]
    said = labeler.rank(prompt, [response["text"] for response in shown], rng)
    if said.skipped is not None:
        return said.skipped if said.skipped in SKIP_REASONS else "other"
    asked = {flag["name"] for flag in task["form"]["response_flags"]}
    tiers: list[list[int]] = [[] for _ in shown]
    for response, rank in zip(shown, said.ranks, strict=True):
        tiers[rank - 1].append(response["position"])
    return {
        "tiers": tiers,
        "active_seconds": float(rng.randint(20, 200)),
        "responses": [
            {
                "position": response["position"],
                "likert": points if task["form"]["likert"] else None,
                "flags": sorted(asked & set(flags)),
            }
            for response, points, flags in zip(shown, said.likert, said.flags, strict=True)
        ],
    }


def prompts_of(candidates: Iterable[Candidates]) -> dict[str, Prompt]:
    """Prompts as the world knows them (with their constraints in `meta`), by the text that the site
    shows.
    """
    return {
        message_key([m.model_dump() for m in c.prompt]): Prompt(
            messages=c.prompt,
            user=c.user,
            use_case=c.use_case,
            source=c.source,
            id=c.id,
            meta=c.meta,
        )
        for c in candidates
    }


def message_key(messages: list[dict[str, str]]) -> str:
    return json.dumps([[m["role"], m["content"]] for m in messages])


def work(
    address: str,
    labeler: Labeler,
    handle: str,
    password: str,
    prompts: dict[str, Prompt],
    seed: int,
    told: Callable[[str], None] = lambda kind: None,
) -> Counter[str]:
    """One labeler answers until nothing is left for them; counts what they did."""
    rng = random.Random(f"{seed}-{labeler.name}")
    client = LabelerClient(address, handle, password)
    done: Counter[str] = Counter()
    try:
        while (task := client.next())["kind"] in ("task", "writing"):
            if task["kind"] == "writing":  # they only rank
                client.skip(task["assignment"], "other")
                continue
            key = message_key(task["prompt"])
            prompt = prompts.get(key) or Prompt(messages=[Message(**m) for m in task["prompt"]])
            answer = judge(labeler, prompt, task, rng)
            kind = "skipped" if isinstance(answer, str) else "answered"
            if isinstance(answer, str):
                client.skip(task["assignment"], answer)
            else:
                client.submit(task["assignment"], answer)
            done[kind] += 1
            told(kind)
    finally:
        client.close()
    return done


def add_simulated(site: Site, labelers: Sequence[Labeler]) -> dict[str, str]:
    """An account for each labeler that has none; returns passwords by handle, fresh ones
    for all.
    """
    passwords = {}
    for labeler in labelers:
        password = uuid.uuid4().hex
        passwords[labeler.name] = password
        with site.database.write() as session:
            person = session.scalar(select(Person).where(Person.handle == labeler.name))
            if person is None:
                accounts.add_person(
                    session, labeler.name, password, "labeler", labeler.cohort, time.time()
                )
            else:
                person.password_hash = accounts.HASHER.hash(password)
    return passwords


def simulate(
    site: Site,
    address: str,
    labelers: Sequence[Labeler],
    candidates: Iterable[Candidates],
    seed: int = 0,
    told: Callable[[str], None] = lambda kind: None,
) -> Counter[str]:
    """All labelers at once until no task is left; counts answers and skips."""
    passwords, prompts = add_simulated(site, labelers), prompts_of(candidates)
    with ThreadPoolExecutor(len(labelers)) as pool:
        jobs = [
            pool.submit(
                work, address, labeler, labeler.name, passwords[labeler.name], prompts, seed, told
            )
            for labeler in labelers
        ]
        return sum((job.result() for job in jobs), Counter())
