"""What an admin watches: counts, agreement as it grows, how labelers work, and the tasks they
differ on.

Labelers are flagged for a person to look at, never barred by a number.
"""

import math
import statistics
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau
from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session

from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.tables import Person
from app.labeling.task_tables import (
    Assignment,
    Batch,
    Prompt,
    ResponseRating,
    Skip,
    Submission,
    Task,
)
from data.agreement import group_tasks, pair_signs, task_agreement
from data.records import Ranking

MIN_TO_FLAG = 10  # answers before a labeler's figures are looked at
ALL_TIED_LIMIT = 0.3
GOLD_LIMIT = 0.4  # share of known pairs put the wrong way round
BIAS_Z = 3.0  # position bias in standard errors
FAST_SECONDS = 10.0  # median; nobody reads four answers in that time


class BatchProgress(NamedTuple):
    id: int
    name: str
    state: str
    tasks: int
    wanted: int
    done: int
    open: int
    extras: int
    skipped: int


class LabelerRow(NamedTuple):
    id: int
    handle: str
    cohort: str
    answers: int
    skips: int
    median_seconds: float | None
    all_tied: float | None  # share of answers in which everything was tied
    # mean tau between place on the screen and rank: > 0 prefers what stands first
    bias: float | None
    gold_failures: float | None  # share of known pairs reversed or tied
    reversals: float | None  # share of answers whose ratings contradict their ranks
    flags: list[str]


class Disputed(NamedTuple):
    id: int
    task: str
    prompt: str
    labelers: int
    agreement: float
    rankings: list[Ranking]


def batch_progress(session: Session) -> list[BatchProgress]:
    """One row a batch; gold tasks are checks and not counted as wanted."""
    ordinary = Task.gold_ranks.is_(None)
    # everybody of a cohort takes a quiz: what is wanted is what there is
    wanted = case((Batch.screening, Task.n_done + Task.n_open), else_=Task.need)
    counts = session.execute(
        select(
            Batch.id,
            Batch.name,
            Batch.state,
            func.count(Task.id),
            *(func.coalesce(func.sum(column), 0) for column in (wanted, Task.n_done, Task.n_open)),
        )
        .outerjoin(Task, and_(Task.batch_id == Batch.id, ordinary))
        .where(Batch.state != "deleted")
        .group_by(Batch.id, Batch.name, Batch.state)
        .order_by(Batch.id)
    ).all()
    by_batch = select(Task.batch_id, func.count()).join(Assignment, Assignment.task_id == Task.id)
    late = by_batch.join(Submission, Submission.assignment_id == Assignment.id).where(
        Submission.extra, Submission.revision == 1
    )
    extras = dict(session.execute(late.group_by(Task.batch_id)).tuples().all())
    skipped = by_batch.where(Assignment.state == "skipped")
    skips = dict(session.execute(skipped.group_by(Task.batch_id)).tuples().all())
    return [BatchProgress(*[*row, extras.get(row[0], 0), skips.get(row[0], 0)]) for row in counts]


def labeler_table(session: Session) -> list[LabelerRow]:
    """One row a person who has answered or skipped anything."""
    answers = _answers_by_person(session)
    closed = session.execute(
        select(
            Person.id,
            Person.handle,
            Person.cohort,
            func.sum(case((Assignment.state == "skipped", 1), else_=0)),
        )
        .join(Assignment, Assignment.person_id == Person.id)
        .where(Assignment.state.in_(("submitted", "skipped")))
        .group_by(Person.id, Person.handle, Person.cohort)
        .order_by(Person.handle)
    ).all()
    return [
        _labeler_row(person_id, handle, cohort, int(skips or 0), answers.get(person_id, []))
        for person_id, handle, cohort, skips in closed
    ]


def disputed_tasks(session: Session, limit: int = 50) -> list[Disputed]:
    """The tasks on which labelers differ most, worst first; a tie against an order counts half."""
    places = select(Task.id, Batch.name, Task.position).join(Batch, Batch.id == Task.batch_id)
    numbers = {f"{name}/{position}": number for number, name, position in session.execute(places)}
    found = []
    for task in group_tasks(collect_rankings(session, ExportFilter())):
        agreed, judged = task_agreement(task, "half")
        if judged:
            first = task.rankings[0]
            place = first.task or ""
            found.append(
                Disputed(
                    numbers[place],
                    place,
                    first.prompt[-1].content,
                    len(task.rankings),
                    agreed / judged,
                    task.rankings,
                )
            )
    return sorted(found, key=lambda d: d.agreement)[:limit]


