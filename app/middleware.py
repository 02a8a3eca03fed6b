"""What stands before every request to the labeling site, the chat and the endpoint: host names,
cross-site requests, body size, security headers.
"""

from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOCAL_NAMES = ["localhost", "127.0.0.1", "[::1]"]
MAX_BODY = 2 * 2**20  # an answer with drafts and comments is far below
MAX_UPLOAD = 128 * 2**20  # also unpacked; read into memory it takes four times as much
MAX_STRANGER = 64 * 2**10  # a login or an invitation is far below; for more one must be somebody
API = "/api/v1"  # programs with a token; a cookie opens nothing there
UPLOADS = ("/admin/", f"{API}/batches")  # for researchers, and for tokens that may import
LONG_REFUSED = (
    "Log in first, or send a token that may import: a request of this size is read from members "
    "only."
)
CHAT = "/chat"
CHAT_UPLOAD = "/gradio_api/upload"  # whatever is put there, every visitor could read
HTTPS_SECONDS = 365 * 86400
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
        https: a proxy in front speaks HTTPS, and browsers are to insist on it from now on.
        may_send: whether a request may bring more than `MAX_STRANGER` bytes; asked before any of
            them is read. None where there is no login.
        refused: makes the answer to what is refused, from a sentence and a status.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: list[str],
        chat: str = CHAT,
        https: bool = False,
        may_send: Callable[[Scope], bool] | None = None,
        refused: Callable[[str, int], Response] = PlainTextResponse,
    ) -> None:
        self.app, self.names, self.chat, self.https = app, names, chat, https
        self.may_send, self.refused = may_send, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        method = scope.get("method", "GET")
        refusal = self._refusal(headers, scope["type"] == "websocket" or method not in SAFE_METHODS)
        of_chat = scope["path"].startswith(self.chat)
        if refusal is None and of_chat and scope["path"].endswith(CHAT_UPLOAD):
            refusal = 403, "The chat takes no files."
        limit = MAX_UPLOAD if scope["path"].startswith(UPLOADS) else MAX_BODY
        length = int_or_zero(headers.get("content-length"))
        if refusal is None and length > limit:
            refusal = 413, "The request is too large."
        # without a length it may be of any
        long = length > MAX_STRANGER or "transfer-encoding" in headers
        if long and refusal is None and not await self._may_send(scope):
            limit = MAX_STRANGER
            if length > limit:
                refusal = 401, LONG_REFUSED
        if refusal is not None:
            for_program = scope["path"].startswith(f"{API}/")
            told = _told_as_json if for_program else self.refused
            await told(refusal[1], refusal[0])(scope, receive, send)
            return
        headers_sent = _with_headers(send, scope["path"], of_chat, self.https)
        await self.app(scope, _limited(receive, limit), headers_sent)

    async def _may_send(self, scope: Scope) -> bool:
        return self.may_send is None or await to_thread.run_sync(self.may_send, scope)

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


def _told_as_json(message: str, status: int) -> Response:
    about = {"code": "refused", "message": message, "field": None, "fix": None}
    return JSONResponse(about, status)


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


def _with_headers(send: Send, path: str, of_chat: bool, https: bool) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = CHAT_POLICY if of_chat else POLICY
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            if https:
                headers["Strict-Transport-Security"] = f"max-age={HTTPS_SECONDS}"
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
