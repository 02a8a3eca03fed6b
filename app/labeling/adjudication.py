"""Adjudication: an expert's ranking of a task that labelers differ on.

It stands beside the labelers' answers and replaces none. It is no labeler's, so it counts in no
agreement, no results and no progress; exports carry it under a cohort of its own.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.labeling.forms import unfit
from app.labeling.problems import Problem
from app.labeling.tables import EventLog, Person
from app.labeling.task_tables import Adjudication, Batch, Task, TaskResponse


class Verdict(NamedTuple):
    """The newest adjudication of a task, and by whom."""

    row: Adjudication
    handle: str

    @property
    def ranks(self) -> dict[int, int]:
        """Dense ranks by position, 1 = best; only the responses that are shown."""
        tiers = enumerate(self.row.tiers, start=1)
        return {position: rank for rank, tier in tiers for position in tier}


def adjudicate(
    session: Session,
    task_id: int,
    person_id: int,
    ranks: dict[int, int],
    note: str | None,
    now: float,
) -> Adjudication:
    """Store an expert's ranking; the newest counts and earlier ones stay.

    Args:
        ranks: by position, 1 = best, equal numbers tie; every response that labelers see.

    Raises:
        Problem: 404, or 422 where a response is missing or a tie is not allowed.
    """
    task = session.get(Task, task_id)
    batch = session.get(Batch, task.batch_id) if task else None
    if task is None or batch is None or batch.state == "deleted":
        raise Problem(404, "not_found", "There is no such task.")
    if batch.kind != "ranking":
        raise unfit(f"The batch '{batch.name}' is written, not ranked.")
    shown = session.scalars(
        select(TaskResponse.position).where(
            TaskResponse.task_id == task_id, TaskResponse.copy_of.is_(None)
        )
    ).all()
    if sorted(ranks) != sorted(shown):
        raise unfit(f"Rank every response exactly once: the task shows {len(shown)}.")
    if not batch.ties_allowed and len(set(ranks.values())) < len(ranks):
        raise unfit("Ties are not allowed in this batch: give every response its own rank.")
    ordered = sorted(ranks, key=lambda position: (ranks[position], position))
    tiers = [list(tier) for _, tier in groupby(ordered, key=ranks.__getitem__)]
    row = Adjudication(
        task_id=task_id, person_id=person_id, tiers=tiers, note=note or None, created_at=now
    )
    session.add(row)
    session.flush()
    detail = {"task": task_id, "adjudication": row.id}
    session.add(EventLog(at=now, person_id=person_id, kind="adjudication", detail=detail))
    return row


def newest_verdicts(session: Session, tasks: Iterable[int] | None = None) -> dict[int, Verdict]:
    """By task; of these tasks, or of all."""
    newest = select(func.max(Adjudication.id)).group_by(Adjudication.task_id)
    query = (
        select(Adjudication, Person.handle)
        .join(Person, Person.id == Adjudication.person_id)
        .where(Adjudication.id.in_(newest))
        .order_by(Adjudication.id)
    )
    if tasks is not None:
        query = query.where(Adjudication.task_id.in_(list(tasks)))
    return {row.task_id: Verdict(row, handle) for row, handle in session.execute(query)}
