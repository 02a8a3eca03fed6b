"""The HTTP API for programs as an application of its own, mounted at /api/v1: its OpenAPI holds
what is documented and nothing else, and no route of a page.
"""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates

from app.labeling import api_routes
from app.labeling.refusals import REFUSALS, as_problem, problem_as_json
from app.labeling.shapes import Fault
from app.labeling.site import Site
from app.labeling.tokens import SCOPE_WORDS

VERSION = "1"
ABOUT = (
    "Programs carry a token in `Authorization: Bearer ...`; an admin makes one on the Programs "
    "page or with `podium label token add`. Each route names the scope that it needs. Every "
    "refusal is JSON with a code, a message, the field that will not do and what would mend it."
)
REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": Fault, "description": "no token, or one that has ended"},
    403: {"model": Fault, "description": "the token lacks the scope"},
    "4XX": {"model": Fault, "description": "refused; the body says what and why"},
}
TAGS = ("discriminator", "candidates", "ranking")  # steps of a place that are no field's name


def create_api(site: Site, templates: Jinja2Templates) -> FastAPI:
    """The application to mount; the site's own stands around it."""
    api = FastAPI(
        title="Podium labeling", version=VERSION, description=ABOUT, docs_url=None, redoc_url=None
    )
    api.state.site, api.state.templates = site, templates
    api.include_router(api_routes.router, responses=REFUSED)
    api.add_api_route("/docs", _docs, response_class=HTMLResponse, include_in_schema=False)
    for kind in REFUSALS:
        api.add_exception_handler(kind, _refuse)
    return api


async def _refuse(_request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        for fault in error.errors():
            fault["loc"] = tuple(step for step in fault["loc"] if step not in TAGS)
    problem = as_problem(error)
    reply = problem_as_json(problem)
    if problem.status == 401:
        reply.headers["WWW-Authenticate"] = "Bearer"
    return reply


def _docs(request: Request) -> Response:
    """The OpenAPI as a page of ours: no script, nothing from another site."""
    described = request.app.openapi()
    routes = [
        (method, path, route)
        for path, methods in described["paths"].items()
        for method, route in methods.items()
    ]
    shapes = described["components"]["schemas"]
    return request.app.state.templates.TemplateResponse(
        request,
        "api.html",
        {"user": None, "about": described["info"], "routes": routes, "shapes": shapes}
        | {"scopes": SCOPE_WORDS, "named": named},
    )


def named(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words, with the names of the shapes it is made of."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    either = schema.get("anyOf") or schema.get("oneOf")
    if either:
        return " or ".join(named(part) for part in either)
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {named(schema.get('items', {}))}"
    inside = schema.get("additionalProperties")
    if kind == "object" and isinstance(inside, dict) and inside:
        return f"object of {named(inside)}"
    return kind
