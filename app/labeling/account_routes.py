"""Logging in and out, invitations, passwords."""

import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import Field
from sqlalchemy.orm import Session

from app.labeling import accounts, resets, throttle
from app.labeling.access import COOKIE, DEVICE_COOKIE, Labeler, OptionalUser
from app.labeling.forms import Strict
from app.labeling.problems import Problem
from app.labeling.site import Site
from app.labeling.tables import EventLog

router = APIRouter()
# where a login may lead: a page of this site, told by its path alone
NEXT = re.compile(r"/(?:[\w.-]+/?)*")
WRONG_LOGIN = "Handle and password do not fit, or the account is disabled."
Short = Annotated[str, Form(max_length=200)]


class LoginRequest(Strict):
    handle: Annotated[str, Field(max_length=64)]
    password: Annotated[str, Field(max_length=200)]


@router.get("/healthz")
def healthz(request: Request) -> dict[str, str]:
    """The server runs and its database answers."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        accounts.count_admins(session)
    return {"status": "ok"}


@router.get("/login", response_class=HTMLResponse, include_in_schema=False)
def login_page(request: Request, user: OptionalUser, next: str = "/") -> Response:
    """`next`: the page that asked for a login, and is shown after it."""
    if user is not None:
        return RedirectResponse(safe_place(next), 303)
    return page(request, "login.html", problem=None, next=safe_place(next))


@router.post("/login", response_class=HTMLResponse, include_in_schema=False)
def login(
    request: Request,
    handle: Short,
    password: Short,
    next: Annotated[str, Form(max_length=200)] = "/",
) -> Response:
    try:
        person_id = _check(request, handle, password)
    except Problem as problem:
        return page(
            request,
            "login.html",
            status_code=problem.status,
            problem=problem,
            next=safe_place(next),
        )
    response = RedirectResponse(safe_place(next), 303)
    log_in(request, response, person_id)
    return response


@router.post("/api/login")
def api_login(request: Request, response: Response, body: LoginRequest) -> dict[str, str]:
    """Log a program in: sets the cookie and returns the CSRF token to send as `X-CSRF-Token` with
    every change.
    """
    user = log_in(request, response, _check(request, body.handle, body.password))
    return {"handle": user.handle, "csrf_token": user.csrf_token}


@router.post("/logout", include_in_schema=False)
def logout(request: Request, user: Labeler) -> Response:
    site: Site = request.app.state.site
    with site.database.write() as session:
        accounts.end_session(session, site.secret, request.cookies[COOKIE])
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/invite/{token}", response_class=HTMLResponse, include_in_schema=False)
def invite_page(request: Request, token: str) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        invite = accounts.open_invite(session, site.secret, token, time.time())
        return page(request, "invite.html", problem=None, role=invite.role, token=token)


@router.post("/invite/{token}", response_class=HTMLResponse, include_in_schema=False)
def accept_invite(request: Request, token: str, handle: Short, password: Short) -> Response:
    site: Site = request.app.state.site
    try:
        with site.database.write() as session:
            person = accounts.accept_invite(
                session, site.secret, token, handle, password, time.time()
            )
    except Problem as problem:
        if problem.status != 422:
            raise
        return page(
            request, "invite.html", status_code=422, problem=problem, role="member", token=token
        )
    response = RedirectResponse("/", 303)
    log_in(request, response, person.id)
    return response


@router.get("/reset/{token}", response_class=HTMLResponse, include_in_schema=False)
def reset_page(request: Request, token: str) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        _, handle = resets.open_reset(session, site.secret, token, time.time())
        return page(request, "reset.html", problem=None, handle=handle, token=token)


@router.post("/reset/{token}", response_class=HTMLResponse, include_in_schema=False)
def use_reset(request: Request, token: str, password: Short) -> Response:
    """The person who was given the link chooses a new password, and is logged in."""
    site: Site = request.app.state.site
    now = time.time()
    with site.database.read() as session:
        _, handle = resets.open_reset(session, site.secret, token, now)
    try:
        with site.database.write() as session:
            person_id = resets.use_reset(session, site.secret, token, password, now)
    except Problem as problem:
        if problem.status != 422:
            raise
        return page(request, "reset.html", status_code=422, problem=problem, handle=handle)
    response = RedirectResponse("/", 303)
    log_in(request, response, person_id)
    return response


@router.get("/account", response_class=HTMLResponse, include_in_schema=False)
def account_page(request: Request, user: Labeler) -> Response:
    return page(request, "account.html", user=user, problem=None)


@router.post("/account/password", response_class=HTMLResponse, include_in_schema=False)
def change_password(request: Request, user: Labeler, old: Short, new: Short) -> Response:
    """Every session of the person ends, so a stolen cookie dies with the old password."""
    site: Site = request.app.state.site
    try:
        with site.database.write() as session:
            accounts.change_password(session, user.id, old, new, time.time())
    except Problem as problem:
        return page(request, "account.html", status_code=problem.status, user=user, problem=problem)
    return RedirectResponse("/login", 303)


def page(
    request: Request, template: str, status_code: int = 200, user: Any = None, **values: Any
) -> Response:
    """A template with what every page shows."""
    shown = {"user": user, "oidc": getattr(request.app.state, "oidc", None), **values}
    return request.app.state.templates.TemplateResponse(
        request, template, shown, status_code=status_code
    )


def note(session: Session, user: accounts.User, kind: str, **detail: Any) -> None:
    """A line in the event log."""
    session.add(EventLog(at=time.time(), person_id=user.id, kind=kind, detail=detail))


def _check(request: Request, handle: str, password: str) -> int:
    """Person id; Problem 401 or 429. The slow password check runs outside any write transaction."""
    site: Site = request.app.state.site
    if not accounts.HANDLE.fullmatch(handle):
        # nobody has such a handle, and it may not even be storable
        raise Problem(401, "wrong_login", WRONG_LOGIN)
    address, now = request.client.host if request.client else "", time.time()
    token = request.cookies.get(DEVICE_COOKIE, "")
    with site.database.write() as session:
        device = throttle.known_device(session, site.secret, handle, token, now)
        throttle.note_attempt(session, handle, address, now, device)
    with site.database.read() as session:
        person_id = accounts.verify_login(session, handle, password)
    with site.database.write() as session:
        if person_id is None:
            detail = {"handle": handle, "address": address}
            session.add(EventLog(at=now, kind="login failed", detail=detail))
        else:
            throttle.forgive_attempts(session, handle, address, now, device)
    if person_id is None:
        raise Problem(401, "wrong_login", WRONG_LOGIN)
    return person_id


def log_in(request: Request, response: Response, person_id: int) -> accounts.User:
    """A new session, whose cookies the response carries. Problem 401 for a disabled account."""
    site: Site = request.app.state.site
    now = time.time()
    with site.database.write() as session:
        token = accounts.start_session(session, site.secret, person_id, now)
        session.flush()
        user = accounts.user_of_token(session, site.secret, token, now)
    if user is None:
        raise Problem(401, "logged_out", "This account is not active.")
    response.set_cookie(
        COOKIE,
        token,
        max_age=accounts.SESSION_DAYS * 86400,
        httponly=True,
        samesite="lax",
        secure=site.settings.https,
    )
    response.set_cookie(
        DEVICE_COOKIE,
        throttle.device_token(site.secret, person_id),
        max_age=throttle.DEVICE_DAYS * 86400,
        httponly=True,
        samesite="lax",
        secure=site.settings.https,
    )
    return user


def safe_place(wished: str) -> str:
    """A path of this site, never another site's address."""
    return wished if NEXT.fullmatch(wished) else "/"
