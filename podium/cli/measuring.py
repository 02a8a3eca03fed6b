"""The commands that measure what runs made: compare models, rank checkpoints, fit scaling laws, and
run a paper's claims again.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from podium.cli.options import (
    DEFAULT_RUNS,
    AsJson,
    RunArg,
    RunsDir,
    WeightsOption,
    errors_shown,
)


def add_measuring_commands(app: typer.Typer) -> None:
    """`compare`, `rank-checkpoints`, `fit` and `reproduce`, as commands of `app`."""
    app.command()(compare)
    app.command("rank-checkpoints")(rank_checkpoints)
    app.command()(fit)
    app.command()(reproduce)


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: a run (its policy), a stage of one (runs/a/sft), a model folder or "
            "a hub id. The first meets each of the others.",
            metavar="MODEL MODEL...",
        ),
    ],
    judge: Annotated[
        str | None,
        typer.Option(
            help="A reward as in ppo.reward, or a served model's URL; otherwise the run's world."
        ),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The model's name at that URL.")] = None,
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable with that server's key.")
    ] = None,
    optimised_judge: Annotated[
        bool,
        typer.Option("--optimised-judge", help="Let a judge decide that a model was trained on."),
    ] = False,
    prompts_from: Annotated[
        str | None, typer.Option(help="A run or a file of prompts; otherwise the first run's.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="How many held-out prompts.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Answers of each model to each.")] = 2,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of sampling.")] = 1.0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; otherwise as PPO's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and samples.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Where results lie; the same command goes on there.")
    ] = Path("comparison"),
    weights: WeightsOption = "fp32",
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Let models answer the same held-out prompts and a judge tell who wins, with intervals."""
    with errors_shown():
        from evals.compare import Settings, read_judge
        from evals.compare import compare as measure
        from evals.verdicts import in_words
        from podium.progress import quieten_libraries

        quieten_libraries()
        settings = Settings(
            models=tuple(models),
            prompts_from=prompts_from,
            prompts=prompts,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            judge=read_judge(judge, judge_model, key_env),
            optimised_judge=optimised_judge,
            seed=seed,
            weights=weights,
        )
        found = measure(settings, runs_dir, out)
        typer.echo(json.dumps(found, indent=2) if as_json else in_words(found))


def rank_checkpoints(
    run_name: RunArg,
    stage: Annotated[str, typer.Argument(help="A stage with kept checkpoints: sft, ppo, ...")],
    reward: Annotated[
        str | None, typer.Option(help="As in ppo.reward; otherwise what PPO optimises.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="How many validation prompts.")] = 64,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each.")] = 2,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    seed: Annotated[int, typer.Option(help="Of prompts and samples.")] = 0,
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Which checkpoint answers best by the reward: how InstructGPT chose its SFT model. The run
    needs keep_checkpoints in its recipe.
    """
    with errors_shown():
        from evals.checkpoints import in_words
        from evals.checkpoints import rank_checkpoints as rank
        from podium.progress import quieten_libraries
        from podium.run.folders import find_run

        quieten_libraries()
        run = find_run(run_name, runs_dir)
        rows = rank(run, stage, reward, prompts, samples, max_new_tokens, seed)
        typer.echo(json.dumps(rows, indent=2) if as_json else in_words(rows))


def fit(
    folder: Annotated[Path, typer.Argument(help="Runs whose base models differ in size or text.")],
    out: Annotated[Path, typer.Option(help="Where fit.json and fit.png go.")] = Path("fit"),
    as_json: AsJson = False,
) -> None:
    """Scaling laws of the base models in a folder of runs: loss by parameters, tokens and compute,
    and what a start from other text is worth.
    """
    with errors_shown():
        from pretrain.ladder import fit_and_write, in_words

        found = fit_and_write(folder, out)
        typer.echo(json.dumps(found, indent=2) if as_json else in_words(found))


def reproduce(
    name: Annotated[str, typer.Argument(help="A claim of --list.", metavar="[NAME]")] = "",
    all_of_them: Annotated[
        bool, typer.Option("--list", help="Every claim, its source, commands and state.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Run what a paper claimed again, in miniature; some take an hour."""
    with errors_shown():
        from evals.claims import reproduce as run_again
        from evals.claims import table

        if all_of_them or not name:
            typer.echo(table())
        else:
            run_again(name, runs_dir, typer.echo)
