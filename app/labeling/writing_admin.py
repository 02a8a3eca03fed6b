"""What a researcher does about batches that are written: import them, and read what came in."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BeforeValidator, Field
from sqlalchemy import select

from app.labeling import seeds
from app.labeling.access import Researcher
from app.labeling.account_routes import note, page
from app.labeling.admin_routes import Cohort, Sent, uploaded
from app.labeling.importing import BatchName
from app.labeling.problems import Problem
from app.labeling.site import Site
from app.labeling.tables import COHORTS
from app.labeling.task_tables import InstructionSet
from app.labeling.writing import WRITING_KINDS, WritingKind
from app.labeling.writing_export import recent_texts

router = APIRouter()
PAGE = "/admin/writing"
KIND_WORDS: dict[WritingKind, str] = {
    "demonstration": "write the answer to a prompt",
    "edit": "edit a model's answer",
    "dialogue": "play both sides, with suggestions",
    "red_team": "red teaming: pick the more harmful answer",
}


class WritingForm(Sent):
    """A batch of texts; the endpoint's fields are empty where there is none."""

    file: UploadFile
    name: BatchName
    kind: WritingKind
    overlap: int = Field(1, ge=1, le=1000)
    lease_minutes: float = Field(240, gt=0, le=100_000)
    edit_minutes: float = Field(1440, ge=0, le=1_000_000)
    cohorts: list[Cohort] = Field([], min_length=1, validate_default=True)
    instruction_set_id: Annotated[
        Annotated[int, Field(ge=1, le=2**31 - 1)] | None, BeforeValidator(lambda sent: sent or None)
    ] = None
    url: Annotated[str, Field(max_length=2000)] = ""
    models: Annotated[str, Field(max_length=300)] = ""
    suggestions: int = Field(2, ge=1, le=4)
    max_tokens: int = Field(512, ge=1, le=8192)
    temperature: float = Field(1.0, ge=0, le=2)


@router.get(PAGE, response_class=HTMLResponse, include_in_schema=False)
def writing_batches(request: Request, user: Researcher) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        sets = select(InstructionSet).order_by(InstructionSet.id.desc())
        return page(
            request,
            "writing.html",
            user=user,
            kinds={kind: KIND_WORDS[kind] for kind in WRITING_KINDS},
            cohorts=COHORTS,
            instructions=session.scalars(sets).all(),
            texts=recent_texts(session),
        )


@router.post(PAGE, include_in_schema=False)
def import_writing(
    request: Request, user: Researcher, sent: Annotated[WritingForm, Form()]
) -> Response:
    """A batch from an uploaded JSONL file; nothing is kept when a line is wrong."""
    site: Site = request.app.state.site
    own = ("name", "kind", "overlap", "lease_minutes", "edit_minutes", "cohorts")
    rules = seeds.writing_rules(
        {
            **sent.model_dump(include={*own, "instruction_set_id"}),
            "endpoint": _endpoint(sent) if sent.url.strip() else None,
        }
    )
    if rules.endpoint is not None:
        check_may_name_endpoint(user.may("admin"))
    records = uploaded(sent.file, seeds.read_seeds)
    with site.database.write() as session:
        report = seeds.add_writing(session, rules, records, time.time())
        endpoint = rules.endpoint.url if rules.endpoint else None
        detail = {"batch": sent.name, "written": sent.kind, "endpoint": endpoint}
        note(session, user, "import", file=sent.file.filename, tasks=report.tasks, **detail)
    return RedirectResponse("/admin", 303)


def check_may_name_endpoint(is_admin: bool) -> None:
    """The server itself calls the address, so naming one is an admin's, as with webhooks."""
    if not is_admin:
        raise Problem(403, "forbidden", "Only an admin may name an endpoint that the site calls.")


def _endpoint(sent: WritingForm) -> dict:
    models = [name.strip() for name in sent.models.split(",") if name.strip()]
    fields = sent.model_dump(include={"suggestions", "max_tokens", "temperature"})
    return {"url": sent.url.strip(), "models": models, **fields}
