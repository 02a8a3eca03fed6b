"""What a researcher reaches: progress, agreement, import, instructions, exports."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from pydantic import AfterValidator, Field, ValidationError
from sqlalchemy import func, select

from app.labeling import batches, collecting, exporting, importing, intake, progress
from app.labeling.access import Researcher
from app.labeling.account_routes import note, page
from app.labeling.adjudication import newest_verdicts
from app.labeling.datacard import TIE_RULE_WORDS, agreement_lines
from app.labeling.forms import Form as LabelForm
from app.labeling.forms import ShortText, Strict, storable
from app.labeling.labeler_routes import Id
from app.labeling.problems import Problem, first_fault
from app.labeling.results import collect_results
from app.labeling.site import Site
from app.labeling.tables import COHORTS, Export, Person
from app.labeling.task_tables import Batch, FormSchema, InstructionSet, Submission
from app.middleware import MAX_UPLOAD
from data.agreement import agreement_report
from podium.errors import DataError

router = APIRouter()
LONG = 200_000  # characters of instructions or of a form
Cohort = Literal["train", "heldout", "screening"]
T = TypeVar("T")


class Sent(Strict):
    """What a page's form sends; a box that is not ticked is not sent."""

    csrf_token: str = ""  # looked at by access.py


class BatchForm(Sent, importing.BatchRules):
    file: UploadFile
    cohorts: list[Cohort] = Field([], min_length=1, validate_default=True)
    ties_allowed: bool = False
    gold: bool = False
    partly: bool = False


class SampleForm(Sent):
    name: importing.BatchName
    models: Annotated[str, Field(max_length=1000)]
    prompts: int = Field(ge=1, le=100_000)
    k: int = Field(ge=2, le=9)
    overlap: int = Field(1, ge=1, le=1000)
    off_topic: bool = False


class VersionForm(Sent):
    name: ShortText
    body: Annotated[str, Field(min_length=1, max_length=LONG), AfterValidator(storable)]


class ExportForm(Sent):
    kind: exporting.Kind
    batches: list[importing.BatchName] = Field([])
    cohorts: list[Cohort] = Field([])
    extras: bool = False
    gold: bool = False
    adjudications: bool = False


@router.get("/admin", response_class=HTMLResponse, include_in_schema=False)
def overview(request: Request, user: Researcher) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        return page(
            request,
            "overview.html",
            user=user,
            batches=progress.batch_progress(session),
            deleted=session.scalars(select(Batch).where(Batch.state == "deleted")).all(),
            instructions=session.scalars(
                select(InstructionSet).order_by(InstructionSet.id.desc())
            ).all(),
            forms=session.scalars(select(FormSchema).order_by(FormSchema.id.desc())).all(),
            cohorts=COHORTS,
            can_sample=site.settings.run is not None,
            sampling=_sampling_state(request),
        )


