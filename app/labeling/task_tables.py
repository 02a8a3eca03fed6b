"""The tables of what labelers are asked and of what they answer.

Positions count from 0 and number a task's responses in import order; what a labeler sees is
`Assignment.display_order`, a shuffle of the positions that are shown. Submissions are append-only:
an edit is a new revision, and nothing a person sent is ever overwritten.
"""

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.labeling.tables import Base, Json, key, link, now_column

# ---------------------------------------------------------------- what is asked


class InstructionSet(Base):
    """What labelers are told. A version never changes; a correction is the next version."""

    __tablename__ = "instruction_set"
    __table_args__ = (UniqueConstraint("name", "version"),)
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    body: Mapped[str]
    created_at: Mapped[float] = now_column()


class InstructionRead(Base):
    """Who said they have read which version, and when."""

    __tablename__ = "instruction_read"
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    instruction_set_id: Mapped[int] = mapped_column(
        ForeignKey("instruction_set.id"), primary_key=True
    )
    at: Mapped[float] = now_column()


class FormSchema(Base):
    """Which questions the form asks (`forms.Form` as JSON). Versioned like instructions."""

    __tablename__ = "form_schema"
    __table_args__ = (UniqueConstraint("name", "version"),)
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    body: Json
    created_at: Mapped[float] = now_column()


class Batch(Base):
    """A set of tasks handed out under one rule."""

    __tablename__ = "batch"
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(String(128), unique=True)
    # ranking, or what labelers write: demonstration | edit | dialogue | red_team (writing.py)
    kind: Mapped[str] = mapped_column(String(16), server_default="ranking")
    # a quiz that candidates take (screening.py)
    screening: Mapped[bool] = mapped_column(server_default=text("false"))
    # a model that suggests answers (`writing.Endpoint`)
    endpoint: Mapped[Any | None]
    purpose: Mapped[str] = mapped_column(String(32))
    cohorts: Json  # which cohorts get its tasks
    overlap: Mapped[int]  # rankings wanted a task
    lease_minutes: Mapped[float]
    # how long own answers can be changed
    edit_minutes: Mapped[float] = mapped_column(server_default="1440")
    ties_allowed: Mapped[bool]
    shuffle_seed: Mapped[int]
    # how prompts and responses are shown: text | rendered (Markdown, see rendering.py)
    view: Mapped[str] = mapped_column(String(16), server_default="text")
    # the ranking may be started from the ratings, which couples the two measurements
    start_from_ratings: Mapped[bool] = mapped_column(server_default=text("false"))
    # a gold task after so many answers; 0 = none
    gold_every: Mapped[int] = mapped_column(server_default="0")
    instruction_set_id: Mapped[int] = link("instruction_set.id")
    form_schema_id: Mapped[int] = link("form_schema.id")
    state: Mapped[str] = mapped_column(String(16))  # open | paused | withdrawn | deleted
    created_at: Mapped[float] = now_column()


class Prompt(Base):
    __tablename__ = "prompt"
    id: Mapped[int] = key()
    messages: Json
    text_hash: Mapped[str] = mapped_column(String(64), unique=True)
    source: Mapped[str | None]
    user: Mapped[str | None] = mapped_column("asked_by")  # "user" is a reserved word in PostgreSQL
    use_case: Mapped[str | None]
    language: Mapped[str | None]
    split: Mapped[str | None]
    record: Mapped[str | None]  # id of the imported record
    meta: Json


class Response(Base):
    __tablename__ = "response"
    id: Mapped[int] = key()
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"), index=True)
    text: Mapped[str]
    # name or hash of the checkpoint that wrote it; never shown to labelers
    generator: Mapped[str | None]
    sampling: Json
    is_demonstration: Mapped[bool] = mapped_column(default=False)


class Task(Base):
    """One prompt with K responses, wanted `need` times. Counters and the CHECK make over-collection
    impossible.
    """

    __tablename__ = "task"
    __table_args__ = (
        CheckConstraint("n_open >= 0 AND n_done >= 0 AND n_open + n_done <= need", name="room"),
        Index(
            "ix_task_room",
            "batch_id",
            "position",
            sqlite_where=text("n_open + n_done < need"),
            postgresql_where=text("n_open + n_done < need"),
        ),
    )
    id: Mapped[int] = key()
    batch_id: Mapped[int] = mapped_column(ForeignKey("batch.id"), index=True)
    prompt_id: Mapped[int] = link("prompt.id")
    position: Mapped[int]
    need: Mapped[int]
    n_open: Mapped[int] = mapped_column(default=0)
    n_done: Mapped[int] = mapped_column(default=0)
    # known ranks by position: the task checks labelers and is not exported
    gold_ranks: Mapped[Any | None]
    # what is asked of whoever writes, beside the prompt
    brief: Mapped[str | None]


class TaskResponse(Base):
    __tablename__ = "task_response"
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    response_id: Mapped[int] = link("response.id")
    copy_of: Mapped[int | None]  # position of an identical response, which is the one that is shown


