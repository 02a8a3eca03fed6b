"""Handing out tasks: claims, leases, drafts and skips. `answers.py` takes what comes back.

Sixteen people who each ask "the next task with room?" and then insert collect 501 rankings where 300 were wanted. Here
a claim is one write transaction: my open assignment if there is one, else the first task with room that I have not
seen; insert and count. The order of locks is always person, assignment, task, so no two transactions wait for each
other:

- SQLite has one writer at a time, so nothing more is needed.
- PostgreSQL locks the person's row (two tabs of one person queue), and the first task row that nobody else has locked.
  `key_share` is its FOR NO KEY UPDATE: rows that refer to a locked row can still be inserted.

Every function works inside the caller's write transaction and takes `now`, so tests need no clock.
"""

import random
from typing import NamedTuple

from sqlalchemy import and_, exists, func, or_, select, update
from sqlalchemy.orm import Session

from app.labeling.forms import DraftBody, SkipAnswer
from app.labeling.problems import Problem
from app.labeling.tables import (
    Assignment,
    Batch,
    Draft,
    EventLog,
    InstructionRead,
    Person,
    Skip,
    Submission,
    Task,
)
from app.labeling.views import task_view

FRESH = 0.9  # share of the lease that must be left for a task in hand to be shown again without writing
EXPIRE_AT_ONCE = 200  # leases closed in one go; the rest waits for the next claim
HAS_ROOM = Task.n_open + Task.n_done < Task.need


class MustRead(NamedTuple):
    """The labeler has not yet read this version of the instructions."""

    instruction_set_id: int


def any_late(session: Session, now: float) -> bool:
    """Whether a lease has run out: a look that needs no write lock."""
    return bool(session.scalar(select(exists().where(Assignment.state == "open", Assignment.lease_until < now))))


def expire_leases(session: Session, now: float) -> int:
    """Give tasks back whose labeler went away. The draft stays, and a late submission is still taken."""
    late = session.execute(
        select(Assignment.id, Assignment.task_id, Assignment.person_id)
        .where(Assignment.state == "open", Assignment.lease_until < now)
        .order_by(Assignment.task_id).limit(EXPIRE_AT_ONCE).with_for_update(skip_locked=True, key_share=True)
    ).all()
    for assignment_id, task_id, person_id in late:
        session.execute(
            update(Assignment).where(Assignment.id == assignment_id).values(state="expired", closed_at=now)
        )
        session.execute(update(Task).where(Task.id == task_id).values(n_open=Task.n_open - 1))
        session.add(EventLog(at=now, person_id=person_id, kind="lease expired", detail={"assignment": assignment_id}))
    return len(late)


def in_hand(session: Session, person_id: int, now: float) -> Assignment | None:
    """The task this person holds, if its lease is fresh enough that nothing has to be written."""
    mine = session.scalar(select(Assignment).where(Assignment.person_id == person_id, Assignment.state == "open"))
    if mine is None or mine.lease_until - now < FRESH * 60 * task_view(session, mine.task_id).lease_minutes:
        return None
    return mine


def claim(session: Session, person_id: int, now: float) -> Assignment | MustRead | None:
    """The task this person works on next; None when there is none for them. Call `expire_leases` before, on its own."""
    person = _lock_person(session, person_id)
    open_one = select(Assignment).where(Assignment.person_id == person_id, Assignment.state == "open")
    mine = session.scalar(open_one.with_for_update(key_share=True))
    if mine is not None:
        mine.lease_until = now + 60 * task_view(session, mine.task_id).lease_minutes
        return mine
    batches = {
        b.id: b for b in session.scalars(select(Batch).where(Batch.state == "open").order_by(Batch.id))
        if person.cohort in b.cohorts
    }
    found = _find_task(session, person_id, batches)
    if found is None:
        return None
    task, held_before = found
    batch = batches[task.batch_id]
    read = (InstructionRead.person_id == person_id, InstructionRead.instruction_set_id == batch.instruction_set_id)
    if not session.scalar(select(exists().where(*read))):
        return MustRead(batch.instruction_set_id)
    task.n_open += 1
    lease_until = now + 60 * batch.lease_minutes
    return _reopen(session, person, task, lease_until) if held_before else _assign(
        session, person, task, lease_until, now)


def _lock_person(session: Session, person_id: int) -> Person:
    person = session.scalar(select(Person).where(Person.id == person_id).with_for_update(key_share=True))
    if person is None or person.disabled_at is not None:
        raise Problem(401, "logged_out", "This account is not active. Your draft is kept in this browser.")
    return person


def _find_task(session: Session, person_id: int, batches: dict[int, Batch]) -> tuple[Task, bool] | None:
    """A gold task when one is due, else one I held before (True; its draft waits), else the first I have not seen."""
    if not batches:
        return None
    taken = select(Assignment.state).where(Assignment.task_id == Task.id, Assignment.person_id == person_id)
    expired = exists(taken.where(Assignment.state == "expired"))
    unseen = ~exists(taken)
    is_gold = Task.gold_ranks.is_not(None)
    for batch in batches.values():
        if batch.gold_every and _answers_in(session, person_id, batch) % batch.gold_every == batch.gold_every - 1:
            gold = _first_free(session, and_(Task.batch_id == batch.id, is_gold, unseen))
            if gold is not None:
                return gold, False
    ordinary = and_(Task.batch_id.in_(batches), ~is_gold)
    held = _first_free(session, and_(Task.batch_id.in_(batches), expired))
    if held is not None:
        return held, True
    fresh = _first_free(session, and_(ordinary, unseen))
    return None if fresh is None else (fresh, False)


