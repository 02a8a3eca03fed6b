"""`podium label`: serve the site, add people, import tasks, watch agreement, export, and show the
whole loop.

Nothing heavy is imported before a command runs; torch only by `sample` and by the reward stage that
`demo` starts.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.labeling.hub_cli import hub_app
from app.labeling.opening import (
    DEFAULT_FOLDER,
    DatabaseUrl,
    Folder,
    Seed,
    errors_shown,
    opened,
)
from app.labeling.people_cli import add_account, batch_app, invite_app, user_app
from app.labeling.programs_cli import token_app, webhook_app
from app.labeling.writing_cli import writing_app

if TYPE_CHECKING:
    from app.labeling.site import Oidc, Site

app = typer.Typer(
    name="label",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="The labeling site: people rank K answers a prompt, and the export trains the reward "
    "model.\n\n"
    "Start with: podium label serve, and open the link it prints. To see the whole loop: "
    "podium label demo RUN.",
)
app.add_typer(user_app, name="user")
app.add_typer(batch_app, name="batch")
app.add_typer(token_app, name="token")
app.add_typer(webhook_app, name="webhook")
app.add_typer(invite_app)
app.add_typer(writing_app)
app.add_typer(hub_app)


@app.command()
def serve(
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 = any free one.")
    ] = 8000,
    run: Annotated[
        Path | None, typer.Option(help="A run's folder: adds the chat at /chat and sampling.")
    ] = None,
    https: Annotated[
        bool, typer.Option("--https", help="A proxy in front speaks HTTPS: Secure cookies.")
    ] = False,
    name: Annotated[
        list[str], typer.Option(help="Host name to answer to and to put into links (default: any).")
    ] = [],  # noqa: B006
    idle_hours: Annotated[
        float, typer.Option(min=0.1, help="A login that nobody uses ends after so long.")
    ] = 24,
    oidc_issuer: Annotated[
        str | None, typer.Option(help="An identity provider that people may log in with.")
    ] = None,
    oidc_client: Annotated[str, typer.Option(help="This site's client id there.")] = "podium",
    oidc_name: Annotated[str, typer.Option(help="How pages call it; default: its host.")] = "",
    oidc_role: Annotated[
        list[str],
        typer.Option(help="CLAIM=VALUE=ROLE: whom its token makes what; without: nobody."),
    ] = [],  # noqa: B006
    workers: Annotated[
        int, typer.Option(min=1, help="Server processes; a core each, without --run.")
    ] = 1,
) -> None:
    """Start the site. The first time it prints the link that makes you its admin."""
    settings = {
        "host": host,
        "port": port,
        "https": https,
        "names": tuple(name),
        "run": run,
        "idle_hours": idle_hours,
        "oidc": _oidc(oidc_issuer, oidc_client, oidc_name, oidc_role),
    }
    with opened(folder, database, new=True, **settings) as site:
        from app.server import serve as serve_site

        serve_site(site, workers, lambda address: _greet(site, address))


@app.command()
def init(
    admin: Annotated[str, typer.Option(help="Handle of the first admin.")],
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Make the database and the first admin; the password is asked for, or taken from
    PODIUM_PASSWORD.
    """
    add_account(folder, database, admin, "admin", "train", new=True)