# ---------------------------------------------------------------- what is answered


class Assignment(Base):
    """A task in one person's hands: open | submitted | skipped | expired."""

    __tablename__ = "assignment"
    __table_args__ = (
        UniqueConstraint("task_id", "person_id"),
        Index(
            "uq_assignment_one_open",
            "person_id",
            unique=True,
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
        Index("ix_assignment_lease", "state", "lease_until"),
        Index("ix_assignment_person_id_closed_at", "person_id", "closed_at"),
    )
    id: Mapped[int] = key()
    task_id: Mapped[int] = link("task.id")
    person_id: Mapped[int] = link("person.id")
    state: Mapped[str] = mapped_column(String(16))
    cohort: Mapped[str] = mapped_column(String(16))  # the person's when it was claimed
    display_order: Json  # positions in the order shown
    lease_until: Mapped[float]
    claimed_at: Mapped[float]
    closed_at: Mapped[float | None]


class Draft(Base):
    __tablename__ = "draft"
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"), primary_key=True)
    body: Json
    version: Mapped[int]
    saved_at: Mapped[float]
    writer: Mapped[str | None] = mapped_column(String(64))  # the browser tab that wrote it


class Submission(Base):
    __tablename__ = "submission"
    __table_args__ = (UniqueConstraint("assignment_id", "revision"),)
    id: Mapped[int] = key()
    assignment_id: Mapped[int] = link("assignment.id")
    revision: Mapped[int]  # 1 = as first sent
    idempotency_key: Mapped[str] = mapped_column(String(64), unique=True)
    tiers: Json  # list of lists of positions, best first, empty tiers kept as the labeler left them
    active_seconds: Mapped[float]
    comment: Mapped[str | None]
    # came after the task was full
    extra: Mapped[bool] = mapped_column(server_default=text("false"))
    # what the labeler looked at: text | rendered | both
    seen: Mapped[str] = mapped_column(String(16), server_default="text")
    from_ratings: Mapped[bool] = mapped_column(server_default=text("false"))
    instruction_set_id: Mapped[int] = link("instruction_set.id")
    form_schema_id: Mapped[int] = link("form_schema.id")
    created_at: Mapped[float] = now_column()


class ResponseRating(Base):
    __tablename__ = "response_rating"
    submission_id: Mapped[int] = mapped_column(ForeignKey("submission.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    rank: Mapped[int]  # dense: 1, 2, 2, 3
    likert: Mapped[int | None]
    flags: Json  # {flag: true | false}; a flag that was not asked is absent


class PromptRating(Base):
    __tablename__ = "prompt_rating"
    submission_id: Mapped[int] = mapped_column(ForeignKey("submission.id"), primary_key=True)
    flags: Json
    use_case: Mapped[str | None]
    language: Mapped[str | None]


class Suggestion(Base):
    """What a model answered at one point of a conversation that is being written."""

    __tablename__ = "suggestion"
    __table_args__ = (UniqueConstraint("assignment_id", "context", "round", "position"),)
    id: Mapped[int] = key()
    assignment_id: Mapped[int] = link("assignment.id")
    context: Mapped[str] = mapped_column(String(64))  # hash of the messages before it
    round: Mapped[int]  # how often others were asked for
    position: Mapped[int]  # from the left
    text: Mapped[str]
    generator: Mapped[str | None]  # never shown to labelers
    created_at: Mapped[float] = now_column()


class Written(Base):
    """What a submission says where it is text and not a ranking."""

    __tablename__ = "written"
    submission_id: Mapped[int] = mapped_column(ForeignKey("submission.id"), primary_key=True)
    sent: Json  # the turns as they were sent
    messages: Json  # those that follow the task's prompt
    turns: Json  # where each of the assistant's came from: suggestions, generators, picks
    edit_distance: Mapped[int | None]  # characters changed in a model's answer


class DemonstrationScore(Base):
    """What a researcher gave a candidate's demonstration, 1 to 7."""

    __tablename__ = "demonstration_score"
    submission_id: Mapped[int] = mapped_column(ForeignKey("submission.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    score: Mapped[int]
    created_at: Mapped[float] = now_column()


class Coverage(Base):
    """For which groups somebody says they can tell sensitive speech; the newest row counts."""

    __tablename__ = "coverage"
    id: Mapped[int] = key()
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    groups: Json
    others: Mapped[str]
    created_at: Mapped[float] = now_column()


class Skip(Base):
    __tablename__ = "skip"
    id: Mapped[int] = key()
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"), unique=True)
    reason: Mapped[str] = mapped_column(String(32))
    note: Mapped[str | None]
    created_at: Mapped[float] = now_column()


class Adjudication(Base):
    """An expert's ranking of a task that labelers differ on; the newest of a task counts."""

    __tablename__ = "adjudication"
    id: Mapped[int] = key()
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), index=True)
    person_id: Mapped[int] = link("person.id")
    tiers: Json  # list of lists of shown positions, best first, none empty
    note: Mapped[str | None]
    created_at: Mapped[float] = now_column()
