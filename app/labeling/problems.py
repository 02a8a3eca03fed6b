"""What can go wrong in a request: one exception with an HTTP status, a code for programs and a
sentence for people.
"""

import logging

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from podium.errors import PodiumError

log = logging.getLogger("podium.labeling")

DISK_FULL = ("disk is full", "No space left", "could not extend file", "disk I/O error")
LOCKED = ("database is locked", "deadlock detected")


class Problem(PodiumError):
    """A refused request. 401/403/404 access, 409 conflict, 410 closed, 422 content, 429 throttled,
    503/507 storage.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    def as_json(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


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
