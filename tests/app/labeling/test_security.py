"""Who reaches what: every route of the application under every role, and requests that are not what
they seem.
"""

import re
import time

import pytest

from app.labeling import throttle
from app.labeling.access import COOKIE
from app.labeling.site import Settings, open_site
from podium.errors import PodiumError
from tests.app.labeling.making import (
    ADDRESS,
    PASSWORD,
    Browser,
    add_batch,
    add_person,
    answer_to,
    candidates,
    every_route,
)

PUBLIC = {"/healthz", "/login", "/api/login", "/invite/{token}", "/reset/{token}"}
ADMIN_ONLY = ("/admin/people", "/admin/events", "/admin/programs")


def needed_role(path: str) -> str:
    """The rule the site promises, told apart from how it is built."""
    if path in PUBLIC:
        return "nobody"
    if path.startswith(ADMIN_ONLY):
        return "admin"
    return "researcher" if path.startswith(("/admin", "/api/admin")) else "labeler"


def all_routes(site) -> list[tuple[str, str]]:
    """(method, path) of every route in the application's own table."""
    return sorted(
        (method, route.path) for route in every_route(site) for method in route.methods - {"HEAD"}
    )


def concrete(path: str) -> str:
    return re.sub(r"{\w+}", "1", path)


def test_authorisation_matrix_over_every_route(site):
    """401 or a way to the login for strangers, 403 for too small a role, never for a sufficient
    one.

    Mutation seen red: `Labeler` in place of `Researcher` on one admin route.
    """
    clients: dict[str, Browser] = {"nobody": Browser(site)}
    for role in ("labeler", "researcher", "admin"):
        add_person(site, role, role=role)
        clients[role] = Browser(site, role)
    ranks = list(clients)
    routes = all_routes(site)
    assert len(routes) > 30
    for method, path in routes:
        if path in ("/logout", "/account/password"):
            continue  # they end the session; tested below
        for role, client in clients.items():
            reply = client.http.request(
                method, concrete(path), headers={"X-CSRF-Token": client.token}
            )
            told_to_log_in = reply.status_code == 401 or (
                reply.status_code == 303 and reply.headers["location"].startswith("/login")
            )
            case = f"{method} {path} as {role}: {reply.status_code}"
            if ranks.index(role) >= ranks.index(needed_role(path)):
                assert reply.status_code != 403 and reply.status_code < 500, case
                assert not told_to_log_in or path in PUBLIC, case
            elif role == "nobody":
                assert told_to_log_in, case
            else:
                assert reply.status_code == 403, case


def test_logging_out_and_a_new_password_need_a_login(site, browser):
    assert Browser(site).post("/logout").status_code == 401
    lea = browser("lea")
    assert (
        lea.form("/account/password", old=PASSWORD, new="another long password").status_code == 303
    )
    assert lea.get("/api/me").status_code == 401


def test_nobody_reaches_anothers_work(site, browser):
    """Every route that names an assignment answers 404 to everybody but its owner, researchers
    included.
    """
    add_batch(site)
    lea, ben, ada = browser("lea"), browser("ben"), browser("ada", role="admin")
    task = lea.next()
    routes = [(method, path) for method, path in all_routes(site) if "{assignment_id}" in path]
    assert len(routes) >= 6
    written = {"turns": [{"role": "assistant", "content": "So."}]}
    bodies = {"submit": answer_to(task), "revise": answer_to(task), "draft": answer_to(task)}
    for method, path in routes:
        ranked = bodies.get(path.rsplit("/", 1)[1], {"reason": "other"})
        body = written if path.startswith("/api/writing") else ranked
        for other in (ben, ada):
            reply = other.http.request(
                method,
                path.replace("{assignment_id}", str(task["assignment"])),
                json=None if method == "GET" else body,
                headers={"X-CSRF-Token": other.token, "Idempotency-Key": "somebody-else"},
            )
            assert reply.status_code == 404, f"{method} {path}: {reply.status_code}"
    assert lea.submit(task["assignment"], answer_to(task)).status_code == 200


