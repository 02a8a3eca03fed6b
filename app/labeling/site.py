"""A labeling site: where it keeps its data, how it is reached, the checks before it is served."""

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from app.labeling import accounts
from app.labeling.database import Database
from app.labeling.importing import add_defaults
from app.labeling.tables import SiteSetting
from app.middleware import is_local
from podium.errors import PodiumError

MIN_SECRET = 32
SECRET_VARIABLE = "PODIUM_SECRET"


@dataclass(frozen=True)
class Oidc:
    """An identity provider that people may log in with (`oidc.py`)."""

    issuer: str
    client_id: str
    name: str = ""  # how pages call it; "" = its host
    scopes: tuple[str, ...] = ("profile",)  # beside openid
    # (claim, value, role): who has it gets the role, and whoever has none of them is a labeler; ()
    # = roles are this site's own
    roles: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Settings:
    """Where the site keeps its data and how it is reached."""

    folder: Path = Path("labeling")  # exports, and the database unless a URL is given
    database: str | None = None  # SQLAlchemy URL; None = SQLite in the folder
    host: str = "127.0.0.1"
    port: int = 8000
    https: bool = False  # behind a proxy that speaks HTTPS: cookies are marked Secure
    # host names the site answers to when it is not bound to loopback; () = any
    names: tuple[str, ...] = ()
    idle_hours: float = accounts.IDLE_HOURS  # a session unused for so long is over
    run: Path | None = None  # a run whose checkpoints are chatted with and sampled from
    oidc: Oidc | None = None
    # keys sessions and invitations; from PODIUM_SECRET on a public address
    secret: str | None = None

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.folder / 'labeling.sqlite'}"

    @property
    def is_local(self) -> bool:
        return is_local(self.host)


@dataclass(frozen=True)
class Site:
    """What every request handler needs; `request.app.state.site`."""

    settings: Settings
    database: Database
    secret: str

    @property
    def exports(self) -> Path:
        return self.settings.folder / "exports"


def has_site(settings: Settings) -> bool:
    """Whether there is a site to open; `open_site` would make one."""
    if settings.database is None:
        return (settings.folder / "labeling.sqlite").is_file()
    database = Database(settings.database)
    try:
        return inspect(database.engine).has_table(SiteSetting.__tablename__)
    finally:
        database.close()


def open_site(settings: Settings) -> Site:
    """Bring the database to the newest schema, make what a new site needs, and refuse an unsafe
    address.

    Raises:
        PodiumError: bound wider than loopback without an admin and without a secret.
    """
    database = Database(settings.database_url)
    database.upgrade()
    with database.write() as session:
        if session.get(SiteSetting, "pseudonym_salt") is None:
            add_defaults(session, time.time())
            for name in ("pseudonym_salt", "local_secret"):
                session.add(SiteSetting(name=name, value=secrets.token_urlsafe(32)))
        session.flush()
        secret = settings.secret or os.environ.get(SECRET_VARIABLE)
        if not settings.is_local:
            _refuse_unsafe(session, settings, secret)
        secret = secret or accounts.site_setting(session, "local_secret")
    return Site(settings, database, secret)


def _refuse_unsafe(session: Session, settings: Settings, secret: str | None) -> None:
    if secret is None or len(secret) < MIN_SECRET:
        raise PodiumError(
            f"--host {settings.host} can be reached from other machines, and there is no secret",
            f"export {SECRET_VARIABLE}=$(openssl rand -base64 48), or leave --host out",
        )
    if not accounts.count_admins(session):
        raise PodiumError(
            f"--host {settings.host} can be reached from other machines, and the site has no "
            f"admin yet",
            "podium label init --admin NAME",
        )
