"""The labeling site as one FastAPI application: middleware, routes, templates and error pages."""

import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from markupsafe import Markup
from starlette.types import Scope

from app.labeling import (
    account_routes,
    accounts,
    admin_routes,
    labeler_routes,
    people_routes,
    program_routes,
    records_routes,
    screening_routes,
    writing_admin,
    writing_routes,
)
from app.labeling.access import user_of_cookie
from app.labeling.api import create_api
from app.labeling.api_access import caller_of_request
from app.labeling.datacard import between, share
from app.labeling.delivery import Courier
from app.labeling.refusals import REFUSALS, as_problem, problem_as_json
from app.labeling.site import Oidc, Site
from app.middleware import API, LOCAL_NAMES, UPLOADS, AccessMiddleware
from podium.errors import PlatformError

HERE = Path(__file__).parent
# Requests worked on at once in a process. More would only fight for Python's lock: with 40, a
# hundred labelers on PostgreSQL waited 0.73 s for a task (95th percentile), with 6 they waited 0.20
# s (docs/lab/labeling.md).
THREADS = 6


def create_site(site: Site) -> FastAPI:
    """The application of an opened site. `app.server` mounts the chat beside it."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI):
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        courier = Courier(site.database)
        courier.start()
        yield
        courier.stop()
        site.database.close()

    app = FastAPI(
        title="Podium labeling", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.site = site
    app.state.templates = _templates()
    local_only = site.settings.is_local
    app.add_middleware(
        AccessMiddleware,
        names=LOCAL_NAMES if local_only else list(site.settings.names),
        https=site.settings.https,
        may_send=partial(_may_send, site),
    )
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.mount(API, create_api(site, app.state.templates))
    pages = (account_routes, labeler_routes, writing_routes, admin_routes, people_routes)
    extra = (program_routes, records_routes, screening_routes, writing_admin)
    for module in (*pages, *extra):
        app.include_router(module.router)
    if site.settings.oidc is not None:
        _add_oidc(app, site, site.settings.oidc)
    for kind in REFUSALS:
        app.add_exception_handler(kind, _show_problem)
    return app


def _add_oidc(app: FastAPI, site: Site, settings: Oidc) -> None:
    """Imported here alone, for the library is an extra."""
    try:
        from app.labeling import oidc_routes
        from app.labeling.oidc import Provider
    except ModuleNotFoundError as error:
        raise PlatformError(
            f"{error.name} is not installed", "pip install 'podium-rlhf[oidc]'"
        ) from None
    app.state.oidc = Provider(settings, site.secret)
    app.include_router(oidc_routes.router)


def _may_send(site: Site, scope: Scope) -> bool:
    """Whether a long body is worth reading: whoever sends it is somebody, and may do that here."""
    if scope["path"].startswith(f"{API}/"):
        caller = caller_of_request(site, Request(scope))
        return caller is not None and "import" in caller.scopes
    user = user_of_cookie(site, Request(scope))
    role = "researcher" if scope["path"].startswith(UPLOADS) else "labeler"
    return user is not None and user.may(role)


def _templates() -> Jinja2Templates:
    # autoescape is on: text is only ever text
    templates = Jinja2Templates(directory=HERE / "templates")
    templates.env.filters["when"] = lambda at: (
        time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) if at else ""
    )
    templates.env.filters["percent"] = lambda value: "" if value is None else f"{100 * value:.0f} %"
    templates.env.filters["share"], templates.env.filters["between"] = share, between
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
    problem = as_problem(error)
    if request.url.path.startswith("/api/"):
        return problem_as_json(problem)
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    if problem.status == 401 and request.method == "GET":
        path = request.url.path
        return RedirectResponse(
            "/login" if path == "/" else f"/login?next={quote(path)}", 303, headers
        )
    return request.app.state.templates.TemplateResponse(
        request,
        "problem.html",
        {"problem": problem, "user": None},
        status_code=problem.status,
        headers=headers,
    )
