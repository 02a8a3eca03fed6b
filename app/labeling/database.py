"""One database, two engines: SQLite by default, PostgreSQL by URL, through the same two context
managers.

`Database.read()` and `Database.write()` each give a session in one transaction. A write takes its
lock at the start: SQLite's `BEGIN IMMEDIATE` waits up to 30 s for the writer before it, where a
transaction that reads first and writes later fails at once; PostgreSQL locks the rows it is about
to change (`queue.py`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy.orm import Session

from podium.errors import PlatformError, PodiumError

BUSY_TIMEOUT_SECONDS = 30.0
# for the few threads that answer requests (site.py) and the chat's; as many again in need
CONNECTIONS = 16
MIGRATION_LOCK = 5_201_709  # any number that nothing else in the database uses
MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Engine and transactions of one site.

    Args:
        url: `sqlite:///folder/labeling.sqlite` or `postgresql://user:password@host/name`.
        busy_timeout: seconds a SQLite write waits for another process's write.
    """

    def __init__(self, url: str, busy_timeout: float = BUSY_TIMEOUT_SECONDS) -> None:
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        try:
            self.engine = (
                self._sqlite_engine(busy_timeout) if self.is_sqlite else self._postgres_engine()
            )
        except ModuleNotFoundError as error:
            raise PlatformError(
                f"{error.name} is not installed", "pip install 'podium-rlhf[postgres]'"
            ) from None
        self._writer = self.engine.execution_options(write=True)
        self._task_views: dict[int, Any] = {}  # lent to every session; see views.py
        # Threads of this process queue here in order; SQLite's own waiting polls and can starve one
        # of them.
        self._turn = threading.Lock() if self.is_sqlite else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self.engine, info={"task_views": self._task_views}) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Commits at the end, rolls back on any exception."""
        info = {"task_views": self._task_views}
        with (
            self._turn,
            Session(self._writer, expire_on_commit=False, info=info) as session,
            session.begin(),
        ):
            yield session

    def upgrade(self, revision: str = "head") -> None:
        """Bring the schema to the newest version (or the named one); data is kept."""
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        with self._turn, self._writer.begin() as connection:
            if not self.is_sqlite:  # two servers may start at once
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            command.upgrade(self._alembic(connection), revision)

    def close(self) -> None:
        self.engine.dispose()

    def _alembic(self, connection: sa.Connection) -> AlembicConfig:
        config = AlembicConfig()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        return config

    def _sqlite_engine(self, busy_timeout: float) -> sa.Engine:
        if not self.url.database or self.url.database == ":memory:":
            raise PodiumError(
                f"{self.url} is not a file", "name one: sqlite:///labeling/labeling.sqlite"
            )
        engine = sa.create_engine(
            self.url,
            connect_args={
                "timeout": busy_timeout,
                "isolation_level": None,
                "check_same_thread": False,
            },
            pool_size=CONNECTIONS,
            max_overflow=CONNECTIONS,
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgres_engine(self) -> sa.Engine:
        return sa.create_engine(
            self.url,
            pool_size=CONNECTIONS,
            max_overflow=CONNECTIONS,
            pool_pre_ping=True,
            pool_timeout=30,
            connect_args={"connect_timeout": 10},
        )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # WAL lets readers go on during a write; FULL means an acknowledged answer is on disk, not in a
    # cache.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
