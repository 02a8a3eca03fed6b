"""What a labeler is told of their own work: what is left, their pace, their agreement with gold.

Agreement is shown once it rests on `MIN_GOLD_PAIRS` pairs and counts pairs, not tasks: fewer would
tell which of the last tasks was a check.
"""

import statistics
from typing import NamedTuple

from sqlalchemy import bindparam, exists, func, select
from sqlalchemy.orm import Session, aliased

from app.labeling.progress import gold_checks
from app.labeling.queue import HAS_ROOM, ME, OPEN_BATCHES
from app.labeling.task_tables import Assignment, ResponseRating, Submission, Task

MIN_GOLD_PAIRS = 20
PACE_OF = 50  # newest answers

# Built once, see queue.py
MINE = Assignment.person_id == ME
SEEN = exists().where(MINE, Assignment.task_id == Task.id)
FRESH = select(func.count()).where(
    Task.batch_id.in_(bindparam("batches", expanding=True)),
    HAS_ROOM,
    Task.gold_ranks.is_(None),
    ~SEEN,
)
IN_HAND = select(func.count()).where(MINE, Assignment.state == "open")
DONE = select(func.count()).where(MINE, Assignment.state == "submitted")
PACE = (
    select(Submission.active_seconds)
    .join(Assignment, Assignment.id == Submission.assignment_id)
    .where(MINE, Submission.revision == 1)
    .order_by(Submission.id.desc())
    .limit(PACE_OF)
)
LATER = aliased(Submission)
NEWEST = select(func.max(LATER.id)).where(LATER.assignment_id == Assignment.id).scalar_subquery()
GOLD_RANKS = (
    select(Assignment.id, Task.gold_ranks, ResponseRating.position, ResponseRating.rank)
    .join(Task, Task.id == Assignment.task_id)
    .join(Submission, Submission.assignment_id == Assignment.id)
    .join(ResponseRating, ResponseRating.submission_id == Submission.id)
    .where(MINE, Task.gold_ranks.is_not(None), Submission.id == NEWEST)
    .order_by(Assignment.id, ResponseRating.position)
)


class OwnProgress(NamedTuple):
    done: int
    left: int  # tasks with room in this person's open batches that they have not seen
    median_seconds: float | None
    gold_pairs: int
    gold_agreement: float | None  # share of known pairs ordered the same way


def own_progress(session: Session, person_id: int, cohort: str) -> OwnProgress:
    """What the start page says; `tasks_left` alone is all that the page of a task needs."""
    checks = _gold_checks(session, person_id)
    seconds = session.scalars(PACE, {"me": person_id}).all()
    return OwnProgress(
        session.scalar(DONE, {"me": person_id}) or 0,
        tasks_left(session, person_id, cohort),
        statistics.median(seconds) if seconds else None,
        len(checks),
        statistics.mean(checks) if len(checks) >= MIN_GOLD_PAIRS else None,
    )


def tasks_left(session: Session, person_id: int, cohort: str) -> int:
    """Tasks that this person could still be given, the one in hand among them."""
    batches = [row.id for row in session.execute(OPEN_BATCHES) if cohort in row.cohorts]
    fresh = session.scalar(FRESH, {"me": person_id, "batches": batches}) or 0
    return fresh + (session.scalar(IN_HAND, {"me": person_id}) or 0)


def _gold_checks(session: Session, person_id: int) -> list[bool]:
    given: dict[int, tuple[list[int], list[int]]] = {}
    for assignment_id, gold, position, rank in session.execute(GOLD_RANKS, {"me": person_id}):
        known, ranks = given.setdefault(assignment_id, ([], []))
        known.append(gold[position])
        ranks.append(rank)
    return [check for known, ranks in given.values() for check in gold_checks(ranks, known)]
