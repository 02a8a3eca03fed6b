"""Conversations of the chat page, kept for people with a login over refresh and restart.

A conversation is its person's alone: every call names the handle, and another's does not exist.
"""

import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.chat.keeping import Kept
from app.labeling.chat_tables import Chat
from app.labeling.database import Database
from app.labeling.problems import Problem
from app.labeling.tables import Person

LISTED = 50  # conversations that a person can pick from
MAX_BODY = 4_000_000  # characters of one conversation


class ChatBox:
    """Where `app.chat` keeps conversations (its `Chats` protocol): each call is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def save(
        self, person: str | None, body: dict[str, Any], title: str, known: int | None, version: int
    ) -> tuple[int, int]:
        """Store it and return its number and version. Where another tab has stored the same
        conversation since, this one becomes a conversation of its own. Problem 401 or 413.
        """
        if sum(len(str(turn)) for turn in body["turns"]) > MAX_BODY:
            raise Problem(413, "too_long", "This conversation is too long to be kept.")
        now = time.time()
        with self.database.write() as session:
            person_id = _person(session, person)
            chat = session.get(Chat, known) if known is not None else None
            if chat is None or chat.person_id != person_id or chat.version != version:
                chat = Chat(person_id=person_id, version=0, created_at=now)
                session.add(chat)
            chat.title, chat.body, chat.updated_at = title.replace("\x00", ""), body, now
            chat.version += 1
            session.flush()
            return chat.id, chat.version

    def titles(self, person: str | None) -> list[tuple[int, str]]:
        """(number, title) of this person's conversations, the newest first."""
        with self.database.read() as session:
            query = (
                select(Chat.id, Chat.title)
                .where(Chat.person_id == _person(session, person))
                .order_by(Chat.updated_at.desc(), Chat.id.desc())
            )
            return [(number, title) for number, title in session.execute(query.limit(LISTED))]

    def load(self, person: str | None, chat: int | None = None) -> Kept | None:
        """That conversation, or the newest; None when this person has none."""
        with self.database.read() as session:
            query = select(Chat).where(Chat.person_id == _person(session, person))
            if chat is not None:
                query = query.where(Chat.id == chat)
            row = session.scalar(query.order_by(Chat.updated_at.desc(), Chat.id.desc()).limit(1))
            return Kept(row.id, row.title, row.version, row.body) if row else None

    def remove(self, person: str | None, chat: int) -> None:
        """Erase it; votes keep what they are about."""
        with self.database.write() as session:
            row = session.get(Chat, chat)
            if row is not None and row.person_id == _person(session, person):
                session.delete(row)


def _person(session: Session, handle: str | None) -> int:
    query = select(Person.id).where(Person.handle == handle, Person.disabled_at.is_(None))
    person_id = session.scalar(query)
    if person_id is None:
        raise Problem(401, "logged_out", "Your login has ended; log in again.")
    return person_id
