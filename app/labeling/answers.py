"""Taking answers in: exactly one ranking a person and task, however often and late it is sent.

- The same idempotency key again returns what is stored: a retry after a lost reply, a double click, a second tab.
- Another key for an assignment that is closed is a 409: the first answer stands, and can be revised.
- An answer that comes after its lease ran out takes the task's free place, or is kept as an extra when there is none.
- A revision is a new row. Nothing is overwritten.
"""

from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.labeling.forms import Answer, CheckedAnswer, Form, check_answer
from app.labeling.problems import Problem
from app.labeling.queue import HAS_ROOM, own_assignment
from app.labeling.tables import Assignment, Batch, Draft, FormSchema, PromptRating, ResponseRating, Submission, Task


class Stored(NamedTuple):
    submission: Submission
    is_new: bool


def submit(session: Session, person_id: int, assignment_id: int, key: str, answer: Answer, now: float) -> Stored:
    """Store a first answer. Raises Problem 404, 409 or 422."""
    assignment = own_assignment(session, person_id, assignment_id)
    known = _stored_under(session, key, assignment_id)
    if known is not None:
        return Stored(known, False)
    if assignment.state == "submitted":
        raise Problem(409, "already_answered", "This task is already answered. Your other answer is kept as a draft.")
    if assignment.state == "skipped":
        raise Problem(410, "closed", "You skipped this task. Your draft is kept in this browser.")
    batch = _batch_of(session, assignment)
    checked = check_answer(answer, form_of(session, batch), assignment.display_order, batch.ties_allowed)
    extra = not _take_place(session, assignment)
    assignment.state, assignment.closed_at = "submitted", now
    submission = _store(session, assignment, batch, 1, key, answer, checked, extra, now)
    _drop_draft(session, assignment_id)
    return Stored(submission, True)


def revise(session: Session, person_id: int, assignment_id: int, key: str, answer: Answer, now: float) -> Stored:
    """Store a changed answer as the next revision, within the batch's edit time. Raises Problem 404, 409, 410, 422."""
    assignment = own_assignment(session, person_id, assignment_id)
    known = _stored_under(session, key, assignment_id)
    if known is not None:
        return Stored(known, False)
    if assignment.state != "submitted" or assignment.closed_at is None:
        raise Problem(409, "not_answered", "There is no answer to change: submit this task first.")
    batch = _batch_of(session, assignment)
    if now > assignment.closed_at + 60 * batch.edit_minutes:
        raise Problem(410, "too_late", "The time to change this answer is over. Your draft is kept in this browser.")
    checked = check_answer(answer, form_of(session, batch), assignment.display_order, batch.ties_allowed)
    last = latest(session, assignment_id)
    submission = _store(session, assignment, batch, last.revision + 1, key, answer, checked, last.extra, now)
    _drop_draft(session, assignment_id)
    return Stored(submission, True)


def latest(session: Session, assignment_id: int) -> Submission:
    """The newest revision of an answered assignment."""
    query = select(Submission).where(Submission.assignment_id == assignment_id).order_by(Submission.revision.desc())
    return session.scalars(query.limit(1)).one()


def form_of(session: Session, batch: Batch) -> Form:
    row = session.get_one(FormSchema, batch.form_schema_id)
    return Form.model_validate(row.body)


def _stored_under(session: Session, key: str, assignment_id: int) -> Submission | None:
    known = session.scalar(select(Submission).where(Submission.idempotency_key == key))
    if known is not None and known.assignment_id != assignment_id:
        raise Problem(409, "key_reused", "This idempotency key was used for another task; send a new one.")
    return known


def _take_place(session: Session, assignment: Assignment) -> bool:
    """Count the answer on its task; False when a late one finds the task full."""
    mine = update(Task).where(Task.id == assignment.task_id)
    if assignment.state == "open":
        change = mine.values(n_open=Task.n_open - 1, n_done=Task.n_done + 1)
    else:  # the lease ran out: the place may have gone to somebody else
        change = mine.where(HAS_ROOM).values(n_done=Task.n_done + 1)
    return bool(session.execute(change.returning(Task.id)).all())


def _store(
    session: Session, assignment: Assignment, batch: Batch, revision: int, key: str, answer: Answer,
    checked: CheckedAnswer, extra: bool, now: float,
) -> Submission:
    submission = Submission(
        assignment_id=assignment.id, revision=revision, idempotency_key=key, tiers=answer.tiers,
        active_seconds=answer.active_seconds, comment=answer.comment, extra=extra, created_at=now,
        instruction_set_id=batch.instruction_set_id, form_schema_id=batch.form_schema_id,
    )
    session.add(submission)
    session.flush()
    session.add_all([
        ResponseRating(submission_id=submission.id, position=position, rank=rank, likert=checked.likert[position],
                       flags=checked.flags[position])
        for position, rank in checked.ranks.items()
    ])
    session.add(PromptRating(submission_id=submission.id, flags=checked.prompt_flags, use_case=answer.use_case,
                             language=answer.language))
    session.flush()
    return submission


def _batch_of(session: Session, assignment: Assignment) -> Batch:
    query = select(Batch).join(Task, Task.batch_id == Batch.id).where(Task.id == assignment.task_id)
    return session.scalars(query).one()


def _drop_draft(session: Session, assignment_id: int) -> None:
    draft = session.get(Draft, assignment_id)
    if draft is not None:
        session.delete(draft)
