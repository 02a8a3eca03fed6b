"""The HTTP API for programs: who may call what, what it accepts, and that it says what the pages
and the commands say.
"""

import json
import logging
import re
import time

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from typer.testing import CliRunner

from app.labeling import accounts, tokens
from app.labeling.application import create_site
from app.labeling.cli import app
from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.exporting import make_export
from app.labeling.importing import read_candidates
from app.labeling.problems import Problem
from app.labeling.tables import ApiToken, EventLog
from app.labeling.task_tables import Batch
from app.middleware import MAX_STRANGER
from data.jsonl import write_jsonl
from tests.app.labeling.making import (
    ADDRESS,
    Browser,
    add_batch,
    add_person,
    answer_to,
    candidates,
    every_route,
    token_for,
)

API = "/api/v1"
BODIES = {  # that would be accepted, so that a refusal is for the token
    ("post", "/batches"): {
        "name": "new",
        "records": [{"prompt": [{"role": "user", "content": "Q"}], "responses": ["a", "b"]}],
    },
    ("post", "/batches/writing"): {"name": "talks", "records": [{"brief": "Talk."}]}
    | {"kind": "dialogue"},
    ("post", "/batches/{batch_id}/state"): {"state": "paused"},
    ("post", "/batches/{batch_id}/screening"): {"screening": False},
    ("post", "/exports"): {},
    ("post", "/invitations"): {},
}


class Program:
    """A TestClient with a token and nothing else."""

    def __init__(self, site, token: str | None = None, **headers: str) -> None:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self.http = TestClient(
            create_site(site), base_url=ADDRESS + API, headers=headers, follow_redirects=False
        )

    def get(self, path: str, **query):
        return self.http.get(path, params=query)

    def post(self, path: str, body=None):
        return self.http.post(path, json=body)


def documented(site) -> list[tuple[str, str, list[str]]]:
    """(method, path, scopes) of every route, as the OpenAPI names them."""
    paths = Program(site).get("/openapi.json").json()["paths"]
    return [
        (method, path, route["security"][0]["token"])
        for path, methods in paths.items()
        for method, route in methods.items()
    ]


def call(program: Program, method: str, path: str, token: str | None):
    body = BODIES.get((method, path))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    sent = {} if body is None else {"json": body}
    return program.http.request(method, re.sub(r"{\w+}", "1", path), headers=headers, **sent)


def answered(site, count: int = 3, **rules) -> Browser:
    add_batch(site, count=count, **rules)
    add_person(site, "lea")
    lea = Browser(site, "lea")
    while (task := lea.next())["kind"] == "task":
        assert lea.submit(task["assignment"], answer_to(task)).status_code == 200
    return lea


def test_every_route_wants_its_scope(site):
    """401 without a token, 403 with all other scopes, neither with the one that OpenAPI names.

    Mutation seen red: `Read` in place of `Export` on the records.
    """
    answered(site)
    make_export(site.database, site.exports, "rankings", ExportFilter(), None, time.time())
    routes = documented(site)
    assert len(routes) >= 17
    program, everything = Program(site), token_for(site)
    alone = {scope: token_for(site, scope) for scope in tokens.SCOPES}
    others = {
        scope: token_for(site, *(other for other in tokens.SCOPES if other != scope))
        for scope in tokens.SCOPES
    }
    for method, path, scopes in routes:
        case = f"{method} {path}"
        for token in (None, "podium_forged"):
            assert call(program, method, path, token).status_code == 401, case
        for scope in scopes:
            refused = call(program, method, path, others[scope])
            assert refused.status_code == 403 and scope in refused.json()["message"], case
            good = call(program, method, path, alone[scope])
            assert good.status_code < 300 or good.json()["code"] == "not_found", case
        assert call(program, method, path, everything).status_code not in (401, 403), case
    expected = {"/records": "export", "/batches": "read", "/people": "people"}
    named = {path: scopes[0] for method, path, scopes in routes if method == "get" and scopes}
    assert expected.items() <= named.items()


def test_a_cookie_opens_no_route_of_the_api_and_a_token_no_page(site, browser):
    """So no page of another site can make a browser call the API, and a leaked token is no login.

    Mutation seen red: the API's caller looked for in the cookie too.
    """
    ada = browser("ada", role="admin")
    for method, path, _ in documented(site):
        concrete = API + re.sub(r"{\w+}", "1", path)
        reply = ada.http.request(method, concrete, headers={"X-CSRF-Token": ada.token})
        assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    token = token_for(site)
    client = TestClient(create_site(site), base_url=ADDRESS, follow_redirects=False)
    pages = [
        r for r in every_route(site) if r.path.startswith(("/admin", "/api/", "/work", "/mine"))
    ]
    assert len(pages) > 25
    for route in pages:
        if route.path == "/api/login":
            continue
        for method in route.methods:
            path = re.sub(r"{\w+}", "1", route.path)
            headers = {"Authorization": f"Bearer {token}", "Cookie": f"podium_session={token}"}
            assert client.request(method, path, headers=headers).status_code in (401, 303), path


