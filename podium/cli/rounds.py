"""`podium iterate`, several rounds of labeling and training; `podium instruct`, demonstrations from
a model's own answers and tasks.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from podium.cli.options import (
    DEFAULT_RUNS,
    RecipeArg,
    RunArg,
    RunsDir,
    SetOption,
    WeightsOption,
    errors_shown,
)


def add_round_commands(app: typer.Typer) -> None:
    """`podium iterate` and `podium instruct`."""
    app.command()(iterate)
    group = typer.Typer(
        no_args_is_help=True, help="Make demonstrations with a model: best, self; few-shot."
    )
    group.callback()(lambda: None)
    group.command()(best)
    group.command("self")(self_instruct)
    group.command("few-shot")(few_shot)
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


def self_instruct(
    model: Annotated[
        str,
        typer.Argument(
            help="A run (see --stage), or a model folder or hub id.", metavar="RUN_OR_MODEL"
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder; the same command goes on there.")],
    seeds: Annotated[
        Path | None,
        typer.Option(help="People's tasks (JSONL); otherwise the run's demonstrations."),
    ] = None,
    stage: Annotated[str, typer.Option(help="Which model of a run.")] = "sft",
    tasks: Annotated[int, typer.Option(min=1, help="How many to make.")] = 200,
    uses: Annotated[
        Path | None,
        typer.Option(help="A file of uses, one a line: a task is written for each in turn."),
    ] = None,
    shown: Annotated[int, typer.Option(min=1, help="Tasks in a request; the paper's 8.")] = 8,
    own: Annotated[int, typer.Option(min=0, help="Of these its own, at most; 2.")] = 2,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask in the model's turns in place of going on.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="The paper's 0.7.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="The paper's 0.5.")] = 0.9,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of one list or task.")] = 256,
    patience: Annotated[int, typer.Option(min=1, help="Rounds in vain before it ends.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
    weights: WeightsOption = "fp32",
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Self-Instruct: a model makes up tasks from a few seeds, what is like another or breaks a rule
    is thrown away, and the model answers the rest.
    """
    with errors_shown():
        from podium.progress import quieten_libraries
        from podium.run.folders import find_run_or_model
        from podium.run.parents import find_parent
        from podium.run.recipe import Recipe, load_recipe
        from sft.instruct.generate import Settings, make_tasks
        from sft.instruct.tasks import read_tasks, read_uses, seeds_of_run

        quieten_libraries()
        run = find_run_or_model(model, runs_dir)
        of_run = (run / "recipe.yaml").is_file()
        recipe = load_recipe(run / "recipe.yaml") if of_run else Recipe(name="model")
        folder = find_parent(stage if of_run else str(run), recipe, run)
        settings = Settings(
            tasks=tasks,
            shown=shown,
            own=own,
            ask=ask,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            max_new_tokens=max_new_tokens,
            patience=patience,
            uses=read_uses(uses) if uses else (),
            weights=weights,
        )
        known = read_tasks(seeds) if seeds else seeds_of_run(recipe, run)
        made = make_tasks(folder, recipe.sampler, known, settings, out)
        typer.echo(json.dumps(made, indent=2))


def few_shot(
    tasks: Annotated[Path, typer.Argument(help="Tasks with several examples each (JSONL).")],
    out: Annotated[Path, typer.Option(help="The file of demonstrations to write.")],
) -> None:
    """InstructGPT's few-shot prompts: of a task's examples each is asked with the others before
    it.
    """
    with errors_shown():
        from data.jsonl import write_jsonl
        from podium.storage import writing
        from sft.instruct.tasks import few_shot, read_tasks

        found = [demo for task in read_tasks(tasks) for demo in few_shot(task)]
        with writing(out.parent):
            write_jsonl(out, found)
        typer.echo(f"wrote {len(found)} demonstrations to {out}")
