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
from functools import partial

from fastapi import FastAPI, HTTPException, Request

from app import serving
from app.labeling.access import user_of_cookie
from app.labeling.application import create_site
from app.labeling.chats import ChatBox
from app.labeling.site import Settings, Site, open_site
from app.labeling.votes import VoteBox
from app.middleware import CHAT
from podium.errors import PodiumError


def serve(site: Site, workers: int, announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C with `workers` processes on one port; one that dies is started again.

    Args:
        announce: called with the address once the port is ours.

    Raises:
        PodiumError: the port is taken, or several processes are to serve a chat. ParentError: see
            `build_server`.
    """
    settings = site.settings
    if workers > 1 and settings.run is not None:
        raise PodiumError(
            "the chat keeps its conversations in one process", "leave out --run or --workers"
        )
    application = build_server(site) if workers == 1 else partial(_worker, settings, os.getpid())
    serving.serve(application, settings.host, settings.port, announce, workers)


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
        """Gradio asks who is there; None is answered with 401, and a person's browser is led to
        the login.
        """
        user = user_of_cookie(site, request)
        if user is None and "text/html" in request.headers.get("accept", ""):
            raise HTTPException(303, headers={"Location": f"/login?next={CHAT}/"})
        return user.handle if user else None

    server.state.chat = True
    page = build(
        site.settings.run,
        compare=True,
        votes=VoteBox(site.database),
        chats=ChatBox(site.database),
        home=True,
    )
    return mount_gradio_app(
        server, page, path=CHAT, auth_dependency=logged_in, show_error=False, **appearance()
    )
