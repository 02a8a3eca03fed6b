"""Signatures of webhooks, after the Standard Webhooks specification (standardwebhooks.com): its
libraries, in many languages, verify ours.

Signed is `<webhook-id>.<webhook-timestamp>.<body>`, with HMAC-SHA256 and the webhook's secret. The
id is the same on every retry, so a receiver can tell what it has had; the time keeps an old message
from being sent again by somebody else.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from podium.errors import PodiumError

__all__ = ["verify_webhook"]

SECRET_PREFIX = "whsec_"
TOLERANCE_SECONDS = 300.0


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signed_headers(secret: str, message_id: str, body: bytes, now: float) -> dict[str, str]:
    """The three headers that go with a message."""
    timestamp = str(int(now))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{_signature(secret, message_id, timestamp, body)}",
    }


def verify_webhook(
    secret: str, headers: Mapping[str, str], body: bytes, now: float | None = None
) -> dict[str, Any]:
    """The message of a webhook of ours, once its signature and its time are found right.

    Args:
        secret: as it was shown when the webhook was made, `whsec_...`.
        headers: of the request; their case does not matter.
        body: the request's body as it came, before anything was parsed.
        now: seconds since 1970; the clock's where it is left out.

    Raises:
        PodiumError: forged, changed on its way, or more than five minutes old.
    """
    sent = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = sent.get("webhook-id", ""), sent.get("webhook-timestamp", "")
    good = _signature(secret, message_id, timestamp, body)
    given = [part.removeprefix("v1,") for part in sent.get("webhook-signature", "").split()]
    if not any(hmac.compare_digest(good.encode(), part.encode()) for part in given):
        raise PodiumError(
            "the webhook's signature does not fit",
            "compare the secret, and verify the body as it came, before it is parsed",
        )
    at = time.time() if now is None else now
    if not timestamp.isdigit() or abs(at - int(timestamp)) > TOLERANCE_SECONDS:
        raise PodiumError(
            "the webhook is too old, or from the future", "compare the two machines' clocks"
        )
    return json.loads(body)


def _signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise PodiumError(
            "this is no webhook's secret", f"it begins with {SECRET_PREFIX}; copy the whole of it"
        ) from None
    content = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
