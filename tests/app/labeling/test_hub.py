"""Exports on the hub, through huggingface_hub itself and a server that speaks the hub's HTTP."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from app.labeling.cli import app as label_app
from app.labeling.tables import EventLog
from data.records import Ranking
from tests.app.labeling.making import add_batch, answer_to
from tests.app.labeling.test_writing import PROMPT, next_writing, send, turn, written_batch

TOKEN = "hf_" + "a" * 34


class Hub:
    """The few routes that a push needs; files of the last commit, and who asked."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.created: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []  # path, authorization
        self.refuse: tuple[int, str] | None = None
        self.address = ""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.refuse is not None and "validate-yaml" not in path:
            return self.refuse[0], {"error": self.refuse[1]}
        if path == "/api/repos/create":
            wish = json.loads(body)
            self.created.append(wish)
            name = f"{wish['organization']}/{wish['name']}"
            return 200, {"url": f"{self.address}/datasets/{name}"}
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]
            }
        if path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    content = base64.b64decode(part["value"]["content"]).decode()
                    self.files[part["value"]["path"]] = content
            place = path.removeprefix("/api").removesuffix("/main")
            return 200, {"commitUrl": f"{self.address}{place}/c0ffee", "commitOid": "c0ffee"}
        return 200, {"errors": [], "warnings": []}


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.asked.append((self.path, self.headers.get("Authorization", "")))
            status, reply = found.answer(self.path, body)
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", found.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield found
    server.shutdown()
    server.server_close()


def push(site, *words: str):
    folder = str(site.settings.folder)
    return CliRunner().invoke(label_app, ["push", *words, "--folder", folder])


def test_a_batch_becomes_a_data_set_with_a_card(site, browser, hub):
    """What the hub has are records under pseudonyms, and a card whose front matter names the file;
    the token went to the hub and nowhere else.

    Mutation seen red: handles in place of pseudonyms in the export.
    """
    add_batch(site, count=2, name="first")
    lea = browser("lea-the-labeler")
    for _ in range(2):
        task = lea.next()
        lea.submit(task["assignment"], answer_to(task))
    done = push(site, "first", "--to", "acme/rankings")
    assert done.exit_code == 0, done.output
    assert f"{hub.address}/datasets/acme/rankings" in done.output
    assert hub.created[0]["type"] == "dataset" and hub.created[0]["name"] == "rankings"
    assert hub.created[0]["organization"] == "acme" and "public" not in str(hub.created)
    card, name = hub.files["README.md"], "data/export-0001-rankings.jsonl"
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"] == [{"config_name": "rankings", "data_files": name}]
    assert "## Export 1: rankings" in card and "sha256" in card
    rows = [Ranking.model_validate_json(line) for line in hub.files[name].splitlines()]
    assert len(rows) == 2 and "lea-the-labeler" not in str(hub.files)
    assert {who for path, who in hub.asked if "yaml" not in path} == {f"Bearer {TOKEN}"}
    with site.database.read() as session:
        kept = [json.dumps(row.detail) for row in session.query(EventLog)]
    assert any("acme/rankings" in detail for detail in kept)
    kept += [p.read_text(errors="replace") for p in site.settings.folder.rglob("*") if p.is_file()]
    assert not any(TOKEN in text for text in [*kept, done.output])


def test_what_is_pushed_follows_the_kind_of_batch(site, browser, hub):
    written_batch(site, "demonstration", {"prompt": PROMPT})
    lea = browser("lea")
    send(lea, next_writing(lea)["assignment"], [turn("assistant", "So.")])
    assert push(site, "demonstration", "--to", "acme/texts", "--public").exit_code == 0
    assert "data/export-0001-demonstrations.jsonl" in hub.files
    again = push(site, "demonstration", "--to", "acme/texts", "--kind", "comparisons")
    assert again.exit_code != 0 and "nothing to export" in again.output


def test_refusals_are_told_in_a_sentence(site, browser, hub, monkeypatch):
    add_batch(site, count=1)
    lea = browser("lea")
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task))
    for name in ("acme", "acme/../x", "a/b/c", "-a/b"):
        assert "is no name of a data set" in push(site, "batch", "--to", name).output
    assert "there is no batch" in push(site, "other", "--to", "acme/x").output.lower()
    hub.refuse = (403, "You don't have the rights")
    refused = push(site, "batch", "--to", "acme/x")
    assert refused.exit_code != 0 and "the hub answered 403" in refused.output
    assert "rights" in refused.output and TOKEN not in refused.output
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in push(site, "batch", "--to", "acme/x").output
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in push(site, "batch", "--to", "acme/x").output
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("app.labeling.hub.get_token", lambda: None)
    assert "no token for the hub" in push(site, "batch", "--to", "acme/x").output
