"""Choosing labelers as InstructGPT did (appendix B.1): candidates take a quiz that researchers have
answered before them, and a report says how near they come.

1. Sensitive speech: do they call the prompts and answers sensitive that researchers do?
2. Rankings: do they order answers as researchers do?
3. Demonstrations of sensitive prompts, which researchers score from 1 to 7 without the names.
4. Coverage: for which groups and topics they say they can tell sensitive speech.

A batch that is marked as screening goes to the cohort `screening`, every task to everybody of it.
Its reference are the answers that researchers and admins have given to it on this site. The
paper's soft cutoffs stand beside the figures; nobody is barred by a number.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field
from sqlalchemy import Row, case, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from app.labeling.forms import Note, ShortText, Strict
from app.labeling.problems import Problem
from app.labeling.tables import EventLog, Person
from app.labeling.task_tables import (
    Assignment,
    Batch,
    Coverage,
    DemonstrationScore,
    Prompt,
    PromptRating,
    ResponseRating,
    Submission,
    Task,
    Written,
)
from data.agreement import pair_signs
from podium.statistics import SHARE, Estimate, mean_with_interval

EVERYBODY = 1_000_000  # answers wanted of a task that everybody takes
COHORT = "screening"
CUTOFF_SHARE = 0.75  # the paper's, for flags and for rankings
CUTOFF_SCORE = 6.0
SENSITIVE = ("sexual", "violent", "encourages_harm", "denigrates")  # of an answer
SENSITIVE_PROMPT = "sensitive"
GROUPS = (
    "gender",
    "sexual orientation",
    "race and ethnicity",
    "nationality and migration",
    "religion",
    "politics",
    "age",
    "disability",
    "bodies and health",
    "class and income",
)


class CoverageAnswer(Strict):
    """For what a candidate says they can tell sensitive speech."""

    groups: list[ShortText] = Field([], max_length=len(GROUPS))
    others: Annotated[Note, Field(max_length=1000)] = ""


class CandidateReport(NamedTuple):
    """How near somebody comes to the researchers; None where nothing can be compared."""

    person_id: int
    handle: str
    answers: int
    flags: Estimate | None  # share of prompts and answers called sensitive or not as researchers do
    found: float | None  # share found of what researchers call sensitive
    rankings: Estimate | None  # share of pairs that both order, ordered alike
    pairs: int
    demonstrations: int  # written
    scored: int
    score: Estimate | None  # of demonstrations, 1 to 7
    groups: list[str]
    others: str

    @property
    def above(self) -> dict[str, bool | None]:
        """Which of the paper's soft cutoffs are reached; None: unknown."""
        return {
            "flags": None if self.flags is None else self.flags.value >= CUTOFF_SHARE,
            "rankings": None if self.rankings is None else self.rankings.value >= CUTOFF_SHARE,
            "score": None if self.score is None else self.score.value >= CUTOFF_SCORE,
        }

    def as_json(self) -> dict[str, Any]:
        plain = self._asdict()
        for name in ("flags", "rankings", "score"):
            plain[name] = plain[name] and plain[name]._asdict()
        return {**plain, "above": self.above}


# ---------------------------------------------------------------- batches


def mark(session: Session, batch: Batch, on: bool, by: int | None, now: float) -> None:
    """Make a batch a quiz, or an ordinary one again. Problem 409 where a ranking has no reference.

    Its tasks are then wanted from everybody of the cohort `screening`, and from nobody else.
    """
    if batch.screening == on:
        return
    if on and batch.kind == "ranking" and not _has_reference(session, batch.id):
        raise Problem(
            409,
            "no_reference",
            f"No researcher has answered '{batch.name}' yet: rank its tasks as a researcher or an "
            "admin first; candidates are compared with that.",
        )
    batch.screening = on
    batch.cohorts = [COHORT]
    used = Task.n_open + Task.n_done  # the CHECK of the table wants no less
    enough = case((used > batch.overlap, used), else_=batch.overlap)
    need = EVERYBODY if on else enough
    ordinary = (Task.batch_id == batch.id) & Task.gold_ranks.is_(None)
    session.execute(update(Task).where(ordinary).values(need=need))
    detail = {"id": batch.id, "name": batch.name, "screening": on}
    session.add(EventLog(at=now, person_id=by, kind="batch", detail=detail))


def _has_reference(session: Session, batch_id: int) -> bool:
    answered = (
        select(Assignment.id)
        .join(Task, Task.id == Assignment.task_id)
        .join(Person, Person.id == Assignment.person_id)
        .where(Task.batch_id == batch_id, Assignment.state == "submitted", _knows(Person))
    )
    return bool(session.scalar(select(exists(answered))))


