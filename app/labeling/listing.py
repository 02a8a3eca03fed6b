"""Batches, tasks and people as programs are shown them."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling.accounts import pseudonym
from app.labeling.problems import Problem
from app.labeling.progress import batch_progress, labeler_table
from app.labeling.shapes import BatchInfo, LabelerInfo, TaskInfo, TaskPage, TaskResponseInfo
from app.labeling.task_tables import Batch, Prompt, Response, Task, TaskResponse


def all_batches(session: Session) -> list[BatchInfo]:
    """Without the deleted ones."""
    rules = {row.id: row for row in session.scalars(select(Batch))}
    return [_batch_info(rules[row.id], row._asdict()) for row in batch_progress(session)]


def one_batch(session: Session, batch_id: int) -> BatchInfo:
    """Problem 404."""
    for batch in all_batches(session):
        if batch.id == batch_id:
            return batch
    raise Problem(404, "not_found", "There is no such batch.")


def all_labelers(session: Session) -> list[LabelerInfo]:
    """As the admin's table, under the names that exports use."""
    return [
        LabelerInfo(
            labeler=pseudonym(session, row.handle),
            **{k: v for k, v in row._asdict().items() if k in LabelerInfo.model_fields},
        )
        for row in labeler_table(session)
    ]


def tasks_page(session: Session, batch_id: int | None, after: int, limit: int) -> TaskPage:
    """The next `limit` tasks after the one of number `after`; those of deleted batches are not
    shown.
    """
    query = (
        select(Task, Prompt.messages, Batch.name)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Batch, Batch.id == Task.batch_id)
        .where(Task.id > after, Batch.state != "deleted")
        .order_by(Task.id)
        .limit(limit)
    )
    if batch_id is not None:
        query = query.where(Task.batch_id == batch_id)
    rows = session.execute(query).all()
    responses = _responses(session, [task.id for task, _, _ in rows])
    items = [
        TaskInfo(
            id=task.id,
            batch=batch,
            position=task.position,
            prompt=messages,
            responses=responses.get(task.id, []),
            wanted=task.need,
            done=task.n_done,
            open=task.n_open,
            gold=task.gold_ranks is not None,
        )
        for task, messages, batch in rows
    ]
    return TaskPage(items=items, next=rows[-1][0].id if len(rows) == limit else None)


def _responses(session: Session, tasks: list[int]) -> dict[int, list[TaskResponseInfo]]:
    found: dict[int, list[TaskResponseInfo]] = {}
    rows = session.execute(
        select(TaskResponse.task_id, Response.text, Response.generator, TaskResponse.copy_of)
        .join(Response, Response.id == TaskResponse.response_id)
        .where(TaskResponse.task_id.in_(tasks))
        .order_by(TaskResponse.task_id, TaskResponse.position)
    )
    for task_id, text, generator, copy_of in rows:
        shown = TaskResponseInfo(text=text, generator=generator, copy_of=copy_of)
        found.setdefault(task_id, []).append(shown)
    return found


def _batch_info(batch: Batch, progress: dict) -> BatchInfo:
    rules = {name: getattr(batch, name) for name in ("kind", "purpose", "cohorts", "overlap")}
    return BatchInfo(**rules, **progress)
