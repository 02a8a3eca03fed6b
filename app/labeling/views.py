"""What a labeler sees of a task, and the part of it that never changes, which is read from the
database once.
"""

import time
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, bindparam, func, select
from sqlalchemy.orm import Session

from app.labeling.forms import Form, View
from app.labeling.rendering import render
from app.labeling.task_tables import (
    Assignment,
    Batch,
    Draft,
    FormSchema,
    InstructionSet,
    Prompt,
    PromptRating,
    Response,
    ResponseRating,
    Submission,
    Task,
    TaskResponse,
)

REMEMBERED = 1000  # tasks; a task is a few kilobytes

# Built once, see queue.py
THIS: BindParameter[int] = bindparam("this")
DRAFT = select(Draft.body, Draft.version).where(Draft.assignment_id == THIS)
FIXED = (
    select(
        Batch,
        Prompt.messages,
        FormSchema.body,
        InstructionSet.name,
        InstructionSet.version,
        Task.brief,
    )
    .join(Task, Task.batch_id == Batch.id)
    .join(Prompt, Prompt.id == Task.prompt_id)
    .join(FormSchema, FormSchema.id == Batch.form_schema_id)
    .join(InstructionSet, InstructionSet.id == Batch.instruction_set_id)
    .where(Task.id == THIS)
)
TEXTS = (
    select(TaskResponse.position, Response.text)
    .join(Response, Response.id == TaskResponse.response_id)
    .where(TaskResponse.task_id == THIS, TaskResponse.copy_of.is_(None))
    .order_by(TaskResponse.position)
)


class TaskView(NamedTuple):
    """Everything about a task that is fixed when it is imported."""

    batch: str
    prompt: list[dict[str, Any]]
    texts: dict[int, str]  # by position, only those that are shown
    form: Form
    form_json: dict[str, Any]
    ties_allowed: bool
    lease_minutes: float
    edit_minutes: float
    shuffle_seed: int
    instructions: str  # name@version
    instruction_set_id: int
    form_schema_id: int
    view: View
    start_from_ratings: bool
    kind: str  # ranking, or what is written
    endpoint: dict[str, Any] | None  # a model that suggests answers
    brief: str | None


def task_view(session: Session, task_id: int) -> TaskView:
    """From the memory that `Database` lends to its sessions, else from the tables."""
    memory: dict[int, TaskView] = session.info["task_views"]
    found = memory.get(task_id)
    if found is None:
        if len(memory) >= REMEMBERED:
            memory.clear()
        found = memory[task_id] = _read_task(session, task_id)
    return found


def _read_task(session: Session, task_id: int) -> TaskView:
    batch, messages, form, name, version, brief = session.execute(FIXED, {"this": task_id}).one()
    texts = session.execute(TEXTS, {"this": task_id}).tuples().all()
    checked = Form.model_validate(form)
    return TaskView(
        batch.name,
        messages,
        dict(texts),
        checked,
        checked.model_dump(),
        batch.ties_allowed,
        batch.lease_minutes,
        batch.edit_minutes,
        batch.shuffle_seed,
        f"{name}@{version}",
        batch.instruction_set_id,
        batch.form_schema_id,
        batch.view,
        batch.start_from_ratings,
        batch.kind,
        batch.endpoint,
        brief,
    )


def task_json(session: Session, assignment: Assignment) -> dict[str, Any]:
    """Blind: no model names, and the responses in this labeler's order. What is written has a page
    of its own; of it this tells the number alone.
    """
    view = task_view(session, assignment.task_id)
    if view.kind != "ranking":
        return {"kind": "writing", "assignment": assignment.id}
    draft = session.execute(DRAFT, {"this": assignment.id}).first()
    answered = assignment.state == "submitted"
    return {
        "kind": "task",
        "assignment": assignment.id,
        "state": assignment.state,
        "batch": view.batch,
        **fixed_json(view, assignment.display_order),
        "lease_until": assignment.lease_until,
        "editable_until": (assignment.closed_at or 0) + 60 * view.edit_minutes
        if answered
        else None,
        "draft": draft.body if draft else None,
        "draft_version": draft.version if draft else 0,
        "answer": _answer_json(session, assignment.id) if answered else None,
    }


def fixed_json(view: TaskView, order: list[int]) -> dict[str, Any]:
    """What is the same for everybody but for the order. Rendered texts come with their sources, one
    key away; `html` is null where a text is too long to be rendered.
    """
    prompt = [dict(message) for message in view.prompt]
    responses: list[dict[str, Any]] = [{"position": p, "text": view.texts[p]} for p in order]
    if view.view == "rendered":
        for message in prompt:
            message["html"] = render(message["content"])
        for response in responses:
            response["html"] = render(response["text"])
    return {
        "prompt": prompt,
        "responses": responses,
        "form": view.form_json,
        "ties_allowed": view.ties_allowed,
        "instructions": view.instructions,
        "view": view.view,
        "start_from_ratings": view.start_from_ratings,
    }


def latest(session: Session, assignment_id: int) -> Submission:
    """The newest revision of an answered assignment."""
    query = (
        select(Submission)
        .where(Submission.assignment_id == assignment_id)
        .order_by(Submission.revision.desc())
    )
    return session.scalars(query.limit(1)).one()


def _answer_json(session: Session, assignment_id: int) -> dict[str, Any]:
    """The newest revision in the shape that it was sent in."""
    last = latest(session, assignment_id)
    about = session.get_one(PromptRating, last.id)
    ratings = session.scalars(
        select(ResponseRating).where(ResponseRating.submission_id == last.id)
    ).all()
    return {
        "revision": last.revision,
        "tiers": last.tiers,
        "comment": last.comment,
        "use_case": about.use_case,
        "language": about.language,
        "prompt_flags": [name for name, ticked in about.flags.items() if ticked],
        "active_seconds": last.active_seconds,
        "seen": last.seen,
        "from_ratings": last.from_ratings,
        "responses": [
            {
                "position": r.position,
                "likert": r.likert,
                "flags": [name for name, ticked in r.flags.items() if ticked],
            }
            for r in ratings
        ],
    }


def own_answers(session: Session, person_id: int) -> list[dict[str, Any]]:
    """The newest hundred, with whether they can still be changed."""
    rows = session.execute(
        select(Assignment, Batch, Task.brief, Prompt.messages, func.max(Submission.revision))
        .join(Task, Task.id == Assignment.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Submission, Submission.assignment_id == Assignment.id)
        .where(Assignment.person_id == person_id, Assignment.state == "submitted")
        .group_by(Assignment.id, Batch.id, Task.id, Prompt.id)
        .order_by(Assignment.closed_at.desc())
        .limit(100)
    ).all()
    return [
        {
            "id": assignment.id,
            "batch": batch.name,
            "page": "work" if batch.kind == "ranking" else "write",
            "prompt": messages[-1]["content"] if messages else brief or "",
            "revision": revision,
            "closed_at": assignment.closed_at,
            "editable": time.time() < (assignment.closed_at or 0) + 60 * batch.edit_minutes,
        }
        for assignment, batch, brief, messages, revision in rows
    ]
