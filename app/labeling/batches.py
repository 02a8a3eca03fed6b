"""What becomes of a batch: handed out, paused, withdrawn or deleted. No row is ever removed.

- paused: no new tasks; those in hand are finished.
- withdrawn: taken out of everybody's hands, and out of agreement and exports unless it is named.
- deleted: as withdrawn, also by name; its name is free again, and `restore` brings it back paused.
"""

from typing import Literal, get_args

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.labeling.problems import Problem
from app.labeling.tables import EventLog
from app.labeling.task_tables import Assignment, Batch, Task

Change = Literal["open", "paused", "withdrawn", "deleted", "restored"]
CHANGES: tuple[str, ...] = get_args(Change)
HANDED_OUT = ("open", "paused")


def change_batch(
    session: Session, batch_id: int, change: Change, person_id: int | None, now: float
) -> Batch:
    """Bring a batch into another state and note who did it. Problem 404 or 409."""
    batch = session.get(Batch, batch_id)
    if batch is None:
        raise Problem(404, "not_found", "There is no such batch.")
    if (batch.state == "deleted") != (change == "restored"):
        said = "is deleted; restore it first" if batch.state == "deleted" else "is not deleted"
        raise Problem(409, "batch_state", f"The batch '{batch.name}' {said}.")
    detail = {"id": batch.id, "name": batch.name, "before": batch.state, "state": change}
    if change not in HANDED_OUT and change != "restored":
        detail["taken_back"] = _take_back(session, batch.id, now)
    batch.state = "paused" if change == "restored" else change
    if change == "deleted":
        batch.name = f"{batch.name[:100]} (deleted {batch.id})"
    session.add(EventLog(at=now, person_id=person_id, kind="batch", detail=detail))
    return batch


def batch_named(session: Session, name: str) -> Batch:
    """The batch of that name. Problem 404 that lists the names there are."""
    batch = session.scalar(select(Batch).where(Batch.name == name))
    if batch is None:
        names = session.scalars(select(Batch.name).order_by(Batch.id)).all()
        raise Problem(404, "not_found", f"There is no batch '{name}'; there are: {list(names)}.")
    return batch


def numbered_batch(session: Session, batch_id: int) -> Batch:
    """One that is not deleted. Problem 404."""
    batch = session.get(Batch, batch_id)
    if batch is None or batch.state == "deleted":
        raise Problem(404, "not_found", "There is no such batch.")
    return batch


def _take_back(session: Session, batch_id: int, now: float) -> int:
    """Close the assignments in hand as expired: drafts stay, and an answer under way is still
    stored when it comes.
    """
    in_hand = session.execute(
        select(Assignment.id, Assignment.task_id)
        .join(Task, Task.id == Assignment.task_id)
        .where(Task.batch_id == batch_id, Assignment.state == "open")
        .order_by(Assignment.task_id)
        .with_for_update(key_share=True, of=Assignment)
    ).all()
    for assignment_id, task_id in in_hand:
        closed = update(Assignment).where(Assignment.id == assignment_id)
        session.execute(closed.values(state="expired", closed_at=now))
        session.execute(update(Task).where(Task.id == task_id).values(n_open=Task.n_open - 1))
    return len(in_hand)