def _knows(person: Any) -> Any:
    """Whose answers are the reference."""
    return person.role.in_(("researcher", "admin"))


# ---------------------------------------------------------------- what candidates say


def say_coverage(session: Session, person_id: int, answer: CoverageAnswer, now: float) -> None:
    """Kept beside what was said before."""
    unknown = set(answer.groups) - set(GROUPS)
    if unknown:
        raise Problem(422, "bad_request", f"There is no group {sorted(unknown)[0]!r} in the list.")
    groups = [group for group in GROUPS if group in answer.groups]
    session.add(Coverage(person_id=person_id, groups=groups, others=answer.others, created_at=now))


def own_coverage(session: Session, person_id: int) -> Coverage | None:
    query = select(Coverage).where(Coverage.person_id == person_id).order_by(Coverage.id.desc())
    return session.scalars(query.limit(1)).first()


# ---------------------------------------------------------------- demonstrations


class Unsigned(NamedTuple):
    """A demonstration to be scored, without the name of who wrote it."""

    submission_id: int
    messages: list[dict[str, Any]]
    score: int | None  # the one that this researcher gave


def demonstrations(session: Session, scorer_id: int) -> list[Unsigned]:
    """Those of the quizzes, the ones without this researcher's score first."""
    mine = aliased(DemonstrationScore)
    rows = session.execute(
        select(Submission.id, Prompt.messages, Written.messages, mine.score)
        .join(Written, Written.submission_id == Submission.id)
        .join(Assignment, Assignment.id == Submission.assignment_id)
        .join(Task, Task.id == Assignment.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Person, Person.id == Assignment.person_id)
        .outerjoin(mine, (mine.submission_id == Submission.id) & (mine.person_id == scorer_id))
        .where(Batch.screening, Batch.state != "deleted", ~_knows(Person), _is_newest())
        .order_by(mine.score.is_not(None), Prompt.id, Submission.id)
    ).all()
    return [Unsigned(number, [*asked, *said], score) for number, asked, said, score in rows]


