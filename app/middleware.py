"""What stands before every request to the labeling site and to the chat: host names, cross-site
requests, body size, security headers.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOCAL_NAMES = ["localhost", "127.0.0.1", "[::1]"]
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
    """ASGI middleware.

    Args:
        names: host names to answer to (against DNS rebinding); empty = any.
        chat: the path below which everything is Gradio's; "" where there is nothing else.
    """

    def __init__(self, app: ASGIApp, names: list[str], chat: str = CHAT) -> None:
        self.app, self.names, self.chat = app, names, chat

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
        headers_sent = _with_headers(send, scope["path"], scope["path"].startswith(self.chat))
        await self.app(scope, _limited(receive, limit), headers_sent)

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
            raise HTTPException(413, "The request is too large.")
        return message

    return count


def _with_headers(send: Send, path: str, of_chat: bool) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = CHAT_POLICY if of_chat else POLICY
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            if not of_chat and not path.startswith("/static/"):
                headers["Cache-Control"] = "no-store"  # the back button after logout shows nothing
        await send(message)

    return add


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
