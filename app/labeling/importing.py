"""Prompts with candidate responses in: from our records, from a folder of sampled candidates, or
from a chat.

A task shows each distinct text once. Identical responses are kept as copies of the first, so an
export lists every candidate that was sampled, tied where the words are the same.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, ValidationError, model_validator
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.labeling.forms import (
    DEFAULT_INSTRUCTIONS,
    INSTRUCTGPT_FORM,
    Form,
    ShortText,
    Strict,
    View,
    one_line,
)
from app.labeling.problems import Problem, first_fault
from app.labeling.task_tables import (
    Batch,
    FormSchema,
    InstructionSet,
    Prompt,
    Response,
    Task,
    TaskResponse,
)
from data.jsonl import numbered_lines, read_jsonl
from data.records import Message, Messages, Rank, Ranking, Record, String, require_last
from data.tools import encodable
from podium.errors import DataError

MAX_SHOWN = 9  # the paper's largest K, and the keys A to I
GOLD_NEED = 1_000_000  # every labeler may meet a gold task once
ABOUT_WRITING = "writing "  # how the names of instructions for batches that are written begin
IMPORTED = "imported"  # key of an exported ranking's `meta` under which its prompt comes back


class Candidates(Record):
    """One prompt and its candidate responses, not yet ranked."""

    prompt: Messages
    responses: Annotated[list[String], Field(min_length=2)]
    generators: list[String] | None = None
    sampling: dict[str, Any] | None = None
    demonstration: int | None = Field(
        None, description="index of the response a person wrote, if any"
    )
    gold_ranks: list[Rank] | None = Field(
        None, description="known ranks: the task then checks labelers"
    )
    user: String | None = None
    use_case: String | None = None
    language: String | None = None
    source: String | None = None
    split: String | None = None
    id: String | None = None
    meta: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _check(self) -> "Candidates":
        # What a `Ranking` refuses must not come in: a labeler's work on it could never go out.
        require_last(self.prompt, "user", "prompt")
        if self.demonstration is not None and not 0 <= self.demonstration < len(self.responses):
            raise ValueError("demonstration: is no index of a response, counted from 0")
        for field in ("generators", "gold_ranks"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.responses):
                raise ValueError(
                    f"{field}: has {len(values)} entries for {len(self.responses)} responses"
                )
        return self


BatchName = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(one_line)]


class BatchRules(Strict):
    """How a batch is handed out."""

    name: BatchName
    purpose: ShortText = "ranking"
    cohorts: list[Literal["train", "heldout", "screening"]] = Field(
        ["train", "heldout"], min_length=1
    )
    overlap: int = Field(1, ge=1, le=1000, description="rankings wanted of each task")
    lease_minutes: float = Field(
        60, gt=0, le=100_000, description="how long a task waits for its labeler"
    )
    edit_minutes: float = Field(
        1440, ge=0, le=1_000_000, description="how long own answers can be changed"
    )
    ties_allowed: bool = True
    shuffle_seed: int = Field(0, ge=0, le=2**31 - 1)
    view: View = Field(
        "text", description="how texts are shown: as text, or rendered as Markdown with formulas"
    )
    start_from_ratings: bool = Field(
        False, description="offer to start the ranking from the ratings; couples the two"
    )
    gold_every: int = Field(
        0, ge=0, le=1000, description="every how many answers a gold task comes; 0 = never"
    )
    instruction_set_id: int | None = Field(
        None, ge=1, le=2**31 - 1, description="null = the newest version"
    )
    form_schema_id: int | None = Field(
        None, ge=1, le=2**31 - 1, description="null = the newest version"
    )


class ImportReport(NamedTuple):
    tasks: int
    copies: int  # responses identical to another of the same prompt, tied and shown once
    left_out: int  # prompts with fewer than two distinct responses
    duplicates: int = 0  # rows that would be the same task twice, see intake.py


def read_candidates(path: Path, gold: bool = False) -> list[Candidates]:
    """A JSONL file of `Candidates` or of `Ranking` records; `gold` takes the latter's ranks as
    known. A site's own export gives back what was once imported.
    """
    if not first_has_ranks(path):
        return read_jsonl(path, Candidates)
    return as_candidates(read_jsonl(path, Ranking), gold)


def as_candidates(records: Iterable[Candidates | Ranking], gold: bool) -> list[Candidates]:
    """What is to be ranked, of either kind of record; `gold` takes a ranking's ranks as known.
    Problem 422 where a ranking's `meta` says of its prompt what cannot be.
    """
    found = []
    for number, record in enumerate(records, start=1):
        if isinstance(record, Candidates):
            found.append(record)
            continue
        try:
            known = record.ranks if gold else None
            found.append(Candidates(**_imported(record), gold_ranks=known))
        except ValidationError as error:
            fault = first_fault(error)
            message = f"Record {number}, meta.{IMPORTED}: {fault.message}"
            place = f"records.{number - 1}.meta.{IMPORTED}.{fault.field}"
            raise Problem(422, fault.code, message, field=place, fix=fault.fix) from None
    return found


def _imported(ranking: Ranking) -> dict[str, Any]:
    shared = ("prompt", "responses", "generators", "user", "use_case", "source", "id", "meta")
    fields = {name: getattr(ranking, name) for name in shared}
    kept = ranking.meta.get(IMPORTED)
    if not isinstance(kept, dict):
        return fields
    return fields | {"id": None, "meta": {}, "use_case": None} | kept


def check_unpacked(path: Path, limit: int) -> None:
    """Refuse a packed file that would unpack to more than `limit` bytes; counts without keeping.

    Raises:
        DataError: it is larger, or no whole gzip file.
    """
    if path.suffix != ".gz":
        return
    size = 0
    try:
        for part in _unpacked(path):
            size += len(part)
            if size > limit:
                raise DataError(
                    path,
                    problem=f"unpacks to more than {limit // 2**20} MiB",
                    fix="split it, or import it with: podium label import",
                )
    except zlib.error as error:
        raise DataError(
            path, problem=f"is not a whole gzip file: {error}", fix="pack it again"
        ) from None


def _unpacked(path: Path) -> Iterator[bytes]:
    """At most a megabyte at a time, whatever the file says."""
    with path.open("rb") as file:
        unpacking = zlib.decompressobj(wbits=31)
        while waiting := file.read(2**16):
            while waiting:
                yield unpacking.decompress(waiting, 2**20)
                waiting = unpacking.unconsumed_tail
                if unpacking.eof:  # a gzip file may have several members
                    waiting, unpacking = unpacking.unused_data, zlib.decompressobj(wbits=31)


def storable_candidates(records: Sequence[Candidates]) -> list[Candidates]:
    """What models wrote as a database can keep it: an untrained byte-level model may say NUL. Files
    are refused.
    """
    return [
        record.model_copy(
            update={"responses": [text.replace("\x00", "\ufffd") for text in record.responses]}
        )
        for record in records
    ]


def rules_of(values: dict[str, Any]) -> BatchRules:
    """Rules from a form or a command line. Raises Problem 422 naming the first field that will not
    do.
    """
    try:
        return BatchRules.model_validate(values)
    except ValidationError as error:
        raise first_fault(error) from None


def add_batch(
    session: Session,
    rules: BatchRules,
    candidates: Sequence[Candidates],
    now: float,
    extend: bool = False,
) -> ImportReport:
    """A new batch with its tasks; `extend` adds to the batch of that name where there is one."""
    known = session.scalar(select(Batch).where(Batch.name == rules.name)) if extend else None
    return add_tasks(session, known or create_batch(session, rules, now), candidates)


def create_batch(session: Session, rules: BatchRules, now: float) -> Batch:
    if session.scalar(select(Batch.id).where(Batch.name == rules.name)):
        raise Problem(
            422, "batch_exists", f"There is already a batch '{rules.name}'; choose another name."
        )
    instruction = rules.instruction_set_id or _newest_for_ranking(session)
    form = rules.form_schema_id or newest(session, FormSchema).id
    if session.get(InstructionSet, instruction) is None or session.get(FormSchema, form) is None:
        raise Problem(
            422, "no_version", "There is no such version of the instructions or the form."
        )
    values = rules.model_dump() | {"instruction_set_id": instruction, "form_schema_id": form}
    batch = Batch(**values, state="open", created_at=now)
    session.add(batch)
    session.flush()
    return batch


def add_tasks(session: Session, batch: Batch, candidates: Sequence[Candidates]) -> ImportReport:
    """One task a record. Raises Problem 422 naming the record; then nothing of the import
    is kept.
    """
    last = session.scalar(select(func.max(Task.position)).where(Task.batch_id == batch.id))
    position, copies, left_out = -1 if last is None else last, 0, 0
    first = position + 1
    for number, record in enumerate(candidates, start=1):
        shown = set(record.responses)
        if len(shown) < 2:
            left_out += 1
            continue
        fault = unfit_record(record)
        if fault is not None:
            code, problem = fault
            raise Problem(422, code, f"Record {number} {problem}", field=f"records.{number - 1}")
        position += 1
        copies += len(record.responses) - len(shown)
        new_task(session, batch, position, record)
    return ImportReport(position + 1 - first, copies, left_out)


def unfit_record(record: Candidates) -> tuple[str, str] | None:
    """(code, what is wrong) where a task cannot be made of it."""
    shown = len(set(record.responses))
    if shown > MAX_SHOWN:
        return (
            "too_many_responses",
            f"has {shown} different responses; a task shows at most {MAX_SHOWN}.",
        )
    row = record.model_dump()
    if holds_nul(row):
        return "nul_character", "contains a NUL character; remove it."
    try:
        encodable([row["meta"], row["sampling"]])
    except ValueError as error:
        return "not_json", f"has a meta or sampling that {error}."
    return None


def stored_candidates(session: Session) -> list[Candidates]:
    """What was imported, as records: the simulated labelers need the prompts' `meta`."""
    rows = session.execute(
        select(Task.id, Prompt, Response.text)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(TaskResponse, TaskResponse.task_id == Task.id)
        .join(Response, Response.id == TaskResponse.response_id)
        .order_by(Task.id, TaskResponse.position)
    ).all()
    texts: dict[int, list[str]] = {}
    prompts: dict[int, Prompt] = {}
    for task_id, prompt, text in rows:
        texts.setdefault(task_id, []).append(text)
        prompts[task_id] = prompt
    found = []
    for task_id, p in prompts.items():
        with suppress(ValidationError):  # sites of earlier releases took prompts that are none
            found.append(
                Candidates(
                    prompt=[Message(**m) for m in p.messages],
                    responses=texts[task_id],
                    user=p.user,
                    use_case=p.use_case,
                    language=p.language,
                    source=p.source,
                    split=p.split,
                    id=p.record,
                    meta=p.meta,
                )
            )
    return found


