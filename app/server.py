"""One server, one login: the labeling site at `/`, and the chat with a run's checkpoints at
`/chat`.

    podium label serve --run runs/willowbrook

The chat is Gradio's, mounted behind the labeling site's session cookie; its votes and questions to
labelers go into the labeling database. Without a run there is no chat and nothing of it is
imported.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import uvicorn
from fastapi import FastAPI, Request
from uvicorn.supervisors import Multiprocess

from app.labeling.access import CHAT, user_of_cookie
from app.labeling.application import create_site
from app.labeling.site import Settings, Site, open_site
from app.labeling.votes import VoteBox
from podium.errors import PlatformError, PodiumError

# labelers read for minutes between requests; a closed connection would fail their next click
KEEP_ALIVE_SECONDS = 75


def serve(site: Site, workers: int, announce: Callable[[], None]) -> None:
    """Serve until Ctrl-C with `workers` processes on one port; one that dies is started again.

    Args:
        announce: called once the port is ours.

    Raises:
        PodiumError: the port is taken, or several processes are to serve a chat. ParentError: see
            `build_server`.
    """
    settings = site.settings
    if workers > 1 and settings.run is not None:
        raise PodiumError(
            "the chat keeps its conversations in one process", "leave out --run or --workers"
        )
    config = uvicorn.Config(
        build_server(site) if workers == 1 else partial(_worker, settings, os.getpid()),
        factory=workers > 1,
        host=settings.host,
        port=settings.port,
        workers=workers,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    try:
        listening = config.bind_socket()
    except SystemExit:
        raise PlatformError(
            f"cannot listen on {settings.host}:{settings.port}", "take another --port"
        ) from None
    announce()
    with suppress(KeyboardInterrupt):
        if workers > 1:
            Multiprocess(config, [listening]).run()
        else:
            uvicorn.Server(config).run([listening])


def _worker(settings: Settings, parent: int) -> FastAPI:
    """What one of several server processes starts from. It ends with its parent, also where that
    was killed.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return build_server(open_site(settings))


def build_server(site: Site) -> FastAPI:
    """The labeling application, with the chat mounted when the site's settings name a run.

    Raises:
        ParentError: the run holds no model to talk to.
    """
    server = create_site(site)
    if site.settings.run is None:
        return server
    from gradio import mount_gradio_app

    from app.chat.page import appearance, build  # before gradio: it switches analytics off

    def logged_in(request: Request) -> str | None:
        """Gradio asks who is there; None is answered with 401."""
        user = user_of_cookie(site, request)
        return user.handle if user else None

    server.state.chat = True
    page = build(site.settings.run, compare=True, votes=VoteBox(site.database), home=True)
    return mount_gradio_app(
        server, page, path=CHAT, auth_dependency=logged_in, show_error=False, **appearance()
    )
