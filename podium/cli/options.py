"""What the commands have in common: their arguments, and how an error is shown."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from podium.errors import Interrupted, PodiumError

RecipeArg = Annotated[
    str,
    typer.Argument(help="A YAML file, or the bare name of one in recipes/.", metavar="RECIPE"),
]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="a.b=c",
        help="Override one key of the recipe; may be given many times.",
    ),
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where run folders lie.")]
RunArg = Annotated[
    str, typer.Argument(help="A run: its folder, or its name under --runs-dir.", metavar="RUN")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Make it anew although nothing changed (the old one is kept)."),
]
WeightsOption = Annotated[
    Literal["fp32", "bf16", "int8", "int4"],
    typer.Option("--weights", help="Width of the weights; a narrow model answers, never trains."),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")]
DEFAULT_RUNS = Path("runs")


@contextmanager
def errors_shown() -> Iterator[None]:
    """One clear message and the error's exit code; a traceback only with --debug."""
    try:
        yield
    except PodiumError as error:
        if os.environ.get("PODIUM_DEBUG"):
            raise
        said = f"{error}" if isinstance(error, Interrupted) else f"error: {error}"
        typer.echo(said, err=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(130) from None
