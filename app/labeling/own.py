"""What a labeler is told of their own work: what is left, their pace, their agreement with gold.

Agreement is shown once it rests on `MIN_GOLD_PAIRS` pairs and counts pairs, not tasks: fewer would
tell which of the last tasks was a check.
"""

import statistics
from typing import NamedTuple

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session, aliased

from app.labeling.progress import gold_checks
from app.labeling.queue import HAS_ROOM
from app.labeling.tables import Assignment, Batch, ResponseRating, Submission, Task

MIN_GOLD_PAIRS = 20
PACE_OF = 50  # newest answers


class OwnProgress(NamedTuple):
    done: int
    left: int  # tasks with room in this person's open batches that they have not seen
    median_seconds: float | None
    gold_pairs: int
    gold_agreement: float | None  # share of known pairs ordered the same way


def own_progress(session: Session, person_id: int, cohort: str) -> OwnProgress:
    mine = Assignment.person_id == person_id
    done = select(func.count()).where(mine, Assignment.state == "submitted")
    checks = _gold_checks(session, mine)
    enough = len(checks) >= MIN_GOLD_PAIRS
    return OwnProgress(
        session.scalar(done) or 0,
        _left(session, mine, cohort),
        _pace(session, mine),
        len(checks),
        statistics.mean(checks) if enough else None,
    )


def _left(session: Session, mine: ColumnElement[bool], cohort: str) -> int:
    rows = session.execute(select(Batch.id, Batch.cohorts).where(Batch.state == "open"))
    batches = [batch_id for batch_id, cohorts in rows if cohort in cohorts]
    seen = exists().where(mine, Assignment.task_id == Task.id)
    fresh = select(func.count()).where(
        Task.batch_id.in_(batches), HAS_ROOM, Task.gold_ranks.is_(None), ~seen
    )
    in_hand = select(func.count()).where(mine, Assignment.state == "open")
    return (session.scalar(fresh) or 0) + (session.scalar(in_hand) or 0)


def _pace(session: Session, mine: ColumnElement[bool]) -> float | None:
    query = (
        select(Submission.active_seconds)
        .join(Assignment, Assignment.id == Submission.assignment_id)
        .where(mine, Submission.revision == 1)
        .order_by(Submission.id.desc())
        .limit(PACE_OF)
    )
    seconds = session.scalars(query).all()
    return statistics.median(seconds) if seconds else None


def _gold_checks(session: Session, mine: ColumnElement[bool]) -> list[bool]:
    later = aliased(Submission)
    newest = (
        select(func.max(later.id)).where(later.assignment_id == Assignment.id).scalar_subquery()
    )
    rows = session.execute(
        select(Assignment.id, Task.gold_ranks, ResponseRating.position, ResponseRating.rank)
        .join(Task, Task.id == Assignment.task_id)
        .join(Submission, Submission.assignment_id == Assignment.id)
        .join(ResponseRating, ResponseRating.submission_id == Submission.id)
        .where(mine, Task.gold_ranks.is_not(None), Submission.id == newest)
        .order_by(Assignment.id, ResponseRating.position)
    ).all()
    given: dict[int, tuple[list[int], list[int]]] = {}
    for assignment_id, gold, position, rank in rows:
        known, ranks = given.setdefault(assignment_id, ([], []))
        known.append(gold[position])
        ranks.append(rank)
    return [check for known, ranks in given.values() for check in gold_checks(ranks, known)]
