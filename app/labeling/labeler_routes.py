"""What a labeler reaches: pages, and the API that the page's JavaScript and the simulated labelers
share.
"""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling import answers, queue
from app.labeling.access import Labeler
from app.labeling.account_routes import page
from app.labeling.accounts import User
from app.labeling.forms import SKIP_REASONS, Answer, DraftBody, SkipAnswer
from app.labeling.own import own_progress, tasks_left
from app.labeling.problems import Problem
from app.labeling.site import Site
from app.labeling.task_tables import Assignment, Batch, Draft, InstructionRead, InstructionSet
from app.labeling.views import own_answers, task_json, task_view

router = APIRouter()
Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Key = Annotated[
    str, Header(alias="Idempotency-Key", min_length=8, max_length=64, pattern=r"^[\x21-\x7e]+$")
]

DraftVersion = Annotated[int | None, Header(alias="Draft-Version", ge=0, le=2**31 - 1)]
DraftWriter = Annotated[
    str | None, Header(alias="Draft-Writer", max_length=64, pattern=r"^[\x21-\x7e]+$")
]


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
def home(request: Request, user: Labeler) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        return page(
            request,
            "home.html",
            user=user,
            own=own_progress(session, user.id, user.cohort),
            chat=getattr(request.app.state, "chat", False),
        )


@router.get("/work", response_class=HTMLResponse, include_in_schema=False)
def work_page(request: Request, user: Labeler) -> Response:
    return page(request, "work.html", user=user, assignment="", reasons=SKIP_REASONS)


@router.get("/work/{assignment_id}", response_class=HTMLResponse, include_in_schema=False)
def edit_page(request: Request, user: Labeler, assignment_id: Id) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        queue.own_assignment(session, user.id, assignment_id, lock=False)
    return page(request, "work.html", user=user, assignment=assignment_id, reasons=SKIP_REASONS)


@router.get("/mine", response_class=HTMLResponse, include_in_schema=False)
def mine_page(request: Request, user: Labeler) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        return page(request, "mine.html", user=user, answers=own_answers(session, user.id))


@router.get("/instructions", response_class=HTMLResponse, include_in_schema=False)
def instructions_page(request: Request, user: Labeler) -> Response:
    """The versions that open batches of this person's cohort use."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        used = {
            b.instruction_set_id
            for b in session.scalars(select(Batch).where(Batch.state == "open"))
            if user.cohort in b.cohorts
        }
        sets = session.scalars(select(InstructionSet).where(InstructionSet.id.in_(used))).all()
        if not sets:
            sets = session.scalars(
                select(InstructionSet).order_by(InstructionSet.id.desc()).limit(1)
            ).all()
        return page(request, "instructions.html", user=user, sets=sets)


@router.get("/api/me")
def me(user: Labeler) -> dict[str, str]:
    return {
        "handle": user.handle,
        "role": user.role,
        "cohort": user.cohort,
        "csrf_token": user.csrf_token,
    }


@router.get("/api/me/progress")
def my_progress(request: Request, user: Labeler) -> dict[str, Any]:
    """What is left for this labeler, their pace, and how far they agree with known rankings."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        return own_progress(session, user.id, user.cohort)._asdict()


@router.post("/api/next")
def next_task(request: Request, user: Labeler) -> dict[str, Any]:
    """The task in hand or the next one: `kind` is task, writing (its page is /write), instructions
    (to be read first) or empty.
    """
    site: Site = request.app.state.site
    now = time.time()
    with site.database.read() as session:
        mine = queue.in_hand(session, user.id, now)
        if mine is not None:
            return _task_json(session, user, mine)
        late = queue.any_late(session, now)
    if late:
        with site.database.write() as session:
            queue.expire_leases(session, now)
    with site.database.write() as session:
        claimed = queue.claim(session, user.id, now)
    with site.database.read() as session:  # after the lock is given back
        if claimed is None:
            return {"kind": "empty"}
        if isinstance(claimed, queue.MustRead):
            row = session.get_one(InstructionSet, claimed.instruction_set_id)
            return {"kind": "instructions"} | _instructions_json(row)
        return _task_json(session, user, claimed)


