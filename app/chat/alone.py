"""The chat by itself, without the labeling site's login: what `podium chat` starts."""

from pathlib import Path

from fastapi import FastAPI

from app.chat.keeping import Votes
from app.chat.page import appearance, build  # before gradio: it switches analytics off
from app.middleware import LOCAL_NAMES, AccessMiddleware, is_local
from app.serving import serve
from podium.errors import PodiumError
from podium.progress import say
from podium.widths import Weights


def launch(
    run_dir: str | Path,
    compare: bool = False,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_to_everyone: bool = False,
    weights: Weights = "fp32",
) -> None:
    """Serve the page until Ctrl-C, which is raised as KeyboardInterrupt; `port` 0 takes a free one.

    Raises:
        PodiumError: other machines could reach `host`, and they are not said to be welcome.
        PlatformError: the port is taken. ParentError: the folder holds no model to talk to.
    """
    if not (is_local(host) or open_to_everyone):
        raise PodiumError(
            f"--host {host} can be reached from other machines, and this chat has no login",
            "podium label serve --run RUN has the chat behind a login; or say --open-to-everyone",
        )
    application = build_server(run_dir, compare, local=is_local(host), weights=weights)
    serve(application, host, port, lambda address: say(f"chat: {address}/   (Ctrl-C ends it)"))


def build_server(
    run_dir: str | Path,
    compare: bool = False,
    votes: Votes | None = None,
    local: bool = True,
    weights: Weights = "fp32",
) -> FastAPI:
    """The page as an application. `local`: it answers to this machine's own names alone, so that
    no page of another site can talk to it in the visitor's browser.
    """
    from gradio import mount_gradio_app

    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    server.add_middleware(AccessMiddleware, names=LOCAL_NAMES if local else [], chat="")
    page = build(run_dir, compare, votes, weights=weights)
    return mount_gradio_app(server, page, path="/", show_error=False, **appearance())
