"""What labelers write from: prompts, answers to be edited, openings of conversations.

A file is JSON Lines. `Prompt` and `Demonstration` records do (`messages`; an answer that closes
them is what is edited), candidates as for a ranking do, and so does a line with nothing but a
`brief`.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling.forms import storable
from app.labeling.importing import (
    ABOUT_WRITING,
    MAX_SHOWN,
    BatchRules,
    Candidates,
    ImportReport,
    add_instructions,
    create_batch,
    holds_nul,
    new_task,
)
from app.labeling.problems import Problem, first_fault
from app.labeling.task_tables import Batch, InstructionSet
from app.labeling.writing import TALKS, WritingKind, WritingRules
from app.labeling.writing_instructions import INSTRUCTIONS
from data.jsonl import read_jsonl
from data.records import Message, Record, String, require_last


class Seed(Record):
    """One task that is written."""

    prompt: list[Message] = Field([])
    brief: Annotated[String, Field(max_length=5000), AfterValidator(storable)] | None = Field(
        None, description="what is asked of the labeler, beside the prompt"
    )
    responses: list[String] = Field(
        [], description="the answer to be edited, or what is suggested first"
    )
    generators: list[String] | None = None
    sampling: dict[str, Any] | None = None
    user: String | None = None
    use_case: String | None = None
    language: String | None = None
    source: String | None = None
    split: String | None = None
    id: String | None = None
    meta: dict[str, Any] = Field({})

    @model_validator(mode="before")
    @classmethod
    def _from_messages(cls, row: Any) -> Any:
        """A `Prompt` or a `Demonstration`; what closes the latter is a response."""
        if not isinstance(row, dict) or "messages" not in row:
            return row
        rest = {key: value for key, value in row.items() if key != "messages"}
        turns = row["messages"]
        last = turns[-1] if isinstance(turns, list) and turns else None
        if isinstance(last, dict) and last.get("role") == "assistant" and len(turns) > 1:
            return {**rest, "prompt": turns[:-1], "responses": [last.get("content")]}
        return {**rest, "prompt": turns}

    @model_validator(mode="after")
    def _check(self) -> "Seed":
        if self.generators is not None and len(self.generators) != len(self.responses):
            raise ValueError(
                f"generators: has {len(self.generators)} entries for "
                f"{len(self.responses)} responses"
            )
        return self


def read_seeds(path: Path) -> list[Seed]:
    """Raises DataError naming file, line and field."""
    return read_jsonl(path, Seed)


def writing_rules(values: dict[str, Any]) -> WritingRules:
    """Raises Problem 422 naming the first field that will not do."""
    try:
        return WritingRules.model_validate(values)
    except ValidationError as error:
        raise first_fault(error) from None


def add_writing(
    session: Session, rules: WritingRules, seeds: Iterable[Seed], now: float | None = None
) -> ImportReport:
    """A new batch with a task a seed, or for edits a task an answer. Problem 422 naming the
    record; then nothing is kept.
    """
    seeds = list(seeds)
    for number, seed in enumerate(seeds, start=1):
        fault = _unfit(rules, seed)
        if fault is not None:
            message = f"Record {number} {fault}"
            raise Problem(422, "unfit_record", message, field=f"records.{number - 1}")
    batch = _create(session, rules, time.time() if now is None else now)
    tasks = [task for seed in seeds for task in _tasks(rules.kind, seed)]
    for position, (record, brief) in enumerate(tasks):
        new_task(session, batch, position, record, brief)
    return ImportReport(len(tasks), 0, 0)


def _create(session: Session, rules: WritingRules, now: float) -> Batch:
    instruction = rules.instruction_set_id
    if instruction is None:
        name = ABOUT_WRITING + rules.kind.replace("_", " ")
        newest = select(InstructionSet.id).where(InstructionSet.name == name)
        instruction = session.scalar(newest.order_by(InstructionSet.id.desc()).limit(1))
        if instruction is None:
            instruction = add_instructions(session, name, INSTRUCTIONS[rules.kind], now).id
    wanted: BatchRules = rules.model_copy(update={"instruction_set_id": instruction})
    return create_batch(session, wanted, now)


def _unfit(rules: WritingRules, seed: Seed) -> str | None:
    """What is wrong with it for this kind of batch."""
    if holds_nul(seed.model_dump()):
        return "contains a NUL character; remove it."
    if not seed.prompt and not (rules.kind in TALKS and seed.brief):
        return "has no prompt; a conversation may begin with a brief alone."
    if seed.prompt:
        try:
            require_last(seed.prompt, "user", "prompt")
        except ValueError as error:
            return f"- {error}."
    if any(m.tools or m.tool_calls or m.role == "tool" for m in seed.prompt):
        return "has tools; they cannot be shown to somebody who writes."
    if len(set(seed.responses)) > MAX_SHOWN:
        return f"has more than {MAX_SHOWN} responses."
    if rules.kind == "edit" and not seed.responses:
        return "has no answer to be edited: add responses, or messages that an answer closes."
    talks = rules.endpoint is not None or (bool(seed.prompt) and len(set(seed.responses)) > 1)
    if rules.kind == "red_team" and not talks:
        return "has no model to talk to: name an endpoint, or give a prompt and two responses."
    return None


def _tasks(kind: WritingKind, seed: Seed) -> Sequence[tuple[Candidates, str | None]]:
    """The tasks of one seed, as the rows that a ranking's task has."""
    fields = seed.model_dump(exclude={"brief", "responses", "generators", "prompt"})
    texts = list(dict.fromkeys(seed.responses))
    names = dict(zip(seed.responses, seed.generators, strict=True)) if seed.generators else {}

    def task(responses: list[str]) -> tuple[Candidates, str | None]:
        generators = [names[text] for text in responses] if names else None
        # a ranking wants two answers and a question; a task that is written has its own rules
        record = Candidates.model_construct(
            **fields,
            prompt=seed.prompt,
            responses=responses,
            generators=generators,
            demonstration=None,
            gold_ranks=None,
        )
        return record, seed.brief

    if kind == "edit":
        return [task([text]) for text in texts]
    return [task(texts if kind in TALKS else [])]
