"""`podium label user`, `batch`, `invite` and `invitations`: who may come, and what they get."""

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.labeling.opening import (
    DEFAULT_ADDRESS,
    DEFAULT_FOLDER,
    Address,
    Cohort,
    DatabaseUrl,
    Folder,
    Role,
    opened,
)

user_app = typer.Typer(no_args_is_help=True, help="People: add, list, change, reset a password.")
batch_app = typer.Typer(no_args_is_help=True, help="Batches: list, pause, withdraw, delete.")
invite_app = typer.Typer()  # its commands stand beside `podium label`'s own


@user_app.command("add")
def add_user(
    handle: str,
    role: Role = "labeler",
    cohort: Cohort = "train",
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Add a person; the password is asked for, or taken from PODIUM_PASSWORD."""
    add_account(folder, database, handle, role, cohort)


@user_app.command("list")
def list_users(folder: Folder = DEFAULT_FOLDER, database: DatabaseUrl = None) -> None:
    """Everybody with their role and cohort."""
    from sqlalchemy import select

    from app.labeling.tables import Person

    with opened(folder, database) as site, site.database.read() as session:
        for person in session.scalars(select(Person).order_by(Person.handle)):
            state = " (disabled)" if person.disabled_at else ""
            typer.echo(f"{person.handle:<24} {person.role:<10} {person.cohort}{state}")


@user_app.command("change")
def change_user(
    handle: str,
    role: Annotated[str | None, typer.Option(help="labeler, researcher or admin.")] = None,
    cohort: Annotated[str | None, typer.Option(help="train, heldout or screening.")] = None,
    disabled: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Lock out, or let in again.")
    ] = None,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Give a person another role or cohort, or lock them out. Their answers stay."""
    from app.labeling import accounts

    now = time.time()
    with opened(folder, database) as site, site.database.write() as session:
        person = accounts.person_named(session, handle)
        if role or cohort:
            accounts.change_person(
                session, person.id, role or person.role, cohort or person.cohort, None, now
            )
        if disabled is not None:
            accounts.set_disabled(session, person.id, disabled, now)
        state = " (disabled)" if person.disabled_at else ""
        typer.echo(f"{person.handle}: {person.role}, {person.cohort}{state}")


@user_app.command("reset")
def reset_user(
    handle: str,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Print a link with which this person chooses a new password, once."""
    from app.labeling import accounts, resets

    with opened(folder, database) as site, site.database.write() as session:
        person = accounts.person_named(session, handle)
        token = resets.make_reset(session, site.secret, person.id, None, time.time())
    typer.echo(f"{address}/reset/{token}")


@invite_app.command()
def invitations(
    revoke: Annotated[
        int | None, typer.Option(help="Number of the invitation that is to work no longer.")
    ] = None,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """List the invitations that can still be used, or revoke one."""
    from app.labeling import accounts

    with opened(folder, database) as site, site.database.write() as session:
        if revoke is not None:
            accounts.revoke_invite(session, revoke, None, time.time())
            typer.echo(f"revoked invitation {revoke}")
        for row in accounts.open_invites(session, time.time()):
            until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(row.expires_at))
            typer.echo(f"{row.id:>4} {row.role:<10} {row.cohort:<10} until {until} UTC")


@batch_app.command("list")
def list_batches(folder: Folder = DEFAULT_FOLDER, database: DatabaseUrl = None) -> None:
    """Every batch with its state and how many tasks it has."""
    from sqlalchemy import func, select

    from app.labeling.task_tables import Batch, Task

    with opened(folder, database) as site, site.database.read() as session:
        counted = select(Batch.name, Batch.state, func.count(Task.id)).outerjoin(Task)
        grouped = counted.group_by(Batch.id, Batch.name, Batch.state).order_by(Batch.id)
        for name, state, tasks in session.execute(grouped):
            typer.echo(f"{name:<32} {state:<10} {tasks} tasks")


@batch_app.command("set")
def set_batch(
    name: str,
    state: Annotated[
        Literal["open", "paused", "withdrawn", "deleted", "restored"],
        typer.Argument(
            help="withdrawn: out of all hands, and of exports that do not name it. deleted: out of "
            "every list and export; nothing is erased."
        ),
    ],
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Open, pause, withdraw, delete or restore a batch."""
    from app.labeling.batches import batch_named, change_batch

    with opened(folder, database) as site, site.database.write() as session:
        batch = change_batch(session, batch_named(session, name).id, state, None, time.time())
        typer.echo(f"batch '{batch.name}': {batch.state}")


@invite_app.command()
def invite(
    role: Role = "labeler",
    cohort: Cohort = "train",
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Print a link with which one person makes their account."""
    from app.labeling import accounts

    with opened(folder, database) as site, site.database.write() as session:
        token = accounts.make_invite(session, site.secret, role, cohort, time.time())
    typer.echo(f"{address}/invite/{token}")


def add_account(
    folder: Path, database: str | None, handle: str, role: str, cohort: str, new: bool = False
) -> None:
    from app.labeling import accounts
    from app.labeling.passwords import MIN_PASSWORD

    with opened(folder, database, new) as site:
        password = os.environ.get("PODIUM_PASSWORD") or typer.prompt(
            f"Password of {handle}, at least {MIN_PASSWORD} characters",
            hide_input=True,
            confirmation_prompt=True,
        )
        with site.database.write() as session:
            accounts.add_person(session, handle, password, role, cohort, time.time())
    typer.echo(f"added {handle} as {role}, cohort {cohort}")