def add_instructions(session: Session, name: str, body: str, now: float) -> InstructionSet:
    """The next version of this name; earlier ones stay as they are."""
    row = InstructionSet(
        name=name, version=_next_version(session, InstructionSet, name), body=body, created_at=now
    )
    session.add(row)
    session.flush()
    return row


def add_form(session: Session, name: str, form: Form, now: float) -> FormSchema:
    version = _next_version(session, FormSchema, name)
    row = FormSchema(name=name, version=version, body=form.model_dump(), created_at=now)
    session.add(row)
    session.flush()
    return row


def add_defaults(session: Session, now: float) -> None:
    """InstructGPT's instructions and form, on a new site."""
    add_instructions(session, "instructgpt", DEFAULT_INSTRUCTIONS, now)
    add_form(session, "instructgpt", INSTRUCTGPT_FORM, now)


def _newest_for_ranking(session: Session) -> int:
    """Those of batches that are written say nothing of ranking."""
    query = select(InstructionSet.id).where(InstructionSet.name.not_like(f"{ABOUT_WRITING}%"))
    return session.scalars(query.order_by(InstructionSet.id.desc()).limit(1)).one()


def newest(session: Session, table: type[InstructionSet] | type[FormSchema]) -> Any:
    return session.scalars(select(table).order_by(table.id.desc()).limit(1)).one()


