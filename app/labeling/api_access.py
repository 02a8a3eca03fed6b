"""Who may call the HTTP API: the token in `Authorization: Bearer ...`, and its scopes. A cookie
opens nothing here, so no other site's page can make a browser call it.
"""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy.exc import DBAPIError

from app.labeling.problems import Problem
from app.labeling.tokens import USED_SECONDS, Caller, caller_of, note_use
from app.middleware import SAFE_METHODS

if TYPE_CHECKING:
    from app.labeling.site import Site

bearer = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="made by an admin: podium label token add NAME --scope read, or the Programs page",
)


def caller_of_request(site: "Site", request: Request) -> Caller | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        return None
    with site.database.read() as session:
        return caller_of(session, token.strip(), time.time())


def _allowed(
    request: Request,
    needed: SecurityScopes,
    _shown: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> Caller:
    site: Site = request.app.state.site
    caller = caller_of_request(site, request)
    if caller is None:
        raise Problem(
            401,
            "no_token",
            "There is no token in the request, or it is not known, expired or revoked.",
            fix="send Authorization: Bearer TOKEN; an admin makes one on the Programs page",
        )
    missing = [scope for scope in needed.scopes if scope not in caller.scopes]
    if missing:
        raise Problem(
            403,
            "wrong_scope",
            f"The token '{caller.name}' may not do that: it lacks the scope '{missing[0]}'.",
            fix="make another token with that scope",
        )
    _note(site, request, caller)
    return caller


def _note(site: "Site", request: Request, caller: Caller) -> None:
    changes = request.method not in SAFE_METHODS
    now = time.time()
    if not changes and caller.last_used_at and now - caller.last_used_at < USED_SECONDS:
        return
    call = f"{request.method} {request.url.path}" if changes else None
    with suppress(DBAPIError), site.database.write() as session:  # the request goes on
        note_use(session, caller, call, now)


AnyScope = Annotated[Caller, Security(_allowed)]
Read = Annotated[Caller, Security(_allowed, scopes=["read"])]
Import = Annotated[Caller, Security(_allowed, scopes=["import"])]
Export = Annotated[Caller, Security(_allowed, scopes=["export"])]
Manage = Annotated[Caller, Security(_allowed, scopes=["manage"])]
People = Annotated[Caller, Security(_allowed, scopes=["people"])]