def _first_free(session: Session, condition) -> Task | None:
    query = select(Task).where(HAS_ROOM, condition).order_by(Task.batch_id, Task.position).limit(1)
    task = session.scalar(query.with_for_update(skip_locked=True, key_share=True))
    # All that is left may be locked by others for a moment: wait for one, and look again if it filled up meanwhile.
    while task is None and session.scalar(select(exists().where(HAS_ROOM, condition))):
        task = session.scalar(query.with_for_update(key_share=True))
    return task


def _answers_in(session: Session, person_id: int, batch: Batch) -> int:
    closed = select(func.count()).select_from(Assignment).join(Task, Task.id == Assignment.task_id).where(
        Assignment.person_id == person_id, Assignment.state == "submitted", Task.batch_id == batch.id
    )
    return session.scalars(closed).one()


def _assign(session: Session, person: Person, task: Task, lease_until: float, now: float) -> Assignment:
    view = task_view(session, task.id)
    assignment = Assignment(
        task_id=task.id, person_id=person.id, state="open", cohort=person.cohort, lease_until=lease_until,
        claimed_at=now, display_order=shuffled(list(view.texts), view.shuffle_seed, task.id, person.id),
    )
    session.add(assignment)
    session.flush()
    return assignment


def _reopen(session: Session, person: Person, task: Task, lease_until: float) -> Assignment:
    mine = select(Assignment).where(Assignment.task_id == task.id, Assignment.person_id == person.id)
    assignment = session.scalars(mine).one()
    assignment.state, assignment.lease_until, assignment.closed_at = "open", lease_until, None
    session.flush()
    return assignment


def shuffled(positions: list[int], seed: int, task_id: int, person_id: int) -> list[int]:
    """A display order of one's own for each labeler and task, the same on every look."""
    order = positions.copy()
    random.Random(f"{seed}/{task_id}/{person_id}").shuffle(order)
    return order


def own_assignment(session: Session, person_id: int, assignment_id: int, lock: bool = True) -> Assignment:
    """The assignment if it is this person's; another's is 404, as if it did not exist. `lock` when it will change."""
    if lock:
        _lock_person(session, person_id)
    query = select(Assignment).where(Assignment.id == assignment_id)
    assignment = session.scalar(query.with_for_update(key_share=True) if lock else query)
    if assignment is None or assignment.person_id != person_id:
        raise Problem(404, "not_yours", "There is no such task of yours.")
    return assignment


def save_draft(session: Session, person_id: int, assignment_id: int, body: DraftBody, now: float) -> Draft:
    """Keep an unfinished answer and prolong the lease: somebody is at work."""
    assignment = own_assignment(session, person_id, assignment_id)
    if assignment.state == "skipped":
        raise Problem(410, "closed", "You skipped this task. Your draft is kept in this browser.")
    if assignment.state == "open":
        assignment.lease_until = max(
            assignment.lease_until, now + 60 * task_view(session, assignment.task_id).lease_minutes
        )
    draft = session.get(Draft, assignment_id)
    if draft is None:
        draft = Draft(assignment_id=assignment_id, body=body.model_dump(), version=1, saved_at=now)
        session.add(draft)
    else:
        draft.body, draft.version, draft.saved_at = body.model_dump(), draft.version + 1, now
    return draft


def skip(session: Session, person_id: int, assignment_id: int, answer: SkipAnswer, now: float) -> None:
    """Put a task back with a reason. A second skip of the same task changes nothing."""
    assignment = own_assignment(session, person_id, assignment_id)
    if assignment.state == "skipped":
        return
    if assignment.state == "submitted":
        raise Problem(409, "closed", "You have already answered this task; edit the answer instead.")
    if assignment.state == "open":
        session.execute(update(Task).where(Task.id == assignment.task_id).values(n_open=Task.n_open - 1))
    assignment.state, assignment.closed_at = "skipped", now
    session.add(Skip(assignment_id=assignment_id, reason=answer.reason, note=answer.note, created_at=now))


def recount(session: Session) -> list[int]:
    """Ids of tasks whose counters differ from their rows; empty unless there is a bug."""
    wrong = []
    rows: dict[int, list[int]] = {}
    for task_id, state, extra in session.execute(
        select(Assignment.task_id, Assignment.state, Submission.extra)
        .outerjoin(Submission, and_(Submission.assignment_id == Assignment.id, Submission.revision == 1))
        .where(or_(Assignment.state == "open", Assignment.state == "submitted"))
    ):
        counted = rows.setdefault(task_id, [0, 0])
        counted[0] += state == "open"
        counted[1] += state == "submitted" and not extra
    for task_id, n_open, n_done in session.execute(select(Task.id, Task.n_open, Task.n_done)):
        if [n_open, n_done] != rows.get(task_id, [0, 0]):
            wrong.append(task_id)
    return wrong