def holds_nul(value: Any) -> bool:
    """Whether any text in it holds the one character that PostgreSQL does not keep."""
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(holds_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(holds_nul(part) for part in value)


def first_has_ranks(path: Path) -> bool:
    """Whether a file is one of rankings, told by its first line."""
    line = next((line for _, line in numbered_lines(path)), "")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False  # read_jsonl says what is wrong with it
    return isinstance(record, dict) and "ranks" in record


def _next_version(
    session: Session, table: type[InstructionSet] | type[FormSchema], name: str
) -> int:
    return (session.scalar(select(func.max(table.version)).where(table.name == name)) or 0) + 1


def new_task(
    session: Session, batch: Batch, position: int, record: Candidates, brief: str | None = None
) -> None:
    """A task of a record that was checked; identical responses become copies of the first."""
    prompt = _prompt(session, record)
    need = batch.overlap if record.gold_ranks is None else GOLD_NEED
    task = Task(
        batch_id=batch.id,
        prompt_id=prompt.id,
        position=position,
        need=need,
        gold_ranks=record.gold_ranks,
        brief=brief,
    )
    generators: Sequence[str | None] = record.generators or [None] * len(record.responses)
    responses = [
        Response(
            prompt_id=prompt.id,
            text=text,
            generator=generator,
            sampling=record.sampling or {},
            is_demonstration=place == record.demonstration,
        )
        for place, (text, generator) in enumerate(zip(record.responses, generators, strict=True))
    ]
    session.add_all([task, *responses])
    session.flush()
    for place, (text, response) in enumerate(zip(record.responses, responses, strict=True)):
        earliest = record.responses.index(text)
        session.add(
            TaskResponse(
                task_id=task.id,
                position=place,
                response_id=response.id,
                copy_of=None if earliest == place else earliest,
            )
        )


def _prompt(session: Session, record: Candidates) -> Prompt:
    messages = [message.model_dump() for message in record.prompt]
    about = {
        "source": record.source,
        "user": record.user,
        "use_case": record.use_case,
        "language": record.language,
        "split": record.split,
        "record": record.id,
        "meta": record.meta,
    }
    # The same words asked by somebody else, or under another id, are another prompt: what a file
    # says of it must come out again.
    text_hash = hashlib.sha256(json.dumps([messages, about], sort_keys=True).encode()).hexdigest()
    known = session.scalar(select(Prompt).where(Prompt.text_hash == text_hash))
    if known is not None:
        return known
    prompt = Prompt(messages=messages, text_hash=text_hash, **about)
    session.add(prompt)
    session.flush()
    return prompt
