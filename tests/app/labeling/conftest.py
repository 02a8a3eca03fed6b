"""A labeling site of its own for every test, on SQLite and, where its binaries are installed, on
PostgreSQL; and a headless Chromium in front of it.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from app.labeling import accounts
from app.labeling.application import create_site
from app.labeling.site import Settings, Site, open_site
from app.serving import serving
from benchmarks.private_postgres import Cluster, find_binaries, private_cluster
from tests.app.labeling.making import Browser, add_person

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
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
def cluster() -> Iterator[Cluster]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server binaries (initdb) are not installed")
    with private_cluster(binaries) as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request, tmp_path) -> str:
    """An empty database; a test that takes it runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'labeling.sqlite'}"
    return request.getfixturevalue("cluster").url(f"t{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def quick_passwords(monkeypatch) -> None:
    """Argon2 with the smallest parameters: its strength is not what these tests are about."""
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(accounts, "HASHER", quick)
    monkeypatch.setattr(accounts, "UNKNOWN_HASH", quick.hash("nobody"))


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    """An opened site on SQLite."""
    opened = open_site(Settings(folder=tmp_path))
    yield opened
    opened.database.close()


@pytest.fixture
def any_site(tmp_path, database_url) -> Iterator[Site]:
    """An opened site on either database."""
    opened = open_site(Settings(folder=tmp_path, database=database_url))
    yield opened
    opened.database.close()


@pytest.fixture
def browser(site) -> Callable[..., Browser]:
    """`browser("lea")` makes the person (a labeler unless told) and logs them in."""

    def make(handle: str, role: str = "labeler", cohort: str = "train") -> Browser:
        add_person(site, handle, role, cohort)
        return Browser(site, handle)

    return make


@pytest.fixture(scope="module")
def chromium():
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def served(site):
    """The site's address; lea is a labeler, ada an admin."""
    add_person(site, "lea")
    add_person(site, "ada", role="admin")
    with serving(create_site(site)) as address:
        yield address


@pytest.fixture
def page(chromium, served):
    """A page of 1280 x 800; any script error or dialog fails the test."""
    yield from opened(chromium, served, viewport={"width": 1280, "height": 800})


@pytest.fixture
def phone(chromium, served):
    """A page of 360 x 740 that is touched."""
    size = {"width": 360, "height": 740}
    yield from opened(chromium, served, viewport=size, has_touch=True, is_mobile=True)


def opened(chromium, address: str, **looks):
    context = chromium.new_context(base_url=address, **looks)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
    tab.on(
        "console",
        lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None,
    )
    yield tab
    context.close()
    assert faults == []
