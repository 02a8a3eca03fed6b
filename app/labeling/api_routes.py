"""The HTTP API's routes. Each calls what the pages and the commands call, so that they accept and
refuse the same.
"""

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from sqlalchemy import select

from app.labeling import (
    accounts,
    batches,
    collecting,
    exporting,
    importing,
    intake,
    listing,
    screening,
    seeds,
    shapes,
)
from app.labeling.api_access import AnyScope, Export, Import, Manage, People, Read
from app.labeling.collecting import ExportFilter
from app.labeling.datacard import TIE_RULE_WORDS
from app.labeling.importing import BatchName, BatchRules
from app.labeling.people_routes import address_of
from app.labeling.problems import Problem
from app.labeling.results import collect_results
from app.labeling.site import Site
from app.labeling.tables import EventLog, Invite, Person
from app.labeling.tables import Export as ExportRow
from app.labeling.writing import WritingRules
from data.agreement import agreement_report

router = APIRouter()
HIGHEST = 2**31 - 1
Id = Annotated[int, Path(ge=1, le=HIGHEST)]
After = Annotated[int, Query(ge=0, le=HIGHEST, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=500, description="how many at most")]
Batches = Annotated[list[BatchName] | None, Query(description="only these batches, by name")]
Cohorts = Annotated[list[shapes.Cohort] | None, Query(description="only these cohorts")]


@router.get("/token", tags=["token"])
def token(caller: AnyScope) -> shapes.TokenInfo:
    """What the token that asks is called, and may do."""
    return shapes.TokenInfo(name=caller.name, scopes=caller.scopes)


# ---------------------------------------------------------------- batches and tasks


@router.get("/batches", tags=["batches"])
def list_batches(request: Request, caller: Read) -> list[shapes.BatchInfo]:
    """Every batch and how far it is; deleted ones are left out."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        return listing.all_batches(session)


@router.get("/batches/{batch_id}", tags=["batches"])
def read_batch(request: Request, caller: Read, batch_id: Id) -> shapes.BatchInfo:
    """One batch and how far it is."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        return listing.one_batch(session, batch_id)


@router.post("/batches", tags=["batches"], status_code=201)
def make_batch(request: Request, caller: Import, body: shapes.NewBatch) -> shapes.ImportDone:
    """Make a batch of prompts with candidate responses. Nothing is kept when a record is wrong."""
    site: Site = request.app.state.site
    rules = BatchRules(**body.model_dump(include=set(BatchRules.model_fields)))
    records = importing.as_candidates(body.records, body.gold)
    now = time.time()
    with site.database.write() as session:
        report = intake.take_records(session, rules, records, now, extend=body.gold)
        detail = {"batch": rules.name, "token": caller.token_id, **report._asdict()}
        session.add(EventLog(at=now, person_id=caller.person_id, kind="import", detail=detail))
        session.flush()
        made = batches.batch_named(session, rules.name)
        return shapes.ImportDone(batch=listing.one_batch(session, made.id), **report._asdict())


@router.post("/batches/writing", tags=["batches"], status_code=201)
def make_writing(request: Request, caller: Import, body: shapes.NewWriting) -> shapes.ImportDone:
    """Make a batch in which labelers write, edit, talk or red-team. An endpoint, which the site
    calls, also wants the scope manage.
    """
    site: Site = request.app.state.site
    rules = WritingRules(**body.model_dump(include=set(WritingRules.model_fields)))
    if rules.endpoint is not None and "manage" not in caller.scopes:
        raise Problem(403, "wrong_scope", "To name an endpoint a token needs the scope manage.")
    now = time.time()
    with site.database.write() as session:
        report = seeds.add_writing(session, rules, body.records, now)
        detail = {"batch": rules.name, "token": caller.token_id, "written": rules.kind}
        session.add(EventLog(at=now, person_id=caller.person_id, kind="import", detail=detail))
        session.flush()
        made = batches.batch_named(session, rules.name)
        return shapes.ImportDone(batch=listing.one_batch(session, made.id), **report._asdict())


