"""The labeling site as one FastAPI application: settings, start-up checks, middleware, routes,
error pages.
"""

import logging
import os
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from markupsafe import Markup
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from app.labeling import accounts
from app.labeling.database import Database
from app.labeling.guard import Guard
from app.labeling.importing import add_defaults
from app.labeling.problems import Problem, of_database
from app.labeling.tables import SiteSetting
from podium.errors import PodiumError, RunFolderError

HERE = Path(__file__).parent
MIN_SECRET = 32
SECRET_VARIABLE = "PODIUM_SECRET"
# Requests worked on at once in a process. More would only fight for Python's lock: with 40, a
# hundred labelers on PostgreSQL waited 0.73 s for a task (95th percentile), with 6 they waited 0.20
# s (docs/labeling.md).
THREADS = 6
LOCAL_NAMES = ["localhost", "127.0.0.1", "[::1]"]


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
    run: Path | None = None  # a run whose checkpoints are chatted with and sampled from
    # keys sessions and invitations; from PODIUM_SECRET on a public address
    secret: str | None = None

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.folder / 'labeling.sqlite'}"

    @property
    def is_local(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class Site:
    """What every request handler needs; `request.app.state.site`."""

    settings: Settings
    database: Database
    secret: str

    @property
    def exports(self) -> Path:
        return self.settings.folder / "exports"


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


def create_site(site: Site) -> FastAPI:
    """The application of an opened site. `app.server` mounts the chat beside it."""
    from app.labeling import account_routes, admin_routes, labeler_routes, people_routes

    @asynccontextmanager
    async def lifespan(_app: FastAPI):
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        site.database.close()

    app = FastAPI(
        title="Podium labeling", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.site = site
    app.state.templates = _templates()
    local_only = site.settings.is_local
    app.add_middleware(Guard, names=LOCAL_NAMES if local_only else list(site.settings.names))
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    for module in (account_routes, labeler_routes, admin_routes, people_routes):
        app.include_router(module.router)
    app.add_exception_handler(PodiumError, _show_problem)
    app.add_exception_handler(DBAPIError, _show_problem)
    app.add_exception_handler(PoolTimeout, _show_problem)
    app.add_exception_handler(RequestValidationError, _show_problem)
    app.add_exception_handler(HTTPException, _show_problem)
    return app


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
            "podium label user add NAME --role admin",
        )


def _templates() -> Jinja2Templates:
    # autoescape is on: text is only ever text
    templates = Jinja2Templates(directory=HERE / "templates")
    templates.env.filters["when"] = lambda at: (
        time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) if at else ""
    )
    templates.env.filters["percent"] = lambda value: "" if value is None else f"{100 * value:.0f} %"
    templates.env.filters["blocks"] = text_blocks
    templates.env.globals["csrf"] = _csrf_field
    return templates


def _csrf_field(user: accounts.User) -> Markup:
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(user.csrf_token)


def text_blocks(body: str) -> list[tuple[str, list[str]]]:
    """Instructions as (kind, lines): `# ` headings, `- ` lists, paragraphs. The template writes the
    tags.
    """
    blocks: list[tuple[str, list[str]]] = []
    for part in body.split("\n\n"):
        lines = [line.rstrip() for line in part.strip().splitlines()]
        if not lines:
            continue
        if lines[0].startswith("# "):
            blocks.append(("heading", [lines[0][2:]]))
        elif lines[0].startswith("- "):
            items = "\n".join(lines).removeprefix("- ").split("\n- ")
            blocks.append(("list", [" ".join(item.split()) for item in items]))
        else:
            blocks.append(("paragraph", [" ".join(lines)]))
    return blocks


async def _show_problem(request: Request, error: Exception) -> Response:
    """Every refusal as JSON for programs and as a page for people; details of a mistake of ours
    stay in the log.
    """
    problem = _as_problem(error)
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    if request.url.path.startswith("/api/"):
        return JSONResponse(problem.as_json(), problem.status, headers)
    if problem.status == 401 and request.method == "GET":
        return RedirectResponse("/login", 303)
    return request.app.state.templates.TemplateResponse(
        request,
        "problem.html",
        {"problem": problem, "user": None},
        status_code=problem.status,
        headers=headers,
    )


def _as_problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, DBAPIError | PoolTimeout):
        return of_database(error)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return Problem(
            422, "bad_request", f"{place}: {first['msg']}".encode("utf-8", "replace").decode()
        )
    if isinstance(error, HTTPException):
        return Problem(error.status_code, "http", str(error.detail))
    if isinstance(error, RunFolderError):
        logging.getLogger("podium.labeling").error("%s", error)
        return Problem(507, "disk_full", f"{error.message}. Nothing was lost; tell the researcher.")
    return Problem(422, "refused", str(error))