def test_a_token_ends_when_it_expires_is_revoked_or_its_maker_is_no_admin(site, monkeypatch):
    """Mutation seen red: the maker's role not asked for."""
    ada = add_person(site, "ada", role="admin")
    add_person(site, "bob", role="admin")
    program = Program(site, token_for(site, "read", by=ada))

    def status() -> int:
        return program.get("/batches").status_code

    def change(what, *values) -> None:
        with site.database.write() as session:
            what(session, *values)

    assert status() == 200
    change(accounts.change_person, ada, "researcher", "train", None, 1.0)
    assert status() == 401
    change(accounts.change_person, ada, "admin", "train", None, 1.0)
    assert status() == 200
    change(accounts.set_disabled, ada, True, 1.0)
    assert status() == 401
    change(accounts.set_disabled, ada, False, 1.0)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86400 + 1)
    assert status() == 401
    monkeypatch.setattr(time, "time", real)
    assert status() == 200
    change(tokens.revoke_token, 1, ada, real())
    assert status() == 401
    with site.database.write() as session, pytest.raises(Problem, match="no token"):
        tokens.revoke_token(session, 1, ada, real())


def test_a_token_is_shown_once_and_stands_nowhere(site, browser, caplog):
    """Neither it nor its hash: not in pages, lists, events, exports, logs, or the OpenAPI.

    Mutation seen red: the hash in the event's detail.
    """
    caplog.set_level(logging.DEBUG)
    folder = ["--folder", str(site.settings.folder)]
    made = CliRunner().invoke(
        app, ["token", "add", "nightly", "--scope", "read", "--scope", "export", *folder]
    )
    by_command = made.output.strip()
    assert made.exit_code == 0 and by_command.startswith("podium_")
    ada = browser("ada", role="admin")
    page = ada.form("/admin/programs/tokens", name="by page", scopes="export", days="5").text
    by_page = page.partition('<code id="token">')[2].partition("<")[0]
    answered(site)
    for token in (by_command, by_page):
        assert Program(site, token).post("/exports", {}).status_code == 201
        assert Program(site, token + "x").get("/token").status_code == 401
    with site.database.read() as session:
        rows = session.scalars(select(ApiToken)).all()
        hashes = [row.token_hash for row in rows]
        events = session.scalars(select(EventLog)).all()
        assert all(row.last_used_at and time.time() - row.last_used_at < 60 for row in rows)
        kinds = [event.kind for event in events]
        assert kinds.count("token made") == 2 and kinds.count("api") == 2
    listed = CliRunner().invoke(app, ["token", "list", *folder]).output
    assert "nightly" in listed and "read,export" in listed and "by ada" in listed
    places = [listed, ada.get("/admin/programs").text, ada.get("/admin/events").text]
    assert "nightly" in places[1] and "read, export" in places[1]
    places += [ada.get(f"{API}/openapi.json").text, ada.get("/admin/exports").text, caplog.text]
    places += [path.read_text() for path in site.exports.iterdir()]
    places += [json.dumps([event.detail for event in events])]
    for secret in [by_command, by_page, *hashes]:
        assert not any(secret in place for place in places)
    assert CliRunner().invoke(app, ["token", "revoke", "1", *folder]).exit_code == 0
    assert ada.form("/admin/programs/tokens/2/revoke").status_code == 303
    assert Program(site, by_command).get("/token").status_code == 401
    assert Program(site, by_page).get("/token").status_code == 401
    assert "revoked" in ada.get("/admin/programs").text


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (("", ["read"], 5), "name"),
        (("two\nlines", ["read"], 5), "name"),
        (("n", [], 5), "scopes"),
        (("n", ["everything"], 5), "scopes.0"),
        (("n", ["read"], 0), "days"),
        (("n", ["read"], 10**6), "days"),
    ],
)
def test_what_a_token_cannot_be(wish, field):
    with pytest.raises(Problem) as refused:
        tokens.wish_of(*wish)
    assert refused.value.field == field and refused.value.fix


def test_a_long_body_is_read_from_a_token_that_may_import_alone(site):
    """Mutation seen red: any token. The refusal is JSON, as all of them."""
    long = "x" * (2 * MAX_STRANGER)
    body = {"name": "b", "records": [c.model_dump(exclude_none=True) for c in candidates(1)]}
    body["records"][0]["responses"][0] = long
    for program in (Program(site), Program(site, token_for(site, "read", "export", "manage"))):
        refused = program.post("/batches", body)
        assert refused.status_code == 401 and refused.json()["code"] == "refused"
    assert Program(site, token_for(site, "import")).post("/batches", body).status_code == 201