def test_labelers_are_not_told_who_wrote_an_answer(site, browser):
    add_batch(site)
    text = browser("lea").post("/api/next").text + str(Browser(site, "lea").next())
    assert "model-" not in text and "generator" not in text


def test_changes_need_the_token_of_this_session(site, browser):
    """Mutation seen red: comparing only where a token was sent."""
    add_batch(site)
    lea, ben = browser("lea"), browser("ben")
    for token in ("", "forged", ben.token, lea.token + "x"):
        assert lea.post("/api/next", headers={"X-CSRF-Token": token}).status_code == 403
    assert lea.http.post("/api/next").status_code == 403
    assert lea.http.post("/logout", data={"csrf_token": ben.token}).status_code == 403
    assert lea.post("/api/next").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_from_other_sites_are_refused_even_with_a_token(site, browser, headers):
    lea = browser("lea")
    assert lea.post("/api/next", headers=headers).status_code == 403
    login = Browser(site).http.post(
        "/login", data={"handle": "lea", "password": PASSWORD}, headers=headers
    )
    assert login.status_code == 403


def test_the_sites_own_origin_is_accepted(browser):
    headers = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    assert browser("lea").post("/api/next", headers=headers).status_code == 200


def test_forged_replayed_and_expired_sessions(site, browser, monkeypatch):
    lea = browser("lea")
    stolen = lea.http.cookies[COOKIE]
    other = Browser(site)
    other.http.cookies.set(COOKIE, stolen[:-1] + ("A" if stolen[-1] != "A" else "B"))
    assert other.get("/api/me").status_code == 401
    assert lea.form("/logout").status_code == 303
    replay = Browser(site)
    replay.http.cookies.set(COOKIE, stolen)
    assert replay.get("/api/me").status_code == 401
    late = Browser(site, "lea")
    begun = time.time()
    monkeypatch.setattr("app.labeling.access.time.time", lambda: begun + 15 * 86400)
    assert late.get("/api/me").status_code == 401


def test_a_login_makes_a_fresh_session_and_a_careful_cookie(site):
    add_person(site, "lea")
    client = Browser(site)
    client.http.cookies.set(COOKIE, "chosen-by-an-attacker")
    reply = client.http.post("/login", data={"handle": "lea", "password": PASSWORD})
    cookie = reply.headers["set-cookie"]
    assert reply.status_code == 303 and "chosen-by-an-attacker" not in cookie
    assert "HttpOnly" in cookie and "samesite=lax" in cookie.lower() and "Secure" not in cookie


def test_behind_https_the_cookie_is_secure(tmp_path):
    site = open_site(Settings(folder=tmp_path, https=True))
    add_person(site, "lea")
    reply = Browser(site).http.post("/login", data={"handle": "lea", "password": PASSWORD})
    assert "Secure" in reply.headers["set-cookie"]


def test_sessions_survive_a_restart(site, browser):
    lea = browser("lea")
    again = open_site(site.settings)
    restarted = Browser(again)
    restarted.http.cookies.update(lea.http.cookies)
    assert restarted.get("/api/me").json()["handle"] == "lea"


def test_every_page_carries_the_policy_and_is_not_cached(site, browser):
    for reply in (
        Browser(site).get("/login"),
        browser("lea").get("/work"),
        Browser(site).get("/nowhere"),
    ):
        policy = reply.headers["content-security-policy"]
        assert (
            "script-src 'self'" in policy
            and "unsafe" not in policy
            and "frame-ancestors 'none'" in policy
        )
        assert (
            reply.headers["x-content-type-options"] == "nosniff"
            and reply.headers["cache-control"] == "no-store"
        )


