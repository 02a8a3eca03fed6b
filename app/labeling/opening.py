"""What the commands of `podium label` share: their options, and the site that they open."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from podium.errors import PlatformError, PodiumError, RunFolderError

if TYPE_CHECKING:
    from app.labeling.site import Site

Folder = Annotated[Path, typer.Option(help="Where the site keeps its database and exports.")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database", help="postgresql://... instead of SQLite in the folder.")
]
Role = Annotated[Literal["labeler", "researcher", "admin"], typer.Option(help="What they may do.")]
Cohort = Annotated[
    Literal["train", "heldout", "screening"], typer.Option(help="Which group of labelers.")
]
Seed = Annotated[int, typer.Option(help="Fixes what is drawn at random.")]
Address = Annotated[str, typer.Option(help="How people reach the site.")]
DEFAULT_FOLDER = Path("labeling")
DEFAULT_ADDRESS = "http://127.0.0.1:8000"


@contextmanager
def opened(folder: Path, database: str | None, new: bool = False, **settings) -> "Iterator[Site]":
    """The site on its newest schema; any error as one sentence and an exit code.

    Args:
        new: make a site where there is none; otherwise that is an error, for it is the wrong
            folder.
    """
    from sqlalchemy.exc import DatabaseError

    from app.labeling.site import Settings, has_site, open_site

    with errors_shown():
        try:
            wanted = Settings(folder=folder, database=database, **settings)
            if not new and not has_site(wanted):
                place = "that database" if database else folder.resolve()
                raise RunFolderError(
                    f"there is no labeling site in {place}",
                    "name its folder with --folder, or make one: podium label init --admin NAME",
                )
            site = open_site(wanted)
        except DatabaseError as error:
            reason = str(error.orig).strip().partition("\n")[0]
            fix = (
                "check its address and user, and that it runs"
                if database
                else f"is {folder} ours, and writable?"
            )
            raise PlatformError(f"the database cannot be opened: {reason}", fix) from error
        try:
            yield site
        finally:
            site.database.close()


@contextmanager
def errors_shown() -> Iterator[None]:
    try:
        yield
    except PodiumError as error:
        if os.environ.get("PODIUM_DEBUG"):
            raise
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
