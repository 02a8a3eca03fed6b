"""The tables of the chat: kept conversations, votes and thumbs."""

from typing import Any

from sqlalchemy import (
    ForeignKey,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.labeling.tables import Base, Json, key, link, now_column


class Conversation(Base):
    """What was said before a vote or a reaction."""

    __tablename__ = "conversation"
    id: Mapped[int] = key()
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[float] = now_column()


class ChatMessage(Base):
    __tablename__ = "message"
    __table_args__ = (UniqueConstraint("conversation_id", "position"),)
    id: Mapped[int] = key()
    conversation_id: Mapped[int] = link("conversation.id")
    position: Mapped[int]
    role: Mapped[str] = mapped_column(String(16))
    content: Mapped[str]
    generator: Mapped[str | None]
    created_at: Mapped[float] = now_column()


class Vote(Base):
    """Two answers side by side and what the person said: left | right | tie | both bad."""

    __tablename__ = "vote"
    id: Mapped[int] = key()
    person_id: Mapped[int] = link("person.id")
    conversation_id: Mapped[int] = link("conversation.id")
    cohort: Mapped[str] = mapped_column(String(16))
    left: Mapped[str] = mapped_column("left_text")
    right: Mapped[str] = mapped_column("right_text")
    left_generator: Mapped[str | None]
    right_generator: Mapped[str | None]
    choice: Mapped[str] = mapped_column(String(16))
    # names and scores were hidden, and the sides drawn by lot; only such votes are for training
    blind: Mapped[bool] = mapped_column(server_default=text("false"))
    # the right side's conversation where it is another than the left one's
    right_messages: Mapped[Any | None]
    created_at: Mapped[float] = now_column()


class Chat(Base):
    """A conversation as the chat page shows it, kept for its person's next visit."""

    __tablename__ = "chat"
    id: Mapped[int] = key()
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    title: Mapped[str]
    body: Json
    version: Mapped[int]
    created_at: Mapped[float] = now_column()
    updated_at: Mapped[float] = now_column()


class Reaction(Base):
    """What a person thought of one message: up | down."""

    __tablename__ = "reaction"
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    value: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float] = now_column()
