"""Who may call a route: logins, roles, and the token that a change must carry."""

import hmac
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from sqlalchemy.exc import DBAPIError

from app.labeling.accounts import SEEN_SECONDS, User, touch_session, user_of_token
from app.labeling.problems import Problem
from app.middleware import SAFE_METHODS

if TYPE_CHECKING:
    from app.labeling.site import Site

COOKIE = "podium_session"
DEVICE_COOKIE = "podium_device"  # known devices, see throttle.py


def user_of_request(request: Request) -> User | None:
    """Who is logged in."""
    return user_of_cookie(request.app.state.site, request)


def user_of_cookie(site: "Site", request: Request) -> User | None:
    """The same for an application that is mounted beside the site (`app.server`)."""
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    now = time.time()
    with site.database.read() as session:
        user = user_of_token(session, site.secret, token, now, site.settings.idle_hours)
    if user is not None and now - user.last_seen_at > SEEN_SECONDS:
        with suppress(DBAPIError), site.database.write() as session:  # the request goes on
            touch_session(session, site.secret, token, now)
    return user


OptionalUser = Annotated[User | None, Depends(user_of_request)]


def require(role: str) -> Callable:
    """A dependency: logged in with at least this role, and for changes the CSRF token of this
    session.
    """

    async def allowed(request: Request, user: OptionalUser) -> User:
        if user is None:
            raise Problem(
                401,
                "logged_out",
                "You are logged out. Your draft is kept in this browser; log in again.",
            )
        if request.method not in SAFE_METHODS:
            await _check_csrf(request, user)
        if not user.may(role):
            raise Problem(403, "forbidden", f"Only a {role} may do that.")
        return user

    return allowed


async def _check_csrf(request: Request, user: User) -> None:
    token: object = request.headers.get("x-csrf-token")
    kind = request.headers.get("content-type", "")
    if token is None and kind.startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    ):
        token = (await request.form()).get("csrf_token")
    if not isinstance(token, str) or not hmac.compare_digest(
        token.encode(), user.csrf_token.encode()
    ):
        raise Problem(
            403,
            "csrf",
            "This page is too old or was not made by this site. Reload it and try again.",
        )


Labeler = Annotated[User, Depends(require("labeler"))]
Researcher = Annotated[User, Depends(require("researcher"))]
Admin = Annotated[User, Depends(require("admin"))]
