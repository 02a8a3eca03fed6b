"""Tasks that others are made from, and what is made: an instruction with examples of its input
and output.

A file of seeds has one task a line, as the file of Self-Instruct (Wang et al. 2022) has, which is
read as it is:

    {"instruction": "Say the opposite.", "instances": [{"input": "warm", "output": "cold"}],
     "is_classification": false, "use_case": "rewrite", "id": "seed-1"}

What was made has the same form, with its origin in `meta`, so that it can be a seed again.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from data.jsonl import read_jsonl
from data.readers import read_source
from data.records import Demonstration, Message, Record, String, Text
from data.willowbrook.seeds import CLASSIFICATION
from podium.errors import DataError
from podium.run.lineage import absolute, source_of
from podium.run.recipe import Recipe

SEEDS = 175  # as many as Self-Instruct had


class Instance(Record):
    """One example of a task; `input` is empty where the instruction needs none."""

    input: String = ""
    output: Text


class Task(Record):
    """An instruction, with examples of what to answer."""

    instruction: Text
    instances: Annotated[list[Instance], Field(min_length=1)]
    is_classification: bool = False
    use_case: str | None = None
    name: str | None = None
    id: str | None = None
    meta: dict[str, Any] = Field({})


def read_tasks(path: Path) -> list[Task]:
    """The tasks of a file; those without an id are named by their line.

    Raises:
        DataError: no such file, an unknown key, or no task in it.
    """
    found = read_jsonl(path, Task)
    if not found:
        raise DataError(path, problem="holds no task", fix="write one a line")
    named = enumerate(found, start=1)
    return [task.model_copy(update={"id": task.id or f"line-{n}"}) for n, task in named]


def read_uses(path: Path) -> tuple[str, ...]:
    """The uses of a file, one a line.

    Raises:
        DataError: no such file, or nothing in it.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise DataError(path, problem="names no use", fix="write one a line: brainstorming, ...")
    return found


def seeds_of_run(recipe: Recipe, run: Path) -> list[Task]:
    """A run's demonstrations of one turn as seeds, as many of each use case as can be, and with the
    village a few tasks of classification, which its demonstrations have none of.

    Raises:
        DataError: the run has no demonstrations.
    """
    source = source_of(recipe, run, "demonstrations", "train")
    if source is None:
        raise DataError(
            run / "recipe.yaml", None, "data.demonstrations", "no seeds", "give --seeds FILE"
        )
    by_use: dict[str, list[Task]] = defaultdict(list)
    for number, demo in enumerate(read_source(absolute(source, run), Demonstration)):
        if [m.role for m in demo.messages] != ["user", "assistant"]:
            continue
        asked, answered = (m.content.strip() for m in demo.messages)
        if asked and answered:
            task = Task(
                instruction=asked,
                instances=[Instance(output=answered)],
                use_case=demo.use_case,
                id=demo.id or f"demonstration-{number}",
            )
            by_use[demo.use_case or ""].append(task)
    own = [Task.model_validate(row) for row in CLASSIFICATION] if recipe.data.world else []
    return [*own, *_in_turn(list(by_use.values()))][:SEEDS]


def _in_turn(groups: Sequence[Sequence[Task]]) -> Iterator[Task]:
    """The first of each group, then the second of each, ..."""
    for number in range(max(map(len, groups), default=0)):
        yield from (group[number] for group in groups if number < len(group))


def demonstrations(task: Task) -> list[Demonstration]:
    """A task as single-turn demonstrations, one an example, that say where they come from."""
    found = []
    for number, one in enumerate(task.instances):
        asked = f"{task.instruction}\n\n{one.input}" if one.input else task.instruction
        found.append(
            Demonstration(
                messages=[
                    Message(role="user", content=asked),
                    Message(role="assistant", content=one.output),
                ],
                use_case=task.use_case,
                source=str(task.meta.get("source", "tasks")),
                id=f"{task.id}-{number}",
                meta=task.meta,
            )
        )
    return found


def few_shot(task: Task) -> list[Demonstration]:
    """InstructGPT's few-shot prompts (appendix A.1): of K examples of an instruction each is asked
    once, with the other K - 1 before it.
    """
    found = []
    for number, one in enumerate(task.instances):
        others = [other for other in task.instances if other is not one]
        shown = "".join(f"Input: {o.input}\nOutput: {o.output}\n\n" for o in others)
        asked = f"{task.instruction}\n\n{shown}Input: {one.input}\nOutput:"
        found.append(
            Demonstration(
                messages=[
                    Message(role="user", content=asked),
                    Message(role="assistant", content=one.output),
                ],
                use_case=task.use_case,
                source="few-shot",
                id=f"{task.id}-few-{number}",
                meta=task.meta | {"few_shot": {"task": task.id, "shown": len(others)}},
            )
        )
    return found if len(task.instances) > 1 else []


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line that is on the disk when this returns."""
    with path.open("ab") as file:
        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The lines that `append` finished; half of one, which a kill left, is cut off."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]
