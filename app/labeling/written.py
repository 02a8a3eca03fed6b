"""Taking in what labelers wrote, under the same promises as rankings (`answers.py`): one answer a
person and task, however often and late it is sent; a change is a new revision.
"""

from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling.answers import (
    DROP_DRAFT,
    Stored,
    known_or_closed,
    still_editable,
    stored_under,
    take_place,
)
from app.labeling.problems import Problem
from app.labeling.queue import own_assignment
from app.labeling.task_tables import Assignment, Submission, Suggestion, Written
from app.labeling.views import DRAFT, TaskView, latest, task_view
from app.labeling.webhooks import tell
from app.labeling.writing import CheckedWriting, WritingAnswer, check_writing


class Ready(NamedTuple):
    """An answer that was looked at before the write lock is taken."""

    known: Submission | None
    checked: CheckedWriting | None


def look(
    session: Session, person_id: int, assignment_id: int, key: str, answer: WritingAnswer
) -> Ready:
    """Check an answer, or find it stored. Distances take a moment, and nobody waits for them.

    Raises:
        Problem: 404, 409, 410, 422.
    """
    assignment = own_assignment(session, person_id, assignment_id, lock=False)
    known = stored_under(session, assignment, key)
    if known is not None:
        return Ready(known, None)
    view = _written_task(session, assignment)
    shown = select(Suggestion).where(Suggestion.assignment_id == assignment_id)
    suggestions = {row.id: row for row in session.scalars(shown)}
    checked = check_writing(view.kind, view.prompt, original(view), answer, suggestions)
    return Ready(None, checked)


def submit(
    session: Session,
    person_id: int,
    assignment_id: int,
    key: str,
    answer: WritingAnswer,
    checked: CheckedWriting,
    now: float,
) -> Stored:
    """Store a first answer. Problem 404, 409 or 410."""
    assignment = own_assignment(session, person_id, assignment_id)
    known = known_or_closed(session, assignment, key)
    if known is not None:
        return Stored(known, False)
    extra = not take_place(session, assignment)
    assignment.state, assignment.closed_at = "submitted", now
    return Stored(_store(session, assignment, 1, key, answer, checked, extra, now), True)


def revise(
    session: Session,
    person_id: int,
    assignment_id: int,
    key: str,
    answer: WritingAnswer,
    checked: CheckedWriting,
    now: float,
) -> Stored:
    """Store a changed answer as the next revision, within the batch's edit time. Problem 404, 409
    or 410.
    """
    assignment = own_assignment(session, person_id, assignment_id)
    known = stored_under(session, assignment, key)
    if known is not None:
        return Stored(known, False)
    still_editable(session, assignment, now)
    last = latest(session, assignment_id)
    stored = _store(session, assignment, last.revision + 1, key, answer, checked, last.extra, now)
    return Stored(stored, True)


def writing_json(session: Session, assignment: Assignment) -> dict[str, Any]:
    """A task that is written, as its page needs it; models' names stay out."""
    view = _written_task(session, assignment)
    draft = session.execute(DRAFT, {"this": assignment.id}).first()
    answered = assignment.state == "submitted"
    return {
        "kind": view.kind,
        "assignment": assignment.id,
        "state": assignment.state,
        "batch": view.batch,
        "brief": view.brief,
        "prompt": [{"role": m["role"], "content": m["content"]} for m in view.prompt],
        "original": original(view),
        "suggests": view.endpoint is not None or (view.kind != "edit" and bool(view.texts)),
        "goes_on": view.endpoint is not None,
        "instructions": view.instructions,
        "lease_until": assignment.lease_until,
        "editable_until": (assignment.closed_at or 0) + 60 * view.edit_minutes
        if answered
        else None,
        "draft": draft.body if draft else None,
        "draft_version": draft.version if draft else 0,
        "answer": _answer_json(session, assignment.id) if answered else None,
    }


def original(view: TaskView) -> str | None:
    """The answer that is edited."""
    return view.texts[0] if view.kind == "edit" else None


def _written_task(session: Session, assignment: Assignment) -> TaskView:
    view = task_view(session, assignment.task_id)
    if view.kind == "ranking":
        raise Problem(409, "ranked", "This task is ranked, not written: it is answered at /work.")
    return view


def _answer_json(session: Session, assignment_id: int) -> dict[str, Any]:
    last = latest(session, assignment_id)
    written = session.get_one(Written, last.id)
    return {
        "revision": last.revision,
        "turns": written.sent,
        "comment": last.comment,
        "active_seconds": last.active_seconds,
    }


def _store(
    session: Session,
    assignment: Assignment,
    revision: int,
    key: str,
    answer: WritingAnswer,
    checked: CheckedWriting,
    extra: bool,
    now: float,
) -> Submission:
    view = task_view(session, assignment.task_id)
    submission = Submission(
        assignment_id=assignment.id,
        revision=revision,
        idempotency_key=key,
        tiers=[],
        active_seconds=answer.active_seconds,
        comment=answer.comment,
        extra=extra,
        created_at=now,
        instruction_set_id=view.instruction_set_id,
        form_schema_id=view.form_schema_id,
    )
    session.add(submission)
    session.flush()
    session.add(
        Written(
            submission_id=submission.id,
            sent=[turn.model_dump(exclude_none=True) for turn in answer.turns],
            **checked.model_dump(),
        )
    )
    session.execute(DROP_DRAFT, {"this": assignment.id})
    name = f"answer-{assignment.id}"
    told = {"answer": name, "revision": revision, "batch": view.batch, "extra": extra}
    tell(session, "answer.stored", f"{name}.{revision}", told, now)
    return submission
