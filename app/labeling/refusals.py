"""Every exception that a request may end in, as a `Problem`; and a problem as JSON."""

import logging

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.labeling.problems import Problem, bad_request, of_database
from podium.errors import PodiumError, RunFolderError

REFUSALS = (PodiumError, DBAPIError, PoolTimeout, RequestValidationError, HTTPException)


def problem_as_json(problem: Problem) -> JSONResponse:
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    return JSONResponse(problem.as_json(), problem.status, headers)


def as_problem(error: Exception) -> Problem:
    """What to tell of one of `REFUSALS`; a mistake of ours among them is raised again."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, DBAPIError | PoolTimeout):
        return of_database(error)
    if isinstance(error, RequestValidationError):
        return bad_request(error.errors()[0], skip=1)
    if isinstance(error, HTTPException):
        return Problem(error.status_code, "http", str(error.detail))
    if isinstance(error, RunFolderError):
        logging.getLogger("podium.labeling").error("%s", error)
        return Problem(507, "disk_full", f"{error.message}. Nothing was lost; tell the researcher.")
    return Problem(422, "refused", str(error))
