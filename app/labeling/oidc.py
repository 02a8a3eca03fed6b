"""Logging in with an identity provider: OpenID Connect's authorization code flow, by Authlib.

The flow is bound to the browser that began it: state, nonce and PKCE's verifier wait in a signed
cookie for ten minutes. Of the ID token the signature, issuer, audience, nonce and times are
checked; of what else is in it only the claims that the admin has mapped to roles are read.
"""

import base64
import hmac
import json
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from app.labeling.accounts import keyed_hash
from app.labeling.problems import Problem
from app.labeling.site import Oidc
from app.labeling.webhooks import safe_url
from podium.errors import PodiumError

SECRET_VARIABLE = "PODIUM_OIDC_SECRET"  # the client's; none: a public client, by PKCE alone
COOKIE = "podium_oidc"
CALLBACK = "/oidc/callback"
MINUTES = 10  # that somebody may take to log in there
LEEWAY = 60  # seconds that clocks may differ
PATIENCE_SECONDS = 10.0
KNOWN_SECONDS = 3600.0  # that the provider's addresses and keys are kept
# Signatures by a key pair alone: "none" and those by a shared secret are never taken.
ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"}
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class Intent(NamedTuple):
    """Why somebody goes to the provider: to log in, to accept an invitation under a handle, or to
    tie an account to their identity by an admin's link.
    """

    purpose: Literal["login", "invite", "link"] = "login"
    token: str = ""  # of the invitation or the link
    handle: str = ""
    next: str = "/"


class Attempt(NamedTuple):
    """One login under way, as its browser keeps it."""

    state: str
    nonce: str
    verifier: str
    at: float
    intent: Intent


class Identity(NamedTuple):
    """Whom the provider says it is."""

    issuer: str
    subject: str
    claims: Mapping[str, Any]


@dataclass(frozen=True)
class _Known:
    """What the provider tells of itself."""

    about: Mapping[str, Any]
    keys: KeySet
    at: float