@router.get("/api/admin/progress")
def progress_json(request: Request, user: Researcher) -> list[dict[str, Any]]:
    """Counts of every batch; the overview asks every few seconds."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        return [row._asdict() for row in progress.batch_progress(session)]


@router.get("/api/admin/agreement")
def agreement_json(request: Request, user: Researcher) -> dict[str, Any]:
    """The agreement table as text with its tie rules, recomputed only when an answer has
    come in.
    """
    site: Site = request.app.state.site
    with site.database.read() as session:
        last = session.scalar(select(func.max(Submission.id))) or 0
        cached = getattr(request.app.state, "agreement", None)
        states = session.execute(select(Batch.id, Batch.state).order_by(Batch.id)).all()
        seen = (last, [tuple(row) for row in states])
        if cached is None or cached[0] != seen:
            broken: list[str] = []
            rankings = collecting.collect_rankings(session, exporting.ExportFilter(), broken)
            lines = agreement_lines(agreement_report(rankings))
            cached = request.app.state.agreement = (
                seen,
                [*lines, *(line.replace("**", "") for line in exporting.about_broken(broken))],
            )
    return {"lines": cached[1], "tie_rules": TIE_RULE_WORDS}


@router.get("/admin/labelers", response_class=HTMLResponse, include_in_schema=False)
def labelers(request: Request, user: Researcher) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        return page(
            request,
            "labelers.html",
            user=user,
            rows=progress.labeler_table(session),
            skips=progress.recent_skips(session),
            comments=progress.recent_comments(session),
        )


@router.get("/admin/disputed", response_class=HTMLResponse, include_in_schema=False)
def disputed(request: Request, user: Researcher) -> Response:
    """The low-agreement queue: what to talk about with labelers, or to write into the next
    instructions.
    """
    site: Site = request.app.state.site
    with site.database.read() as session:
        tasks = progress.disputed_tasks(session)
        decided = newest_verdicts(session, [task.id for task in tasks])
        return page(request, "disputed.html", user=user, tasks=tasks, decided=decided)


@router.get("/admin/results", response_class=HTMLResponse, include_in_schema=False)
def results_page(request: Request, user: Researcher) -> Response:
    """What `podium label results` prints."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        found = collect_results(session, collecting.ExportFilter())
    return page(request, "results.html", user=user, found=found)


@router.post("/admin/batches", include_in_schema=False)
def import_batch(
    request: Request, user: Researcher, sent: Annotated[BatchForm, Form()]
) -> Response:
    """A batch from an uploaded JSONL file, and what became of its lines; nothing is kept when one
    is wrong, unless `partly`. With `gold` its ranks are known.
    """
    site: Site = request.app.state.site
    rules = importing.BatchRules(**sent.model_dump(include=set(importing.BatchRules.model_fields)))
    read = partial(intake.read_rows, gold=sent.gold, partly=sent.partly)
    rows = uploaded(sent.file, read)
    with site.database.write() as session:
        _, event = intake.take_in(
            session, rules, rows, time.time(), sent.gold, user.id, file=sent.file.filename
        )
    return RedirectResponse(f"/admin/imports/{event.id}", 303)


@router.post("/admin/sample", include_in_schema=False)
def sample(request: Request, user: Researcher, sent: Annotated[SampleForm, Form()]) -> Response:
    """Sample candidates in a process of its own, one at a time: no labeler waits for a model."""
    site: Site = request.app.state.site
    if site.settings.run is None:
        raise Problem(
            409,
            "no_run",
            "The server was started without --run; there is no checkpoint to sample from.",
        )
    running = getattr(request.app.state, "sampling", None)
    if running is not None and running.poll() is None:
        raise Problem(409, "busy", "A sampling is under way; wait until it is done.")
    command = [
        sys.executable,
        "-m",
        "app.labeling.cli",
        "sample",
        str(site.settings.run),
        f"--name={sent.name}",
        f"--models={sent.models}",
        f"--prompts={sent.prompts}",
        f"--k={sent.k}",
        f"--overlap={sent.overlap}",
        "--off-topic" if sent.off_topic else "--no-off-topic",
        "--folder",
        str(site.settings.folder),
        "--database",
        site.settings.database_url,
    ]
    with (site.settings.folder / "sampling.log").open("wb") as log:
        request.app.state.sampling = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    with site.database.write() as session:
        note(session, user, "sample", batch=sent.name, models=sent.models)
    return RedirectResponse("/admin", 303)


@router.post("/admin/batches/{batch_id}/{state}", include_in_schema=False)
def set_batch_state(request: Request, user: Researcher, batch_id: Id, state: str) -> Response:
    """Open, pause, withdraw, delete or restore a batch (`batches.py`)."""
    site: Site = request.app.state.site
    if state not in batches.CHANGES:
        raise Problem(404, "not_found", "There is no such state.")
    with site.database.write() as session:
        batches.change_batch(session, batch_id, cast("batches.Change", state), user.id, time.time())
    return RedirectResponse("/admin", 303)