def test_refusals_name_field_and_fix(site):
    program = Program(site, token_for(site))
    good = candidates(3)[0].model_dump(exclude_none=True)

    def refusal(**changes) -> tuple[int, str, str]:
        body = {"name": "b", "records": [good, good | changes.pop("record", {})]} | changes
        reply = program.post("/batches", body)
        said = reply.json()
        assert set(said) == {"code", "message", "field", "fix"}
        assert (
            said["field"] is None or said["field"] in said["message"] or "Record" in said["message"]
        )
        return reply.status_code, said["field"], said["fix"]

    assert refusal(overlap=0) == (422, "overlap", "correct the value")
    assert refusal(overlp=2) == (422, "overlp", "remove it, or correct its name")
    assert refusal(name=None)[:2] == (422, "name")
    assert refusal(record={"responses": ["a"]})[:2] == (422, "records.1.responses")
    assert refusal(record={"prompt": [{"role": "user"}]}) == (
        422,
        "records.1.prompt.0.content",
        "add it",
    )
    ranked = {"ranks": [1, 2, 3, "4"]}
    assert refusal(record=ranked)[:2] == (422, "records.1.ranks.3")
    assert refusal(record={"responses": list("abcdefghij"), "generators": None})[:2] == (
        422,
        "records.1",
    )
    assert refusal(record={"meta": {"a": "\x00"}})[:2] == (422, "records.1")
    kept = {"ranks": [1, 2, 3, 4], "meta": {"imported": {"id": 3}}}
    assert refusal(record=kept)[:2] == (422, "records.1.meta.imported.id")
    kind = {"Content-Type": "application/json"}
    raw = program.http.post("/batches", content="{", headers=kind).json()
    assert raw["fix"] == "send one JSON object" and raw["field"] is None
    not_finite = json.dumps({"name": "b", "records": [good | {"meta": {"a": float("inf")}}]})
    raw = program.http.post("/batches", content=not_finite, headers=kind)
    assert raw.status_code == 422 and "NaN" in raw.json()["message"]
    with site.database.read() as session:
        assert session.scalars(select(Batch)).all() == []


def test_the_api_and_the_command_import_and_refuse_the_same(site, tmp_path):
    """Every kind of record: what a file gives is what a body gives, and what a file is refused for
    a body is too.
    """
    program = Program(site, token_for(site))
    lea = answered(site, count=2, name="source")
    assert lea.next()["kind"] == "empty"
    with site.database.read() as session:
        ranked = collect_rankings(session, ExportFilter())
    for name, records, gold in (
        ("plain", candidates(2, split="train", meta={"a": [1]}, id="x"), False),
        ("ranked", ranked, False),
        ("gold", ranked, True),
    ):
        path = tmp_path / f"{name}.jsonl"
        write_jsonl(path, records)
        options = ["--name", f"{name} by file", "--overlap", "2", "--folder", str(tmp_path)]
        done = CliRunner().invoke(
            app, ["import", str(path), *options, *(["--gold"] if gold else [])]
        )
        assert done.exit_code == 0, done.output
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        body = {"name": f"{name} by body", "overlap": 2, "records": rows, "gold": gold}
        made = program.post("/batches", body)
        assert made.status_code == 201, made.text
        assert made.json()["tasks"] == len(read_candidates(path, gold)) == 2
    found = program.get("/tasks", limit=500).json()["items"]
    for name in ("plain", "ranked", "gold"):
        one, two = (
            [
                {k: v for k, v in t.items() if k not in ("id", "batch")}
                for t in found
                if t["batch"] == b
            ]
            for b in (f"{name} by file", f"{name} by body")
        )
        assert one == two and len(one) == 2
    twice = program.post("/batches", {"name": "plain by body", "records": rows})
    assert twice.status_code == 422 and twice.json()["code"] == "batch_exists"


def test_pages_of_tasks_and_records_hold_everything_once(site):
    """Mutation seen red: `>=` in the question what comes after."""
    answered(site, count=5)
    program = Program(site, token_for(site))
    with site.database.read() as session:
        rankings = collect_rankings(session, ExportFilter())
    for path, whole in (("/records", [r.id for r in rankings]), ("/tasks", [1, 2, 3, 4, 5])):
        seen, after = [], 0
        while after is not None:
            page = program.get(path, after=after, limit=2).json()
            assert len(page["items"]) <= 2
            seen += [item["id"] for item in page["items"]]
            after = page["next"]
        assert seen == whole
    one = program.get("/records", limit=1).json()["items"][0]
    assert {k: v for k, v in one.items() if v is not None} == json.loads(
        rankings[0].model_dump_json(exclude_none=True)
    )
    assert program.get("/records", batch="no such").json() == {
        "items": [],
        "next": None,
        "broken": [],
    }
    assert program.get("/records", cohort="everybody").status_code == 422
    assert program.get("/tasks", limit=0).json()["field"] == "limit"


