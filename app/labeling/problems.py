"""What can go wrong in a request: one exception with an HTTP status, a code for programs and a
sentence for people.
"""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from podium.errors import PodiumError

log = logging.getLogger("podium.labeling")

DISK_FULL = ("disk is full", "No space left", "could not extend file", "disk I/O error")
LOCKED = ("database is locked", "deadlock detected")
FIXES = {  # by pydantic's kind of fault
    "missing": "add it",
    "extra_forbidden": "remove it, or correct its name",
    "json_invalid": "send one JSON object",
}


class Problem(PodiumError):
    """A refused request. 401/403/404 access, 409 conflict, 410 closed, 422 content, 429 throttled,
    503/507 storage.

    Args:
        field: the part of what was sent that will not do, as `records.3.prompt`.
        fix: what would mend it, where the message does not say so itself.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        field: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message, fix)
        self.status, self.code, self.retry_after, self.field = status, code, retry_after, field

    def as_json(self) -> dict[str, str | None]:
        return {"code": self.code, "message": self.message, "field": self.field, "fix": self.fix}


def first_fault(error: ValidationError) -> Problem:
    """The first thing that is wrong with what was sent or typed."""
    return bad_request(error.errors()[0])


def bad_request(fault: Mapping[str, Any], skip: int = 0) -> Problem:
    """Problem 422 for one of pydantic's errors; `skip` leaves out so many steps of its place."""
    steps = () if fault["type"] == "json_invalid" else fault["loc"][skip:]  # else a byte's number
    place = _writable(".".join(str(step) for step in steps))
    message = f"{place}: {fault['msg']}" if place else fault["msg"]
    fix = FIXES.get(fault["type"], "correct the value")
    return Problem(422, "bad_request", _writable(message), field=place or None, fix=fix)


def _writable(text: str) -> str:
    """Half a surrogate pair, as JSON's escapes allow it, cannot be written back."""
    return text.encode("utf-8", "replace").decode()


def of_database(error: DBAPIError | PoolTimeout) -> Problem:
    """A storage failure as a sentence. The answer is still in the labeler's browser, so it says to
    try again.
    """
    cause = str(getattr(error, "orig", error))
    log.error("database: %s", cause)
    if any(mark in cause for mark in DISK_FULL):
        return Problem(
            507, "disk_full", "The server's disk is full. Your draft is kept; tell the researcher."
        )
    if any(mark in cause for mark in LOCKED):
        return Problem(
            503, "busy", "The database is busy. Your draft is kept; try again in a moment.", 2
        )
    if (
        isinstance(error, PoolTimeout)
        or error.connection_invalidated
        or type(error).__name__ == "OperationalError"
    ):
        return Problem(
            503, "database_down", "The database does not answer. Your draft is kept; try again.", 5
        )
    raise error  # a mistake of ours, not of the storage: let it be seen