@router.post("/batches/{batch_id}/state", tags=["batches"])
def set_state(
    request: Request, caller: Manage, batch_id: Id, body: shapes.NewState
) -> shapes.NewState:
    """Open, pause, withdraw, delete or restore a batch. No row is ever erased; a deleted batch is
    restored as paused.
    """
    site: Site = request.app.state.site
    with site.database.write() as session:
        batch = batches.change_batch(session, batch_id, body.state, caller.person_id, time.time())
        return shapes.NewState.model_validate({"state": batch.state})


@router.post("/batches/{batch_id}/screening", tags=["screening"])
def mark_screening(
    request: Request, caller: Manage, batch_id: Id, body: shapes.NewScreening
) -> shapes.NewScreening:
    """Make a batch a quiz that everybody of the cohort screening takes, or end it. Of rankings, a
    researcher has answered some first.
    """
    site: Site = request.app.state.site
    with site.database.write() as session:
        batch = batches.numbered_batch(session, batch_id)
        screening.mark(session, batch, body.screening, caller.person_id, time.time())
        return shapes.NewScreening(screening=batch.screening)


@router.get("/screening", tags=["screening"])
def screening_report(request: Request, caller: People) -> list[shapes.CandidateInfo]:
    """How near each candidate comes to the researchers, with intervals and the paper's cutoffs."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        found = screening.report(session)
        return [shapes.CandidateInfo.model_validate(candidate) for candidate in found]


@router.get("/tasks", tags=["batches"])
def list_tasks(
    request: Request,
    caller: Read,
    batch_id: Annotated[int | None, Query(ge=1, le=HIGHEST)] = None,
    after: After = 0,
    limit: Limit = 100,
) -> shapes.TaskPage:
    """Prompts and their candidate responses, page by page."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        return listing.tasks_page(session, batch_id, after, limit)


# ---------------------------------------------------------------- what people said


@router.get("/labelers", tags=["progress"])
def list_labelers(request: Request, caller: Read) -> list[shapes.LabelerInfo]:
    """How everybody works who has answered or skipped anything."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        return listing.all_labelers(session)


@router.get("/agreement", tags=["progress"])
def agreement(
    request: Request, caller: Read, batch: Batches = None, cohort: Cohorts = None
) -> shapes.Agreement:
    """How far labelers agree, under each rule of counting ties, with intervals over prompts."""
    site: Site = request.app.state.site
    broken: list[str] = []
    with site.database.read() as session:
        rankings = collecting.collect_rankings(session, _chosen(batch, cohort), broken)
    report = shapes.Agreement.model_validate(agreement_report(rankings))
    return report.model_copy(update={"tie_rules": dict(TIE_RULE_WORDS), "broken": broken})


@router.get("/results", tags=["progress"])
def results(
    request: Request, caller: Read, batch: Batches = None, cohort: Cohorts = None
) -> shapes.Results:
    """Which model people prefer: win rates, Elo, ratings and flags."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        found = collect_results(session, _chosen(batch, cohort))
    return shapes.Results.model_validate(found.as_json())


@router.get("/records", tags=["exports"])
def list_records(
    request: Request,
    caller: Export,
    batch: Batches = None,
    cohort: Cohorts = None,
    extras: bool = True,
    gold: bool = False,
    after: After = 0,
    limit: Limit = 100,
) -> shapes.RecordPage:
    """The answers themselves, page by page and oldest first; one that is changed meanwhile comes
    again at the end. For training take an export: it has a hash and a data card.
    """
    site: Site = request.app.state.site
    broken: list[str] = []
    chosen = ExportFilter(batches=batch, cohorts=cohort, extras=extras, gold=gold)
    with site.database.read() as session:
        found, going_on = collecting.rankings_page(session, chosen, after, limit, broken)
    return shapes.RecordPage(items=found, next=going_on, broken=broken)


# ---------------------------------------------------------------- exports