@router.post("/api/instructions/{instruction_set_id}/read")
def instructions_read(request: Request, user: Labeler, instruction_set_id: Id) -> dict[str, str]:
    """The labeler says they have read this version."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        if session.get(InstructionSet, instruction_set_id) is None:
            raise Problem(404, "not_found", "There is no such version of the instructions.")
        if session.get(InstructionRead, (user.id, instruction_set_id)) is None:
            session.add(
                InstructionRead(
                    person_id=user.id, instruction_set_id=instruction_set_id, at=time.time()
                )
            )
    return {"status": "ok"}


@router.get("/api/assignments/{assignment_id}")
def read_assignment(request: Request, user: Labeler, assignment_id: Id) -> dict[str, Any]:
    """A task of one's own, with the draft or the newest answer."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        mine = queue.own_assignment(session, user.id, assignment_id, lock=False)
        return _task_json(session, user, mine)


@router.get("/api/assignments/{assignment_id}/instructions")
def read_instructions(request: Request, user: Labeler, assignment_id: Id) -> dict[str, Any]:
    """The version of the instructions that this task is answered under, for reading beside it."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        mine = queue.own_assignment(session, user.id, assignment_id, lock=False)
        version = task_view(session, mine.task_id).instruction_set_id
        return _instructions_json(session.get_one(InstructionSet, version))


@router.put("/api/assignments/{assignment_id}/draft")
def put_draft(
    request: Request,
    user: Labeler,
    assignment_id: Id,
    body: DraftBody,
    version: DraftVersion = None,
    writer: DraftWriter = None,
) -> dict[str, Any]:
    """Keep an unfinished answer; the reply names what the server has stored. With `Draft-Version`
    (the one that was shown) a newer draft of another `Draft-Writer` is a 409.
    """
    site: Site = request.app.state.site
    with site.database.write() as session:
        draft = queue.save_draft(
            session, user.id, assignment_id, body, time.time(), version, writer
        )
        return draft_json(draft)


@router.post("/api/assignments/{assignment_id}/submit")
def submit(
    request: Request, user: Labeler, assignment_id: Id, key: Key, body: Answer
) -> dict[str, Any]:
    """Store the answer. The same key again returns what is stored; another key for a closed task is
    a 409.
    """
    site: Site = request.app.state.site
    with site.database.read() as session:
        known = answers.look(session, user.id, assignment_id, key)
    if known is not None:
        return stored_json(answers.Stored(known, False))
    with site.database.write() as session:
        return stored_json(answers.submit(session, user.id, assignment_id, key, body, time.time()))


@router.post("/api/assignments/{assignment_id}/revise")
def revise(
    request: Request, user: Labeler, assignment_id: Id, key: Key, body: Answer
) -> dict[str, Any]:
    """Store a changed answer as a new revision, while the batch's edit time lasts."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        return stored_json(answers.revise(session, user.id, assignment_id, key, body, time.time()))


@router.post("/api/assignments/{assignment_id}/skip")
def skip(request: Request, user: Labeler, assignment_id: Id, body: SkipAnswer) -> dict[str, str]:
    """Put the task back with a reason."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        queue.skip(session, user.id, assignment_id, body, time.time())
    return {"status": "skipped"}


def _task_json(session: Session, user: User, assignment: Assignment) -> dict[str, Any]:
    """With what is left for this labeler, so that the page need not ask again."""
    shown = task_json(session, assignment)
    if shown["kind"] == "task":
        shown["left"] = tasks_left(session, user.id, user.cohort)
    return shown


def _instructions_json(row: InstructionSet) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "version": row.version, "body": row.body}


def draft_json(draft: Draft) -> dict[str, Any]:
    """What the server has stored."""
    return {
        "saved": f"{draft.assignment_id}.{draft.version}",
        "version": draft.version,
        "saved_at": draft.saved_at,
    }


def stored_json(stored: answers.Stored) -> dict[str, Any]:
    row = stored.submission
    return {"saved": row.id, "revision": row.revision, "extra": row.extra, "new": stored.is_new}
