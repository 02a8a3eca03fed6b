"""What a labeler reaches who writes: a page, and the API behind it."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import Field

from app.labeling import queue, suggesting, written
from app.labeling.access import Labeler
from app.labeling.account_routes import page
from app.labeling.accounts import User
from app.labeling.answers import Stored
from app.labeling.forms import SKIP_REASONS, Strict
from app.labeling.labeler_routes import DraftVersion, DraftWriter, Id, Key, draft_json, stored_json
from app.labeling.site import Site
from app.labeling.writing import MAX_TEXT, MAX_TURNS, Turn, WritingAnswer, WritingDraft

router = APIRouter()


class Wish(Strict):
    """Where suggestions are wanted."""

    turns: list[Turn] = Field([], max_length=MAX_TURNS)
    round: Annotated[int, Field(strict=True, ge=0, le=100)] = 0


@router.get("/write", response_class=HTMLResponse, include_in_schema=False)
def write_page(request: Request, user: Labeler) -> Response:
    return _page(request, user, "")


@router.get("/write/{assignment_id}", response_class=HTMLResponse, include_in_schema=False)
def rewrite_page(request: Request, user: Labeler, assignment_id: Id) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        queue.own_assignment(session, user.id, assignment_id, lock=False)
    return _page(request, user, assignment_id)


def _page(request: Request, user: User, assignment: int | str) -> Response:
    return page(
        request,
        "write.html",
        user=user,
        assignment=assignment,
        reasons=SKIP_REASONS,
        longest=MAX_TEXT,
    )


@router.get("/api/writing/{assignment_id}")
def read_writing(request: Request, user: Labeler, assignment_id: Id) -> dict[str, Any]:
    """A task of one's own that is written, with the draft or the newest answer."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        mine = queue.own_assignment(session, user.id, assignment_id, lock=False)
        return written.writing_json(session, mine)


@router.put("/api/writing/{assignment_id}/draft")
def put_writing(
    request: Request,
    user: Labeler,
    assignment_id: Id,
    body: WritingDraft,
    version: DraftVersion = None,
    writer: DraftWriter = None,
) -> dict[str, Any]:
    """Keep what is unfinished, as `PUT /api/assignments/{id}/draft` does."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        draft = queue.save_draft(
            session, user.id, assignment_id, body, time.time(), version, writer
        )
        return draft_json(draft)


@router.post("/api/writing/{assignment_id}/suggestions")
async def suggest(request: Request, user: Labeler, assignment_id: Id, body: Wish) -> dict[str, Any]:
    """What a model says to the conversation so far; the same conversation is told the same again,
    and another `round` something else.
    """
    site: Site = request.app.state.site
    turns = [{"role": turn.role, "content": turn.content} for turn in body.turns]
    found = await suggesting.suggestions(site, user.id, assignment_id, turns, body.round)
    return {"suggestions": found}


@router.post("/api/writing/{assignment_id}/submit")
def submit_writing(
    request: Request, user: Labeler, assignment_id: Id, key: Key, body: WritingAnswer
) -> dict[str, Any]:
    """Store what was written. The same key again returns what is stored."""
    return _store(request, user.id, assignment_id, key, body, written.submit)


@router.post("/api/writing/{assignment_id}/revise")
def revise_writing(
    request: Request, user: Labeler, assignment_id: Id, key: Key, body: WritingAnswer
) -> dict[str, Any]:
    """Store a changed text as a new revision, while the batch's edit time lasts."""
    return _store(request, user.id, assignment_id, key, body, written.revise)


def _store(
    request: Request, person_id: int, assignment_id: int, key: str, body: WritingAnswer, how: Any
) -> dict[str, Any]:
    site: Site = request.app.state.site
    with site.database.read() as session:
        ready = written.look(session, person_id, assignment_id, key, body)
    if ready.known is not None:
        return stored_json(Stored(ready.known, False))
    with site.database.write() as session:
        stored = how(session, person_id, assignment_id, key, body, ready.checked, time.time())
        return stored_json(stored)
