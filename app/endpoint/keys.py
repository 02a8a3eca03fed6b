"""Who may ask: bearer keys, from the environment or from a file."""

import hmac
import os
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from podium.errors import DataError

VARIABLE = "PODIUM_API_KEYS"
SHORTEST = 16  # characters; what is shorter can be guessed


def read_keys(path: Path | None) -> tuple[str, ...]:
    """The keys of a file, one a line (`#` begins a remark), and those of the variable
    PODIUM_API_KEYS, separated by commas.

    Raises:
        DataError: there is no such file, it holds no key, or a key is too short.
    """
    keys = [key.strip() for key in os.environ.get(VARIABLE, "").split(",") if key.strip()]
    _check(VARIABLE, keys)
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(path, problem=f"cannot be read: {error.strerror}") from error
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise DataError(path, problem="holds no key", fix="write one a line")
        _check(path, found)
        keys += found
    return tuple(keys)


def _check(path: str | Path, keys: list[str]) -> None:
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST or not key.isascii():
            raise DataError(
                path,
                number,
                problem=f"a key has at least {SHORTEST} characters of ASCII",
                fix="take one from: python -c 'import secrets; print(secrets.token_urlsafe())'",
            )


def admits(keys: tuple[str, ...], scope: Scope) -> bool:
    """Whether a request brings one of the keys, or none is asked for."""
    if not keys:
        return True
    kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
    # every key is compared, in constant time, so that nothing is told by how long it takes
    same = [hmac.compare_digest(key.encode(), given.strip().encode()) for key in keys]
    return kind.lower() == "bearer" and any(same)
