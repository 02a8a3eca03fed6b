"""A labeling site from a program: make batches, watch them, fetch what people said.

    from app.labeling.client import LabelingClient

    with LabelingClient("https://label.example.org", token="podium_...") as site:
        site.make_batch("first", records, overlap=3)
        made = site.make_export(batches=["first"])
        site.download(made.id, "first.jsonl")

Every method is one route of the HTTP API, and gives back its shapes (`app.labeling.shapes`). What
the site refuses is a `LabelingError` with the field and the fix that it names.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.labeling import shapes
from data.records import Ranking
from podium.errors import PodiumError
from podium.storage import PARTIAL, writing

__all__ = ["LabelingClient", "LabelingError"]

API = "/api/v1"
TOKEN_VARIABLE = "PODIUM_TOKEN"
PATIENCE_SECONDS = 120.0  # an export of a large site takes a while
PAGE = 200  # items asked for at once


class LabelingError(PodiumError):
    """The site refused, or does not answer.

    `status` is HTTP's (0: no answer), `code` a word for programs, `field` the part of what was sent
    that will not do.
    """

    def __init__(
        self,
        message: str,
        status: int = 0,
        code: str = "no_answer",
        field: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message, fix)
        self.status, self.code, self.field = status, code, field


class LabelingClient:
    """One site, one token.

    Args:
        address: of the site, as people open it.
        token: `podium_...`; from the variable PODIUM_TOKEN where it is left out.
        transport: what HTTP goes through; for tests.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        timeout: float = PATIENCE_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        token = token or os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise PodiumError(
                "there is no token for the labeling site",
                f"podium label token add NAME --scope read, then give it or set {TOKEN_VARIABLE}",
            )
        # A redirect would carry the token to wherever it leads.
        self.http = httpx.Client(
            base_url=address.rstrip("/") + API,
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            transport=transport,
            follow_redirects=False,
        )

    def __enter__(self) -> "LabelingClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def token(self) -> shapes.TokenInfo:
        """What this token is called, and may do."""
        return self._get("/token", shapes.TokenInfo)

    # ------------------------------------------------------------ batches and tasks

    def batches(self) -> list[shapes.BatchInfo]:
        """Every batch and how far it is. Scope read."""
        return self._get("/batches", list[shapes.BatchInfo])

    def batch(self, batch: int | str) -> shapes.BatchInfo:
        """One batch, by number or by name. Scope read."""
        if isinstance(batch, int):
            return self._get(f"/batches/{batch}", shapes.BatchInfo)
        found = {row.name: row for row in self.batches()}
        if batch not in found:
            message = f"there is no batch '{batch}'; there are: {list(found)}"
            raise LabelingError(message, 404, "not_found", "batch")
        return found[batch]

    def make_batch(
        self,
        name: str,
        records: Iterable[BaseModel | Mapping[str, Any]],
        gold: bool = False,
        **rules: Any,
    ) -> shapes.ImportDone:
        """A new batch of prompts with candidate responses. Scope import.

        Args:
            records: `Candidates`, `Ranking` or the like as dictionaries: a line of an imported file
                each.
            gold: their ranks are known and check labelers.
            rules: `overlap`, `cohorts`, `lease_minutes`, `ties_allowed`, ...: see `NewBatch`.
        """
        body = {"name": name, "records": _rows(records), "gold": gold, **rules}
        return self._send("POST", "/batches", shapes.ImportDone, body)

    def make_writing(
        self,
        name: str,
        kind: str,
        records: Iterable[BaseModel | Mapping[str, Any]],
        **rules: Any,
    ) -> shapes.ImportDone:
        """A new batch in which labelers write. Scope import; with an endpoint also manage.

        Args:
            kind: "demonstration", "edit", "dialogue" or "red_team".
            records: `Seed`, `Prompt`, `Demonstration` or the like as dictionaries.
            rules: `overlap`, `cohorts`, `endpoint`, ...: see `NewWriting`.
        """
        body = {"name": name, "kind": kind, "records": _rows(records), **rules}
        return self._send("POST", "/batches/writing", shapes.ImportDone, body)

    def set_state(self, batch: int | str, state: str) -> str:
        """Make it "open", "paused", "withdrawn", "deleted" or "restored" (by number); the state it
        then has. Scope manage, and read where the batch is named.
        """
        number = batch if isinstance(batch, int) else self.batch(batch).id
        done = self._send("POST", f"/batches/{number}/state", shapes.NewState, {"state": state})
        return done.state

    def mark_screening(self, batch: int | str, on: bool = True) -> bool:
        """Make a batch a quiz for candidates, or end it; whether it now is one. Scope manage, and
        read where the batch is named.
        """
        number = batch if isinstance(batch, int) else self.batch(batch).id
        path = f"/batches/{number}/screening"
        return self._send("POST", path, shapes.NewScreening, {"screening": on}).screening

    def screening(self) -> list[shapes.CandidateInfo]:
        """How near each candidate comes to the researchers' answers. Scope people."""
        return self._get("/screening", list[shapes.CandidateInfo])

    def tasks(self, batch_id: int | None = None) -> Iterator[shapes.TaskInfo]:
        """Every task, fetched page by page. Scope read."""
        yield from self._pages("/tasks", shapes.TaskPage, {"batch_id": batch_id})

    # ------------------------------------------------------------ what people said

    def labelers(self) -> list[shapes.LabelerInfo]:
        """How everybody works, under pseudonyms. Scope read."""
        return self._get("/labelers", list[shapes.LabelerInfo])

    def agreement(
        self, batches: Sequence[str] = (), cohorts: Sequence[str] = ()
    ) -> shapes.Agreement:
        """How far labelers agree. Scope read."""
        return self._get("/agreement", shapes.Agreement, {"batch": batches, "cohort": cohorts})

    def results(self, batches: Sequence[str] = (), cohorts: Sequence[str] = ()) -> shapes.Results:
        """Which model people prefer. Scope read."""
        return self._get("/results", shapes.Results, {"batch": batches, "cohort": cohorts})

    def records(
        self,
        batches: Sequence[str] = (),
        cohorts: Sequence[str] = (),
        extras: bool = True,
        gold: bool = False,
    ) -> Iterator[Ranking]:
        """Every answer, fetched page by page. Scope export."""
        chosen = {"batch": batches, "cohort": cohorts, "extras": extras, "gold": gold}
        yield from self._pages("/records", shapes.RecordPage, chosen)

    # ------------------------------------------------------------ exports

    def exports(self) -> list[shapes.ExportInfo]:
        """Every export, newest first. Scope export."""
        return self._get("/exports", list[shapes.ExportInfo])

    def make_export(
        self,
        kind: str = "rankings",
        batches: Sequence[str] | None = None,
        cohorts: Sequence[str] | None = None,
        extras: bool = True,
        gold: bool = False,
        adjudications: bool = True,
    ) -> shapes.ExportInfo:
        """Write an export on the server; `download` fetches it. Scope export."""
        flags = {"extras": extras, "gold": gold, "adjudications": adjudications}
        body = {"kind": kind, "batches": batches, "cohorts": cohorts, **flags}
        return self._send("POST", "/exports", shapes.ExportInfo, body)

    def download(self, export_id: int, path: str | Path) -> Path:
        """Stream an export into a file, which appears whole and with the hash that the site names,
        or not at all. Scope export.
        """
        path = Path(path)
        wanted = self._get(f"/exports/{export_id}", shapes.ExportInfo).sha256
        partial = path.with_name(path.name + PARTIAL)
        digest = hashlib.sha256()
        try:
            with writing(path.parent), partial.open("wb") as file:
                for part in self._stream(f"/exports/{export_id}/file"):
                    digest.update(part)
                    file.write(part)
            if digest.hexdigest() != wanted:
                raise LabelingError(
                    f"export {export_id} arrived with another hash than the site names",
                    fix="fetch it again; if it stays so, the file on the server was changed",
                )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def card(self, export_id: int) -> str:
        """An export's data card, as Markdown. Scope export."""
        return b"".join(self._stream(f"/exports/{export_id}/card")).decode()

    # ------------------------------------------------------------ people

    def people(self) -> list[shapes.PersonInfo]:
        """Everybody with their role and cohort. Scope people."""
        return self._get("/people", list[shapes.PersonInfo])

    def invitations(self) -> list[shapes.Invitation]:
        """Those that somebody could still use. Scope people."""
        return self._get("/invitations", list[shapes.Invitation])

    def invite(self, role: str = "labeler", cohort: str = "train") -> shapes.InvitationLink:
        """A link for one labeler or researcher. Scope people."""
        body = {"role": role, "cohort": cohort}
        return self._send("POST", "/invitations", shapes.InvitationLink, body)

    def revoke_invitation(self, invitation_id: int) -> None:
        """The link no longer works. Scope people."""
        self._reply("DELETE", f"/invitations/{invitation_id}")

    # ------------------------------------------------------------ how

    def _get(self, path: str, kind: Any, query: Mapping[str, Any] | None = None) -> Any:
        return _read(self._reply("GET", path, params=_without_nothing(query or {})), kind)

    def _send(self, method: str, path: str, kind: Any, body: Mapping[str, Any]) -> Any:
        return _read(self._reply(method, path, json=body), kind)

    def _pages(self, path: str, kind: Any, query: Mapping[str, Any]) -> Iterator[Any]:
        after: int | None = 0
        while after is not None:
            page = self._get(path, kind, {**query, "after": after, "limit": PAGE})
            yield from page.items
            after = page.next

    def _reply(self, method: str, path: str, **sent: Any) -> httpx.Response:
        try:
            reply = self.http.request(method, path, **sent)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not reply.is_success:
            raise _refused(reply)
        return reply

    def _stream(self, path: str) -> Iterator[bytes]:
        try:
            with self.http.stream("GET", path) as reply:
                if not reply.is_success:
                    reply.read()
                    raise _refused(reply)
                yield from reply.iter_bytes()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> LabelingError:
        address = str(self.http.base_url).removesuffix(f"{API}/")
        return LabelingError(
            f"the labeling site at {address} does not answer: {error or type(error).__name__}",
            fix="check its address, and that it runs: podium label serve",
        )


def _rows(records: Iterable[BaseModel | Mapping[str, Any]]) -> list[Any]:
    return [
        row.model_dump(mode="json", exclude_none=True) if isinstance(row, BaseModel) else row
        for row in records
    ]


def _without_nothing(query: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in query.items() if value not in (None, (), [])}


def _read(reply: httpx.Response, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_json(reply.content)
    except ValidationError as error:
        raise _strange(reply) from error


def _refused(reply: httpx.Response) -> LabelingError:
    try:
        said = reply.json()
        code, message = str(said["code"]), str(said["message"])
    except (ValueError, KeyError, TypeError):  # a proxy's page, or no Podium at all
        return _strange(reply)
    call = f"{reply.request.method} {reply.request.url.path}"
    return LabelingError(
        f"{call}: {message}", reply.status_code, code, said.get("field"), said.get("fix")
    )


def _strange(reply: httpx.Response) -> LabelingError:
    return LabelingError(
        f"{reply.request.method} {reply.request.url} answered {reply.status_code}, and not as a "
        "labeling site does; is it no Podium, or one of another version?",
        reply.status_code,
        "http",
        fix="check the address, and the proxy before it",
    )
