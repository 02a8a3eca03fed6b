"""What is sent to the site before anybody knows whether it is welcome: its size, its nesting, its
packing, its names.
"""

import gzip
import json
import tempfile

import pytest
from sqlalchemy import select

from app import middleware
from app.labeling import admin_routes, importing
from app.labeling.site import Settings, open_site
from app.labeling.tables import EventLog
from app.labeling.task_tables import Batch
from podium.errors import DataError
from tests.app.labeling.making import PASSWORD, Browser, add_batch, add_person

LINE = json.dumps({"prompt": [{"role": "user", "content": "Q"}], "responses": ["a", "b"]})


@pytest.fixture
def spooled(monkeypatch) -> list[int]:
    """Bytes that uploads wrote into temporary files."""
    written: list[int] = []
    real = tempfile.SpooledTemporaryFile.write

    def write(self, data):
        written.append(len(data))
        return real(self, data)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", write)
    return written


@pytest.mark.parametrize("who", ["stranger", "labeler"])
def test_a_long_body_is_not_read_from_whom_it_is_not_welcome(site, browser, spooled, who):
    """Seen red: the whole upload was on the disk before the 401, and before a labeler's 403."""
    client = Browser(site) if who == "stranger" else browser("lea")
    fields = {"name": "b", "csrf_token": client.token, "cohorts": "train"}
    files = {"file": ("t.jsonl", (LINE + "\n") * 40_000)}
    reply = client.http.post("/admin/batches", data=fields, files=files)
    assert reply.status_code == 401 and sum(spooled) == 0
    small = client.http.post("/admin/batches", data=fields, files={"file": ("t.jsonl", LINE)})
    assert small.status_code == (401 if who == "stranger" else 403)


def test_a_body_without_a_length_is_cut_off_early_for_strangers(site, spooled):
    """Seen red: it was read up to the limit of members."""
    sent: list[int] = []

    def endless():
        for _ in range(200):
            sent.append(2**15)
            yield b"x" * 2**15

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for path in ("/admin/batches", "/api/login", "/api/next"):
        reply = Browser(site).http.post(path, content=endless(), headers=kind)
        assert 400 <= reply.status_code < 500 and "error" not in reply.text.lower(), reply.text
    assert sum(spooled) <= 2 * middleware.MAX_STRANGER
    login = json.dumps({"handle": "lea", "password": PASSWORD}).encode()
    add_person(site, "lea")
    chunked = Browser(site).http.post(
        "/api/login", content=iter([login]), headers={"Content-Type": "application/json"}
    )
    assert chunked.status_code == 200  # a proxy may send a login so


def test_a_packed_file_is_measured_before_it_is_unpacked(site, browser, monkeypatch, tmp_path):
    """Seen red: 2.6 MB became 600 MB in memory, and more as records."""
    monkeypatch.setattr(admin_routes, "MAX_UPLOAD", 2**20)
    ada = browser("ada", role="admin")

    def upload(content: bytes, name: str):
        fields = {"name": name, "csrf_token": ada.token, "cohorts": "train"}
        return ada.http.post(
            "/admin/batches", data=fields, files={"file": ("t.jsonl.gz", gzip.compress(content))}
        )

    bomb = upload((LINE + "\n").encode() * 100_000, "bomb")
    assert bomb.status_code == 422 and "unpacks to more than 1 MiB" in bomb.text
    assert upload((LINE + "\n").encode() * 10, "good").status_code == 303
    two = tmp_path / "two.jsonl.gz"  # several members, each of them small
    two.write_bytes(gzip.compress(b"x" * 600_000) * 2)
    with pytest.raises(DataError, match="more than 1 MiB"):
        importing.check_unpacked(two, 2**20)
    importing.check_unpacked(two, 2**21)
    two.write_bytes(gzip.compress(b"x" * 600_000)[:-50])
    assert upload(b"", "empty").status_code == 422


def test_deeply_nested_json_is_a_clear_refusal(site, browser):
    """Seen red: a RecursionError, and with it a 500."""
    deep = "[" * 100_000 + "]" * 100_000
    ada = browser("ada", role="admin")
    add_batch(site)
    task = ada.next()
    for path in ("/api/next", f"/api/assignments/{task['assignment']}/submit", "/api/login"):
        headers = {"Content-Type": "application/json", "Idempotency-Key": "k" * 10}
        reply = ada.http.post(path, content=deep, headers=headers | {"X-CSRF-Token": ada.token})
        assert reply.status_code in (200, 400, 413, 422), (path, reply.status_code)
    fields = {"name": "deep", "csrf_token": ada.token, "cohorts": "train"}
    for line in (deep, LINE[:-1] + f', "meta": {{"a": {deep}}}}}'):
        reply = ada.http.post("/admin/batches", data=fields, files={"file": ("t.jsonl", line)})
        assert reply.status_code == 422 and "t.jsonl, line 1" in reply.text
    assert ada.form("/admin/forms", name="f", body=deep).status_code == 422


