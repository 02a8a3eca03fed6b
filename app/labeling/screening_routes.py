"""Pages of the quiz: what candidates say of themselves, and what researchers make of them."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import Field
from sqlalchemy import select

from app.labeling import batches, screening
from app.labeling.access import Labeler, Researcher
from app.labeling.account_routes import page
from app.labeling.admin_routes import Sent
from app.labeling.forms import ShortText
from app.labeling.labeler_routes import Id
from app.labeling.site import Site
from app.labeling.task_tables import Batch

router = APIRouter()
PAGE = "/admin/screening"


class CoverageForm(Sent, screening.CoverageAnswer):
    groups: list[ShortText] = Field([], max_length=len(screening.GROUPS))


class ScoreForm(Sent):
    score: int = Field(ge=1, le=7)


class MarkForm(Sent):
    on: bool = False


@router.get("/coverage", response_class=HTMLResponse, include_in_schema=False)
def coverage_page(request: Request, user: Labeler) -> Response:
    """For what groups somebody can tell sensitive speech, in their own opinion."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        said = screening.own_coverage(session, user.id)
        return page(request, "coverage.html", user=user, groups=screening.GROUPS, said=said)


@router.post("/coverage", include_in_schema=False)
def say_coverage(
    request: Request, user: Labeler, sent: Annotated[CoverageForm, Form()]
) -> Response:
    site: Site = request.app.state.site
    with site.database.write() as session:
        answer = screening.CoverageAnswer(groups=sent.groups, others=sent.others)
        screening.say_coverage(session, user.id, answer, time.time())
    return RedirectResponse("/coverage", 303)


@router.get(PAGE, response_class=HTMLResponse, include_in_schema=False)
def screening_page(request: Request, user: Researcher) -> Response:
    """The report, the demonstrations to be scored, and which batches are a quiz."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        kept = select(Batch).where(Batch.state != "deleted").order_by(Batch.id)
        return page(
            request,
            "screening.html",
            user=user,
            rows=screening.report(session),
            texts=screening.demonstrations(session, user.id),
            batches=session.scalars(kept).all(),
            cutoff=screening.CUTOFF_SHARE,
            cutoff_score=screening.CUTOFF_SCORE,
        )


@router.post(f"{PAGE}/batches/{{batch_id}}", include_in_schema=False)
def mark_batch(
    request: Request, user: Researcher, batch_id: Id, sent: Annotated[MarkForm, Form()]
) -> Response:
    site: Site = request.app.state.site
    with site.database.write() as session:
        batch = batches.numbered_batch(session, batch_id)
        screening.mark(session, batch, sent.on, user.id, time.time())
    return RedirectResponse(PAGE, 303)


@router.post(f"{PAGE}/scores/{{submission_id}}", include_in_schema=False)
def score(
    request: Request, user: Researcher, submission_id: Id, sent: Annotated[ScoreForm, Form()]
) -> Response:
    site: Site = request.app.state.site
    with site.database.write() as session:
        screening.score(session, submission_id, user.id, sent.score, time.time())
    return RedirectResponse(f"{PAGE}#texts", 303)
