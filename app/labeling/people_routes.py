"""What only an admin reaches: invitations and who may log in; and the event log."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy import select

from app.labeling import accounts, resets
from app.labeling.access import Admin
from app.labeling.account_routes import note, page
from app.labeling.labeler_routes import Id
from app.labeling.site import Site
from app.labeling.tables import COHORTS, ROLES, EventLog, Person

router = APIRouter()


@router.get("/admin/people", response_class=HTMLResponse, include_in_schema=False)
def people(request: Request, user: Admin) -> Response:
    return _people_page(request, user, None)


@router.post("/admin/people/invite", response_class=HTMLResponse, include_in_schema=False)
def invite(
    request: Request,
    user: Admin,
    role: Annotated[str, Form(max_length=16)],
    cohort: Annotated[str, Form(max_length=16)],
) -> Response:
    """The link is shown once; the database keeps only its hash."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        token = accounts.make_invite(session, site.secret, role, cohort, time.time())
        note(session, user, "invite", role=role, cohort=cohort)
    return _people_page(request, user, address_of(request, f"/invite/{token}"))


@router.post("/admin/people/invites/{invite_id}/revoke", include_in_schema=False)
def revoke(request: Request, user: Admin, invite_id: Id) -> Response:
    site: Site = request.app.state.site
    with site.database.write() as session:
        accounts.revoke_invite(session, invite_id, user.id, time.time())
    return RedirectResponse("/admin/people", 303)


@router.post("/admin/people/{person_id}/role", include_in_schema=False)
def change_person(
    request: Request,
    user: Admin,
    person_id: Id,
    role: Annotated[str, Form(max_length=16)],
    cohort: Annotated[str, Form(max_length=16)],
) -> Response:
    """Another role and cohort from the next request on."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        accounts.change_person(session, person_id, role, cohort, user.id, time.time())
    return RedirectResponse("/admin/people", 303)


@router.post(
    "/admin/people/{person_id}/reset", response_class=HTMLResponse, include_in_schema=False
)
def make_reset(request: Request, user: Admin, person_id: Id) -> Response:
    """A link with which the person chooses a new password; shown once."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        token = resets.make_reset(session, site.secret, person_id, user.id, time.time())
    return _people_page(request, user, address_of(request, f"/reset/{token}"))


@router.post("/admin/people/{person_id}/{change}", include_in_schema=False)
def set_disabled(request: Request, user: Admin, person_id: Id, change: str) -> Response:
    """`disable` or `enable` an account."""
    site: Site = request.app.state.site
    if change not in ("disable", "enable"):
        raise accounts.Problem(404, "not_found", "There is no such change.")
    with site.database.write() as session:
        accounts.set_disabled(session, person_id, change == "disable", time.time())
        note(session, user, change, person=person_id)
    return RedirectResponse("/admin/people", 303)


def address_of(request: Request, path: str) -> str:
    """The whole address of a page for somebody else's eyes. What the browser claims as this site's
    name is believed only where it can be nothing else: a forged one would carry the link's secret
    away.
    """
    settings = request.app.state.site.settings
    if settings.is_local:
        return f"{request.url.scheme}://{request.url.netloc}{path}"
    if not settings.names:
        return path
    return f"{'https' if settings.https else request.url.scheme}://{settings.names[0]}{path}"


@router.get("/admin/events", response_class=HTMLResponse, include_in_schema=False)
def events(request: Request, user: Admin) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        rows = session.execute(
            select(EventLog, Person.handle)
            .outerjoin(Person, Person.id == EventLog.person_id)
            .order_by(EventLog.id.desc())
            .limit(300)
        ).all()
        return page(request, "events.html", user=user, events=rows)


def _people_page(request: Request, user: accounts.User, link: str | None) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        rows = session.scalars(select(Person).order_by(Person.handle)).all()
        return page(
            request,
            "people.html",
            user=user,
            people=rows,
            invites=accounts.open_invites(session, time.time()),
            link=link,
            roles=ROLES,
            cohorts=COHORTS,
        )