@router.get("/admin/instructions", response_class=HTMLResponse, include_in_schema=False)
def instruction_versions(request: Request, user: Researcher) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        forms = session.scalars(select(FormSchema).order_by(FormSchema.id.desc())).all()
        return page(
            request,
            "versions.html",
            user=user,
            sets=session.scalars(select(InstructionSet).order_by(InstructionSet.id.desc())).all(),
            forms=[(row, json.dumps(row.body, indent=2, ensure_ascii=False)) for row in forms],
        )


@router.post("/admin/instructions", include_in_schema=False)
def new_instructions(
    request: Request, user: Researcher, sent: Annotated[VersionForm, Form()]
) -> Response:
    """The next version; batches that use an older one keep it."""
    site: Site = request.app.state.site
    with site.database.write() as session:
        row = importing.add_instructions(
            session, sent.name, sent.body.replace("\r\n", "\n"), time.time()
        )
        note(session, user, "instructions", name=row.name, version=row.version)
    return RedirectResponse("/admin/instructions", 303)


@router.post("/admin/forms", include_in_schema=False)
def new_form(request: Request, user: Researcher, sent: Annotated[VersionForm, Form()]) -> Response:
    site: Site = request.app.state.site
    try:
        form = LabelForm.model_validate_json(sent.body)
    except ValidationError as error:
        raise first_fault(error) from None
    with site.database.write() as session:
        row = importing.add_form(session, sent.name, form, time.time())
        note(session, user, "form", name=row.name, version=row.version)
    return RedirectResponse("/admin/instructions", 303)


@router.get("/admin/exports", response_class=HTMLResponse, include_in_schema=False)
def exports(request: Request, user: Researcher) -> Response:
    site: Site = request.app.state.site
    with site.database.read() as session:
        rows = session.execute(
            select(Export, Person.handle)
            .outerjoin(Person, Person.id == Export.created_by)
            .order_by(Export.id.desc())
        ).all()
        kept = select(Batch.name).where(Batch.state != "deleted").order_by(Batch.id)
        names = session.scalars(kept).all()
        return page(
            request, "exports.html", user=user, exports=rows, batches=names, cohorts=COHORTS
        )


@router.post("/admin/exports", include_in_schema=False)
def new_export(request: Request, user: Researcher, sent: Annotated[ExportForm, Form()]) -> Response:
    site: Site = request.app.state.site
    chosen = collecting.ExportFilter(
        batches=sent.batches or None,
        cohorts=sent.cohorts or None,
        extras=sent.extras,
        gold=sent.gold,
        adjudications=sent.adjudications,
    )
    exporting.make_export(site.database, site.exports, sent.kind, chosen, user.id, time.time())
    return RedirectResponse("/admin/exports", 303)


@router.get("/admin/exports/{export_id}/{part}", include_in_schema=False)
def download(request: Request, user: Researcher, export_id: Id, part: str) -> Response:
    """The file or its data card."""
    site: Site = request.app.state.site
    with site.database.read() as session:
        path = exporting.file_of(session, site.exports, export_id, part)
    return FileResponse(path, filename=path.name, media_type="application/octet-stream")


def _sampling_state(request: Request) -> str | None:
    """What the last sampling is doing, or its last line."""
    process = getattr(request.app.state, "sampling", None)
    if process is None:
        return None
    if process.poll() is None:
        return "Sampling... the batch appears above when it is done."
    site: Site = request.app.state.site
    said = (site.settings.folder / "sampling.log").read_text(errors="replace").strip()
    return f"{'Sampled' if process.returncode == 0 else 'Sampling failed'}: {said[-500:]}"


def uploaded(file: UploadFile, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file that was sent. Problem 422 with file, line and field."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (Path(file.filename or "upload.jsonl").name or "upload.jsonl")
        with path.open("wb") as copy:
            while chunk := file.file.read(2**20):
                copy.write(chunk)
        try:
            importing.check_unpacked(path, MAX_UPLOAD)
            return read(path)
        except DataError as error:
            raise Problem(422, "bad_file", str(error).replace(f"{folder}/", "")) from None
