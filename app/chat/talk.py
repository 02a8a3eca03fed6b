"""What the page's buttons do to the session's conversation, and what the page shows then."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, Protocol

import gradio as gr

from app.chat.catalog import Catalog
from app.chat.conversation import Conversation, Settings, Turn, speak
from app.chat.log import log_of, thumbs, turn_at, typed
from data.records import Message
from podium.errors import PodiumError

SIDES = (0, 1)  # left, right
REFRESH_SECONDS = 0.06  # between updates of the page; tiny models draw hundreds of tokens a second
LONGEST_MESSAGE = 20_000  # characters
MAX_SEED = 2**53 - 1  # the largest whole number a browser keeps exactly
Choice = Literal["left", "right", "tie", "both bad"]
Thumb = Literal["up", "down"]
VOTES: dict[str, Choice] = {
    "Left is better": "left",
    "About equal": "tie",
    "Both bad": "both bad",
    "Right is better": "right",
}


class Votes(Protocol):
    """Where votes go; `app.labeling.votes` keeps them in the labeling database."""

    def record(
        self,
        prompt: list[Message],
        left: str,
        right: str,
        choice: Choice,
        generators: tuple[str, str],
        person: str | None,
    ) -> int: ...

    def ask(
        self, prompt: list[Message], responses: list[str], generators: list[str], person: str | None
    ) -> int: ...

    def react(
        self,
        prompt: list[Message],
        answer: str,
        generator: str,
        thumb: Thumb | None,
        person: str | None,
        message_id: int | None = None,
    ) -> int | None: ...


class Talk:
    """What the page's buttons do. A method gets the session's conversation, changes it, and says
    what to show.
    """

    def __init__(self, catalog: Catalog, votes: Votes | None) -> None:
        self.catalog, self.votes = catalog, votes

    def send(self, text: str, conversation: Conversation, *given: Any) -> Iterator[tuple]:
        """Add a message and answer it."""
        if conversation.busy:
            gr.Info("Still answering; press Stop first.")
        elif not text.strip():
            gr.Info("Write something first.")
        else:
            turns = [*conversation.turns, Turn(user=text)]
            yield from self._answer(conversation, turns, text, *given)

    def retry(self, conversation: Conversation, *given: Any) -> Iterator[tuple]:
        """Answer the last message anew, with the next seed."""
        if not conversation.busy and conversation.turns:
            last = conversation.turns[-1]
            turns = [*conversation.turns[:-1], Turn(last.user, attempt=last.attempt + 1)]
            yield from self._answer(conversation, turns, None, *given)

    def edit(self, edited: gr.EditData, conversation: Conversation, *given: Any) -> Iterator[tuple]:
        """Change an earlier message of the person; what came after it is forgotten and answered
        anew.
        """
        place = edited.index if isinstance(edited.index, int) else edited.index[0]
        sides = SIDES if given[2] else SIDES[:1]
        turn = next(
            (t for side in sides if (t := turn_at(conversation, side, place)) is not None), None
        )
        text = typed(str(edited.value))
        if conversation.busy or turn is None or not text.strip():
            yield self._view(conversation, bool(given[2]))
            return
        turns = [*conversation.turns[:turn], Turn(user=text)]
        yield from self._answer(conversation, turns, text, *given)

    def halt(self, conversation: Conversation) -> None:
        """Ask the running answers to end; what they said so far stays."""
        conversation.stop = True

    def undo(self, conversation: Conversation, both: bool) -> tuple:
        """Take the last message and its answers back; the message returns to the box."""
        if conversation.busy or not conversation.turns:
            return self._view(conversation, both)
        return self._view(conversation, both, text=conversation.turns.pop().user)

    def clear(self, conversation: Conversation, both: bool) -> tuple:
        """Begin again; a running answer is asked to end and adds nothing more."""
        conversation.stop = True
        conversation.turns.clear()
        return self._view(conversation, both, text="")

    def arrange(self, conversation: Conversation, both: bool) -> tuple:
        """Show one log or two."""
        return (*self._view(conversation, both), gr.update(visible=both))

    def vote(self, conversation: Conversation, button: str, request: gr.Request) -> Any:
        """Record which answer is better; both sides go on from the better one (the left one when
        even).
        """
        if self.votes is None or not _can_vote(conversation):
            return gr.update(visible=False)
        turn, choice = conversation.turns[-1], VOTES[button]
        left, right = (answer for answer in turn.answers if answer is not None)
        prompt, person = conversation.messages(0), getattr(request, "username", None)
        try:
            self.votes.record(
                prompt, left.text, right.text, choice, (left.model, right.model), person
            )
        except PodiumError as problem:
            gr.Warning(problem.message)
            return gr.update()
        turn.kept = 1 if choice == "right" else 0
        gr.Info(f"Thank you. Recorded: {button.lower()}.")
        return gr.update(visible=False)

    def ask(self, conversation: Conversation, request: gr.Request) -> None:
        """Put the two answers before the labelers: a task like any other."""
        if self.votes is None or not _can_vote(conversation):
            return
        if conversation.turns[-1].asked:
            gr.Info("Labelers have these two already.")
            return
        answers = [answer for answer in conversation.turns[-1].answers if answer is not None]
        texts, models = [answer.text for answer in answers], [answer.model for answer in answers]
        try:
            added = self.votes.ask(
                conversation.messages(0), texts, models, getattr(request, "username", None)
            )
        except PodiumError as problem:
            gr.Warning(problem.message)
            return
        conversation.turns[-1].asked = True
        gr.Info(
            "Labelers will rank these two answers."
            if added
            else "The two answers are the same; nothing to rank."
        )

    def react(
        self,
        conversation: Conversation,
        side: int,
        place: int,
        thumb: Thumb | None,
        person: str | None,
    ) -> None:
        """Record a thumb up or down on one answer, or take it back."""
        number = turn_at(conversation, side, place, answered=True)
        answer = None if number is None else conversation.turns[number].answers[side]
        if self.votes is None or number is None or answer is None or not answer.ending:
            return
        prompt = conversation.messages(side, number)
        try:
            stored = self.votes.react(
                prompt, answer.text, answer.model, thumb, person, answer.stored
            )
        except PodiumError as problem:
            gr.Warning(problem.message)
            return
        conversation.turns[number].answers[side] = replace(answer, thumb=thumb, stored=stored)
        gr.Info(f"Thank you. Recorded: thumb {thumb}." if thumb else "Your thumb is taken back.")

    def _answer(
        self,
        conversation: Conversation,
        turns: list[Turn],
        text: str | None,
        left: str,
        right: str,
        both: bool,
        temperature: float,
        top_p: float,
        length: float,
        seed: float | None,
    ) -> Iterator[tuple]:
        """Let one or two models answer the last of `turns`, token by token in turn, and show it as
        it grows.

        What cannot be answered changes nothing: the conversation is as it was, and `text`
        (what was typed) is in the box.
        """
        before, turn = list(conversation.turns), turns[-1]
        conversation.turns[:] = turns
        conversation.busy, conversation.stop = True, False
        try:
            settings = _settings(temperature, top_p, length, seed)
            _check_length(turn.user)
            yield self._view(conversation, both, text=None if text is None else "")
            speakers = [self.catalog.speaker(key) for key in ([left, right] if both else [left])]
            voices = {
                side: speak(speaker, conversation.messages(side), settings, turn.attempt)
                for side, speaker in enumerate(speakers)
            }
            refreshed = 0.0
            while voices and not conversation.stop:
                for side in list(voices):
                    said = next(voices[side], None)
                    if said is None:
                        del voices[side]
                    else:
                        turn.answers[side] = said
                if time.monotonic() - refreshed >= REFRESH_SECONDS:
                    refreshed = time.monotonic()
                    yield self._view(conversation, both)
            self._finish(conversation, turn, len(speakers))
            conversation.busy = False
            yield self._view(conversation, both)
        except PodiumError as problem:  # too long for the model, or the model cannot be loaded
            if turn in conversation.turns:  # no new chat was begun meanwhile
                conversation.turns[:] = before
            conversation.busy = False
            gr.Warning(problem.message)
            yield self._view(conversation, both, text=text)
        finally:
            conversation.busy = False

    def _finish(self, conversation: Conversation, turn: Turn, sides: int) -> None:
        """Mark what was stopped and score what was said."""
        if turn not in conversation.turns:  # a new chat was begun meanwhile
            return
        for side in range(sides):
            answer = turn.answers[side]
            if answer is not None:
                score = self.catalog.score(answer.ids)
                turn.answers[side] = replace(answer, ending=answer.ending or "stopped", score=score)

    def _view(self, conversation: Conversation, both: bool, text: str | None = None) -> tuple:
        """The page's outputs: both logs, the message box, Send, Stop, the vote row and the
        suggestions.
        """
        busy = conversation.busy
        return (
            gr.update(value=log_of(conversation, 0), feedback_value=thumbs(conversation, 0)),
            gr.update(
                value=log_of(conversation, 1) if both else [],
                feedback_value=thumbs(conversation, 1),
                visible=both,
            ),
            gr.update() if text is None else gr.update(value=text),
            gr.update(visible=not busy),
            gr.update(visible=busy),
            gr.update(visible=bool(both and self.votes and not busy and _can_vote(conversation))),
            gr.update(visible=not conversation.turns),
        )


def _settings(temperature: float, top_p: float, length: float, seed: float | None) -> Settings:
    """How to sample, held to the limits of the page; PodiumError for a seed that is none.

    A browser's numbers are whole up to MAX_SEED; beyond, it would be another seed than was typed.
    """
    if not 0 <= (seed or 0) <= MAX_SEED:
        raise PodiumError(f"The seed is a whole number from 0 to {MAX_SEED:,}.")
    return Settings(
        temperature=min(max(float(temperature), 0.0), 2.0),
        top_p=min(max(float(top_p), 0.01), 1.0),
        max_new_tokens=max(1, int(length)),
        seed=int(seed or 0),
    )


def _check_length(text: str) -> None:
    if len(text) > LONGEST_MESSAGE:
        raise PodiumError(
            f"This message has {len(text):,} characters; {LONGEST_MESSAGE:,} are the most. Please "
            "shorten it."
        )


def _can_vote(conversation: Conversation) -> bool:
    """Two finished answers to the same conversation, not voted on yet."""
    if not conversation.turns or conversation.busy:
        return False
    turn = conversation.turns[-1]
    done = all(answer is not None and answer.ending for answer in turn.answers)
    return done and turn.kept is None and conversation.same_history()
