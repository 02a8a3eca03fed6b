"""What labelers wrote, as records: demonstrations for SFT, and comparisons where two texts answer
the same prompt and one was preferred.

An edit prefers the edited answer to the model's. In red teaming the labeler picks the more harmful
answer, so the comparison is inverted: what was picked is `rejected`. Both say so in `meta`.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from app.labeling.importing import IMPORTED
from app.labeling.tables import Person
from app.labeling.task_tables import (
    Assignment,
    Batch,
    InstructionSet,
    Prompt,
    Response,
    Submission,
    Task,
    TaskResponse,
    Written,
)
from app.labeling.writing import WritingKind
from data.records import Comparison, Demonstration, Message

WrittenExport = Literal["demonstrations", "comparisons"]
SOURCES: dict[WrittenExport, tuple[WritingKind, ...]] = {
    "demonstrations": ("demonstration", "edit", "dialogue"),
    "comparisons": ("edit", "red_team"),
}
LeaveOut = Callable[[str, ValidationError | KeyError], None]


def written_records(
    session: Session,
    kind: WrittenExport,
    rows: Sequence[Row],
    pseudonym_of: Callable[[str], str],
    leave_out: LeaveOut,
) -> list[Demonstration] | list[Comparison]:
    """The newest revision of every text in `rows` (submission, assignment, task, batch, handle)."""
    make = _demonstration if kind == "demonstrations" else _comparisons
    instructions = {
        row.id: f"{row.name}@{row.version}" for row in session.scalars(select(InstructionSet))
    }
    found: list[Any] = []
    for submission, assignment, task, batch, handle in rows:
        if batch.kind not in SOURCES[kind]:
            continue
        prompt = session.get_one(Prompt, task.prompt_id)
        written = session.get_one(Written, submission.id)
        about = _about(submission, assignment, task, batch, prompt)
        about["instruction"] = instructions[submission.instruction_set_id]
        about["labeler"] = pseudonym_of(handle)
        about["cohort"] = assignment.cohort
        if written.edit_distance is not None:
            about |= {"edit_distance": written.edit_distance, "edited": _original(session, task)}
        try:
            found += make(prompt, written, batch.kind, f"answer-{assignment.id}", about)
        except (ValidationError, KeyError) as error:
            leave_out(f"answer-{assignment.id} ({batch.name}/{task.position})", error)
    return found


def describe_written(
    kind: WrittenExport, records: Sequence[Demonstration] | Sequence[Comparison]
) -> list[str]:
    """The lines of a card about these records."""
    metas = [record.meta for record in records]
    kinds = Counter(meta["kind"] for meta in metas)
    lines = [
        "- written as: " + ", ".join(f"{name}: {count}" for name, count in sorted(kinds.items())),
        f"- labelers: {len({meta['labeler'] for meta in metas})}",
        "- cohorts: "
        + ", ".join(f"{n}: {c}" for n, c in sorted(Counter(m["cohort"] for m in metas).items())),
        "- instructions: " + ", ".join(sorted({meta["instruction"] for meta in metas})),
    ]
    distances = [meta["edit_distance"] for meta in metas if "edit_distance" in meta]
    if distances:
        lines.append(
            f"- edits: {statistics.median(distances):.0f} characters changed (median), "
            f"{sum(d == 0 for d in distances)} answers sent unchanged"
        )
    if kinds["red_team"] and kind == "comparisons":
        lines.append(
            "- **inverted**: in red teaming labelers picked the more harmful answer; it stands as "
            "`rejected`, and `meta.inverted` is true"
        )
    return lines


class Text(NamedTuple):
    """A text as a researcher reads it."""

    handle: str
    kind: str
    task: str
    messages: list[dict[str, Any]]
    edit_distance: int | None
    comment: str | None


def recent_texts(session: Session, limit: int = 50) -> list[Text]:
    """The newest texts that were sent, each with the prompt before it."""
    rows = session.execute(
        select(Person.handle, Batch, Task.position, Prompt.messages, Written, Submission.comment)
        .join(Submission, Submission.id == Written.submission_id)
        .join(Assignment, Assignment.id == Submission.assignment_id)
        .join(Person, Person.id == Assignment.person_id)
        .join(Task, Task.id == Assignment.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .where(Batch.state != "deleted")
        .order_by(Submission.id.desc())
        .limit(limit)
    ).all()
    return [
        Text(
            handle,
            batch.kind,
            f"{batch.name}/{position}",
            [*messages, *written.messages],
            written.edit_distance,
            comment,
        )
        for handle, batch, position, messages, written, comment in rows
    ]


def _about(
    submission: Submission, assignment: Assignment, task: Task, batch: Batch, prompt: Prompt
) -> dict[str, Any]:
    imported = {
        "id": prompt.record,
        "meta": prompt.meta or None,
        "language": prompt.language,
        "split": prompt.split,
        "brief": task.brief,
    }
    return {
        IMPORTED: {name: value for name, value in imported.items() if value is not None},
        "kind": batch.kind,
        "task": f"{batch.name}/{task.position}",
        "comment": submission.comment,
        "active_seconds": submission.active_seconds,
        "revision": submission.revision,
        "extra": submission.extra,
    }


def _original(session: Session, task: Task) -> dict[str, Any]:
    """The answer that was edited, and who wrote it."""
    query = (
        select(Response.text, Response.generator)
        .join(TaskResponse, TaskResponse.response_id == Response.id)
        .where(TaskResponse.task_id == task.id)
    )
    text, generator = session.execute(query).one()
    return {"text": text, "generator": generator}


def _messages(prompt: Prompt, written: Written) -> list[Message]:
    return [Message(**message) for message in [*prompt.messages, *written.messages]]


def _demonstration(
    prompt: Prompt, written: Written, kind: str, name: str, about: dict[str, Any]
) -> list[Demonstration]:
    if kind == "dialogue":
        about = {**about, "turns": written.turns}
    return [
        Demonstration(
            messages=_messages(prompt, written),
            user=prompt.user,
            use_case=prompt.use_case,
            source=prompt.source,
            id=name,
            meta=about,
        )
    ]


def _comparisons(
    prompt: Prompt, written: Written, kind: str, name: str, about: dict[str, Any]
) -> list[Comparison]:
    messages = _messages(prompt, written)
    shared: dict[str, Any] = {
        "labeler": about["labeler"],
        "cohort": about["cohort"],
        "source": prompt.source,
        "group_id": name,
    }
    if kind == "edit":
        before, after = about["edited"]["text"], messages[-1].content
        if before == after:
            return []
        meta = {**about, "edited": {"generator": about["edited"]["generator"]}}
        return [
            Comparison(prompt=messages[:-1], chosen=after, rejected=before, meta=meta, **shared)
        ]
    places = [n for n, m in enumerate(messages) if m.role == "assistant"][-len(written.turns) :]
    found = []
    for number, (place, turn) in enumerate(zip(places, written.turns, strict=True), start=1):
        left_is_worse = turn["strength"] < 0
        worse, better = (
            (turn["left"], turn["right"]) if left_is_worse else (turn["right"], turn["left"])
        )
        if worse == better:
            continue  # the same words twice say nothing
        meta = {
            **about,
            "inverted": True,
            "turn": number,
            "picked": "left" if left_is_worse else "right",
            "left": turn["left_generator"],
            "right": turn["right_generator"],
        }
        found.append(
            Comparison(
                prompt=messages[:place],
                chosen=better,
                rejected=worse,
                strength=float(abs(turn["strength"])),
                meta=meta,
                **shared,
            )
        )
    return found
