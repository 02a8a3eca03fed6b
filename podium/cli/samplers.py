"""Commands for samplers that live outside of Podium's own process: `podium sampler`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from podium.cli.options import errors_shown

sampler_app = typer.Typer(
    no_args_is_help=True, help="Samplers outside of this process: install and serve vLLM."
)


@sampler_app.command()
def install(
    kind: Annotated[Literal["vllm"], typer.Argument(help="Which kind: vllm.")],
    folder: Annotated[
        Path | None, typer.Option(help="Of the environment; otherwise ~/.local/share/podium/vllm.")
    ] = None,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="vLLM for CUDA, in place of the build for CPUs.")
    ] = False,
    index: Annotated[
        str | None,
        typer.Option(help="A further package index, such as PyTorch's of builds for CPUs."),
    ] = None,
) -> None:
    """Make an environment with vLLM, which wants other versions of its libraries than Podium."""
    with errors_shown():
        from podium.sampling.vllm.environment import PYTHON, default_folder
        from podium.sampling.vllm.environment import install as install_vllm

        place = (folder or default_folder()).expanduser().absolute()
        python = install_vllm(place, gpu, index)
        typer.echo(f"{kind} is in {place}; a recipe uses it by sampler: {{kind: {kind}}}")
        if place != default_folder():
            typer.echo(f"name it as sampler.python: {python}, or set {PYTHON}={python}")


@sampler_app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8300,
    python: Annotated[
        str | None, typer.Option(help="vLLM's Python, as in sampler.python of a recipe.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="On a CPU; otherwise all.")] = None,
) -> None:
    """Run a vLLM server that recipes join with sampler.url, one run at a time. It gets its model
    from them. With the variable PODIUM_SAMPLER_TOKEN set, both sides need it.
    """
    with errors_shown():
        from podium.errors import PlatformError
        from podium.sampling.vllm.environment import WORKER, find_python, surroundings
        from podium.sampling.vllm.worker import TOKEN

        token = os.environ.get(TOKEN, "")
        if host not in ("127.0.0.1", "localhost", "::1") and not token:
            raise PlatformError(
                f"--host {host}: whoever reaches this machine could use the server",
                f"set the environment variable {TOKEN} to a long random text, here and where "
                f"Podium runs",
            )
        found = find_python(python)
        typer.echo(f"vLLM listens at http://{host}:{port}; recipes join it by sampler.url")
        arguments = [str(found), str(WORKER), "--host", host, "--port", str(port)]
        os.execve(found, arguments, surroundings(threads or os.cpu_count() or 1, token))