@pytest.mark.parametrize("name", ["two\nlines", "a\rb", "tab\there", "\u2028", "  ", "\x00", ""])
def test_names_are_one_line(site, browser, name):
    """Seen red: a batch of two lines was made, and stood so in logs and file lists."""
    ada = browser("ada", role="admin")
    fields = {"name": name, "csrf_token": ada.token, "cohorts": "train"}
    reply = ada.http.post("/admin/batches", data=fields, files={"file": ("t.jsonl", LINE)})
    assert reply.status_code == 422 and "name" in reply.text
    assert ada.form("/admin/instructions", name=name, body="Be fair.").status_code == 422
    with site.database.read() as session:
        assert session.scalars(select(Batch)).all() == []


def test_failed_logins_and_changes_are_in_the_event_log(site, browser):
    """Seen red: of these only the export was."""
    ada = browser("ada", role="admin")
    lea = add_person(site, "lea")
    Browser(site).post("/api/login", json={"handle": "lea", "password": "a wrong password"})
    ada.form("/admin/instructions", name="mine", body="Be fair.")
    ada.form("/admin/forms", name="short", body="{}")
    ada.form(f"/admin/people/{lea}/role", role="researcher", cohort="heldout")
    ada.form("/admin/people/invite", role="labeler", cohort="train")
    ada.form("/admin/people/invites/1/revoke")
    ada.form(f"/admin/people/{lea}/reset")
    ada.form("/account/password", old=PASSWORD, new="four unrelated words here")
    with site.database.read() as session:
        kinds = list(session.scalars(select(EventLog.kind)))
        failed = session.scalars(select(EventLog).where(EventLog.kind == "login failed")).one()
    assert failed.detail["handle"] == "lea" and failed.detail["address"]
    expected = {"instructions", "form", "role changed", "invite", "invite revoked"}
    assert expected | {"reset link made", "password changed"} <= set(kinds)


def test_a_forgotten_password_is_set_anew_through_the_page(site, browser):
    ada = browser("ada", role="admin")
    lea = add_person(site, "lea")
    page = ada.form(f"/admin/people/{lea}/reset").text
    link = page.partition('<code id="link">')[2].partition("</code>")[0]
    stranger = Browser(site)
    path = link.removeprefix("http://127.0.0.1:8000")
    assert "A new password for lea" in stranger.get(path).text
    assert stranger.http.post(path, data={"password": "password123"}).status_code == 422
    assert stranger.http.post(path, data={"password": "four unrelated words"}).status_code == 303
    assert stranger.get("/api/me").json()["handle"] == "lea"
    assert Browser(site).http.post(path, data={"password": "another five words"}).status_code == 410


def test_links_are_made_of_the_sites_own_name(tmp_path, monkeypatch):
    """A browser may claim any host name. Seen red: the invitation led to the claimed one."""
    monkeypatch.setenv("PODIUM_SECRET", "s" * 40)
    local = open_site(Settings(folder=tmp_path))
    add_person(local, "ada", role="admin")
    for names, start in (
        ((), "/invite/"),
        (("label.example.org",), "https://label.example.org/invite/"),
    ):
        site = open_site(Settings(folder=tmp_path, host="0.0.0.0", https=True, names=names))
        ada = Browser(site)
        ada.http.base_url = "https://label.example.org"
        reply = ada.post("/api/login", json={"handle": "ada", "password": PASSWORD})
        ada.token = reply.json()["csrf_token"]
        forged = {"Host": "evil.example"} if not names else {}
        page = ada.http.post(
            "/admin/people/invite",
            data={"role": "labeler", "cohort": "train", "csrf_token": ada.token},
            headers=forged,
        ).text
        assert f'<code id="link">{start}' in page and "evil" not in page


def test_https_is_insisted_on_where_there_is_a_proxy_that_speaks_it(tmp_path):
    """Seen red without the header."""
    for https in (True, False):
        site = open_site(Settings(folder=tmp_path, https=https))
        reply = Browser(site).get("/login")
        assert ("strict-transport-security" in reply.headers) is https


@pytest.mark.parametrize(
    ("wished", "place"),
    [
        ("/chat/", "/chat/"),
        ("/work/12", "/work/12"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\n/b", "/"),
    ],
)
def test_a_login_leads_back_to_the_page_that_asked_for_it(site, wished, place):
    add_person(site, "lea")
    sent = {"handle": "lea", "password": PASSWORD, "next": wished}
    assert Browser(site).http.post("/login", data=sent).headers["location"] == place
    asked = Browser(site).get("/admin/exports")
    assert asked.headers["location"] == "/login?next=/admin/exports"


def test_a_login_throttles_over_http_and_a_known_browser_comes_in(site):
    """Seen red: ten wrong passwords of anybody closed the handle to everybody."""
    add_person(site, "lea")
    known = Browser(site, "lea")
    guesser = Browser(site)
    for _ in range(40):
        guesser.post("/api/login", json={"handle": "lea", "password": "wrong wrong"})
    known.http.cookies.delete("podium_session")
    sent = {"handle": "lea", "password": PASSWORD}
    assert guesser.post("/api/login", json=sent).status_code == 429
    assert known.post("/api/login", json=sent).status_code == 200
