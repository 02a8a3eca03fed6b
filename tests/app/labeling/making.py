"""People, tasks and answers for the tests of the labeling site, and a logged-in client."""

import time
import uuid

from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from app.labeling import accounts, tokens
from app.labeling.application import create_site
from app.labeling.importing import BatchRules, Candidates, add_tasks, create_batch
from app.labeling.site import Site
from app.labeling.task_tables import Batch
from data.records import Message

PASSWORD = "right horse battery"
ADDRESS = "http://127.0.0.1:8000"


def add_person(site: Site, handle: str, role: str = "labeler", cohort: str = "train") -> int:
    with site.database.write() as session:
        return accounts.add_person(session, handle, PASSWORD, role, cohort, time.time()).id


def candidates(count: int, k: int = 4, **fields) -> list[Candidates]:
    """`count` prompts with k different answers each, by four models in turn."""
    return [
        Candidates(
            prompt=[Message(role="user", content=f"Question {n}?")],
            responses=[f"Answer {i} to {n}." for i in range(k)],
            generators=[f"model-{i % 4}" for i in range(k)],
            **fields,
        )
        for n in range(count)
    ]


def add_batch(
    site: Site, count: int = 3, k: int = 4, records: list[Candidates] | None = None, **rules
) -> Batch:
    with site.database.write() as session:
        batch = create_batch(session, BatchRules(**({"name": "batch"} | rules)), time.time())
        add_tasks(session, batch, records or candidates(count, k))
        return batch


def answer_to(task: dict, order: list[int] | None = None) -> dict:
    """A complete answer: each response on its own tier in the given order of positions (default: as
    numbered).
    """
    positions = order or sorted(r["position"] for r in task["responses"])
    return {
        "tiers": [[p] for p in positions],
        "responses": [
            {"position": p, "likert": 7 - min(i, 6), "flags": []} for i, p in enumerate(positions)
        ],
        "active_seconds": 30.0,
    }


def every_route(site: Site) -> list[APIRoute]:
    """The application's own table of routes, those of included routers too."""
    found, waiting = [], list(create_site(site).routes)
    while waiting:
        route = waiting.pop()
        waiting += getattr(getattr(route, "original_router", None), "routes", [])
        if isinstance(route, APIRoute):
            found.append(route)
    return found


def token_for(site: Site, *scopes: str, by: int | None = None, days: int = 1) -> str:
    """A token with these scopes; with every one where none is named."""
    with site.database.write() as session:
        wish = tokens.wish_of("a program", scopes or tokens.SCOPES, days)
        return tokens.make_token(session, wish, by, time.time())


class Browser:
    """A TestClient that is one person: logged in, with the CSRF token at hand."""

    def __init__(self, site: Site, handle: str | None = None) -> None:
        self.http = TestClient(create_site(site), base_url=ADDRESS, follow_redirects=False)
        self.token = ""
        if handle is not None:
            reply = self.http.post("/api/login", json={"handle": handle, "password": PASSWORD})
            assert reply.status_code == 200, reply.text
            self.token = reply.json()["csrf_token"]

    def get(self, path: str, **options):
        return self.http.get(path, **options)

    def post(self, path: str, json=None, headers: dict | None = None, **options):
        return self.http.post(
            path, json=json, headers={"X-CSRF-Token": self.token} | (headers or {}), **options
        )

    def form(self, path: str, **fields):
        return self.http.post(path, data=fields | {"csrf_token": self.token})

    def put(self, path: str, json=None):
        return self.http.put(path, json=json, headers={"X-CSRF-Token": self.token})

    def next(self) -> dict:
        """The next task; new instructions are read on the way."""
        found = self.post("/api/next").json()
        if found["kind"] == "instructions":
            assert self.post(f"/api/instructions/{found['id']}/read").status_code == 200
            found = self.post("/api/next").json()
        return found

    def submit(self, assignment: int, answer: dict, key: str | None = None, verb: str = "submit"):
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self.post(f"/api/assignments/{assignment}/{verb}", json=answer, headers=headers)
