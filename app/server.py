"""One server, one login: the labeling site at `/`, and the chat with a run's checkpoints at `/chat`.

    podium label serve --run runs/willowbrook

The chat is Gradio's, mounted behind the labeling site's session cookie; its votes and questions to labelers go into the
labeling database. Without a run there is no chat and nothing of it is imported.
"""

from fastapi import FastAPI, Request

from app.labeling.guard import CHAT, user_of_cookie
from app.labeling.site import Site, create_site
from app.labeling.votes import VoteBox


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
    page = build(site.settings.run, compare=True, votes=VoteBox(site.database))
    return mount_gradio_app(
        server, page, path=CHAT, auth_dependency=logged_in, show_error=False, **appearance()
    )