@router.get("/exports", tags=["exports"])
def list_exports(request: Request, caller: Export) -> list[shapes.ExportInfo]:
    """Every export that was made, newest first."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        rows = session.scalars(select(ExportRow).order_by(ExportRow.id.desc()))
        return [shapes.ExportInfo.model_validate(row) for row in rows]


@router.post("/exports", tags=["exports"], status_code=201)
def make_export(request: Request, caller: Export, body: shapes.NewExport) -> shapes.ExportInfo:
    """Write an export with its data card."""
    site: Site = request.app.state.site
    chosen = ExportFilter(**body.model_dump(include=set(ExportFilter.model_fields)))
    made = exporting.make_export(
        site.database, site.exports, body.kind, chosen, caller.person_id, time.time()
    )
    return shapes.ExportInfo.model_validate(made)


@router.get("/exports/{export_id}", tags=["exports"])
def read_export(request: Request, caller: Export, export_id: Id) -> shapes.ExportInfo:
    """What an export is made of, and its hash."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        row = session.get(ExportRow, export_id)
        if row is None:
            raise Problem(404, "not_found", "There is no such export.")
        return shapes.ExportInfo.model_validate(row)


@router.get(
    "/exports/{export_id}/file",
    tags=["exports"],
    response_class=FileResponse,
    responses={200: {"content": {"application/jsonl": {}}, "description": "JSON Lines"}},
)
def export_file(request: Request, caller: Export, export_id: Id) -> Response:
    """The export itself, streamed: one JSON object a line."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        path = exporting.file_of(session, site.exports, export_id, "file")
    return FileResponse(path, filename=path.name, media_type="application/jsonl")


@router.get(
    "/exports/{export_id}/card",
    tags=["exports"],
    response_class=FileResponse,
    responses={200: {"content": {"text/markdown": {}}, "description": "Markdown"}},
)
def export_card(request: Request, caller: Export, export_id: Id) -> Response:
    """The export's data card."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        path = exporting.file_of(session, site.exports, export_id, "card")
    return FileResponse(path, filename=path.name, media_type="text/markdown")


# ---------------------------------------------------------------- people


@router.get("/people", tags=["people"])
def list_people(request: Request, caller: People) -> list[shapes.PersonInfo]:
    """Everybody with their role and cohort."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        return [
            shapes.PersonInfo(
                id=row.id,
                handle=row.handle,
                role=row.role,
                cohort=row.cohort,
                created_at=row.created_at,
                disabled=row.disabled_at is not None,
            )
            for row in session.scalars(select(Person).order_by(Person.handle))
        ]


@router.get("/invitations", tags=["people"])
def list_invitations(request: Request, caller: People) -> list[shapes.Invitation]:
    """Those that somebody could still use, newest first."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        rows = accounts.open_invites(session, time.time())
        return [shapes.Invitation.model_validate(row) for row in rows]


@router.post("/invitations", tags=["people"], status_code=201)
def invite(request: Request, caller: People, body: shapes.NewInvitation) -> shapes.InvitationLink:
    """A link with which one person makes their account; only its hash is kept."""
    site: Site = request.app.state.site
    now = time.time()
    with site.database.write() as session:
        secret = accounts.make_invite(session, site.secret, body.role, body.cohort, now)
        detail = {**body.model_dump(), "token": caller.token_id}
        session.add(EventLog(at=now, person_id=caller.person_id, kind="invite", detail=detail))
        session.flush()
        row: Invite = accounts.open_invite(session, site.secret, secret, now)
        about = shapes.Invitation.model_validate(row)
    link = address_of(request, f"/invite/{secret}")
    return shapes.InvitationLink(**about.model_dump(), link=link)


@router.delete("/invitations/{invitation_id}", tags=["people"], status_code=204)
def revoke_invitation(request: Request, caller: People, invitation_id: Id) -> None:
    """The link no longer works."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        accounts.revoke_invite(session, invitation_id, caller.person_id, time.time())


def _chosen(batch: list[str] | None, cohort: Cohorts) -> ExportFilter:
    return ExportFilter(batches=batch, cohorts=list(cohort) if cohort else None)
