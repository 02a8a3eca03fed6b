"""One server, one login: the chat stands behind the labeling site's session."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.labeling.site import Settings, Site, open_site
from app.server import build_server
from benchmarks.labeling import free_port, wait_until_up
from podium.models import save_model
from tests.app.labeling.making import ADDRESS, PASSWORD, add_person

CHAT_PATHS = ("/chat/", "/chat/config", "/chat/gradio_api/info")


@pytest.fixture
def site(tmp_path, tiny_llama, tokenizer) -> Site:
    """A site that serves the chat with one tiny model."""
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    site = open_site(Settings(folder=tmp_path / "labeling", run=tmp_path / "model"))
    add_person(site, "lea")
    return site


def test_the_chat_needs_the_labeling_login_and_one_is_enough(site):
    from fastapi.testclient import TestClient

    with TestClient(build_server(site), base_url=ADDRESS, follow_redirects=False) as client:
        for path in CHAT_PATHS:
            assert client.get(path).status_code == 401, path
        client.cookies.set("podium_session", "forged")
        assert client.get("/chat/").status_code == 401
        client.cookies.clear()
        token = client.post("/api/login", json={"handle": "lea", "password": PASSWORD}).json()[
            "csrf_token"
        ]
        page = client.get("/chat/")
        assert page.status_code == 200 and "Podium chat" in page.text
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert not re.findall(
            r"(?:src|href)=\"https?://(?!127\.0\.0\.1)[^\"]*\.(?:js|css|woff2?)", page.text
        )
        assert "talk to the models" in client.get("/").text
        refused = client.post(
            "/chat/gradio_api/queue/join", json={}, headers={"Origin": "https://evil.example"}
        )
        assert refused.status_code == 403
        client.post("/logout", data={"csrf_token": token})
        assert client.get("/chat/").status_code == 401


def test_the_chat_takes_no_files(site):
    """Whatever one person put there, every other could read. Seen red: 200, and the other read it."""
    from fastapi.testclient import TestClient

    with TestClient(build_server(site), base_url=ADDRESS, follow_redirects=False) as client:
        client.post("/api/login", json={"handle": "lea", "password": PASSWORD})
        for path in ("/chat/gradio_api/upload", "/chat/gradio_api/upload/"):
            reply = client.post(path, files={"files": ("secret.txt", b"mine")})
            assert reply.status_code in (307, 403), reply.text


def test_without_a_run_there_is_no_chat(tmp_path):
    from fastapi.testclient import TestClient

    site = open_site(Settings(folder=tmp_path))
    add_person(site, "lea")
    with TestClient(build_server(site), base_url=ADDRESS) as client:
        client.post("/api/login", json={"handle": "lea", "password": PASSWORD})
        assert (
            client.get("/chat").status_code == 404
            and "talk to the models" not in client.get("/").text
        )


@pytest.mark.browser
def test_the_chat_works_in_a_browser_and_a_vote_reaches_the_labeling_database(site, tmp_path):
    """Log in on the labeling site, go to the chat, say something to two models, vote; nothing
    leaves this machine.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("chromium is not installed")
    from sqlalchemy import select

    from app.labeling.chat_tables import Vote
    from app.labeling.tables import Person
    from app.serving import serving

    with (
        serving(build_server(site)) as address,
        sync_api.sync_playwright() as playwright,
    ):
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
        ]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/login")
        page.fill("input[name=handle]", "lea")
        page.fill("input[name=password]", PASSWORD)
        page.click("main button")
        page.click("text=talk to the models")
        page.fill("#message textarea", "Hello")
        page.click("#send")
        page.click("text=Left is better", timeout=60_000)
        sync_api.expect(page.locator("#votes")).to_be_hidden(timeout=20_000)
        browser.close()
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
    with site.database.read() as session:
        vote = session.scalars(select(Vote)).one()
        assert vote.choice == "left" and session.get_one(Person, vote.person_id).handle == "lea"


def children_of(parent: int) -> list[int]:
    """Living processes started by `parent`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, its_parent = file.read_text().rpartition(")")[2].split()[:2]
            if int(its_parent) == parent and state != "Z":
                found.append(int(file.parent.name))
    return sorted(found)


def is_alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.slow
def test_several_processes_serve_one_port_and_go_with_their_parent(tmp_path):
    """One that dies is started again. Killed with -9, the parent says no farewell: its children see
    that it is gone, and the port is free for the next.

    Stopped, it ends by its signal, as one process alone does. Seen red without `watch` in the
    children: they live on; and with uvicorn's own supervisor: exit code 0.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "app.labeling.cli",
        "serve",
        "--folder",
        str(tmp_path),
        "--port",
        str(port),
        "--workers",
        "2",
    ]
    for end, codes in (
        (signal.SIGKILL, {-9}),
        (signal.SIGTERM, {-15, 143}),
        (signal.SIGINT, {-2, 130}),
    ):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until_up(f"http://127.0.0.1:{port}", process)
        first = children_of(process.pid)
        os.kill(first[-1], signal.SIGKILL)
        wait_for(lambda: len(set(children_of(process.pid)) - set(first)) == 1)  # noqa: B023
        children = first + children_of(process.pid)
        wait_until_up(f"http://127.0.0.1:{port}", process)
        process.send_signal(end)
        assert process.wait(30) in codes
        wait_for(lambda: not any(is_alive(child) for child in children))  # noqa: B023
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")
