"""What stands before every route: host names, cross-site requests, body size, security headers,
logins and roles.
"""

import hmac
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.labeling.accounts import User, user_of_token
from app.labeling.problems import Problem

if TYPE_CHECKING:
    from app.labeling.site import Site

COOKIE = "podium_session"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MAX_BODY = 2 * 2**20  # an answer with drafts and comments is far below
MAX_UPLOAD = 512 * 2**20
UPLOADS = "/admin/"  # only researchers reach it
CHAT = "/chat"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
CHAT_POLICY = (  # Gradio's page starts from inline scripts
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)


class AccessMiddleware:
    """ASGI middleware. `names`: host names to answer to (against DNS rebinding); empty = any."""

    def __init__(self, app: ASGIApp, names: list[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        method = scope.get("method", "GET")
        refusal = self._refusal(headers, scope["type"] == "websocket" or method not in SAFE_METHODS)
        limit = MAX_UPLOAD if scope["path"].startswith(UPLOADS) else MAX_BODY
        if refusal is None and int_or_zero(headers.get("content-length")) > limit:
            refusal = 413, "The request is too large."
        if refusal is not None:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
            return
        policy = CHAT_POLICY if scope["path"].startswith(CHAT) else POLICY
        await self.app(scope, _limited(receive, limit), _with_headers(send, policy, scope["path"]))

    def _refusal(self, headers: Headers, changes: bool) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.names and host_name(host) not in self.names:
            return 400, "This site does not answer to that host name."
        if not changes:
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or site not in (None, "same-origin", "none"):
            return 403, "Requests from another site are refused."
        return None


def host_name(host: str) -> str:
    """`localhost:8000` -> `localhost`, `[::1]:8000` -> `[::1]`."""
    return host.rsplit(":", 1)[0] if ":" in host.rsplit("]", 1)[-1] else host


def int_or_zero(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0


def _limited(receive: Receive, limit: int) -> Receive:
    """A body sent without a length is cut off at the same limit."""
    seen = 0

    async def count() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise Problem(413, "too_large", "The request is too large.")
        return message

    return count


def _with_headers(send: Send, policy: str, path: str) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = policy
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            if not path.startswith(("/static/", CHAT)):
                headers["Cache-Control"] = "no-store"  # the back button after logout shows nothing
        await send(message)

    return add


def user_of_request(request: Request) -> User | None:
    """Who is logged in."""
    return user_of_cookie(request.app.state.site, request)


def user_of_cookie(site: "Site", request: Request) -> User | None:
    """The same for an application that is mounted beside the site (`app.server`)."""
    token = request.cookies.get(COOKIE)
    if not token:
        return None
    with site.database.read() as session:
        return user_of_token(session, site.secret, token, time.time())


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