def recent_skips(session: Session, limit: int = 50) -> list[tuple]:
    """(handle, batch, reason, note, prompt) of the newest skips."""
    rows = session.execute(
        select(Person.handle, Batch.name, Skip.reason, Skip.note, Prompt.messages)
        .join(Assignment, Assignment.id == Skip.assignment_id)
        .join(Person, Person.id == Assignment.person_id)
        .join(Task, Task.id == Assignment.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .order_by(Skip.id.desc())
        .limit(limit)
    ).all()
    return [
        (handle, batch, reason, note, messages[-1]["content"] if messages else "")
        for handle, batch, reason, note, messages in rows
    ]


def recent_comments(session: Session, limit: int = 50) -> list[tuple]:
    """(handle, batch, comment) of the newest comments to the researcher."""
    return [
        tuple(row)
        for row in session.execute(
            select(Person.handle, Batch.name, Submission.comment)
            .join(Assignment, Assignment.id == Submission.assignment_id)
            .join(Person, Person.id == Assignment.person_id)
            .join(Task, Task.id == Assignment.task_id)
            .join(Batch, Batch.id == Task.batch_id)
            .where(Submission.comment.is_not(None), Submission.comment != "")
            .order_by(Submission.id.desc())
            .limit(limit)
        ).all()
    ]


class _Answer(NamedTuple):
    seconds: float
    shown_ranks: list[int]  # ranks in display order
    shown_likert: list[int | None]
    gold: list[int] | None  # known ranks in display order


def _answers_by_person(session: Session) -> dict[int, list[_Answer]]:
    newest = (
        select(Submission.assignment_id, func.max(Submission.id).label("id"))
        .group_by(Submission.assignment_id)
        .subquery()
    )
    rows = session.execute(
        select(
            Assignment.person_id,
            Submission.id,
            Submission.active_seconds,
            Assignment.display_order,
            Task.gold_ranks,
        )
        .join(newest, newest.c.id == Submission.id)
        .join(Assignment, Assignment.id == Submission.assignment_id)
        .join(Task, Task.id == Assignment.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .where(Batch.kind == "ranking")
    ).all()
    ratings: dict[int, dict[int, tuple[int, int | None]]] = defaultdict(dict)
    columns = select(
        ResponseRating.submission_id,
        ResponseRating.position,
        ResponseRating.rank,
        ResponseRating.likert,
    )
    for submission_id, position, rank, likert in session.execute(columns):
        ratings[submission_id][position] = (rank, likert)
    answers: dict[int, list[_Answer]] = defaultdict(list)
    for person_id, submission_id, seconds, order, gold in rows:
        given = [ratings[submission_id][position] for position in order]
        answers[person_id].append(
            _Answer(
                seconds,
                [rank for rank, _ in given],
                [likert for _, likert in given],
                [gold[position] for position in order] if gold else None,
            )
        )
    return answers


def _labeler_row(
    person_id: int, handle: str, cohort: str, skips: int, answers: list[_Answer]
) -> LabelerRow:
    if not answers:
        return LabelerRow(person_id, handle, cohort, 0, skips, None, None, None, None, None, [])
    seconds = statistics.median(a.seconds for a in answers)
    all_tied = statistics.mean(len(set(a.shown_ranks)) == 1 for a in answers)
    bias, z = position_bias([a.shown_ranks for a in answers])
    checks = [check for a in answers if a.gold for check in gold_checks(a.shown_ranks, a.gold)]
    failures = statistics.mean(not right for right in checks) if checks else None
    rated = [a for a in answers if None not in a.shown_likert]
    reversals = statistics.mean(_contradicts(a) for a in rated) if rated else None
    flags = []
    if len(answers) >= MIN_TO_FLAG:
        flags = [
            name
            for name, wrong in (
                ("very fast", seconds < FAST_SECONDS),
                ("ties everything", all_tied > ALL_TIED_LIMIT),
                ("position bias", abs(z) > BIAS_Z),
                ("fails gold", failures is not None and failures > GOLD_LIMIT),
            )
            if wrong
        ]
    return LabelerRow(
        person_id,
        handle,
        cohort,
        len(answers),
        skips,
        seconds,
        all_tied,
        bias,
        failures,
        reversals,
        flags,
    )


def position_bias(shown_ranks: list[list[int]]) -> tuple[float | None, float]:
    """(mean tau-b of screen place and rank, its z under a random order); Var tau = 2 (2n + 5) / (9
    n (n - 1)).
    """
    taus, variance = [], 0.0
    for ranks in shown_ranks:
        tau = kendalltau(range(len(ranks)), ranks).statistic
        if not math.isnan(tau):
            n = len(ranks)
            taus.append(float(tau))
            variance += 2 * (2 * n + 5) / (9 * n * (n - 1))
    return (statistics.mean(taus), sum(taus) / math.sqrt(variance)) if taus else (None, 0.0)


def gold_checks(ranks: list[int], gold: list[int]) -> list[bool]:
    """Whether each pair that the known ranks order was ordered the same way."""
    known, given = pair_signs(np.array([gold, ranks]))
    return [bool(g == k) for k, g in zip(known, given, strict=True) if k]


def _contradicts(answer: _Answer) -> bool:
    likert = [value or 0 for value in answer.shown_likert]
    by_rank, by_rating = pair_signs(np.array([answer.shown_ranks, [-value for value in likert]]))
    return bool((by_rank * by_rating == -1).any())
