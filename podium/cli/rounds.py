"""`podium iterate`, several rounds of labeling and training; `podium instruct`, demonstrations from
a model's own answers.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from podium.cli.options import DEFAULT_RUNS, RecipeArg, RunArg, RunsDir, SetOption, errors_shown


def add_round_commands(app: typer.Typer) -> None:
    """`podium iterate` and `podium instruct`."""
    app.command()(iterate)
    group = typer.Typer(no_args_is_help=True, help="Make demonstrations with a model: best.")
    group.callback()(lambda: None)
    group.command()(best)
    app.add_typer(group, name="instruct")


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


def best(
    run_name: RunArg,
    out: Annotated[Path, typer.Option(help="The file of demonstrations to write.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Answers a prompt; one is kept.")] = 8,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="The first training prompts only.")
    ] = None,
    model: Annotated[str, typer.Option(help="Who answers: a stage, a folder or a hub id.")] = "sft",
    reward: Annotated[
        str | None, typer.Option(help="Who chooses, as in ppo.reward; otherwise what PPO uses.")
    ] = None,
    floor: Annotated[
        float | None, typer.Option(help="The least score of an answer that is kept.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Rejection sampling: the best of n answers to each training prompt, as demonstrations."""
    with errors_shown():
        from podium.progress import quieten_libraries
        from podium.run.folders import find_run
        from reward.rejection import demonstrate

        quieten_libraries()
        run = find_run(run_name, runs_dir)
        made = demonstrate(run, out, n, prompts, model, reward, floor, max_new_tokens, seed)
        typer.echo(json.dumps(made, indent=2))
