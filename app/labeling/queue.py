"""Handing out tasks: claims, leases, drafts and skips. `answers.py` takes what comes back.

Sixteen people who each ask "the next task with room?" and then insert collect 501 rankings where
300 were wanted. Here a claim is one write transaction: my open assignment if there is one, else the
first task with room that I have not seen; insert and count. The order of locks is always person,
assignment, task, so no two transactions wait for each other:

- SQLite has one writer at a time, so nothing more is needed.
- PostgreSQL locks the person's row (two tabs of one person queue), and the first task row that
  nobody else has locked. `key_share` is its FOR NO KEY UPDATE: rows that refer to a locked row can
  still be inserted. Whoever finds none holds none, and one look waits for tasks in their order.

Every function works inside the caller's write transaction and takes `now`, so tests need no clock.
"""

import random
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import (
    BindParameter,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from app.labeling.forms import SkipAnswer
from app.labeling.problems import Problem
from app.labeling.tables import EventLog, Person
from app.labeling.task_tables import (
    Assignment,
    Batch,
    Draft,
    InstructionRead,
    Skip,
    Submission,
    Task,
)
from app.labeling.views import task_view

# share of the lease that must be left for a task in hand to be shown again without writing
FRESH = 0.9
EXPIRE_AT_ONCE = 200  # leases closed in one go; the rest waits for the next claim
HAS_ROOM = Task.n_open + Task.n_done < Task.need


class Free(NamedTuple):
    """The first task of one kind that has room for me."""

    at_once: Select  # that nobody else has locked
    any: Select  # waits for a lock
    is_there: Select


def _free(condition) -> Free:
    first = (
        select(Task.id, Task.batch_id)
        .where(HAS_ROOM, Task.batch_id.in_(bindparam("batches", expanding=True)), condition)
        .order_by(Task.batch_id, Task.position)
        .limit(1)
    )
    return Free(
        first.with_for_update(skip_locked=True, key_share=True),
        first.with_for_update(key_share=True),
        select(exists(first.order_by(None).limit(None))),
    )


# Built once: with SQLAlchemy, writing a statement down costs more than SQLite's answer to it.
ME: BindParameter[int] = bindparam("me")
THIS: BindParameter[int] = bindparam("this")
PERSON_LOCKED = (
    select(Person.cohort, Person.disabled_at).where(Person.id == ME).with_for_update(key_share=True)
)
IN_HAND = select(Assignment).where(Assignment.person_id == ME, Assignment.state == "open")
IN_HAND_LOCKED = IN_HAND.with_for_update(key_share=True)
ASSIGNMENT = select(Assignment).where(Assignment.id == THIS)
ASSIGNMENT_LOCKED = ASSIGNMENT.with_for_update(key_share=True)
LATE = select(exists().where(Assignment.state == "open", Assignment.lease_until < bindparam("now")))
OPEN_BATCHES = (
    select(Batch.id, Batch.cohorts, Batch.lease_minutes, Batch.gold_every, Batch.instruction_set_id)
    .where(Batch.state == "open")
    .order_by(Batch.id)
)
HAS_READ = select(
    exists().where(InstructionRead.person_id == ME, InstructionRead.instruction_set_id == THIS)
)
ANSWERS_IN_BATCH = (
    select(func.count())
    .select_from(Assignment)
    .join(Task, Task.id == Assignment.task_id)
    .where(Assignment.person_id == ME, Assignment.state == "submitted", Task.batch_id == THIS)
)
MINE = select(Assignment.state).where(Assignment.task_id == Task.id, Assignment.person_id == ME)
GOLD = _free(and_(Task.gold_ranks.is_not(None), ~exists(MINE)))
HELD_BEFORE = _free(exists(MINE.where(Assignment.state == "expired")))
UNSEEN = _free(and_(Task.gold_ranks.is_(None), ~exists(MINE)))
TAKE_PLACE = (
    update(Task)
    .where(Task.id == THIS)
    .values(n_open=Task.n_open + 1)
    .execution_options(synchronize_session=False)
)


class MustRead(NamedTuple):
    """The labeler has not yet read this version of the instructions."""

    instruction_set_id: int


def any_late(session: Session, now: float) -> bool:
    """Whether a lease has run out: a look that needs no write lock."""
    return bool(session.scalar(LATE, {"now": now}))


def expire_leases(session: Session, now: float) -> int:
    """Give tasks back whose labeler went away. The draft stays, and a late submission is still
    taken.
    """
    late = session.execute(
        select(Assignment.id, Assignment.task_id, Assignment.person_id)
        .where(Assignment.state == "open", Assignment.lease_until < now)
        .order_by(Assignment.task_id)
        .limit(EXPIRE_AT_ONCE)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    for assignment_id, task_id, person_id in late:
        session.execute(
            update(Assignment)
            .where(Assignment.id == assignment_id)
            .values(state="expired", closed_at=now)
        )
        session.execute(update(Task).where(Task.id == task_id).values(n_open=Task.n_open - 1))
        session.add(
            EventLog(
                at=now,
                person_id=person_id,
                kind="lease expired",
                detail={"assignment": assignment_id},
            )
        )
    return len(late)


def in_hand(session: Session, person_id: int, now: float) -> Assignment | None:
    """The task this person holds, if its lease is fresh enough that nothing has to be written."""
    mine = session.scalar(IN_HAND, {"me": person_id})
    if (
        mine is None
        or mine.lease_until - now < FRESH * 60 * task_view(session, mine.task_id).lease_minutes
    ):
        return None
    return mine


def claim(session: Session, person_id: int, now: float) -> Assignment | MustRead | None:
    """The task this person works on next; None when there is none for them. Call `expire_leases`
    before, on its own.
    """
    cohort = _lock_person(session, person_id)
    mine = session.scalar(IN_HAND_LOCKED, {"me": person_id})
    if mine is not None:
        mine.lease_until = now + 60 * task_view(session, mine.task_id).lease_minutes
        return mine
    batches = {
        batch.id: batch for batch in session.execute(OPEN_BATCHES) if cohort in batch.cohorts
    }
    found = _find_task(session, person_id, batches)
    if found is None:
        return None
    batch = batches[found.batch_id]
    if not session.scalar(HAS_READ, {"me": person_id, "this": batch.instruction_set_id}):
        return MustRead(batch.instruction_set_id)
    session.execute(TAKE_PLACE, {"this": found.task_id})
    lease_until = now + 60 * batch.lease_minutes
    if found.held_before:
        return _reopen(session, person_id, found.task_id, lease_until)
    return _assign(session, person_id, cohort, found.task_id, lease_until, now)


def _lock_person(session: Session, person_id: int) -> str:
    """The person's cohort."""
    person = session.execute(PERSON_LOCKED, {"me": person_id}).first()
    if person is None or person.disabled_at is not None:
        raise Problem(
            401, "logged_out", "This account is not active. Your draft is kept in this browser."
        )
    return person.cohort


class Found(NamedTuple):
    task_id: int
    batch_id: int
    held_before: bool  # its lease ran out on me once; my draft waits


def _find_task(session: Session, person_id: int, batches: dict[int, Row]) -> Found | None:
    """A gold task when one is due, else one I held before, else the first I have not seen."""
    if not batches:
        return None
    for batch in batches.values():
        if batch.gold_every and _gold_is_due(session, person_id, batch):
            gold = _first(session, GOLD, person_id, [batch.id])
            if gold is not None:
                return Found(gold.id, gold.batch_id, False)
    held = _first(session, HELD_BEFORE, person_id, list(batches))
    if held is not None:
        return Found(held.id, held.batch_id, True)
    unseen = _first(session, UNSEEN, person_id, list(batches))
    return None if unseen is None else Found(unseen.id, unseen.batch_id, False)


def _first(session: Session, free: Free, person_id: int, batches: list[int]) -> Row | None:
    values: dict[str, Any] = {"me": person_id, "batches": batches}
    found = _lock_first(session, free.at_once, values)
    # All that is left may be locked by others for a moment: wait for one, and look again if it
    # filled up meanwhile.
    while found is None and session.scalar(free.is_there, values):
        found = _lock_first(session, free.any, values)
    return found


def _lock_first(session: Session, tasks: Select, values: dict[str, Any]) -> Row | None:
    """The first task of a locking select; None: nothing is locked.

    PostgreSQL locks a row before it sees that its room went meanwhile, and keeps the lock. Two
    people who each held such a row and then looked from the start again could wait for each other,
    so what was locked in vain is let go by going back to a savepoint.
    """
    if session.get_bind().dialect.name == "sqlite":  # one writer, and no rows to lock
        return session.execute(tasks, values).first()
    savepoint = session.begin_nested()
    found = session.execute(tasks, values).first()
    if found is None:
        savepoint.rollback()
    else:
        savepoint.commit()
    return found


def _gold_is_due(session: Session, person_id: int, batch: Row) -> bool:
    answers = session.scalars(ANSWERS_IN_BATCH, {"me": person_id, "this": batch.id}).one()
    return answers % batch.gold_every == batch.gold_every - 1


def _assign(
    session: Session, person_id: int, cohort: str, task_id: int, lease_until: float, now: float
) -> Assignment:
    view = task_view(session, task_id)
    assignment = Assignment(
        task_id=task_id,
        person_id=person_id,
        state="open",
        cohort=cohort,
        lease_until=lease_until,
        claimed_at=now,
        display_order=shuffled(list(view.texts), view.shuffle_seed, task_id, person_id),
    )
    session.add(assignment)
    session.flush()
    return assignment


def _reopen(session: Session, person_id: int, task_id: int, lease_until: float) -> Assignment:
    mine = select(Assignment).where(
        Assignment.task_id == task_id, Assignment.person_id == person_id
    )
    assignment = session.scalars(mine).one()
    assignment.state, assignment.lease_until, assignment.closed_at = "open", lease_until, None
    session.flush()
    return assignment


def shuffled(positions: list[int], seed: int, task_id: int, person_id: int) -> list[int]:
    """A display order of one's own for each labeler and task, the same on every look."""
    order = positions.copy()
    random.Random(f"{seed}/{task_id}/{person_id}").shuffle(order)
    return order


def own_assignment(
    session: Session, person_id: int, assignment_id: int, lock: bool = True
) -> Assignment:
    """The assignment if it is this person's; another's is 404, as if it did not exist. `lock` when
    it will change.
    """
    if lock:
        _lock_person(session, person_id)
    assignment = session.scalar(ASSIGNMENT_LOCKED if lock else ASSIGNMENT, {"this": assignment_id})
    if assignment is None or assignment.person_id != person_id:
        raise Problem(404, "not_yours", "There is no such task of yours.")
    return assignment


def save_draft(
    session: Session,
    person_id: int,
    assignment_id: int,
    body: BaseModel,
    now: float,
    version: int | None = None,
    writer: str | None = None,
) -> Draft:
    """Keep an unfinished answer and prolong the lease: somebody is at work.

    Args:
        version: the stored draft that this one goes on from (0 = there was none); None overwrites
            whatever there is.
        writer: the tab that writes.

    Raises:
        Problem: 404, 410, and 409 when another tab has stored a draft since `version`.
    """
    assignment = own_assignment(session, person_id, assignment_id)
    if assignment.state == "skipped":
        raise Problem(410, "closed", "You skipped this task. Your draft is kept in this browser.")
    if assignment.state == "open":
        assignment.lease_until = max(
            assignment.lease_until, now + 60 * task_view(session, assignment.task_id).lease_minutes
        )
    draft = session.get(Draft, assignment_id)
    if draft is None:
        draft = Draft(assignment_id=assignment_id, version=0)
        session.add(draft)
    elif version is not None and version != draft.version and writer != draft.writer:
        raise Problem(
            409, "draft_conflict", "Another tab has saved a newer draft of this task; choose one."
        )
    draft.body, draft.saved_at = body.model_dump(), now
    draft.version, draft.writer = draft.version + 1, writer
    return draft


def skip(
    session: Session, person_id: int, assignment_id: int, answer: SkipAnswer, now: float
) -> None:
    """Put a task back with a reason. A second skip of the same task changes nothing."""
    assignment = own_assignment(session, person_id, assignment_id)
    if assignment.state == "skipped":
        return
    if assignment.state == "submitted":
        raise Problem(
            409, "closed", "You have already answered this task; edit the answer instead."
        )
    if assignment.state == "open":
        session.execute(
            update(Task).where(Task.id == assignment.task_id).values(n_open=Task.n_open - 1)
        )
    assignment.state, assignment.closed_at = "skipped", now
    session.add(
        Skip(assignment_id=assignment_id, reason=answer.reason, note=answer.note, created_at=now)
    )


def recount(session: Session) -> list[int]:
    """Ids of tasks whose counters differ from their rows; empty unless there is a bug."""
    wrong = []
    rows: dict[int, list[int]] = {}
    for task_id, state, extra in session.execute(
        select(Assignment.task_id, Assignment.state, Submission.extra)
        .outerjoin(
            Submission, and_(Submission.assignment_id == Assignment.id, Submission.revision == 1)
        )
        .where(or_(Assignment.state == "open", Assignment.state == "submitted"))
    ):
        counted = rows.setdefault(task_id, [0, 0])
        counted[0] += state == "open"
        counted[1] += state == "submitted" and not extra
    for task_id, n_open, n_done in session.execute(select(Task.id, Task.n_open, Task.n_done)):
        if [n_open, n_done] != rows.get(task_id, [0, 0]):
            wrong.append(task_id)
    return wrong
