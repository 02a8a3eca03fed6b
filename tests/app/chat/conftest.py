"""The chat page served for real on a run in miniature, and a headless browser that looks at it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.evaluate import Config
from podium.sampling.embedded import EmbeddedSampler
from tests.evals.miniature import make_run

CHROMIUM = os.environ.get("PODIUM_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chat_run(tokenizer, tmp_path_factory) -> Path:
    """A run with base, SFT, reward, PPO-ptx and plain PPO."""
    return make_run(tmp_path_factory.mktemp("runs"), tokenizer, Config())[1]


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; skips visibly where there is none. Of one file: no second Playwright may
    start beside it.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; set PODIUM_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Votes:
    """Keeps votes and questions in lists, as the labeling database would."""

    def __init__(self) -> None:
        self.kept: list[tuple] = []
        self.asked: list[tuple] = []
        self.thumbs: list[tuple] = []
        self.blind: list[tuple] = []  # beside each vote: whether it was blind, the right's history

    def record(
        self, prompt, left, right, choice, generators, person, blind=False, right_prompt=None
    ) -> int:
        self.blind.append((blind, right_prompt))
        self.kept.append((prompt, left, right, choice, generators, person))
        return len(self.kept)

    def ask(self, prompt, responses, generators, person) -> int:
        self.asked.append((prompt, responses, generators, person))
        return 1

    def react(self, prompt, answer, generator, thumb, person, message_id=None) -> int:
        self.thumbs.append((prompt, answer, generator, thumb, message_id))
        return message_id or len(self.thumbs)


@pytest.fixture(scope="session")
def votes() -> Votes:
    return Votes()


@pytest.fixture(autouse=True)
def no_votes_yet(votes) -> None:
    """What another test recorded is forgotten."""
    for kept in (votes.kept, votes.asked, votes.thumbs, votes.blind):
        kept.clear()


@pytest.fixture(scope="session")
def address(chat_run, votes) -> Iterator[str]:
    """Where the page is served."""
    from app.chat.alone import build_server
    from app.serving import serving

    with serving(build_server(chat_run, votes=votes)) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """A fresh visit; every address the browser asked for is in `page.requested`."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(address)
    page.wait_for_selector("#message textarea")
    yield page
    context.close()


@pytest.fixture
def slowly(monkeypatch) -> None:
    """Tokens come at the pace of a large model, so that there is time to press Stop."""
    stream = EmbeddedSampler.stream

    def delayed(self, prompt, params):
        for token in stream(self, prompt, params):
            time.sleep(0.03)
            yield token

    monkeypatch.setattr(EmbeddedSampler, "stream", delayed)
