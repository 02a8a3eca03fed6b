"""What a labeler reaches: pages, and the API that the page's JavaScript and the simulated labelers share."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.labeling import answers, queue
from app.labeling.account_routes import page
from app.labeling.forms import SKIP_REASONS, Answer, DraftBody, SkipAnswer
from app.labeling.guard import Labeler
from app.labeling.problems import Problem
from app.labeling.site import Site
from app.labeling.tables import (
    Assignment,
    Batch,
    Draft,
    InstructionRead,
    InstructionSet,
    Prompt,
    PromptRating,
    ResponseRating,
    Submission,
    Task,
    TaskResponse,
)
from app.labeling.tables import Response as ResponseRow

router = APIRouter()
Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=8, max_length=64, pattern=r"^[\x21-\x7e]+$")]


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
def home(request: Request, user: Labeler) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        done = session.scalar(
            select(func.count()).select_from(Assignment)
            .where(Assignment.person_id == user.id, Assignment.state == "submitted")
        )
        return page(request, "home.html", user=user, done=done, chat=getattr(request.app.state, "chat", False))


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
        return page(request, "mine.html", user=user, answers=_own_answers(session, user.id))


@router.get("/instructions", response_class=HTMLResponse, include_in_schema=False)
def instructions_page(request: Request, user: Labeler) -> Response:
    """The versions that open batches of this person's cohort use."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        used = {b.instruction_set_id for b in session.scalars(select(Batch).where(Batch.state == "open"))
                if user.cohort in b.cohorts}
        sets = session.scalars(select(InstructionSet).where(InstructionSet.id.in_(used))).all()
        if not sets:
            sets = session.scalars(select(InstructionSet).order_by(InstructionSet.id.desc()).limit(1)).all()
        return page(request, "instructions.html", user=user, sets=sets)


@router.get("/api/me")
def me(user: Labeler) -> dict[str, str]:
    return {"handle": user.handle, "role": user.role, "cohort": user.cohort, "csrf_token": user.csrf_token}


@router.post("/api/next")
def next_task(request: Request, user: Labeler) -> dict[str, Any]:
    """The task in hand or the next one: `kind` is task, instructions (to be read first) or empty."""
    site: Site = request.app.state.site
    now = time.time()
    with site.database.read() as session:
        late = queue.any_late(session, now)
    if late:
        with site.database.write() as session:
            queue.expire_leases(session, now)
    with site.database.write() as session:
        claimed = queue.claim(session, user.id, now)
        if claimed is None:
            return {"kind": "empty"}
        if isinstance(claimed, queue.MustRead):
            row = session.get_one(InstructionSet, claimed.instruction_set_id)
            return {"kind": "instructions", "id": row.id, "name": row.name, "version": row.version, "body": row.body}
        return _task_json(session, claimed)


@router.post("/api/instructions/{instruction_set_id}/read")
def instructions_read(request: Request, user: Labeler, instruction_set_id: Id) -> dict[str, str]:
    """The labeler says they have read this version."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        if session.get(InstructionSet, instruction_set_id) is None:
            raise Problem(404, "not_found", "There is no such version of the instructions.")
        if session.get(InstructionRead, (user.id, instruction_set_id)) is None:
            session.add(InstructionRead(person_id=user.id, instruction_set_id=instruction_set_id, at=time.time()))
    return {"status": "ok"}


@router.get("/api/assignments/{assignment_id}")
def read_assignment(request: Request, user: Labeler, assignment_id: Id) -> dict[str, Any]:
    """A task of one's own, with the draft or the newest answer."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        return _task_json(session, queue.own_assignment(session, user.id, assignment_id, lock=False))


@router.put("/api/assignments/{assignment_id}/draft")
def put_draft(request: Request, user: Labeler, assignment_id: Id, body: DraftBody) -> dict[str, Any]:
    """Keep an unfinished answer; the reply names what the server has stored."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        draft = queue.save_draft(session, user.id, assignment_id, body, time.time())
        return {"saved": f"{assignment_id}.{draft.version}", "saved_at": draft.saved_at}


@router.post("/api/assignments/{assignment_id}/submit")
def submit(request: Request, user: Labeler, assignment_id: Id, key: Key, body: Answer) -> dict[str, Any]:
    """Store the answer. The same key again returns what is stored; another key for a closed task is a 409."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        return _stored_json(answers.submit(session, user.id, assignment_id, key, body, time.time()))


