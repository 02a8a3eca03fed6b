"""Which answers an export takes, and the native `Ranking` records that they become."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import Field, ValidationError
from sqlalchemy import ColumnElement, Row, Select, and_, func, select
from sqlalchemy.orm import Session

from app.labeling.accounts import pseudonym
from app.labeling.adjudication import Verdict, newest_verdicts
from app.labeling.forms import Strict
from app.labeling.importing import IMPORTED
from app.labeling.tables import Person
from app.labeling.task_tables import (
    Assignment,
    Batch,
    InstructionSet,
    PromptRating,
    Response,
    ResponseRating,
    Submission,
    Task,
    TaskResponse,
)
from app.labeling.task_tables import Prompt as PromptRow
from data.agreement import ADJUDICATION
from data.records import Message, Ranking

log = logging.getLogger("podium.labeling")


class ExportFilter(Strict):
    """Which answers are taken."""

    batches: list[str] | None = Field(None, description="names of batches; null = all")
    cohorts: list[str] | None = Field(None, description="train, heldout, screening; null = all")
    extras: bool = Field(True, description="also answers that came after their task was full")
    gold: bool = Field(False, description="also tasks with known ranks, which only check labelers")
    adjudications: bool = Field(
        True,
        description="also experts' rankings of disputed tasks, where train is among the cohorts",
    )


class Candidate(NamedTuple):
    position: int
    text: str
    generator: str | None
    sampling: dict[str, Any]
    is_demonstration: bool
    shown_as: int  # its own position, or that of the identical response that was shown


def collect_rankings(
    session: Session, chosen: ExportFilter, broken: list[str] | None = None
) -> list[Ranking]:
    """The newest revision of every answer as a record, oldest answer first.

    A row that is no record (earlier releases imported prompts without a question) takes nothing
    else with it: it is left out, named in the log, and appended to `broken`.
    """
    return _records(
        session, session.execute(answer_rows(chosen)).all(), _Parts.load(session), broken
    )


def collect_adjudications(
    session: Session, chosen: ExportFilter, broken: list[str] | None = None
) -> list[Ranking]:
    """The newest expert's ranking of every task that has one, under a cohort and a name that no
    labeler has. Held-out answers alone, or those of a screening, are given without.
    """
    verdicts = newest_verdicts(session)
    if not verdicts or not chosen.adjudications or "train" not in (chosen.cohorts or ["train"]):
        return []
    query = select(Task, Batch).join(Batch, Batch.id == Task.batch_id).where(*_wanted(chosen))
    found = session.execute(query.where(Task.id.in_(verdicts)).order_by(Task.id)).all()
    parts = _Parts.load_tasks(session, [task for task, _ in found])
    records = []
    for task, batch in found:
        verdict = verdicts[task.id]
        labeler = f"expert-{pseudonym(session, verdict.handle)}"
        try:
            records.append(_adjudicated(parts, verdict, task, batch, labeler))
        except (ValidationError, KeyError) as error:
            place = f"adjudication-{verdict.row.id} ({batch.name}/{task.position})"
            leave_out(place, error, broken)
    return records


def rankings_page(
    session: Session, chosen: ExportFilter, after: int, limit: int, broken: list[str]
) -> tuple[list[Ranking], int | None]:
    """The next `limit` answers as records, and the number to go on after (None: that was all). An
    answer that is changed meanwhile comes again, at the end.
    """
    query = answer_rows(chosen).where(Submission.id > after).limit(limit)
    rows = session.execute(query).all()
    records = _records(session, rows, _Parts.load(session, rows), broken)
    return records, rows[-1][0].id if len(rows) == limit else None


def answer_rows(chosen: ExportFilter, kinds: Sequence[str] = ("ranking",)) -> Select:
    """(submission, assignment, task, batch, handle) of every answer to batches of these kinds,
    oldest first.
    """
    newest = (
        select(Submission.assignment_id, func.max(Submission.revision).label("revision"))
        .group_by(Submission.assignment_id)
        .subquery()
    )
    query = (
        select(Submission, Assignment, Task, Batch, Person.handle)
        .join(
            newest,
            and_(
                newest.c.assignment_id == Submission.assignment_id,
                newest.c.revision == Submission.revision,
            ),
        )
        .join(Assignment, Assignment.id == Submission.assignment_id)
        .join(Task, Task.id == Assignment.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Person, Person.id == Assignment.person_id)
        .where(Batch.kind.in_(kinds))
        .order_by(Submission.id)
    )
    query = query.where(*_wanted(chosen))
    if chosen.cohorts is not None:
        query = query.where(Assignment.cohort.in_(chosen.cohorts))
    if not chosen.extras:
        query = query.where(~Submission.extra)
    return query


def _wanted(chosen: ExportFilter) -> list[ColumnElement[bool]]:
    """Of which batches and tasks."""
    # what was withdrawn comes out only by name, what was deleted never
    gone = ("deleted",) if chosen.batches is not None else ("deleted", "withdrawn")
    conditions: list[ColumnElement[bool]] = [Batch.state.not_in(gone)]
    if chosen.batches is not None:
        conditions.append(Batch.name.in_(chosen.batches))
    if not chosen.gold:
        conditions.append(Task.gold_ranks.is_(None))
    return conditions


def _records(
    session: Session, rows: Sequence[Row], parts: "_Parts", broken: list[str] | None
) -> list[Ranking]:
    names: dict[str, str] = {}
    records = []
    for submission, assignment, task, batch, handle in rows:
        if handle not in names:
            names[handle] = pseudonym(session, handle)
        try:
            records.append(_ranking(parts, submission, assignment, task, batch, names[handle]))
        except (ValidationError, KeyError) as error:
            place = f"answer-{assignment.id} ({batch.name}/{task.position})"
            leave_out(place, error, broken)
    return records


def leave_out(place: str, error: ValidationError | KeyError, broken: list[str] | None) -> None:
    reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"no {error}"
    name = f"{place}: {reason.removeprefix('Value error, ')}"
    log.error("left out, for it is no record: %s", name)
    if broken is not None:
        broken.append(name)


class _Parts:
    """Prompts, responses, ratings and instruction names, each read once."""

    def __init__(self) -> None:
        self.prompts: dict[int, PromptRow] = {}
        self.candidates: dict[int, list[Candidate]] = {}  # by task
        self.ratings: dict[int, dict[int, ResponseRating]] = {}  # by submission and position
        self.prompt_ratings: dict[int, PromptRating] = {}
        self.instructions: dict[int, str] = {}

    @classmethod
    def load(cls, session: Session, rows: Sequence[Row] | None = None) -> "_Parts":
        """Those of `rows` as `answer_rows` finds them, or of all."""
        parts = cls.load_tasks(session, None if rows is None else [row[2] for row in rows])
        ratings, prompt_ratings = select(ResponseRating), select(PromptRating)
        if rows is not None:
            sent = [row[0].id for row in rows]
            ratings = ratings.where(ResponseRating.submission_id.in_(sent))
            prompt_ratings = prompt_ratings.where(PromptRating.submission_id.in_(sent))
        for rating in session.scalars(ratings):
            parts.ratings.setdefault(rating.submission_id, {})[rating.position] = rating
        parts.prompt_ratings = {row.submission_id: row for row in session.scalars(prompt_ratings)}
        parts.instructions = {
            row.id: f"{row.name}@{row.version}" for row in session.scalars(select(InstructionSet))
        }
        return parts

    @classmethod
    def load_tasks(cls, session: Session, tasks: Sequence[Task] | None) -> "_Parts":
        """What was imported: prompts and candidates, without what anybody said of them."""
        parts = cls()
        prompts = select(PromptRow)
        if tasks is not None:
            prompts = prompts.where(PromptRow.id.in_([task.prompt_id for task in tasks]))
        parts.prompts = {row.id: row for row in session.scalars(prompts)}
        columns = select(
            TaskResponse.task_id,
            TaskResponse.position,
            Response.text,
            Response.generator,
            Response.sampling,
            Response.is_demonstration,
            TaskResponse.copy_of,
        )
        if tasks is not None:
            columns = columns.where(TaskResponse.task_id.in_([task.id for task in tasks]))
        for task_id, position, text, generator, sampling, written, copy_of in session.execute(
            columns.join(Response, Response.id == TaskResponse.response_id).order_by(
                TaskResponse.task_id, TaskResponse.position
            )
        ):
            shown_as = position if copy_of is None else copy_of
            parts.candidates.setdefault(task_id, []).append(
                Candidate(position, text, generator, sampling, written, shown_as)
            )
        return parts


def _ranking(
    parts: _Parts,
    submission: Submission,
    assignment: Assignment,
    task: Task,
    batch: Batch,
    labeler: str,
) -> Ranking:
    prompt = parts.prompts[task.prompt_id]
    candidates = parts.candidates[task.id]
    ratings = [parts.ratings[submission.id][c.shown_as] for c in candidates]
    about = parts.prompt_ratings[submission.id]
    generators = [c.generator for c in candidates]
    likert = [rating.likert for rating in ratings]
    return Ranking(
        prompt=[Message(**m) for m in prompt.messages],
        responses=[c.text for c in candidates],
        ranks=[rating.rank for rating in ratings],
        likert=None if None in likert else likert,
        flags=[[name for name, ticked in rating.flags.items() if ticked] for rating in ratings],
        labeler=labeler,
        cohort=assignment.cohort,
        source=prompt.source,
        task=f"{batch.name}/{task.position}",
        instruction=parts.instructions[submission.instruction_set_id],
        generators=None if None in generators else generators,
        user=prompt.user,
        use_case=prompt.use_case or about.use_case,
        id=f"answer-{assignment.id}",
        meta={
            IMPORTED: _imported(prompt, candidates),
            "comment": submission.comment,
            "language": about.language,
            "flags_asked": sorted(ratings[0].flags),
            "prompt_flags": [n for n, ticked in about.flags.items() if ticked],
            "active_seconds": submission.active_seconds,
            "display_order": assignment.display_order,
            "revision": submission.revision,
            "extra": submission.extra,
            "seen": submission.seen,
            "from_ratings": submission.from_ratings,
        },
    )


def _adjudicated(
    parts: _Parts, verdict: Verdict, task: Task, batch: Batch, labeler: str
) -> Ranking:
    prompt = parts.prompts[task.prompt_id]
    candidates = parts.candidates[task.id]
    generators = [c.generator for c in candidates]
    return Ranking(
        prompt=[Message(**m) for m in prompt.messages],
        responses=[c.text for c in candidates],
        ranks=[verdict.ranks[c.shown_as] for c in candidates],
        labeler=labeler,
        cohort=ADJUDICATION,
        source=prompt.source,
        task=f"{batch.name}/{task.position}",
        generators=None if None in generators else generators,
        user=prompt.user,
        use_case=prompt.use_case,
        id=f"adjudication-{verdict.row.id}",
        meta={
            IMPORTED: _imported(prompt, candidates),
            "adjudicated": True,
            "comment": verdict.row.note,
        },
    )


def _imported(prompt: PromptRow, candidates: list[Candidate]) -> dict[str, Any]:
    """What the file said of this prompt beside its text; `importing` reads it back."""
    written = [c.position for c in candidates if c.is_demonstration]
    said = {
        "id": prompt.record,
        "meta": prompt.meta or None,
        "use_case": prompt.use_case,
        "language": prompt.language,
        "split": prompt.split,
        "sampling": candidates[0].sampling or None,
        "demonstration": written[0] if written else None,
    }
    return {name: value for name, value in said.items() if value is not None}
