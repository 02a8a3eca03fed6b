"""Looking through what a site holds: tasks found by batch, words, state and labeler, and one task
with everything that people said of it.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import ColumnElement, Select, Text, cast, exists, or_, select
from sqlalchemy.orm import Session

from app.labeling.accounts import pseudonym
from app.labeling.adjudication import Verdict, newest_verdicts
from app.labeling.problems import Problem
from app.labeling.queue import HAS_ROOM
from app.labeling.tables import Person
from app.labeling.task_tables import (
    Adjudication,
    Assignment,
    Batch,
    Prompt,
    PromptRating,
    Response,
    ResponseRating,
    Skip,
    Submission,
    Task,
    TaskResponse,
)

State = Literal["waiting", "full", "in hand", "answered", "skipped", "gold", "adjudicated"]
STATES: tuple[State, ...] = get_args(State)
CHUNK = 200  # rows read at once while words are looked for


class Search(NamedTuple):
    """What is looked for; None leaves a part out."""

    batch: str | None = None
    text: str | None = None  # in any message of the prompt or in any response, in either case
    state: State | None = None
    labeler: str | None = None  # the pseudonym that exports use, or the handle


class FoundTask(NamedTuple):
    id: int
    batch: str
    position: int
    prompt: str  # its last message
    responses: int
    done: int
    need: int | None  # None: a gold task, which everybody may meet
    skipped: int
    adjudicated: bool


class Given(NamedTuple):
    """What one labeler said of a task: the newest revision of an answer, or a skip."""

    labeler: str
    cohort: str
    state: str
    ranks: dict[int, int]  # by position
    likert: dict[int, int | None]
    flags: dict[int, list[str]]
    about: list[str]  # the prompt's flags, use case and language
    comment: str | None
    seconds: float | None
    revision: int
    extra: bool
    closed_at: float | None


class ShownResponse(NamedTuple):
    position: int
    text: str
    generator: str | None
    copies: int  # identical ones, which are tied with it


class TaskRecord(NamedTuple):
    task: Task
    batch: Batch
    prompt: Prompt
    responses: list[ShownResponse]
    given: list[Given]
    verdict: Verdict | None


def find_tasks(
    session: Session, wanted: Search, after: int, limit: int
) -> tuple[list[FoundTask], int | None]:
    """The next `limit` tasks after the one of number `after`, and the number to go on after (None:
    that was all). Deleted batches are not looked through. Problem 404 for an unknown labeler.
    """
    query = (
        select(Task.id, Prompt.messages)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Batch, Batch.id == Task.batch_id)
        .where(Batch.state != "deleted", *_conditions(session, wanted))
    )
    found: list[int] = []
    for task_id in _matching(session, query, wanted.text, after):
        if len(found) == limit:
            return _found(session, found), found[-1]
        found.append(task_id)
    return _found(session, found), None


def task_record(session: Session, task_id: int) -> TaskRecord:
    """Problem 404 where there is none, or where its batch was deleted."""
    row = session.execute(
        select(Task, Batch, Prompt)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .where(Task.id == task_id, Batch.state != "deleted")
    ).first()
    if row is None:
        raise Problem(404, "not_found", "There is no such task.")
    task, batch, prompt = row
    verdict = newest_verdicts(session, [task_id]).get(task_id)
    responses = _responses(session, task_id)
    return TaskRecord(task, batch, prompt, responses, _given(session, task_id), verdict)


def neighbours(session: Session, task: Task) -> tuple[int | None, int | None]:
    """The tasks before and after it in its batch."""
    same = select(Task.id).where(Task.batch_id == task.batch_id)
    before = same.where(Task.position < task.position).order_by(Task.position.desc()).limit(1)
    after = same.where(Task.position > task.position).order_by(Task.position).limit(1)
    return session.scalar(before), session.scalar(after)


def _conditions(session: Session, wanted: Search) -> Iterator[ColumnElement[bool]]:
    mine = Assignment.task_id == Task.id
    if wanted.batch is not None:
        yield Batch.name == wanted.batch
    if wanted.labeler is not None:
        yield exists().where(mine, Assignment.person_id == _person(session, wanted.labeler))
    if wanted.state is not None:
        yield {
            "waiting": HAS_ROOM & Task.gold_ranks.is_(None),
            "full": ~HAS_ROOM,
            "in hand": Task.n_open > 0,
            "answered": exists().where(mine, Assignment.state == "submitted"),
            "skipped": exists().where(mine, Assignment.state == "skipped"),
            "gold": Task.gold_ranks.is_not(None),
            "adjudicated": exists().where(Adjudication.task_id == Task.id),
        }[wanted.state]


def _person(session: Session, labeler: str) -> int:
    for person_id, handle in session.execute(select(Person.id, Person.handle)):
        if labeler in (handle, pseudonym(session, handle)):
            return person_id
    raise Problem(404, "not_found", f"There is no labeler '{labeler}'.")


def _matching(session: Session, query: Select, text: str | None, after: int) -> Iterator[int]:
    """Numbers of the tasks whose texts hold `text`.

    The database only narrows the search: messages are stored as JSON, where a word may be escaped,
    or stand in a key. Python then reads what was found.
    """
    words = text.casefold() if text else ""
    if text and text.isascii() and text.isprintable() and not set(text) & set('"\\'):
        of_task = select(TaskResponse.task_id).where(TaskResponse.task_id == Task.id)
        query = query.where(
            or_(
                cast(Prompt.messages, Text).icontains(words, autoescape=True),
                of_task.join(Response, Response.id == TaskResponse.response_id)
                .where(Response.text.icontains(words, autoescape=True))
                .exists(),
            )
        )
    while True:
        rows = session.execute(query.where(Task.id > after).order_by(Task.id).limit(CHUNK)).all()
        texts = _texts(session, [task_id for task_id, _ in rows]) if words else {}
        for task_id, messages in rows:
            said = [str(message.get("content") or "") for message in messages]
            if not words or any(words in part.casefold() for part in said + texts[task_id]):
                yield task_id
        if len(rows) < CHUNK:
            return
        after = rows[-1][0]


def _texts(session: Session, tasks: list[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {task_id: [] for task_id in tasks}
    query = select(TaskResponse.task_id, Response.text).join(
        Response, Response.id == TaskResponse.response_id
    )
    for task_id, text in session.execute(query.where(TaskResponse.task_id.in_(tasks))):
        found[task_id].append(text)
    return found


def _found(session: Session, tasks: list[int]) -> list[FoundTask]:
    query = select(Task, Batch.name, Prompt.messages).join(Batch, Batch.id == Task.batch_id)
    rows = session.execute(
        query.join(Prompt, Prompt.id == Task.prompt_id).where(Task.id.in_(tasks)).order_by(Task.id)
    ).all()
    texts = _texts(session, tasks)
    skips = session.scalars(
        select(Assignment.task_id).where(
            Assignment.task_id.in_(tasks), Assignment.state == "skipped"
        )
    ).all()
    verdicts = newest_verdicts(session, tasks)
    return [
        FoundTask(
            task.id,
            batch,
            task.position,
            messages[-1]["content"] if messages else "",
            len(texts[task.id]),
            task.n_done,
            task.need if task.gold_ranks is None else None,
            skips.count(task.id),
            task.id in verdicts,
        )
        for task, batch, messages in rows
    ]


def _responses(session: Session, task_id: int) -> list[ShownResponse]:
    rows = session.execute(
        select(TaskResponse.position, Response.text, Response.generator, TaskResponse.copy_of)
        .join(Response, Response.id == TaskResponse.response_id)
        .where(TaskResponse.task_id == task_id)
        .order_by(TaskResponse.position)
    ).all()
    copies = [copy_of for _, _, _, copy_of in rows]
    return [
        ShownResponse(position, text, generator, copies.count(position))
        for position, text, generator, copy_of in rows
        if copy_of is None
    ]


def _given(session: Session, task_id: int) -> list[Given]:
    rows = session.execute(
        select(Assignment, Person.handle)
        .join(Person, Person.id == Assignment.person_id)
        .where(Assignment.task_id == task_id)
        .order_by(Assignment.id)
    ).all()
    return [_one(session, assignment, pseudonym(session, handle)) for assignment, handle in rows]


def _one(session: Session, assignment: Assignment, labeler: str) -> Given:
    last = session.scalars(
        select(Submission)
        .where(Submission.assignment_id == assignment.id)
        .order_by(Submission.revision.desc())
        .limit(1)
    ).first()
    skip = session.scalar(select(Skip).where(Skip.assignment_id == assignment.id))
    comment = f"{skip.reason}: {skip.note}" if skip and skip.note else skip and skip.reason
    ratings: list[ResponseRating] = []
    about: list[str] = []
    if last is not None:
        comment = last.comment
        of_answer = select(ResponseRating).where(ResponseRating.submission_id == last.id)
        ratings = list(session.scalars(of_answer.order_by(ResponseRating.position)))
        about = _about(session.get(PromptRating, last.id))
    return Given(
        labeler,
        assignment.cohort,
        assignment.state,
        {rating.position: rating.rank for rating in ratings},
        {rating.position: rating.likert for rating in ratings},
        {rating.position: _ticked(rating.flags) for rating in ratings},
        about,
        comment or None,
        last.active_seconds if last else None,
        last.revision if last else 0,
        bool(last and last.extra),
        assignment.closed_at,
    )


def _about(rating: PromptRating | None) -> list[str]:
    if rating is None:
        return []
    return [*_ticked(rating.flags), *filter(None, (rating.use_case, rating.language))]


def _ticked(flags: dict[str, Any]) -> list[str]:
    return [name for name, ticked in flags.items() if ticked]
