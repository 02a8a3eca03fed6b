"""`podium label token` and `webhook`: what programs may do here, and what they are told."""

import time
from typing import Annotated

import typer

from app.labeling.opening import DEFAULT_FOLDER, DatabaseUrl, Folder, opened

token_app = typer.Typer(no_args_is_help=True, help="API tokens: add, list, revoke.")
webhook_app = typer.Typer(no_args_is_help=True, help="Webhooks: add, list, test, remove.")


@token_app.command("add")
def add_token(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[
        list[str], typer.Option(help="What it may do: read, import, export, manage or people.")
    ],
    days: Annotated[int, typer.Option(help="It ends after so many days.")] = 90,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Make a token for the HTTP API and print it; it cannot be shown again."""
    from app.labeling import tokens

    with opened(folder, database) as site:
        wish = tokens.wish_of(name, scope, days)
        with site.database.write() as session:
            token = tokens.make_token(session, wish, None, time.time())
    typer.echo(token)


@token_app.command("list")
def list_tokens(folder: Folder = DEFAULT_FOLDER, database: DatabaseUrl = None) -> None:
    """Every token with its number, scopes, end and last use; the ended ones too."""
    from app.labeling import tokens

    now = time.time()
    with opened(folder, database) as site, site.database.read() as session:
        for row, who in tokens.all_tokens(session):
            used = f"used {_minute(row.last_used_at)}" if row.last_used_at else "never used"
            typer.echo(
                f"{row.id:>4} {row.name:<24} {','.join(row.scopes):<32} "
                f"{tokens.state_of(row, now):<8} until {_minute(row.expires_at)} UTC, {used}, "
                f"by {who or 'the command'}"
            )


@token_app.command("revoke")
def revoke_token(
    number: Annotated[int, typer.Argument(help="As `podium label token list` shows it.")],
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """End a token at once."""
    from app.labeling import tokens

    with opened(folder, database) as site, site.database.write() as session:
        tokens.revoke_token(session, number, None, time.time())
    typer.echo(f"revoked token {number}")


@webhook_app.command("add")
def add_webhook(
    url: Annotated[str, typer.Argument(help="https://..., or http:// on this machine.")],
    event: Annotated[
        list[str],
        typer.Option(help="When to tell it: answer.stored, batch.finished or export.ready."),
    ],
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Tell an address what happens, and print the secret that its messages are signed with."""
    from app.labeling import webhooks

    with opened(folder, database) as site:
        wish = webhooks.webhook_wish(url, event)
        with site.database.write() as session:
            hook = webhooks.add_webhook(session, wish, None, time.time())
    typer.echo(hook.secret)


@webhook_app.command("list")
def list_webhooks(folder: Folder = DEFAULT_FOLDER, database: DatabaseUrl = None) -> None:
    """Every webhook with its number, and the messages that are not delivered yet."""
    from app.labeling import webhooks

    with opened(folder, database) as site, site.database.read() as session:
        for hook in webhooks.active_webhooks(session):
            typer.echo(f"{hook.id:>4} {hook.url} {','.join(hook.events)}")
        for row, url in webhooks.recent_deliveries(session):
            if row.state != "delivered":
                trouble = f": {row.last_error}" if row.last_error else ""
                typer.echo(f"     {row.state} {row.event} to {url}, {row.attempts} tries{trouble}")


@webhook_app.command("test")
def test_webhook(
    number: int, folder: Folder = DEFAULT_FOLDER, database: DatabaseUrl = None
) -> None:
    """Have the running server send a message of the kind `test`."""
    from app.labeling import webhooks

    with opened(folder, database) as site, site.database.write() as session:
        webhooks.send_test(session, number, time.time())
    typer.echo(f"a test waits for webhook {number}")


@webhook_app.command("remove")
def remove_webhook(
    number: int, folder: Folder = DEFAULT_FOLDER, database: DatabaseUrl = None
) -> None:
    """Tell an address nothing more."""
    from app.labeling import webhooks

    with opened(folder, database) as site, site.database.write() as session:
        webhooks.remove_webhook(session, number, None, time.time())
    typer.echo(f"removed webhook {number}")


def _minute(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))
