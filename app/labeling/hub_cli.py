"""`podium label push`: an export as a data set on the hub."""

import time
from typing import Annotated, Literal

import typer

from app.labeling.opening import DEFAULT_FOLDER, DatabaseUrl, Folder, opened

hub_app = typer.Typer()  # its command stands beside `podium label`'s own


@hub_app.command("push")
def push_batch(
    batch: Annotated[str, typer.Argument(help="Name of a batch.")],
    to: Annotated[str, typer.Option(help="The data set, as ORGANISATION/NAME.")],
    kind: Annotated[
        Literal["rankings", "pairs", "demonstrations", "comparisons"] | None,
        typer.Option(help="What is exported; default: what the batch's labelers did."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private/--public", help="Of a data set that is made new.")
    ] = True,
    cohort: Annotated[list[str], typer.Option(help="Only these cohorts.")] = [],  # noqa: B006
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Export a batch and put it on the Hugging Face hub, with a card. The token is HF_TOKEN or the
    hub's own login.
    """
    from app.labeling.batches import batch_named
    from app.labeling.collecting import ExportFilter
    from app.labeling.exporting import make_export
    from app.labeling.hub import KIND_OF_BATCH, check_name, push
    from app.labeling.tables import EventLog

    with opened(folder, database) as site:
        check_name(to)
        with site.database.read() as session:
            chosen_kind = kind or KIND_OF_BATCH[batch_named(session, batch).kind]
        chosen = ExportFilter(batches=[batch], cohorts=cohort or None)
        made = make_export(site.database, site.exports, chosen_kind, chosen, None, time.time())
        pushed = push(site.exports, made, to, private)
        with site.database.write() as session:
            detail = {"export": made.id, "to": to, "commit": pushed.commit}
            session.add(EventLog(at=time.time(), person_id=None, kind="push", detail=detail))
    typer.echo(f"pushed export {made.id} ({made.rows} {made.kind}) to {pushed.address}")
