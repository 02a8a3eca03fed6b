"""The commands for a run that is under way: go on with it, changed or not, and note what people
saw.
"""

from typing import Annotated

import typer

from podium.cli.options import DEFAULT_RUNS, RunArg, RunsDir, errors_shown


def add_under_way_commands(app: typer.Typer) -> None:
    """`resume` and `note`, as commands of `app`."""
    app.command()(resume)
    app.command()(note)


def resume(
    run_name: RunArg,
    changes: Annotated[
        list[str],
        typer.Option(
            "--with",
            metavar="a.b=c",
            help="Change a key of a stage that is under way, on record: learning rates, clipping, "
            "the guard, how often it looks and saves.",
        ),
    ] = [],
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Go on with a run by its own recipe. What --with changes stands in the logbook, in stage.json
    and in the model card.
    """
    with errors_shown():
        from podium.cli.commands import print_outcome
        from podium.run.amend import amend
        from podium.run.chain import run_chain
        from podium.run.folders import find_run

        folder = find_run(run_name, runs_dir).resolve()
        recipe = amend(folder, changes)
        print_outcome(run_chain(recipe, folder.parent), recipe.chain())


def note(
    run_name: RunArg,
    text: Annotated[str, typer.Argument(help="What you saw or did, in a sentence.")],
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Add a dated line to the run's logbook.md."""
    with errors_shown():
        from podium.run.amend import note as write_note
        from podium.run.folders import find_run

        typer.echo(f"noted in {write_note(find_run(run_name, runs_dir), text)}")