def test_pages_hold_no_inline_script_or_style(site, browser):
    """The policy would block them; so there must be none."""
    add_batch(site)
    ada = browser("ada", role="admin")
    for method, path in all_routes(site):
        if method == "GET" and "{" not in path:
            page = ada.get(path).text
            assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page), path


def test_only_local_host_names_are_answered_on_loopback(site):
    reply = Browser(site).get("/login", headers={"Host": "rebound.example:8000"})
    assert reply.status_code == 400


def test_a_wider_address_needs_an_admin_and_a_secret(tmp_path, monkeypatch):
    monkeypatch.delenv("PODIUM_SECRET", raising=False)
    wide = Settings(folder=tmp_path, host="0.0.0.0")
    with pytest.raises(PodiumError, match="no secret"):
        open_site(wide)
    monkeypatch.setenv("PODIUM_SECRET", "short")
    with pytest.raises(PodiumError, match="no secret"):
        open_site(wide)
    monkeypatch.setenv("PODIUM_SECRET", "s" * 40)
    with pytest.raises(PodiumError, match="no admin"):
        open_site(wide)
    local = open_site(Settings(folder=tmp_path))
    add_person(local, "ada", role="admin")
    assert open_site(wide).secret == "s" * 40


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_neither(tmp_path, host):
    assert open_site(Settings(folder=tmp_path, host=host)).secret


def test_text_is_only_ever_text(site, browser):
    """Model text travels as JSON to the labeler and escaped to the admin."""
    right_to_left, owls = "\u202eabc \u0645\u0631\u062d\u0628\u0627", "\U0001f989" * 3
    nasty = ["<script>alert(1)</script>", "${1234*2} {{1234*2}} {% raw %}", right_to_left, owls]
    records = [candidates(1)[0].model_copy(update={"responses": nasty})]
    add_batch(site, records=records, overlap=2)
    for handle, backwards in (("lea", False), ("<b>ben</b>"[3:6], True)):
        worker = browser(handle)
        task = worker.next()
        assert sorted(r["text"] for r in task["responses"]) == sorted(nasty)
        answer = answer_to(
            task, sorted((r["position"] for r in task["responses"]), reverse=backwards)
        )
        assert worker.submit(task["assignment"], answer | {"comment": nasty[0]}).status_code == 200
    ada = browser("ada", role="admin")
    for path in ("/admin/disputed", "/admin/labelers"):
        page = ada.get(path).text
        assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    page = ada.get("/admin/disputed").text
    assert (
        "${1234*2} {{1234*2}}" in page
        and "2468" not in page
        and owls in page
        and right_to_left in page
    )


def test_an_answer_of_a_million_characters_comes_through_whole(site, browser):
    long = "word " * 200_000
    add_batch(
        site, records=[candidates(1, k=2)[0].model_copy(update={"responses": [long, "short"]})]
    )
    assert {r["text"] for r in browser("lea").next()["responses"]} == {long, "short"}


def test_bodies_over_the_limit_are_refused(browser):
    lea = browser("lea")
    large = lea.http.post(
        "/api/next", content=b"x" * (3 * 2**20), headers={"X-CSRF-Token": lea.token}
    )
    assert large.status_code == 413

    def endless():
        for _ in range(40):
            yield b"x" * 2**16

    put = lea.http.put(
        "/api/assignments/1/draft", content=endless(), headers={"X-CSRF-Token": lea.token}
    )
    assert 400 <= put.status_code < 500


def test_throttled_logins_say_when_to_come_back(site):
    add_person(site, "lea")
    client = Browser(site)
    codes = [
        client.post("/api/login", json={"handle": "lea", "password": "wrong"}).status_code
        for _ in range(throttle.FREE_FAILURES + 1)
    ]
    assert codes == [401] * throttle.FREE_FAILURES + [429]
    last = client.post("/api/login", json={"handle": "lea", "password": PASSWORD})
    assert last.status_code == 429 and int(last.headers["retry-after"]) > 0
