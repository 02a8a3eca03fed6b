"""What an admin lets programs do: API tokens and webhooks."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.labeling import tokens, webhooks
from app.labeling.access import Admin
from app.labeling.account_routes import page
from app.labeling.accounts import User
from app.labeling.labeler_routes import Id
from app.labeling.site import Site

router = APIRouter()
PAGE = "/admin/programs"


class TokenForm(tokens.TokenWish):
    csrf_token: str = ""  # looked at by access.py


class WebhookForm(webhooks.WebhookWish):
    csrf_token: str = ""


@router.get(PAGE, response_class=HTMLResponse, include_in_schema=False)
def programs(request: Request, user: Admin) -> Response:
    return _page(request, user)


@router.post(f"{PAGE}/tokens", response_class=HTMLResponse, include_in_schema=False)
def new_token(request: Request, user: Admin, sent: Annotated[TokenForm, Form()]) -> Response:
    """The token is shown once; the database keeps only its hash."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        token = tokens.make_token(session, sent, user.id, time.time())
    return _page(request, user, token=token)


@router.post(f"{PAGE}/tokens/{{token_id}}/revoke", include_in_schema=False)
def revoke_token(request: Request, user: Admin, token_id: Id) -> Response:
    site: Site = request.app.state.site
    with site.database.write() as session:
        tokens.revoke_token(session, token_id, user.id, time.time())
    return RedirectResponse(PAGE, 303)


@router.post(f"{PAGE}/webhooks", response_class=HTMLResponse, include_in_schema=False)
def new_webhook(request: Request, user: Admin, sent: Annotated[WebhookForm, Form()]) -> Response:
    """The secret is shown once."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        hook = webhooks.add_webhook(session, sent, user.id, time.time())
    return _page(request, user, secret=hook.secret)


@router.post(f"{PAGE}/webhooks/{{webhook_id}}/remove", include_in_schema=False)
def remove_webhook(request: Request, user: Admin, webhook_id: Id) -> Response:
    site: Site = request.app.state.site
    with site.database.write() as session:
        webhooks.remove_webhook(session, webhook_id, user.id, time.time())
    return RedirectResponse(PAGE, 303)


@router.post(f"{PAGE}/webhooks/{{webhook_id}}/test", include_in_schema=False)
def test_webhook(request: Request, user: Admin, webhook_id: Id) -> Response:
    site: Site = request.app.state.site
    with site.database.write() as session:
        webhooks.send_test(session, webhook_id, time.time())
    return RedirectResponse(PAGE, 303)


def _page(
    request: Request, user: User, token: str | None = None, secret: str | None = None
) -> Response:
    site: Site = request.app.state.site
    now = time.time()
    with site.database.read() as session:
        known = [(row, who, tokens.state_of(row, now)) for row, who in tokens.all_tokens(session)]
        return page(
            request,
            "programs.html",
            user=user,
            tokens=known,
            token=token,
            secret=secret,
            scopes=tokens.SCOPE_WORDS,
            days=tokens.DAYS,
            webhooks=webhooks.active_webhooks(session),
            events=webhooks.EVENTS,
            deliveries=webhooks.recent_deliveries(session),
        )