@app.command("import")
def import_file(
    file: Annotated[
        Path,
        typer.Argument(help="JSONL: a prompt and 2-9 responses a line, or our Ranking records."),
    ],
    name: Annotated[str, typer.Option(help="Name of the new batch.")],
    overlap: Annotated[int, typer.Option(min=1, help="Rankings wanted of each task.")] = 1,
    lease_minutes: Annotated[
        float, typer.Option(help="How long a task waits for its labeler.")
    ] = 60,
    gold_every: Annotated[
        int, typer.Option(help="A gold task after so many answers; 0 = never.")
    ] = 0,
    cohort: Annotated[list[str], typer.Option(help="Who gets the tasks.")] = ["train", "heldout"],  # noqa: B006
    gold: Annotated[
        bool, typer.Option("--gold", help="The file's ranks are known: the tasks check labelers.")
    ] = False,
    ties: Annotated[bool, typer.Option(help="Whether answers may share a tier.")] = True,
    view: Annotated[
        str, typer.Option(help="How texts are shown: text, or rendered (Markdown, formulas).")
    ] = "text",
    start_from_ratings: Annotated[
        bool, typer.Option(help="Offer to start the ranking from the ratings.")
    ] = False,
    partly: Annotated[
        bool, typer.Option("--partly", help="Take the right lines, and name the others.")
    ] = False,
    seed: Seed = 0,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Make a batch of tasks from a file, and say what became of its lines. Nothing is kept when a
    line is wrong, unless --partly.
    """
    from app.labeling.importing import rules_of
    from app.labeling.intake import read_rows, take_in

    with errors_shown():  # a wrong line is told first, wherever the site is
        rows = read_rows(file, gold, partly)
    with opened(folder, database) as site:
        rules = rules_of(
            {
                "name": name,
                "overlap": overlap,
                "lease_minutes": lease_minutes,
                "gold_every": gold_every,
                "cohorts": cohort,
                "ties_allowed": ties,
                "view": view,
                "start_from_ratings": start_from_ratings,
                "shuffle_seed": seed,
            }
        )
        with site.database.write() as session:
            done, _ = take_in(session, rules, rows, time.time(), extend=gold, file=file.name)
    typer.echo("\n".join(done.as_lines()))


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    name: Annotated[str, typer.Option(help="Name of the new batch.")],
    models: Annotated[str, typer.Option(help="Checkpoints, the main one first.")] = "sft,pretrain",
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 50,
    k: Annotated[int, typer.Option(min=2, max=9, help="Answers a prompt.")] = 4,
    overlap: Annotated[int, typer.Option(min=1, help="Rankings wanted of each task.")] = 1,
    off_topic: Annotated[bool, typer.Option(help="Mix in answers to other prompts.")] = True,
    prompt_file: Annotated[
        Path | None, typer.Option(help="Prompt records; default: the run's world.")
    ] = None,
    stop: Annotated[list[str], typer.Option(help="A text before which an answer ends.")] = [],  # noqa: B006
    seed: Seed = 0,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Sample K answers a prompt from checkpoints of a run and import them as a batch."""
    from app.labeling.importing import add_batch, rules_of
    from app.labeling.sampling import sample_candidates

    with opened(folder, database) as site:
        rules = rules_of({"name": name, "overlap": overlap, "shuffle_seed": seed})
        names = [part.strip() for part in models.split(",")]
        candidates = sample_candidates(
            run, names, prompts, k, off_topic, seed, prompt_file, stop=stop
        )
        with site.database.write() as session:
            report = add_batch(session, rules, candidates, time.time())
    typer.echo(f"batch '{name}': {report.tasks} tasks, answers by {models}")


@app.command()
def agreement(
    file: Annotated[
        Path | None, typer.Argument(help="An export or any file of rankings; default: the site.")
    ] = None,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Print how far labelers agree, under each tie rule."""
    from app.labeling.terminal import print_agreement

    if file is not None:
        from data.jsonl import read_jsonl
        from data.records import Ranking

        with errors_shown():
            print_agreement(read_jsonl(file, Ranking))
        return
    from app.labeling.collecting import ExportFilter, collect_rankings

    with opened(folder, database) as site, site.database.read() as session:
        broken: list[str] = []
        print_agreement(collect_rankings(session, ExportFilter(), broken))
    _tell_broken(broken)


@app.command()
def results(
    file: Annotated[
        Path | None, typer.Argument(help="An export or any file of rankings; default: the site.")
    ] = None,
    batch: Annotated[list[str], typer.Option(help="Only these batches, and no votes.")] = [],  # noqa: B006
    cohort: Annotated[list[str], typer.Option(help="Only these cohorts.")] = [],  # noqa: B006
    votes: Annotated[bool, typer.Option(help="Also the chat's blind votes.")] = True,
    sighted: Annotated[
        bool, typer.Option("--sighted", help="Also votes given with the models' names shown.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one object.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the win rates, as PNG.")] = None,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Print which model people prefer: win rates, Elo, ratings and flags with intervals, and the
    wins of every pair.
    """
    from app.labeling.results import collect_results
    from app.labeling.results import results as results_of
    from app.labeling.terminal import draw_results, print_results

    if file is not None:
        from data.agreement import by_labelers
        from data.jsonl import read_jsonl
        from data.records import Ranking

        with errors_shown():
            rankings = by_labelers(read_jsonl(file, Ranking))
        kept = [r for r in rankings if not cohort or r.cohort in cohort]
        found = results_of(kept)
    else:
        from app.labeling.collecting import ExportFilter

        chosen = ExportFilter(batches=batch or None, cohorts=cohort or None)
        with opened(folder, database) as site, site.database.read() as session:
            found = collect_results(session, chosen, votes, sighted)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_results(found)
    if plot is not None and found.models:
        draw_results(found, plot)
        typer.echo(f"drew {plot}", err=True)


@app.command()
def export(
    kind: Annotated[
        Literal["rankings", "pairs", "votes", "demonstrations", "comparisons"],
        typer.Option(
            help="pairs: TRL's rows; demonstrations: what was written; comparisons: of edits and "
            "red teaming."
        ),
    ] = "rankings",
    batch: Annotated[list[str], typer.Option(help="Only these batches.")] = [],  # noqa: B006
    cohort: Annotated[list[str], typer.Option(help="Only these cohorts.")] = [],  # noqa: B006
    extras: Annotated[
        bool, typer.Option(help="Also answers that came after their task was full.")
    ] = True,
    gold: Annotated[bool, typer.Option("--gold", help="Also gold tasks.")] = False,
    adjudications: Annotated[
        bool, typer.Option(help="Also experts' rankings of disputed tasks.")
    ] = True,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Write an export with its data card, for: podium reward RECIPE --set reward.rankings=FILE."""
    from app.labeling.collecting import ExportFilter
    from app.labeling.exporting import make_export

    with opened(folder, database) as site:
        chosen = ExportFilter(
            batches=batch or None,
            cohorts=cohort or None,
            extras=extras,
            gold=gold,
            adjudications=adjudications,
        )
        made = make_export(site.database, site.exports, kind, chosen, None, time.time())
        typer.echo(
            json.dumps(
                {
                    "export": made.id,
                    "file": str(site.exports / made.file),
                    "rows": made.rows,
                    "broken": made.broken,
                    "sha256": made.sha256,
                }
            )
        )
    if made.broken:
        typer.echo(
            f"warning: {made.broken} broken rows were left out; the data card names them", err=True
        )


@app.command()
def simulate(
    world: Annotated[
        Path, typer.Option(help="A world's folder, e.g. runs/willowbrook/world/final.")
    ],
    seed: Seed = 0,
    folder: Folder = DEFAULT_FOLDER,
    database: DatabaseUrl = None,
) -> None:
    """Let the world's labelers work on the site's open tasks, through the HTTP API that browsers
    use.
    """
    from app.labeling.demo import run_labelers
    from data.worlds import open_world

    with opened(folder, database) as site:
        run_labelers(site, open_world(world).labelers(seed), seed)


@app.command()
def demo(
    run: Annotated[Path, typer.Argument(help="A run's folder with world and sft finished.")],
    prompts: Annotated[
        int, typer.Option(min=2, help="Prompts to rank by training labelers.")
    ] = 150,
    overlap: Annotated[int, typer.Option(min=1, help="Rankings wanted of each task.")] = 2,
    reward: Annotated[bool, typer.Option(help="Train a reward model on the export.")] = True,
    seed: Seed = 0,
    folder: Annotated[
        Path | None, typer.Option(help="A new folder; default: <run>-labeled/labeling.")
    ] = None,
) -> None:
    """The whole loop in one command: serve, import, ten labelers rank, agreement, export, reward
    model.
    """
    from app.labeling.demo import demonstrate

    with errors_shown():
        demonstrate(run, prompts, overlap, reward, seed, folder)


def _oidc(issuer: str | None, client: str, name: str, roles: list[str]) -> "Oidc | None":
    from app.labeling.site import Oidc
    from app.labeling.tables import ROLES

    if issuer is None:
        return None
    mapped = [tuple(role.split("=")) for role in roles]
    for role in mapped:
        if len(role) != 3 or role[2] not in ROLES:
            raise typer.BadParameter(
                f"{'='.join(role)}: write CLAIM=VALUE=ROLE, where ROLE is one of {list(ROLES)}",
                param_hint="--oidc-role",
            )
    return Oidc(issuer, client, name, roles=tuple((c, v, r) for c, v, r in mapped))


def _tell_broken(broken: list[str]) -> None:
    for line in broken:
        typer.echo(f"left out, for it is no record: {line}", err=True)


def _greet(site: "Site", address: str) -> None:
    """Where the site is, and the way in for its first admin."""
    from app.labeling import accounts

    typer.echo(f"labeling: {address}/" + (f"   chat: {address}/chat" if site.settings.run else ""))
    with site.database.write() as session:
        if not accounts.count_admins(session):
            token = accounts.make_invite(session, site.secret, "admin", "train", time.time())
            typer.echo(f"no admin yet; become it here: {address}/invite/{token}")


if __name__ == "__main__":
    app(prog_name="podium label")
