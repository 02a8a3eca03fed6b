"""A labeling site of its own for every test, on SQLite and, where its binaries are installed, on
PostgreSQL.
"""

import uuid
from collections.abc import Callable, Iterator

import pytest
from argon2 import PasswordHasher

from app.labeling import accounts
from app.labeling.site import Settings, Site, open_site
from benchmarks.private_postgres import Cluster, find_binaries, private_cluster
from tests.app.labeling.making import Browser, add_person


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
