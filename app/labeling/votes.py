"""What the chat page writes into the labeling database: votes, reactions, and "ask a labeler".

A vote says left, right, tie or both bad of two answers; votes export as comparisons. "Ask a
labeler" makes a task of the answers on the screen, handed out like any other. `VoteBox` is what
`app.chat` is given; people are known by the handle they logged in with, and nobody votes without
one.
"""

import time
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling.accounts import pseudonym
from app.labeling.chat_tables import ChatMessage, Conversation, Reaction, Vote
from app.labeling.database import Database
from app.labeling.importing import BatchRules, Candidates, add_tasks, create_batch
from app.labeling.problems import Problem
from app.labeling.tables import Person
from app.labeling.task_tables import Batch
from data.records import Message

Choice = Literal["left", "right", "tie", "both bad"]
Thumb = Literal["up", "down"]
ASKED_BATCH = "asked in the chat"
LONGEST = 1_000_000  # characters of one answer


def record_vote(
    session: Session,
    prompt: Sequence[Message],
    left: str,
    right: str,
    choice: Choice,
    generators: tuple[str, str],
    handle: str | None,
    blind: bool = False,
    right_prompt: Sequence[Message] | None = None,
) -> int:
    """Store a vote and the conversation it is about; returns the vote's id. Problem 401 or 422.

    Args:
        blind: the voter did not know who was who.
        right_prompt: the right side's conversation, where earlier turns differ.
    """
    person = _voter(session, handle)
    _check_texts(prompt, left, right)
    _check_texts(right_prompt or prompt)
    vote = Vote(
        person_id=person.id,
        conversation_id=_keep(session, person, prompt).id,
        cohort=person.cohort,
        left=left,
        right=right,
        left_generator=generators[0],
        right_generator=generators[1],
        choice=choice,
        blind=blind,
        right_messages=right_prompt and [m.model_dump() for m in right_prompt],
        created_at=time.time(),
    )
    session.add(vote)
    session.flush()
    return vote.id


def record_reaction(
    session: Session,
    prompt: Sequence[Message],
    answer: str,
    generator: str,
    thumb: Thumb | None,
    handle: str | None,
    message_id: int | None = None,
) -> int | None:
    """Store a thumb up or down on one answer and return the id of the stored message.

    With that id a person changes their mind; None takes the thumb back.
    """
    person = _voter(session, handle)
    _check_texts(prompt, answer)
    known = None if message_id is None else session.get(Reaction, (message_id, person.id))
    if known is not None:
        if thumb is None:
            session.delete(known)
        else:
            known.value = thumb
        return message_id
    if thumb is None:
        return None
    if message_id is None:
        conversation = _keep(session, person, prompt)
        message = ChatMessage(
            conversation_id=conversation.id,
            position=len(prompt),
            role="assistant",
            content=answer,
            generator=generator,
            created_at=time.time(),
        )
        session.add(message)
        session.flush()
        message_id = message.id
    session.add(
        Reaction(message_id=message_id, person_id=person.id, value=thumb, created_at=time.time())
    )
    return message_id


def ask_labeler(
    session: Session,
    prompt: Sequence[Message],
    responses: Sequence[str],
    generators: Sequence[str],
    handle: str | None,
    overlap: int = 1,
) -> int:
    """Make a labeling task of these answers; returns how many tasks were added (0 when all are the
    same text).
    """
    person = _voter(session, handle)
    _check_texts(prompt, *responses)
    batch = session.scalar(select(Batch).where(Batch.name == ASKED_BATCH))
    if batch is None:
        batch = create_batch(
            session, BatchRules(name=ASKED_BATCH, purpose="chat", overlap=overlap), time.time()
        )
    record = Candidates(
        prompt=list(prompt),
        responses=list(responses),
        generators=list(generators),
        source="chat",
        user=pseudonym(session, person.handle),
    )
    return add_tasks(session, batch, [record]).tasks


class VoteBox:
    """Where `app.chat` puts votes (its `Votes` protocol): each call is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def record(
        self,
        prompt: list[Message],
        left: str,
        right: str,
        choice: Choice,
        generators: tuple[str, str],
        person: str | None,
        blind: bool = False,
        right_prompt: list[Message] | None = None,
    ) -> int:
        with self.database.write() as session:
            return record_vote(
                session, prompt, left, right, choice, generators, person, blind, right_prompt
            )

    def react(
        self,
        prompt: list[Message],
        answer: str,
        generator: str,
        thumb: Thumb | None,
        person: str | None,
        message_id: int | None = None,
    ) -> int | None:
        with self.database.write() as session:
            return record_reaction(session, prompt, answer, generator, thumb, person, message_id)

    def ask(
        self, prompt: list[Message], responses: list[str], generators: list[str], person: str | None
    ) -> int:
        with self.database.write() as session:
            return ask_labeler(session, prompt, responses, generators, person)


def _voter(session: Session, handle: str | None) -> Person:
    person = session.scalar(
        select(Person).where(Person.handle == handle, Person.disabled_at.is_(None))
    )
    if person is None:
        raise Problem(401, "logged_out", "Log in to vote.")
    return person


def _keep(session: Session, person: Person, prompt: Sequence[Message]) -> Conversation:
    conversation = Conversation(person_id=person.id, created_at=time.time())
    session.add(conversation)
    session.flush()
    session.add_all(
        [
            ChatMessage(
                conversation_id=conversation.id,
                position=position,
                role=m.role,
                content=m.content,
                created_at=time.time(),
            )
            for position, m in enumerate(prompt)
        ]
    )
    return conversation


def _check_texts(prompt: Sequence[Message], *answers: str) -> None:
    texts = [*(m.content for m in prompt), *answers]
    if not prompt or any("\x00" in text or len(text) > LONGEST for text in texts):
        raise Problem(
            422, "bad_text", "A message is missing, too long or contains a NUL character."
        )
