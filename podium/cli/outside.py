"""Commands that let others use what a run made: a server for their programs, a file for theirs, a
place on a hub.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from podium.cli.options import DEFAULT_RUNS, RunArg, RunsDir, WeightsOption, errors_shown

ModelArg = Annotated[
    str,
    typer.Argument(
        help="A run, a stage's folder, a model in Hugging Face layout or a hub id.",
        metavar="RUN_OR_MODEL",
    ),
]


def add_outside_commands(app: typer.Typer) -> None:
    """`podium serve`, `podium export` and `podium push`."""
    app.command()(serve)
    app.command()(export)
    app.command()(push)


def serve(
    model: ModelArg,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = any free one.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(help="A file of bearer keys, one a line; or the variable PODIUM_API_KEYS."),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Answers under way and waiting; more are told to wait (429).")
    ] = 64,
    weights: WeightsOption = "fp32",
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Serve a run's models to any client of OpenAI's interface (/v1/chat/completions, streaming
    too).
    """
    with errors_shown():
        from podium.run.folders import find_run_or_model

        folder = find_run_or_model(model, runs_dir)
        from app.endpoint.launching import launch

        typer.echo(f"loading {folder} ...")
        launch(folder, host, port, keys, queue, weights)


def export(
    model: ModelArg,
    gguf: Annotated[Path, typer.Option(help="The file to write, for llama.cpp and its kin.")],
    stage: Annotated[
        str, typer.Option(help="Which model of a run; otherwise the best, PPO's.")
    ] = "",
    width: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q4_0"],
        typer.Option(help="Of the weights: 32, 16, 8 or 4 bits."),
    ] = "f16",
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Write a model as one file that llama.cpp loads, with its template and what ends an answer."""
    with errors_shown():
        from podium.progress import quieten_libraries
        from podium.run.folders import find_run_or_model

        quieten_libraries()
        folder = find_run_or_model(model, runs_dir)
        from app.chat.catalog import best_of
        from app.gguf_file import export_gguf

        source = best_of(folder, stage).folder
        typer.echo(f"wrote {export_gguf(source, gguf, width)}, the model of {source}")


def push(
    run_name: RunArg,
    stage: Annotated[str, typer.Argument(help="A finished stage with a model: sft, ppo, ...")],
    to: Annotated[str, typer.Option(help="The repository: org/name; made where it is none yet.")],
    public: Annotated[
        bool, typer.Option("--public", help="A new repository can be seen by everybody.")
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS,
) -> None:
    """Put a stage with its card on the Hugging Face hub. The token is HF_TOKEN, or that of
    `hf auth login`; it is stored nowhere.
    """
    with errors_shown():
        from podium.run.folders import find_run

        run = find_run(run_name, runs_dir)
        from app.hub import push_stage

        typer.echo(f"pushed to {push_stage(run, stage, to, public)}")