@router.post("/api/assignments/{assignment_id}/revise")
def revise(request: Request, user: Labeler, assignment_id: Id, key: Key, body: Answer) -> dict[str, Any]:
    """Store a changed answer as a new revision, while the batch's edit time lasts."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        return _stored_json(answers.revise(session, user.id, assignment_id, key, body, time.time()))


@router.post("/api/assignments/{assignment_id}/skip")
def skip(request: Request, user: Labeler, assignment_id: Id, body: SkipAnswer) -> dict[str, str]:
    """Put the task back with a reason."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        queue.skip(session, user.id, assignment_id, body, time.time())
    return {"status": "skipped"}


def _stored_json(stored: answers.Stored) -> dict[str, Any]:
    row = stored.submission
    return {"saved": row.id, "revision": row.revision, "extra": row.extra, "new": stored.is_new}


def _task_json(session: Session, assignment: Assignment) -> dict[str, Any]:
    """Blind: no model names, and the responses in this labeler's order."""
    task = session.get_one(Task, assignment.task_id)
    batch = session.get_one(Batch, task.batch_id)
    instructions = session.get_one(InstructionSet, batch.instruction_set_id)
    texts = dict(session.execute(
        select(TaskResponse.position, ResponseRow.text).join(ResponseRow, ResponseRow.id == TaskResponse.response_id)
        .where(TaskResponse.task_id == task.id)
    ).tuples().all())
    draft = session.get(Draft, assignment.id)
    answered = assignment.state == "submitted"
    return {
        "kind": "task", "assignment": assignment.id, "state": assignment.state, "batch": batch.name,
        "prompt": session.get_one(Prompt, task.prompt_id).messages,
        "responses": [{"position": p, "text": texts[p]} for p in assignment.display_order],
        "form": answers.form_of(session, batch).model_dump(), "ties_allowed": batch.ties_allowed,
        "instructions": f"{instructions.name}@{instructions.version}",
        "lease_until": assignment.lease_until,
        "editable_until": (assignment.closed_at or 0) + 60 * batch.edit_minutes if answered else None,
        "draft": draft.body if draft else None,
        "answer": _answer_json(session, assignment.id) if answered else None,
    }


def _answer_json(session: Session, assignment_id: int) -> dict[str, Any]:
    """The newest revision in the shape that it was sent in."""
    last = answers.latest(session, assignment_id)
    about = session.get_one(PromptRating, last.id)
    ratings = session.scalars(select(ResponseRating).where(ResponseRating.submission_id == last.id)).all()
    return {
        "revision": last.revision, "tiers": last.tiers, "comment": last.comment, "use_case": about.use_case,
        "language": about.language, "prompt_flags": [name for name, ticked in about.flags.items() if ticked],
        "active_seconds": last.active_seconds,
        "responses": [{"position": r.position, "likert": r.likert,
                       "flags": [name for name, ticked in r.flags.items() if ticked]} for r in ratings],
    }


def _own_answers(session: Session, person_id: int) -> list[dict[str, Any]]:
    """The newest hundred, with whether they can still be changed."""
    rows = session.execute(
        select(Assignment, Batch, Prompt.messages, func.max(Submission.revision))
        .join(Task, Task.id == Assignment.task_id).join(Batch, Batch.id == Task.batch_id)
        .join(Prompt, Prompt.id == Task.prompt_id).join(Submission, Submission.assignment_id == Assignment.id)
        .where(Assignment.person_id == person_id, Assignment.state == "submitted")
        .group_by(Assignment.id, Batch.id, Prompt.id).order_by(Assignment.closed_at.desc()).limit(100)
    ).all()
    return [
        {"id": assignment.id, "batch": batch.name, "prompt": messages[-1]["content"], "revision": revision,
         "closed_at": assignment.closed_at,
         "editable": time.time() < (assignment.closed_at or 0) + 60 * batch.edit_minutes}
        for assignment, batch, messages, revision in rows
    ]
