"""An identity provider that keeps to the standards, or breaks them where a test says so: discovery,
keys, and a token endpoint that checks client, redirect address and PKCE.
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT, SECRET = "podium", "the-clients-secret"


class StrictProvider:
    """Log in with `code_for`; change `claims`, `header`, `key` or `about` to break a promise."""

    def __init__(self) -> None:
        self.issuer = ""
        self.key = key_called("one")
        self.published = [self.key]
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.signed_by: Any = None
        self.id_token: str | None = None
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[dict[str, str]] = []

    def code_for(self, address: str, subject: str) -> dict[str, str]:
        """What the provider sends back for somebody who logs in at this authorization address."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert query["response_type"] == "code" and query["client_id"] == CLIENT
        assert query["code_challenge_method"] == "S256" and "openid" in query["scope"].split()
        code = f"code-{len(self.codes)}"
        self.codes[code] = query | {"sub": subject}
        return {"code": code, "state": query["state"]}

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "id_token_signing_alg_values_supported": ["RS256"],
            **self.about,
        }

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        self.asked.append(form)
        wanted = self.codes.pop(form.get("code", ""), None)
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            wanted is None
            or authorization != f"Basic {basic}"
            or wanted["code_challenge"] != challenge
            or wanted["redirect_uri"] != form["redirect_uri"]
        ):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": wanted["sub"],
            "nonce": wanted["nonce"],
            "iat": now,
            "exp": now + 300,
        } | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": "RS256", "kid": self.key.kid} | self.header
        signed = self.id_token or jwt.encode(
            header, claims, self.signed_by or self.key, algorithms=[header["alg"]]
        )
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": signed}


@contextmanager
def strict_provider() -> Iterator[StrictProvider]:
    provider = StrictProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/keys":
                keys = [key.as_dict(private=False) for key in provider.published]
                self.reply(200, {"keys": keys})
            elif self.path == "/.well-known/openid-configuration":
                self.reply(200, provider.discovery())
            else:
                self.reply(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self.reply(*provider.token(form, self.headers.get("Authorization", "")))

        def reply(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()


@cache
def key_called(name: str) -> RSAKey:
    """Making one takes a second."""
    return RSAKey.generate_key(2048, {"kid": name})


def other_key() -> RSAKey:
    return key_called("other")


def shared_secret() -> OctKey:
    """What somebody would sign with who knows no more than the client's secret."""
    return OctKey.import_key(SECRET.ljust(32, "-"))
