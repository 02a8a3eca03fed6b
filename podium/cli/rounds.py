"""`podium iterate`: several rounds of labeling and training."""

from typing import Annotated, Literal

import typer

from podium.cli.options import DEFAULT_RUNS, RecipeArg, RunsDir, SetOption, errors_shown


def add_round_commands(app: typer.Typer) -> None:
    """`podium iterate`."""
    app.command()(iterate)


def iterate(
    recipe: RecipeArg,
    rounds: Annotated[int, typer.Option(min=1, help="How many, the first included.")] = 2,
    sets: SetOption = [],
    decay: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Weight of rankings a round older; 1 = even.")
    ] = 1.0,
    start: Annotated[
        Literal["sft", "policy"],
        typer.Option("--from", help="What PPO of a later round starts from."),
    ] = "sft",
    labelers: Annotated[
        Literal["world", "site"],
        typer.Option(help="Who ranks: the recipe's own labelers, or people on the site."),
    ] = "world",
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts that compare.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each.")] = 2,
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Rank the newest policy's answers, train the reward model on all rounds' rankings, and PPO
    again; the same command goes on where it was.
    """
    with errors_shown():
        from evals.rounds import Plan, iterate
        from podium.progress import quieten_libraries
        from podium.run.recipe import load_recipe

        quieten_libraries()
        plan = Plan(rounds, decay, start, labelers == "site", prompts, samples)
        folder = iterate(load_recipe(recipe, sets), plan, runs_dir)
        typer.echo(f"the rounds' table: {folder / 'rounds.md'}")