class Provider:
    """One identity provider.

    Args:
        settings: issuer, client and which claims are roles.
        secret: the site's, which signs the cookie.
    """

    def __init__(self, settings: Oidc, secret: str) -> None:
        try:
            safe_url(settings.issuer)
        except ValueError as error:
            raise PodiumError(f"--oidc-issuer {settings.issuer}: {error}") from None
        self.settings, self._secret = settings, secret
        self.name = settings.name or urlsplit(settings.issuer).hostname or settings.issuer
        self._known: _Known | None = None
        self._lock = threading.Lock()

    # ------------------------------------------------------------ there

    def begin(self, intent: Intent, callback: str, now: float) -> tuple[str, str]:
        """(the address to go to, the cookie to keep). Problem 502 where there is no provider."""
        attempt = Attempt(
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(48),
            now,
            intent,
        )
        address, _ = self._client(callback).create_authorization_url(
            self._about(now)["authorization_endpoint"],
            state=attempt.state,
            nonce=attempt.nonce,
            code_verifier=attempt.verifier,
        )
        return address, self._seal(attempt)

    # ------------------------------------------------------------ and back

    def finish(
        self, query: Mapping[str, str], cookie: str, callback: str, now: float
    ) -> tuple[Identity, Intent]:
        """Who came back, and why they went. Problem 400, 403 or 502."""
        attempt = self._unseal(cookie, now)
        if not hmac.compare_digest(query.get("state", "").encode(), attempt.state.encode()):
            raise _stale()
        # A provider that names itself must be the one that was asked (RFC 9207).
        if query.get("iss") not in (None, self.settings.issuer):
            raise _refused("the answer came from another provider")
        if "code" not in query:
            raise _refused("it did not log you in")
        try:
            token = self._client(callback).fetch_token(
                self._about(now)["token_endpoint"],
                grant_type="authorization_code",
                code=query["code"],
                code_verifier=attempt.verifier,
            )
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        except (AuthlibBaseError, ValueError):
            raise _refused("it did not take the code") from None
        if not isinstance(token.get("id_token"), str):
            raise _refused("it sent no ID token")
        return self._identity(token, attempt.nonce, now), attempt.intent

    def _identity(self, token: Mapping[str, Any], nonce: str, now: float) -> Identity:
        offered = self._about(now).get("id_token_signing_alg_values_supported") or ["RS256"]
        algorithms = sorted(ALGORITHMS & set(offered))
        try:
            decoded = self._decoded(token["id_token"], algorithms, now)
            client_id = self.settings.client_id
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                options={
                    "iss": {"essential": True, "value": self.settings.issuer},
                    "aud": {"essential": True, "value": client_id},
                    "nonce": {"essential": True, "value": nonce},
                },
                params={
                    "nonce": nonce,
                    "client_id": client_id,
                    "access_token": token.get("access_token"),
                },
            )
            claims.validate(now=int(now), leeway=LEEWAY)
        except (AuthlibBaseError, JoseError, ValueError, TypeError, KeyError) as error:
            raise _refused(f"its ID token does not hold ({type(error).__name__})") from None
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or "\x00" in subject:
            raise _refused("its ID token names nobody")
        return Identity(self.settings.issuer, subject, dict(claims))

    def _decoded(self, id_token: str, algorithms: Sequence[str], now: float) -> Any:
        """With the keys that are known; with fresh ones where they do not fit, for keys change."""
        try:
            return jwt.decode(id_token, self._load(now).keys, algorithms=list(algorithms))
        except (JoseError, ValueError):
            fresh = self._load(now, fresh=True).keys
            return jwt.decode(id_token, fresh, algorithms=list(algorithms))

    def role(self, identity: Identity) -> str | None:
        """The highest role that the mapped claims give; None where nothing is mapped."""
        if not self.settings.roles:
            return None
        given = {"labeler"}
        for claim, value, role in self.settings.roles:
            said = identity.claims.get(claim)
            if said == value or (isinstance(said, list) and value in said):
                given.add(role)
        return next(role for role in ("admin", "researcher", "labeler") if role in given)

    # ------------------------------------------------------------ the provider itself

    def _client(self, callback: str) -> OAuth2Client:
        secret = os.environ.get(SECRET_VARIABLE)
        return OAuth2Client(
            self.settings.client_id,
            secret,
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
            scope=" ".join(("openid", *self.settings.scopes)),
            redirect_uri=callback,
            code_challenge_method="S256",
            timeout=PATIENCE_SECONDS,
        )

    def _about(self, now: float) -> Mapping[str, Any]:
        return self._load(now).about

    def _load(self, now: float, fresh: bool = False) -> _Known:
        """Discovery (RFC 8414, OpenID Connect Discovery) and keys, kept for an hour."""
        with self._lock:
            known = self._known
            if known is not None and not fresh and now - known.at < KNOWN_SECONDS:
                return known
            place = self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
            try:
                about = _fetched(place)
                if about.get("issuer") != self.settings.issuer:
                    raise ValueError("it calls itself by another name")
                for name in ENDPOINTS:
                    safe_url(about[name])
                keys = KeySet.import_key_set(_fetched(about["jwks_uri"]))
            except httpx.HTTPError as error:
                raise _unreachable(error) from None
            except (ValueError, KeyError, TypeError, AttributeError, JoseError) as error:
                raise Problem(
                    502, "oidc_failed", f"The identity provider is not set up as it should: {error}"
                ) from None
            self._known = _Known(about, keys, now)
            return self._known

    # ------------------------------------------------------------ the cookie

    def _seal(self, attempt: Attempt) -> str:
        body = json.dumps([*attempt[:4], list(attempt.intent)]).encode()
        text = base64.urlsafe_b64encode(body).decode()
        return f"{text}.{keyed_hash(self._secret, 'oidc', text)}"

    def _unseal(self, cookie: str, now: float) -> Attempt:
        text, _, seal = cookie.partition(".")
        if not hmac.compare_digest(seal.encode(), keyed_hash(self._secret, "oidc", text).encode()):
            raise _stale()
        state, nonce, verifier, at, intent = json.loads(base64.urlsafe_b64decode(text))
        if now - at > 60 * MINUTES:
            raise _stale()
        return Attempt(state, nonce, verifier, at, Intent(*intent))


def _fetched(url: str) -> Any:
    with httpx.Client(timeout=PATIENCE_SECONDS, follow_redirects=False) as http:
        reply = http.get(url)
        if reply.status_code != 200 or len(reply.content) > 2**20:
            raise ValueError(f"{urlsplit(url).path} answered {reply.status_code}")
        return reply.json()


def _stale() -> Problem:
    return Problem(
        400, "oidc_stale", "This login was begun elsewhere or too long ago; begin it again."
    )


def _refused(why: str) -> Problem:
    return Problem(403, "oidc_refused", f"The identity provider's answer is not taken: {why}.")


def _unreachable(error: httpx.HTTPError) -> Problem:
    return Problem(
        502, "oidc_failed", f"The identity provider cannot be reached ({type(error).__name__})."
    )
