"""What the page's buttons do to the session's conversation, and what the page shows then."""

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from app.chat.catalog import Catalog
from app.chat.conversation import Conversation, Settings, Turn, speak
from app.chat.keeping import Chats, Choice, Thumb, Votes
from app.chat.log import log_of, thumbs, turn_at, typed
from data.records import Message
from podium.errors import PodiumError

SIDES = (0, 1)  # left, right
REFRESH_SECONDS = 0.06  # between updates of the page; tiny models draw hundreds of tokens a second
LONGEST_MESSAGE = 20_000  # characters
MAX_STOPS = 8  # stop texts of one answer
TITLE = 60  # characters of a kept conversation's name
MAX_SEED = 2**53 - 1  # the largest whole number a browser keeps exactly
VOTES: dict[str, Choice] = {
    "Left is better": "left",
    "About equal": "tie",
    "Both bad": "both bad",
    "Right is better": "right",
}


class Talk:
    """What the page's buttons do. A method gets the session's conversation, changes it, and says
    what to show.
    """

    def __init__(self, catalog: Catalog, votes: Votes | None, chats: Chats | None = None) -> None:
        self.catalog, self.votes, self.chats = catalog, votes, chats

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
        conversation.begin_anew()
        return self._view(conversation, both, text="")

    def arrange(self, conversation: Conversation, both: bool) -> tuple:
        """Show one log or two."""
        return (*self._view(conversation, both), gr.update(visible=both))

    def vote(self, conversation: Conversation, button: str, request: gr.Request) -> Any:
        """Record which answer is better; both sides go on from the better one (the left one when
        even), and a blind conversation says who was who.

        Where nobody voted on earlier turns, the two sides remember different answers: the vote
        keeps both histories.
        """
        if self.votes is None or not _can_vote(conversation):
            return gr.update(), gr.update(), gr.update(visible=False)
        turn, choice = conversation.turns[-1], VOTES[button]
        left, right = (answer for answer in turn.answers if answer is not None)
        prompt, person = conversation.messages(0), getattr(request, "username", None)
        try:
            self.votes.record(
                prompt,
                left.text,
                right.text,
                choice,
                (left.model, right.model),
                person,
                blind=conversation.hides,
                right_prompt=None if conversation.same_history() else conversation.messages(1),
            )
        except PodiumError as problem:
            gr.Warning(problem.message)
            return gr.update(), gr.update(), gr.update()
        who = f" Left was {left.model}, right {right.model}." if conversation.hides else ""
        conversation.keep(1 if choice == "right" else 0)
        conversation.revealed = True
        self.store(conversation, person)
        gr.Info(f"Thank you. Recorded: {button.lower()}.{who}")
        logs = [gr.update(value=log_of(conversation, side)) for side in SIDES]
        return (*logs, gr.update(visible=False))

    def ask(self, conversation: Conversation, request: gr.Request) -> None:
        """Put the two answers before the labelers: a task like any other."""
        if self.votes is None or not _can_vote(conversation):
            return
        if not conversation.same_history():
            gr.Info("Labelers compare answers to one conversation; here each side has its own.")
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

    def waiting(self) -> tuple:
        """The page's outputs while somebody stands in the line: Stop leaves it."""
        return (
            *[gr.skip()] * 3,
            gr.update(visible=False),
            gr.update(visible=True),
            *[gr.skip()] * 2,
        )

    def ready(self) -> tuple:
        """The page's outputs when nothing is under way any more and nothing else has changed."""
        return (
            *[gr.skip()] * 3,
            gr.update(visible=True),
            gr.update(visible=False),
            *[gr.skip()] * 2,
        )

    def restore(
        self, conversation: Conversation, both: bool, person: str | None, chat: int | None = None
    ) -> tuple:
        """Show a kept conversation, the newest unless `chat` says which; nothing when there is
        none.
        """
        kept = self.chats.load(person, chat) if self.chats is not None else None
        if kept is not None and not conversation.busy:
            conversation.load(kept.body, kept.id, kept.version)
        two = any(turn.answers[1] is not None for turn in conversation.turns)
        return self._view(conversation, both or two, text="" if kept else None)

    def store(self, conversation: Conversation, person: str | None) -> None:
        """Keep the conversation for this person's next visit."""
        if self.chats is None or person is None or not conversation.turns:
            return
        title = " ".join(conversation.turns[0].user.split())[:TITLE]
        try:
            conversation.stored, conversation.version = self.chats.save(
                person, conversation.as_json(), title, conversation.stored, conversation.version
            )
        except PodiumError as problem:
            gr.Warning(problem.message)

    def export(self, conversation: Conversation) -> str:
        """The conversation as JSON lines, one a side: our `Demonstration` records where each side's
        last message is an answer. Names stay hidden as on the page.
        """
        rows = []
        for side in SIDES:
            said = [turn.answers[side] for turn in conversation.turns if turn.answers[side]]
            if not said or not conversation.turns[-1].answers[side]:
                continue
            answer = conversation.turns[-1].answers[side]
            messages = conversation.messages(side)
            messages.append(Message(role="assistant", content=answer.text if answer else ""))
            names = sorted({a.model for a in said if a})
            meta = {"models": [] if conversation.hides else names, "side": ("left", "right")[side]}
            record = {"messages": [m.model_dump() for m in messages], "source": "chat"}
            rows.append(json.dumps(record | {"meta": meta}, ensure_ascii=False))
        return "".join(row + "\n" for row in rows)

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
        blind: bool = False,
        system: str | None = "",
        stop: str | None = "",
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
            settings = _settings(temperature, top_p, length, seed, stop or "")
            told = (system or "").strip()
            _check_length(turn.user, told)
            if len(turns) == 1:  # what it is told is fixed once there is an answer
                conversation.system = told
                conversation.pair = _draw_sides(left, right) if blind and both else None
                conversation.revealed = False
            elif not blind:
                conversation.revealed = True
            if conversation.hides:
                (left, right), both = conversation.pair or (left, right), True
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
        busy, both = conversation.busy, both or conversation.hides
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


def _draw_sides(left: str, right: str) -> tuple[str, str]:
    """Which model stands where, by lot: no habit of the eye may favour one."""
    return (left, right) if secrets.randbelow(2) else (right, left)


def _settings(
    temperature: float, top_p: float, length: float, seed: float | None, stop: str = ""
) -> Settings:
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
        stop=tuple(
            line.replace("\\n", "\n") for line in str(stop)[:1000].splitlines() if line.strip()
        )[:MAX_STOPS],
    )


def _check_length(text: str, system: str) -> None:
    for name, said in (("message", text), ("system prompt", system)):
        if len(said) > LONGEST_MESSAGE:
            raise PodiumError(
                f"This {name} has {len(said):,} characters; {LONGEST_MESSAGE:,} are the most. "
                "Please shorten it."
            )


def _can_vote(conversation: Conversation) -> bool:
    """Two finished answers to the last message, not voted on yet."""
    if not conversation.turns or conversation.busy:
        return False
    turn = conversation.turns[-1]
    done = all(answer is not None and answer.ending for answer in turn.answers)
    return done and turn.kept is None
