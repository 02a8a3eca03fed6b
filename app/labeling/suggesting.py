"""What a model says at one point of a conversation that a labeler writes.

First comes what was imported with the task, then what the batch's endpoint answers. A suggestion is
a row before it is shown, under the conversation that it answers, so a reload shows the same ones
and a labeler can only name what was there. Each person waits for one model at a time.
"""

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx
from anyio import to_thread
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.labeling.problems import Problem
from app.labeling.queue import own_assignment
from app.labeling.site import Site
from app.labeling.task_tables import Assignment, Response, Suggestion, TaskResponse
from app.labeling.views import task_view
from app.labeling.writing import MAX_TEXT, TALKS, Endpoint, context_of

KEY_VARIABLE = "PODIUM_ENDPOINT_KEY"
PATIENCE_SECONDS = 120.0
MAX_REPLY = 2**20  # bytes of one answer
MOST_ROUNDS = 10  # at one point of a conversation
MOST_SUGGESTIONS = 400  # of an assignment
waiting: set[int] = set()  # people whose model is answering; of this process's event loop


class Point(NamedTuple):
    """Where in which conversation suggestions are wanted."""

    assignment_id: int
    context: str
    round: int
    kind: str
    messages: list[dict[str, Any]]
    endpoint: Endpoint | None
    found: list[Suggestion]
    imported: list[tuple[str, str | None]]  # text, generator


async def suggestions(
    site: Site, person_id: int, assignment_id: int, turns: Sequence[Mapping[str, Any]], round: int
) -> list[dict[str, Any]]:
    """Number and text of each, from the left.

    Args:
        turns: what has been said after the task's prompt, the user's turn last.

    Raises:
        Problem: 404, 409 where there is nothing to ask, 422, 429 while another is under way, 502
            where the model does not answer.
    """
    point = await to_thread.run_sync(_look, site, person_id, assignment_id, turns, round)
    if point.found:
        return [_shown(row) for row in point.found]
    texts = point.imported
    if not texts:
        if person_id in waiting:
            raise Problem(429, "busy", "The model is still answering; wait for it.", retry_after=5)
        waiting.add(person_id)
        try:
            texts = await _ask(point)
        finally:
            waiting.discard(person_id)
    rows = await to_thread.run_sync(_keep, site, person_id, point, texts)
    return [_shown(row) for row in rows]


def _shown(row: Suggestion) -> dict[str, Any]:
    return {"id": row.id, "text": row.text}


def _look(
    site: Site, person_id: int, assignment_id: int, turns: Sequence[Mapping[str, Any]], round: int
) -> Point:
    with site.database.read() as session:
        assignment = own_assignment(session, person_id, assignment_id, lock=False)
        view = task_view(session, assignment.task_id)
        if view.kind not in TALKS:
            raise Problem(409, "no_suggestions", "This task has no suggestions.")
        said = [{"role": m["role"], "content": m["content"]} for m in [*view.prompt, *turns]]
        if not said or said[-1]["role"] != "user":
            raise Problem(422, "unfit_answer", "A model answers the user's turn; write one first.")
        context = context_of(said)
        found = _kept(session, assignment_id, context, round)
        imported = _imported(session, assignment) if not turns and not round else []
        endpoint = Endpoint.model_validate(view.endpoint) if view.endpoint else None
        if not found and not imported:
            _check_room(session, assignment, endpoint, round)
        return Point(assignment_id, context, round, view.kind, said, endpoint, found, imported)


def _kept(session: Session, assignment_id: int, context: str, round: int) -> list[Suggestion]:
    query = select(Suggestion).where(
        Suggestion.assignment_id == assignment_id,
        Suggestion.context == context,
        Suggestion.round == round,
    )
    return list(session.scalars(query.order_by(Suggestion.position)))


def _imported(session: Session, assignment: Assignment) -> list[tuple[str, str | None]]:
    """What came with the task, in this labeler's order; red teaming takes two of it."""
    query = (
        select(TaskResponse.position, Response.text, Response.generator)
        .join(Response, Response.id == TaskResponse.response_id)
        .where(TaskResponse.task_id == assignment.task_id)
    )
    by_place = {place: (text, who) for place, text, who in session.execute(query)}
    ordered = [by_place[place] for place in assignment.display_order]
    view = task_view(session, assignment.task_id)
    return ordered[:2] if view.kind == "red_team" else ordered


def _check_room(
    session: Session, assignment: Assignment, endpoint: Endpoint | None, round: int
) -> None:
    if endpoint is None:
        raise Problem(409, "no_suggestions", "There are no more suggestions in this task.")
    if assignment.state not in ("open", "submitted"):
        raise Problem(410, "closed", "This task is no longer in your hands; your draft is kept.")
    count = select(func.count()).where(Suggestion.assignment_id == assignment.id)
    if round >= MOST_ROUNDS or (session.scalar(count) or 0) >= MOST_SUGGESTIONS:
        raise Problem(409, "no_suggestions", "That is as often as the model is asked here.")


async def _ask(point: Point) -> list[tuple[str, str | None]]:
    endpoint = point.endpoint
    assert endpoint is not None  # _check_room has looked
    count = 2 if point.kind == "red_team" else endpoint.suggestions
    models = [endpoint.models[place % len(endpoint.models)] for place in range(count)]
    random.SystemRandom().shuffle(models)  # which side a model stands on is drawn by lot
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, headers=headers) as http:
        answers = await asyncio.gather(
            *(_answer(http, endpoint, model, point.messages) for model in models)
        )
    return list(zip(answers, models, strict=True))


async def _answer(
    http: httpx.AsyncClient, endpoint: Endpoint, model: str, messages: list[dict[str, Any]]
) -> str:
    """One answer; Problem 502 says in a sentence why there is none."""
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": endpoint.max_tokens,
        "temperature": endpoint.temperature,
    }
    url = endpoint.url.rstrip("/") + "/chat/completions"
    try:
        async with http.stream("POST", url, json=body) as reply:
            parts, size = [], 0
            async for part in reply.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > MAX_REPLY:
                    raise _failed("its reply is too long")
            if reply.status_code != 200:
                raise _failed(f"it answered with status {reply.status_code}")
            said = httpx.Response(200, content=b"".join(parts)).json()
        text = said["choices"][0]["message"]["content"]
    except httpx.HTTPError as error:
        raise _failed(f"it cannot be reached ({type(error).__name__})") from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise _failed("its reply is no chat completion") from None
    if not isinstance(text, str):
        raise _failed("its reply holds no text")
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()[:MAX_TEXT]


def _failed(why: str) -> Problem:
    return Problem(
        502,
        "model_failed",
        f"The model does not answer: {why}. What you wrote is kept; try again, or go on without "
        "it.",
    )


def _keep(
    site: Site, person_id: int, point: Point, texts: list[tuple[str, str | None]]
) -> list[Suggestion]:
    """Store them, unless another tab of this person was faster."""
    with site.database.write() as session:
        own_assignment(session, person_id, point.assignment_id)
        known = _kept(session, point.assignment_id, point.context, point.round)
        if known:
            return known
        rows = [
            Suggestion(
                assignment_id=point.assignment_id,
                context=point.context,
                round=point.round,
                position=place,
                text=text,
                generator=who,
                created_at=time.time(),
            )
            for place, (text, who) in enumerate(texts)
        ]
        session.add_all(rows)
        session.flush()
        return rows