def score(session: Session, submission_id: int, scorer_id: int, points: int, now: float) -> None:
    """A researcher's score, in place of an earlier one of theirs. Problem 404."""
    found = session.execute(
        select(Written.submission_id)
        .join(Submission, Submission.id == Written.submission_id)
        .join(Assignment, Assignment.id == Submission.assignment_id)
        .join(Task, Task.id == Assignment.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .where(Written.submission_id == submission_id, Batch.screening)
    ).first()
    if found is None:
        raise Problem(404, "not_found", "There is no such demonstration of a quiz.")
    row = session.get(DemonstrationScore, (submission_id, scorer_id))
    if row is None:
        row = DemonstrationScore(submission_id=submission_id, person_id=scorer_id)
        session.add(row)
    row.score, row.created_at = points, now


# ---------------------------------------------------------------- the report


class _Quiz(NamedTuple):
    """One person's answer to one task."""

    ranks: list[int]  # by position of the responses that are shown
    sensitive: list[bool]  # of each response, then of the prompt; only what was asked


def report(session: Session) -> list[CandidateReport]:
    """One row for everybody who is no researcher and has answered a quiz or said their coverage."""
    reference: dict[int, list[_Quiz]] = defaultdict(list)
    given: dict[int, dict[int, _Quiz]] = defaultdict(dict)
    people: dict[int, str] = {}
    for task_id, person, quiz in _answers(session):
        if person.role == "labeler":
            given[person.id][task_id] = quiz
            people[person.id] = person.handle
        else:
            reference[task_id].append(quiz)
    scores = _scores(session)
    wrote = _wrote(session)
    said = {row.person_id: row for row in session.scalars(select(Coverage).order_by(Coverage.id))}
    others = select(Person.id, Person.handle).where(
        Person.id.in_([*wrote, *said]), Person.role == "labeler"
    )
    people |= dict(session.execute(others).tuples().all())
    return [
        _report(number, handle, given[number], reference, wrote.get(number, 0), scores, said)
        for number, handle in sorted(people.items(), key=lambda item: item[1])
    ]


def _report(
    number: int,
    handle: str,
    answers: dict[int, _Quiz],
    reference: dict[int, list[_Quiz]],
    wrote: int,
    scores: dict[int, list[tuple[int, float]]],
    said: dict[int, Coverage],
) -> CandidateReport:
    flags: list[tuple[int, bool]] = []  # task, agreed
    found: list[bool] = []
    pairs: list[tuple[int, bool]] = []
    for task_id, mine in answers.items():
        for theirs in reference.get(task_id, []):
            alike = zip(mine.sensitive, theirs.sensitive, strict=False)
            for own, known in alike:
                flags.append((task_id, own == known))
                if known:
                    found.append(own)
            pairs += [(task_id, agreed) for agreed in _pairs(mine.ranks, theirs.ranks)]
    given = scores.get(number, [])
    coverage = said.get(number)
    return CandidateReport(
        number,
        handle,
        len(answers) + wrote,
        _share(flags),
        statistics.mean(found) if found else None,
        _share(pairs),
        len(pairs),
        wrote,
        len(given),
        _mean(given, (1.0, 7.0)),
        coverage.groups if coverage else [],
        coverage.others if coverage else "",
    )


def _pairs(first: list[int], second: list[int]) -> list[bool]:
    """Whether the two order each pair alike; pairs that either ties say nothing, as in training."""
    ours, theirs = pair_signs(np.array([first, second]))
    return [bool(a == b) for a, b in zip(ours, theirs, strict=True) if a and b]


def _share(rows: Iterable[tuple[int, bool]]) -> Estimate | None:
    return _mean([(task, float(value)) for task, value in rows], SHARE)


def _mean(rows: list[tuple[int, float]], bounds: tuple[float, float]) -> Estimate | None:
    """Tasks are the independent units."""
    if not rows:
        return None
    tasks, values = zip(*rows, strict=True)
    return mean_with_interval(values, tasks, bounds)


def _is_newest() -> Any:
    later = aliased(Submission)
    newest = select(func.max(later.id)).where(later.assignment_id == Submission.assignment_id)
    return Submission.id == newest.scalar_subquery()


def _of_quizzes(*columns: Any) -> Any:
    """A query over the newest answers to quizzes."""
    return (
        select(*columns)
        .select_from(Submission)
        .join(Assignment, Assignment.id == Submission.assignment_id)
        .join(Task, Task.id == Assignment.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Person, Person.id == Assignment.person_id)
        .where(Batch.screening, Batch.state != "deleted", _is_newest())
    )


def _answers(session: Session) -> list[tuple[int, Row, _Quiz]]:
    """(task, person, what they answered) of every ranking in a quiz."""
    rows = session.execute(
        _of_quizzes(
            Submission.id.label("submission"),
            Task.id.label("task"),
            Person.id,
            Person.handle,
            Person.role,
        ).where(Batch.kind == "ranking")
    ).all()
    numbers = [row.submission for row in rows]
    ratings: dict[int, list[ResponseRating]] = defaultdict(list)
    for rating in session.scalars(
        select(ResponseRating)
        .where(ResponseRating.submission_id.in_(numbers))
        .order_by(ResponseRating.position)
    ):
        ratings[rating.submission_id].append(rating)
    prompts = select(PromptRating).where(PromptRating.submission_id.in_(numbers))
    about = {row.submission_id: row.flags for row in session.scalars(prompts)}
    return [(row.task, row, _quiz(ratings[row.submission], about[row.submission])) for row in rows]


def _quiz(ratings: list[ResponseRating], about: dict[str, bool]) -> _Quiz:
    sensitive = [
        any(rating.flags.get(name) for name in SENSITIVE)
        for rating in ratings
        if any(name in rating.flags for name in SENSITIVE)
    ]
    if SENSITIVE_PROMPT in about:
        sensitive.append(about[SENSITIVE_PROMPT])
    return _Quiz([rating.rank for rating in ratings], sensitive)


def _wrote(session: Session) -> dict[int, int]:
    """How many demonstrations each candidate has written."""
    query = _of_quizzes(Person.id, func.count()).where(
        Batch.kind != "ranking", Person.role == "labeler"
    )
    return dict(session.execute(query.group_by(Person.id)).tuples().all())


def _scores(session: Session) -> dict[int, list[tuple[int, float]]]:
    """(task, mean of the researchers' scores) of each candidate's demonstrations."""
    rows = session.execute(
        _of_quizzes(Person.id, Task.id, func.avg(DemonstrationScore.score))
        .join(DemonstrationScore, DemonstrationScore.submission_id == Submission.id)
        .group_by(Person.id, Task.id)
    ).all()
    found: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for person_id, task_id, mean in rows:
        found[person_id].append((task_id, float(mean)))
    return found