def test_labelers_are_pseudonyms_and_admins_are_not_made(site):
    """Mutation seen red: the handle in place of the pseudonym."""
    answered(site)
    program = Program(site, token_for(site))
    for path in ("/labelers", "/records", "/agreement", "/results", "/tasks", "/batches"):
        assert "lea" not in re.findall(r"\w+", program.get(path).text), path
    assert program.get("/labelers").json()[0]["answers"] == 3
    refused = program.post("/invitations", {"role": "admin"})
    assert refused.status_code == 422 and refused.json()["field"] == "role"
    made = program.post("/invitations", {"role": "researcher", "cohort": "heldout"}).json()
    assert made["link"].startswith(f"{ADDRESS}/invite/")
    listed = program.get("/invitations").json()
    assert [row["id"] for row in listed] == [made["id"]] and "link" not in listed[0]
    assert program.http.delete(f"/invitations/{made['id']}").status_code == 204
    assert program.get("/invitations").json() == []
    assert Browser(site).get(made["link"].removeprefix(ADDRESS)).status_code == 410
    assert [row["handle"] for row in program.get("/people").json()] == ["lea"]


def test_a_batch_is_withdrawn_and_restored_and_the_log_says_by_which_token(site):
    ada = add_person(site, "ada", role="admin")
    answered(site)
    program = Program(site, token_for(site, by=ada))
    for state, then in (("withdrawn", "withdrawn"), ("deleted", "deleted"), ("restored", "paused")):
        reply = program.post("/batches/1/state", {"state": state})
        assert reply.json() == {"state": then}
        listed = [row["state"] for row in program.get("/batches").json()]
        assert listed == ([] if then == "deleted" else [then])
    assert program.post("/batches/1/state", {"state": "restored"}).status_code == 409
    assert program.post("/batches/9/state", {"state": "open"}).status_code == 404
    with site.database.read() as session:
        told = session.scalars(select(EventLog).where(EventLog.kind == "api")).all()
    assert told[0].person_id == ada and told[0].detail == {
        "token": 1,
        "name": "a program",
        "call": f"POST {API}/batches/1/state",
    }


def test_an_export_is_streamed_and_gone_when_its_file_is(site):
    answered(site)
    program = Program(site, token_for(site, "export"))
    made = program.post("/exports", {"batches": ["batch"]}).json()
    assert program.get(f"/exports/{made['id']}").json() == made
    assert [row["id"] for row in program.get("/exports").json()] == [made["id"]]
    file = program.get(f"/exports/{made['id']}/file")
    assert len(file.text.splitlines()) == made["rows"] == 3
    assert file.content == (site.exports / made["file"]).read_bytes()
    assert made["sha256"] in program.get(f"/exports/{made['id']}/card").text
    (site.exports / made["file"]).unlink()
    assert program.get(f"/exports/{made['id']}/file").json()["code"] == "file_gone"
    nothing = program.post("/exports", {"batches": ["none"]})
    assert nothing.status_code == 422 and nothing.json()["code"] == "nothing_to_export"


def test_the_api_is_described_by_a_page_without_scripts(site):
    """Under the site's own policy, which would block them; every route and scope is on it."""
    reply = Program(site).get("/docs")
    assert reply.status_code == 200 and "<script" not in reply.text
    assert "script-src 'self'" in reply.headers["content-security-policy"]
    assert not re.findall(r'(?:src|href)="https?:', reply.text)
    for method, path, scopes in documented(site):
        assert f"{method.upper()} {API}{path}" in reply.text
        assert all(f"<strong>{scope}</strong>" in reply.text for scope in scopes)
    described = Program(site).get("/openapi.json").json()
    assert described["servers"] == [{"url": API}]
    for methods in described["paths"].values():
        for route in methods.values():
            assert route["description"] and "4XX" in route["responses"]
            good = next(v for k, v in route["responses"].items() if k.startswith("2"))
            assert "content" in good or route["responses"].get("204")


def test_a_page_of_another_site_is_refused_even_with_a_token(site):
    token = token_for(site)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        reply = Program(site, token, **headers).post("/exports", {})
        assert reply.status_code == 403 and reply.json()["code"] == "refused"
