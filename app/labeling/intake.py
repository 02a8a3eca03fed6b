"""What an import did, line by line: how many tasks it made, what it left out, and why.

A file is taken whole or not at all, unless the right lines were asked for ("partly"). Rows that
would be the same task twice are left out either way: nobody is served one twice.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling.importing import (
    BatchRules,
    Candidates,
    ImportReport,
    add_tasks,
    as_candidates,
    create_batch,
    first_has_ranks,
    read_candidates,
    unfit_record,
)
from app.labeling.problems import Problem, first_fault
from app.labeling.tables import EventLog
from app.labeling.task_tables import Batch, Prompt, Response, Task, TaskResponse
from data.jsonl import numbered_lines
from data.records import Ranking
from podium.errors import DataError

LINES_KEPT = 200  # in the event log; an import may have a million lines
LINES_SHOWN = 20  # on a terminal


class LeftOut(NamedTuple):
    line: int  # of the file, from 1
    kind: Literal["refused", "duplicate", "one response"]
    reason: str


class Rows(NamedTuple):
    """What a file holds."""

    records: list[tuple[int, Candidates]]  # with their lines
    refused: list[LeftOut]


class Import(NamedTuple):
    """What became of a file."""

    batch: str
    rows: int
    tasks: int
    copies: int  # responses identical to another of the same prompt, tied and shown once
    left_out: list[LeftOut]

    def count(self, kind: str) -> int:
        return sum(row.kind == kind for row in self.left_out)

    def as_json(self) -> dict[str, Any]:
        """For the event log and its page."""
        counts = {kind: self.count(kind) for kind in ("refused", "duplicate", "one response")}
        lines = [list(row) for row in self.left_out[:LINES_KEPT]]
        return {
            "batch": self.batch,
            "rows": self.rows,
            "tasks": self.tasks,
            "copies": self.copies,
            "left_out": counts,
            "lines": lines,
            "more": len(self.left_out) - len(lines),
        }

    def as_lines(self) -> list[str]:
        """For a terminal."""
        head = f"batch '{self.batch}': {self.tasks} tasks of {self.rows} rows"
        counts = {
            "identical responses tied and shown once": self.copies,
            "refused": self.count("refused"),
            "duplicates left out": self.count("duplicate"),
            "prompts without two different responses left out": self.count("one response"),
        }
        told = [f"{count} {what}" for what, count in counts.items() if count]
        lines = ["; ".join([head, *told])]
        for row in self.left_out[:LINES_SHOWN]:
            lines.append(f"  line {row.line}, {row.kind}: {row.reason}")
        if len(self.left_out) > LINES_SHOWN:
            lines.append(f"  and {len(self.left_out) - LINES_SHOWN} more lines")
        return lines


def read_rows(path: Path, gold: bool = False, partly: bool = False) -> Rows:
    """The file's rows as candidates; `partly` gives the lines that will not do beside those that
    will.

    Raises:
        DataError: a line will not do and `partly` is off, or no line will do.
    """
    if not partly:
        lines = [number for number, _ in numbered_lines(path)]
        return Rows(list(zip(lines, read_candidates(path, gold), strict=True)), [])
    kind = Ranking if first_has_ranks(path) else Candidates
    records, refused = [], []
    for number, line in numbered_lines(path):
        try:
            record = as_candidates([kind.model_validate_json(line)], gold)[0]
        except (ValidationError, Problem) as error:
            fault = first_fault(error) if isinstance(error, ValidationError) else error
            reason = fault.message.removeprefix("Record 1, ")
            refused.append(LeftOut(number, "refused", reason))
            continue
        unfit = unfit_record(record)
        if unfit is None:
            records.append((number, record))
        else:
            refused.append(LeftOut(number, "refused", unfit[1]))
    if not records:
        first = refused[0] if refused else LeftOut(1, "refused", "the file is empty")
        raise DataError(path, first.line, problem=f"no line will do: {first.reason}")
    return Rows(records, refused)


def take_in(
    session: Session,
    rules: BatchRules,
    rows: Rows,
    now: float,
    extend: bool = False,
    person_id: int | None = None,
    **about: Any,
) -> tuple[Import, EventLog]:
    """Make a batch of a file's rows, or add them to the batch of that name (`extend`), and note in
    the event log what it did.

    Args:
        about: what the log should say beside it, as the file's name.
    """
    batch = session.scalar(select(Batch).where(Batch.name == rules.name)) if extend else None
    known = _tasks_of(session, batch) if batch else {}
    fresh, left_out = _sorted_out(rows.records, known, "Line")
    report = add_tasks(session, batch or create_batch(session, rules, now), fresh)
    everything = sorted([*rows.refused, *left_out])
    count = len(rows.records) + len(rows.refused)
    done = Import(rules.name, count, report.tasks, report.copies, everything)
    event = EventLog(at=now, person_id=person_id, kind="import", detail=about | done.as_json())
    session.add(event)
    session.flush()
    return done, event


def take_records(
    session: Session, rules: BatchRules, records: Sequence[Candidates], now: float, extend: bool
) -> ImportReport:
    """The same for records that came without a file; the number of a record stands for a line."""
    batch = session.scalar(select(Batch).where(Batch.name == rules.name)) if extend else None
    known = _tasks_of(session, batch) if batch else {}
    fresh, left_out = _sorted_out(enumerate(records, start=1), known, "Record")
    report = add_tasks(session, batch or create_batch(session, rules, now), fresh)
    kinds = [row.kind for row in left_out]
    return report._replace(
        left_out=kinds.count("one response"), duplicates=kinds.count("duplicate")
    )


def _sorted_out(
    records: Iterable[tuple[int, Candidates]], known: dict[tuple, str], unit: str
) -> tuple[list[Candidates], list[LeftOut]]:
    """Those to make tasks of. `known` says where a task stands that there is already. Problem 422
    naming the first that no task can be made of.
    """
    fresh, left_out = [], []
    for line, record in records:
        if len(set(record.responses)) < 2:
            reason = "has fewer than two different responses"
            left_out.append(LeftOut(line, "one response", reason))
            continue
        unfit = unfit_record(record)
        if unfit is not None:
            code, problem = unfit
            field = f"records.{line - 1}"
            raise Problem(422, code, f"{unit} {line} {problem}", field=field)
        same = _sameness([m.model_dump() for m in record.prompt], record.responses)
        if same in known:
            reason = f"the same prompt and responses as {known[same]}"
            left_out.append(LeftOut(line, "duplicate", reason))
            continue
        known[same] = f"line {line}"
        fresh.append(record)
    return fresh, left_out


def _tasks_of(session: Session, batch: Batch) -> dict[tuple, str]:
    """The tasks that a batch has, by what makes them the same as another."""
    rows = session.execute(
        select(Task.id, Task.position, Prompt.messages, Response.text)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(TaskResponse, TaskResponse.task_id == Task.id)
        .join(Response, Response.id == TaskResponse.response_id)
        .where(Task.batch_id == batch.id)
    )
    prompts: dict[int, tuple[int, list[dict[str, Any]]]] = {}
    texts: dict[int, list[str]] = {}
    for task_id, position, messages, text in rows:
        prompts[task_id] = (position, messages)
        texts.setdefault(task_id, []).append(text)
    return {
        _sameness(messages, texts[task_id]): f"task {position} of this batch"
        for task_id, (position, messages) in prompts.items()
    }


def _sameness(messages: Iterable[dict[str, Any]], responses: Iterable[str]) -> tuple:
    """Equal for rows that ask a labeler the same: who wrote the responses, and in which order they
    stand, is not shown.
    """
    said = tuple((str(m.get("role")), str(m.get("content"))) for m in messages)
    return said, frozenset(responses)
