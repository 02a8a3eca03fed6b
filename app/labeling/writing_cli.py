"""`podium label write` and `screening`: batches in which labelers write, edit, talk or red-team,
and quizzes for candidates.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.labeling.opening import (
    DEFAULT_FOLDER,
    DatabaseUrl,
    Folder,
    Seed,
    errors_shown,
    opened,
)

writing_app = typer.Typer()  # its commands stand beside `podium label`'s own


@writing_app.command("write")
def write(
    file: Annotated[
        Path, typer.Argument(help="JSONL: a prompt, an answer to be edited or a brief a line.")
    ],
    name: Annotated[str, typer.Option(help="Name of the new batch.")],
    kind: Annotated[
        Literal["demonstration", "edit", "dialogue", "red_team"],
        typer.Option(help="What labelers do."),
    ] = "demonstration",
    overlap: Annotated[int, typer.Option(min=1, help="How many write for each task.")] = 1,
    lease_minutes: Annotated[
        float, typer.Option(help="How long a task waits for its labeler.")
    ] = 240,
    cohort: Annotated[list[str], typer.Option(help="Who gets the tasks.")] = ["train", "heldout"],  # noqa: B006
    endpoint: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible server that suggests or is talked to (.../v1)."),
    ] = None,
    model: Annotated[
        list[str], typer.Option(help="Its model; several take turns on drawn sides.")
    ] = [],  # noqa: B006
    suggestions: Annotated[int, typer.Option(min=1, max=4, help="Shown at once.")] = 2,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Of sampling.")] = 1.0,
    seed: Seed = 0,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Make a batch in which labelers write. Nothing is kept when a line is wrong."""
    from app.labeling.seeds import add_writing, read_seeds, writing_rules

    with errors_shown():
        records = read_seeds(file)
    with opened(folder, database) as site:
        talks_to = {
            "url": endpoint,
            "models": model,
            "suggestions": suggestions,
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        rules = writing_rules(
            {
                "name": name,
                "kind": kind,
                "overlap": overlap,
                "lease_minutes": lease_minutes,
                "cohorts": cohort,
                "shuffle_seed": seed,
                "endpoint": talks_to if endpoint else None,
            }
        )
        with site.database.write() as session:
            report = add_writing(session, rules, records)
    typer.echo(f"batch '{name}': {report.tasks} tasks of kind {kind.replace('_', ' ')}")


@writing_app.command("screening")
def screening(
    mark: Annotated[
        str | None, typer.Option(help="Make a quiz of this batch; researchers answered it before.")
    ] = None,
    unmark: Annotated[str | None, typer.Option(help="Make it an ordinary batch again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Print how near candidates come to researchers: flags, rankings, demonstrations, coverage."""
    from app.labeling import screening as quiz
    from app.labeling.batches import batch_named
    from app.labeling.terminal import print_screening

    with opened(folder, database) as site:
        with site.database.write() as session:
            for name, on in ((mark, True), (unmark, False)):
                if name is not None:
                    quiz.mark(session, batch_named(session, name), on, None, time.time())
        with site.database.read() as session:
            rows = quiz.report(session)
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in rows], indent=2))
    else:
        print_screening(rows)
