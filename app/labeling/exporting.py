"""Answers out: native rankings, TRL preference pairs, and the chat's votes, each with an id, a hash
and a data card.

`podium reward RECIPE --set reward.rankings=EXPORT` reads the native form. A reward model's lineage
names the file's sha256, which is the one on the export's card and in the site's `export` table.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling.accounts import pseudonym
from app.labeling.chat_tables import ChatMessage, Vote
from app.labeling.collecting import (
    ExportFilter,
    answer_rows,
    collect_adjudications,
    collect_rankings,
    leave_out,
)
from app.labeling.database import Database
from app.labeling.datacard import data_card, describe
from app.labeling.problems import Problem
from app.labeling.tables import EventLog, Export, Person
from app.labeling.webhooks import tell
from app.labeling.writing_export import (
    SOURCES,
    WrittenExport,
    describe_written,
    written_records,
)
from data.records import Comparison, Demonstration, Message, Ranking
from podium.storage import write_text

Kind = Literal["rankings", "pairs", "votes", "demonstrations", "comparisons"]
BROKEN_SHOWN = 20  # names of broken rows on a card; the log has them all


def preference_pairs(rankings: Iterable[Ranking]) -> list[dict[str, Any]]:
    """TRL's conversational preference rows: every strictly ordered pair; ties say nothing and are
    dropped.
    """
    return [
        {
            "prompt": [m.model_dump() for m in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "group_id": pair.group_id,
        }
        for ranking in rankings
        for pair in ranking.comparisons()
    ]


def collect_votes(
    session: Session, chosen: ExportFilter, broken: list[str] | None = None
) -> tuple[list[Comparison], Counter[str]]:
    """The chat's blind votes as comparisons, and how many were left out and why. `broken` as in
    `collect_rankings`.

    A vote by somebody who saw the models' names judges names; one on two different conversations
    compares no two answers to one prompt.
    """
    query = select(Vote, Person.handle).join(Person, Person.id == Vote.person_id).order_by(Vote.id)
    rows = session.execute(query).all()
    said: dict[int, list[Message]] = {}
    for message in session.scalars(
        select(ChatMessage).order_by(ChatMessage.conversation_id, ChatMessage.position)
    ):
        said.setdefault(message.conversation_id, []).append(
            Message(role=message.role, content=message.content)
        )
    records, left_out = [], Counter[str]()
    for vote, handle in rows:
        if chosen.cohorts is not None and vote.cohort not in chosen.cohorts:
            continue
        if not vote.blind:
            left_out["were given with the models' names shown"] += 1
            continue
        if vote.right_messages is not None:
            left_out["compare answers to two different conversations"] += 1
            continue
        if vote.choice not in ("left", "right"):
            left_out["were a tie or both bad"] += 1
            continue
        won, lost = (vote.left, vote.right) if vote.choice == "left" else (vote.right, vote.left)
        try:
            records.append(
                Comparison(
                    prompt=said[vote.conversation_id],
                    chosen=won,
                    rejected=lost,
                    labeler=pseudonym(session, handle),
                    cohort=vote.cohort,
                    source="chat",
                    group_id=f"vote-{vote.id}",
                    meta={
                        "choice": vote.choice,
                        "left": vote.left_generator,
                        "right": vote.right_generator,
                    },
                )
            )
        except (ValidationError, KeyError) as error:
            leave_out(f"vote-{vote.id}", error, broken)
    return records, left_out


def make_export(
    database: Database,
    folder: Path,
    kind: Kind,
    chosen: ExportFilter,
    person_id: int | None,
    now: float,
) -> Export:
    """Write `folder/export-<id>-<kind>.jsonl` and its card, and note both. Rows that are no records
    are left out, counted in `Export.broken` and named on the card. Problem 422 when nothing was
    chosen.
    """
    broken: list[str] = []
    with database.read() as session:  # the long part; labelers go on
        rows, about = _rows(session, kind, chosen, broken)
    if not rows:
        also = f" {len(broken)} broken rows were left out: {broken[0]}" if broken else ""
        raise Problem(
            422,
            "nothing_to_export",
            f"No answer fits this choice; there is nothing to export.{also}",
        )
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    digest = hashlib.sha256(content.encode()).hexdigest()
    with database.write() as session:
        export = Export(
            kind=kind,
            filter=chosen.model_dump(),
            rows=len(rows),
            broken=len(broken),
            sha256=digest,
            file="",
            card="",
            created_by=person_id,
            created_at=now,
        )
        session.add(export)
        session.flush()
        export.file = f"export-{export.id:04d}-{kind}.jsonl"
        export.card = data_card(export, [*about_broken(broken), *about])
        write_text(folder / export.file, content)
        write_text(folder / export.file.replace(".jsonl", ".md"), export.card)
        detail = {"file": export.file, "sha256": digest, "broken": broken[:BROKEN_SHOWN]}
        session.add(EventLog(at=now, person_id=person_id, kind="export", detail=detail))
        told = {"export": export.id, "kind": kind, "rows": export.rows, "sha256": digest}
        tell(session, "export.ready", f"export-{export.id}", told, now)
    return export


def file_of(session: Session, folder: Path, export_id: int, part: str) -> Path:
    """An export's `file` or its `card`. Problem 404 when there is none, 410 when somebody removed
    it.
    """
    export = session.get(Export, export_id)
    if export is None or part not in ("file", "card"):
        raise Problem(404, "not_found", "There is no such export.")
    name = export.file if part == "file" else export.file.replace(".jsonl", ".md")
    if not (folder / name).is_file():
        raise Problem(410, "file_gone", f"{name} was removed from the server's folder {folder}.")
    return folder / name


def about_broken(broken: list[str]) -> list[str]:
    """Lines that name what was left out."""
    if not broken:
        return []
    more = len(broken) - BROKEN_SHOWN
    return [
        f"- **{len(broken)} broken rows were left out**, for they are no records:",
        *(f"  - {name}" for name in broken[:BROKEN_SHOWN]),
        *([f"  - and {more} more"] if more > 0 else []),
    ]


def _rows(
    session: Session, kind: Kind, chosen: ExportFilter, broken: list[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the file, and the lines of the card that describe them."""
    if kind == "votes":
        votes, left_out = collect_votes(session, chosen, broken)
        return [_plain(v) for v in votes], [
            f"- {count} votes {why} and are left out" for why, count in left_out.items()
        ]
    if kind in ("demonstrations", "comparisons"):
        return _written_rows(session, cast("WrittenExport", kind), chosen, broken)
    rankings = collect_rankings(session, chosen, broken)
    rankings += collect_adjudications(session, chosen, broken)
    rows = preference_pairs(rankings) if kind == "pairs" else [_plain(r) for r in rankings]
    return rows, describe(rankings) if rankings else []


def _written_rows(
    session: Session, kind: WrittenExport, chosen: ExportFilter, broken: list[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    found = written_records(
        session,
        kind,
        session.execute(answer_rows(chosen, SOURCES[kind])).all(),
        lambda handle: pseudonym(session, handle),
        lambda place, error: leave_out(place, error, broken),
    )
    return [_plain(record) for record in found], describe_written(kind, found)


def _plain(record: Ranking | Comparison | Demonstration) -> dict[str, Any]:
    return record.model_dump(exclude_none=True)
