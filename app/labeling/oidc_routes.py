"""Pages of the login with an identity provider. Without one in the site's settings they are 404."""

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.labeling import accounts, identities, resets
from app.labeling.account_routes import log_in, page, safe_place
from app.labeling.oidc import CALLBACK, COOKIE, MINUTES, Intent, Provider
from app.labeling.people_routes import address_of
from app.labeling.problems import Problem
from app.labeling.site import Site

router = APIRouter()
Short = Annotated[str, Query(max_length=200)]
Handle = Annotated[str, Query(max_length=64)]


def provider_of(request: Request) -> Provider:
    provider: Provider | None = getattr(request.app.state, "oidc", None)
    if provider is None:
        raise Problem(404, "not_found", "This site has no identity provider.")
    return provider


@router.get("/oidc/join", response_class=HTMLResponse, include_in_schema=False)
def join(request: Request, invite: Short, handle: Handle = "") -> Response:
    """Look at invitation and handle before anybody goes to the provider."""
    provider, site = provider_of(request), _site(request)
    with site.database.read() as session:
        found = accounts.open_invite(session, site.secret, invite, time.time())
        if not accounts.HANDLE.fullmatch(handle):
            problem = Problem(
                422, "bad_handle", "A handle has 1 to 64 letters, digits or . @ + - _"
            )
            return page(
                request,
                "invite.html",
                status_code=422,
                problem=problem,
                role=found.role,
                token=invite,
            )
    return page(request, "join.html", name=provider.name, invite=invite, handle=handle)


@router.get("/oidc/start", include_in_schema=False)
def start(
    request: Request, next: Short = "/", invite: Short = "", handle: Handle = "", reset: Short = ""
) -> Response:
    """Go to the provider, to log in, to accept an invitation or to tie an account."""
    provider, site = provider_of(request), _site(request)
    now = time.time()
    intent = Intent(next=safe_place(next))
    if invite or reset:
        with site.database.read() as session:
            if invite:
                accounts.open_invite(session, site.secret, invite, now)
                intent = Intent("invite", invite, handle)
            else:
                resets.open_reset(session, site.secret, reset, now)
                intent = Intent("link", reset)
    address, cookie = provider.begin(intent, _callback(request), now)
    response = RedirectResponse(address, 303)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=60 * MINUTES,
        path="/oidc",
        httponly=True,
        samesite="lax",  # the provider sends the browser back by a link
        secure=site.settings.https,
    )
    return response


@router.get(CALLBACK, include_in_schema=False)
def come_back(request: Request) -> Response:
    """The provider's answer: a login, or a refusal that says why."""
    provider, site = provider_of(request), _site(request)
    now = time.time()
    query = {key: value for key, value in request.query_params.items() if len(value) <= 4000}
    cookie = request.cookies.get(COOKIE, "")
    identity, intent = provider.finish(query, cookie, _callback(request), now)
    stranger = False
    with site.database.write() as session:
        try:
            person_id = identities.arrive(
                session, site.secret, identity, intent, provider.role(identity), now
            )
        except identities.Stranger:  # and the failure is committed
            stranger = True
    if stranger:
        raise Problem(
            403,
            "no_account",
            f"{provider.name} knows you, this site does not. Ask the researcher for an invitation; "
            "if you have an account here, ask an admin for a link that ties it to this login.",
        )
    response = RedirectResponse(intent.next, 303)
    log_in(request, response, person_id)
    response.delete_cookie(COOKIE, path="/oidc")
    return response


def _site(request: Request) -> Site:
    return request.app.state.site


def _callback(request: Request) -> str:
    address = address_of(request, CALLBACK)
    if address == CALLBACK:
        raise Problem(
            409, "no_name", "This site does not know its own name: start it with --name HOST."
        )
    return address
