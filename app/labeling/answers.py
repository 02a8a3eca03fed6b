"""Taking answers in: exactly one ranking a person and task, however often and late it is sent.

- The same idempotency key again returns what is stored: a retry after a lost reply, a double click,
  a second tab.
- Another key for an assignment that is closed is a 409: the first answer stands, and can be
  revised.
- An answer that comes after its lease ran out takes the task's free place, or is kept as an extra
  when there is none.
- A revision is a new row. Nothing is overwritten.
"""

from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from app.labeling.forms import Answer, CheckedAnswer, check_answer, unfit
from app.labeling.problems import Problem
from app.labeling.queue import HAS_ROOM, own_assignment
from app.labeling.task_tables import (
    Assignment,
    Draft,
    PromptRating,
    ResponseRating,
    Submission,
    Task,
)
from app.labeling.views import TaskView, latest, task_view
from app.labeling.webhooks import tell

# Built once, see queue.py
UNDER_KEY = select(Submission).where(Submission.idempotency_key == bindparam("key"))
THIS_TASK = (
    update(Task)
    .where(Task.id == bindparam("this"))
    .returning(Task.id)
    .execution_options(synchronize_session=False)
)
OPEN_TO_DONE = THIS_TASK.values(n_open=Task.n_open - 1, n_done=Task.n_done + 1)
LATE_IF_ROOM = THIS_TASK.where(HAS_ROOM).values(n_done=Task.n_done + 1)
DROP_DRAFT = (
    delete(Draft)
    .where(Draft.assignment_id == bindparam("this"))
    .execution_options(synchronize_session=False)
)


class Stored(NamedTuple):
    submission: Submission
    is_new: bool


def look(session: Session, person_id: int, assignment_id: int, key: str) -> Submission | None:
    """What `submit` would answer without storing anything: the row of this key, or Problem 404,
    409, 410; else None.

    Copies of an answer end here and never wait for the write lock.
    """
    assignment = own_assignment(session, person_id, assignment_id, lock=False)
    return known_or_closed(session, assignment, key)


def submit(
    session: Session, person_id: int, assignment_id: int, key: str, answer: Answer, now: float
) -> Stored:
    """Store a first answer. Raises Problem 404, 409 or 422."""
    assignment = own_assignment(session, person_id, assignment_id)
    known = known_or_closed(session, assignment, key)
    if known is not None:
        return Stored(known, False)
    view = task_view(session, assignment.task_id)
    checked = _check(answer, assignment, view)
    extra = not take_place(session, assignment)
    assignment.state, assignment.closed_at = "submitted", now
    submission = _store(session, assignment, view, 1, key, answer, checked, extra, now)
    return Stored(submission, True)


def revise(
    session: Session, person_id: int, assignment_id: int, key: str, answer: Answer, now: float
) -> Stored:
    """Store a changed answer as the next revision, within the batch's edit time. Raises Problem
    404, 409, 410, 422.
    """
    assignment = own_assignment(session, person_id, assignment_id)
    known = stored_under(session, assignment, key)
    if known is not None:
        return Stored(known, False)
    still_editable(session, assignment, now)
    view = task_view(session, assignment.task_id)
    checked = _check(answer, assignment, view)
    last = latest(session, assignment_id)
    submission = _store(
        session, assignment, view, last.revision + 1, key, answer, checked, last.extra, now
    )
    return Stored(submission, True)


def still_editable(session: Session, assignment: Assignment, now: float) -> None:
    """Problem 409 where nothing was answered, 410 where the time to change it is over."""
    if assignment.state != "submitted" or assignment.closed_at is None:
        raise Problem(409, "not_answered", "There is no answer to change: submit this task first.")
    view = task_view(session, assignment.task_id)
    if now > assignment.closed_at + 60 * view.edit_minutes:
        raise Problem(
            410,
            "too_late",
            "The time to change this answer is over. Your draft is kept in this browser.",
        )


def _check(answer: Answer, assignment: Assignment, view: TaskView) -> CheckedAnswer:
    if view.kind != "ranking":
        raise unfit("This task is written, not ranked: send it to /api/writing.")
    if view.view == "text" and answer.seen not in (None, "text"):
        raise unfit("This batch shows text only; 'seen' cannot be anything else.")
    if answer.from_ratings and not view.start_from_ratings:
        raise unfit("In this batch a ranking is not started from the ratings.")
    return check_answer(answer, view.form, assignment.display_order, view.ties_allowed)


def known_or_closed(session: Session, assignment: Assignment, key: str) -> Submission | None:
    """The row of this key; Problem 409 or 410 where the assignment is closed and has none."""
    known = stored_under(session, assignment, key)
    if known is None and assignment.state == "submitted":
        raise Problem(
            409,
            "already_answered",
            "This task is already answered. Your other answer is kept as a draft.",
        )
    if known is None and assignment.state == "skipped":
        raise Problem(410, "closed", "You skipped this task. Your draft is kept in this browser.")
    return known


def stored_under(session: Session, assignment: Assignment, key: str) -> Submission | None:
    """The row of this key; Problem 409 where another task has it."""
    known = session.scalar(UNDER_KEY, {"key": key})
    if known is not None and known.assignment_id != assignment.id:
        raise Problem(
            409, "key_reused", "This idempotency key was used for another task; send a new one."
        )
    return known


def take_place(session: Session, assignment: Assignment) -> bool:
    """Count the answer on its task; False when a late one finds the task full."""
    # not open: the lease ran out, and the place may have gone to somebody else
    change = OPEN_TO_DONE if assignment.state == "open" else LATE_IF_ROOM
    return bool(session.execute(change, {"this": assignment.task_id}).all())


def _store(
    session: Session,
    assignment: Assignment,
    view: TaskView,
    revision: int,
    key: str,
    answer: Answer,
    checked: CheckedAnswer,
    extra: bool,
    now: float,
) -> Submission:
    submission = Submission(
        assignment_id=assignment.id,
        revision=revision,
        idempotency_key=key,
        tiers=answer.tiers,
        active_seconds=answer.active_seconds,
        comment=answer.comment,
        extra=extra,
        seen=answer.seen or view.view,
        from_ratings=answer.from_ratings,
        created_at=now,
        instruction_set_id=view.instruction_set_id,
        form_schema_id=view.form_schema_id,
    )
    session.add(submission)
    session.flush()
    session.execute(
        insert(ResponseRating),
        [
            {
                "submission_id": submission.id,
                "position": position,
                "rank": rank,
                "likert": checked.likert[position],
                "flags": checked.flags[position],
            }
            for position, rank in checked.ranks.items()
        ],
    )
    about = {
        "submission_id": submission.id,
        "flags": checked.prompt_flags,
        "use_case": answer.use_case,
        "language": answer.language,
    }
    session.execute(insert(PromptRating), [about])
    session.execute(DROP_DRAFT, {"this": assignment.id})
    name = f"answer-{assignment.id}"
    told = {"answer": name, "revision": revision, "batch": view.batch, "extra": extra}
    tell(session, "answer.stored", f"{name}.{revision}", told, now)
    return submission
