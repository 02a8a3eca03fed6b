"""What a researcher looks through: tasks and what was said of them, an expert's last word on a
task, what an import did, and what a labeler would see.
"""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import Field
from sqlalchemy import func, select

from app.labeling import adjudication, records
from app.labeling.access import Researcher
from app.labeling.account_routes import page
from app.labeling.forms import SKIP_REASONS, Note, Strict
from app.labeling.labeler_routes import Id
from app.labeling.problems import Problem
from app.labeling.queue import shuffled
from app.labeling.site import Site
from app.labeling.tables import EventLog
from app.labeling.task_tables import Batch, InstructionSet, Task
from app.labeling.views import fixed_json, task_view

router = APIRouter()
PAGE = 50  # tasks
HIGHEST = 2**31 - 1
Words = Annotated[str, Query(max_length=1000)]
After = Annotated[int, Query(ge=0, le=HIGHEST)]


class VerdictForm(Strict):
    """Positions and their ranks, in the same order."""

    csrf_token: str = ""  # looked at by access.py
    positions: list[Annotated[int, Field(ge=0, lt=64)]] = Field(max_length=64)
    ranks: list[Annotated[int, Field(ge=1, le=64)]] = Field(max_length=64)
    note: Note = ""


@router.get("/admin/records", response_class=HTMLResponse, include_in_schema=False)
def records_page(
    request: Request,
    user: Researcher,
    batch: Words = "",
    text: Words = "",
    state: Words = "",
    labeler: Words = "",
    after: After = 0,
) -> Response:
    """Tasks by batch, words, state and labeler."""
    site: Site = request.app.state.site
    sent = {"batch": batch, "text": text, "state": state, "labeler": labeler.strip()}
    known = next((one for one in records.STATES if one == state), None)
    if state and known is None:
        raise Problem(422, "bad_request", f"state: is none of {', '.join(records.STATES)}")
    wanted = records.Search(batch or None, text or None, known, labeler.strip() or None)
    with site.database.read() as session:
        problem = None
        try:
            found, going_on = records.find_tasks(session, wanted, after, PAGE)
        except Problem as unknown:
            found, going_on, problem = [], None, unknown
        kept = select(Batch.name).where(Batch.state != "deleted").order_by(Batch.id)
        return page(
            request,
            "records.html",
            user=user,
            tasks=found,
            next=going_on,
            sent={name: value for name, value in sent.items() if value},
            problem=problem,
            batches=session.scalars(kept).all(),
            states=records.STATES,
        )


@router.get("/admin/tasks/{task_id}", response_class=HTMLResponse, include_in_schema=False)
def task_page(request: Request, user: Researcher, task_id: Id) -> Response:
    """One task with everything that was said of it, and the form for an expert's ranking."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        found = records.task_record(session, task_id)
        before, after = records.neighbours(session, found.task)
        return page(request, "record.html", user=user, record=found, before=before, after=after)


@router.post("/admin/tasks/{task_id}/adjudicate", include_in_schema=False)
def adjudicate(
    request: Request, user: Researcher, task_id: Id, sent: Annotated[VerdictForm, Form()]
) -> Response:
    """An expert's ranking, which exports mark and agreement leaves out."""
    site: Site = request.app.state.site
    ranks = dict(zip(sent.positions, sent.ranks, strict=False))
    if not len(sent.positions) == len(sent.ranks) == len(ranks):
        raise Problem(422, "bad_request", "Give every response one rank.")
    with site.database.write() as session:
        adjudication.adjudicate(session, task_id, user.id, ranks, sent.note, time.time())
    return RedirectResponse(f"/admin/tasks/{task_id}#verdict", 303)


@router.get("/admin/imports/{event_id}", response_class=HTMLResponse, include_in_schema=False)
def import_page(request: Request, user: Researcher, event_id: Id) -> Response:
    """What an import did, line by line where something was left out."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        event = session.get(EventLog, event_id)
        if event is None or event.kind != "import":
            raise Problem(404, "not_found", "There is no such import.")
        return page(request, "imported.html", user=user, event=event, report=event.detail)


# ---------------------------------------------------------------- as a labeler sees it


@router.get("/admin/batches/{batch_id}/demo", response_class=HTMLResponse, include_in_schema=False)
def demo_page(request: Request, user: Researcher, batch_id: Id) -> Response:
    """The labeling page on a batch's tasks; nothing that is done there is sent or kept."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        batch = _kept(session.get(Batch, batch_id))
    return page(request, "work.html", user=user, assignment="", reasons=SKIP_REASONS, demo=batch)


@router.get("/api/admin/batches/{batch_id}/demo")
def demo_task(request: Request, user: Researcher, batch_id: Id, after: After = 0) -> dict[str, Any]:
    """The batch's next task after the one of number `after`, as a labeler would get it."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        batch = _kept(session.get(Batch, batch_id))
        coming = (Task.batch_id == batch_id, Task.id > after)
        left, task_id = session.execute(
            select(func.count(), func.min(Task.id)).where(*coming)
        ).one()
        if task_id is None:
            return {"kind": "empty"}
        view = task_view(session, task_id)
        order = shuffled(list(view.texts), view.shuffle_seed, task_id, user.id)
        return {
            "kind": "task",
            "assignment": task_id,
            "state": "open",
            "batch": batch.name,
            **fixed_json(view, order),
            "left": left,
            "lease_until": None,
            "editable_until": None,
            "draft": None,
            "draft_version": 0,
            "answer": None,
        }


@router.get("/api/admin/batches/{batch_id}/instructions")
def demo_instructions(request: Request, user: Researcher, batch_id: Id) -> dict[str, Any]:
    site: Site = request.app.state.site
    with site.database.read() as session:
        batch = _kept(session.get(Batch, batch_id))
        row = session.get_one(InstructionSet, batch.instruction_set_id)
        return {"id": row.id, "name": row.name, "version": row.version, "body": row.body}


def _kept(batch: Batch | None) -> Batch:
    if batch is None or batch.state == "deleted":
        raise Problem(404, "not_found", "There is no such batch.")
    if batch.kind != "ranking":
        raise Problem(409, "not_ranked", f"The batch '{batch.name}' is written: it has no demo.")
    return batch
