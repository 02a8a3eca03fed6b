"""A conversation with one or two models: its turns, what of it fits a model's context, and an
answer as it is drawn.

Nothing here knows of the page. Each browser session owns one `Conversation`, kept on the server.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

from app.chat.catalog import Speaker
from data.records import Message
from data.template import decode_response, encode_prompt
from podium.errors import PodiumError
from podium.sampling.protocol import SamplingParams, StopStrings

MIN_ROOM = 16  # tokens an answer gets at least; older turns are dropped to make room


class DoesNotFit(PodiumError):
    """The newest message alone is too long for the model."""


@dataclass(frozen=True)
class Settings:
    """How to sample."""

    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 128
    seed: int = 0
    stop: tuple[str, ...] = ()  # texts before which an answer ends


@dataclass(frozen=True)
class Answer:
    """One model's answer, growing while it is drawn. `ending` is '' until it ends: ended, stopped
    or cut off.
    """

    model: str
    text: str = ""
    ids: tuple[int, ...] = ()  # the prompt as the model read it, and what it drew
    tokens: int = 0
    ending: str = ""
    seed: int = 0
    dropped: int = 0  # messages of the conversation that did not fit the context
    score: float | None = None
    thumb: Literal["up", "down"] | None = None  # what the person thought of it
    stored: int | None = None  # what the votes' keeper calls it once there was a thumb


@dataclass
class Turn:
    """What the person said and what each side answered; `kept` is the side whose answer both sides
    go on from.
    """

    user: str
    answers: list[Answer | None] = field(default_factory=lambda: [None, None])
    kept: int | None = None
    asked: bool = False  # labelers were asked to rank the two answers
    attempt: int = 0  # how often it was answered anew


@dataclass
class Conversation:
    """The turns so far. `busy` while an answer is drawn or waited for; `stop` asks that it end.

    A blind conversation keeps its two models (`pair`, in the order shown, which is drawn by lot)
    and hides which is which until there is a vote.
    """

    turns: list[Turn] = field(default_factory=list)
    system: str = ""
    pair: tuple[str, str] | None = None  # keys of the models of a blind conversation
    revealed: bool = False
    busy: bool = False
    stop: bool = False
    stored: int | None = None  # what the chats' keeper calls it
    version: int = 0

    @property
    def hides(self) -> bool:
        """Whether names and scores are kept back."""
        return self.pair is not None and not self.revealed

    def begin_anew(self) -> None:
        """As it was made; what is stored stays stored."""
        self.turns.clear()
        self.system, self.pair, self.revealed, self.stored, self.version = "", None, False, None, 0

    def as_json(self) -> dict[str, Any]:
        """What is kept of it; `load` reads it back."""
        turns = [
            {
                "user": turn.user,
                "kept": turn.kept,
                "asked": turn.asked,
                "attempt": turn.attempt,
                "answers": [
                    a and {f.name: getattr(a, f.name) for f in fields(a) if f.name != "ids"}
                    for a in turn.answers
                ],
            }
            for turn in self.turns
        ]
        return {
            "system": self.system,
            "pair": self.pair,
            "revealed": self.revealed,
            "turns": turns,
        }

    def load(self, body: dict[str, Any], stored: int, version: int) -> None:
        """Become the conversation that was kept as `body`."""
        self.turns = [
            Turn(**turn | {"answers": [a and Answer(**a) for a in turn["answers"]]})
            for turn in body["turns"]
        ]
        self.system, self.revealed = body["system"], body["revealed"]
        self.pair = tuple(body["pair"]) if body["pair"] else None
        self.stored, self.version = stored, version

    def keep(self, side: int) -> None:
        """Both sides go on from this side's answers, also of earlier turns that nobody voted on."""
        for turn in self.turns:
            if turn.kept is None:
                turn.kept = side

    def messages(self, side: int, until: int | None = None) -> list[Message]:
        """The conversation as one side has it, with the question of turn `until` (the last) as the
        end.
        """
        last = len(self.turns) - 1 if until is None else until
        found = [Message(role="system", content=self.system)] if self.system.strip() else []
        for number, turn in enumerate(self.turns[: last + 1]):
            found.append(Message(role="user", content=turn.user))
            if number < last:
                found.append(Message(role="assistant", content=self._heard(turn, side)))
        return found

    def same_history(self) -> bool:
        """Whether both sides were asked the very same thing, so that their answers can be
        compared.
        """
        return self.messages(0) == self.messages(1)

    @staticmethod
    def _heard(turn: Turn, side: int) -> str:
        """The answer one side remembers: the kept one, its own, or the other's where it was not
        asked.
        """
        answer = (
            turn.answers[side if turn.kept is None else turn.kept]
            or turn.answers[0]
            or turn.answers[1]
        )
        return answer.text if answer else ""


def fit(speaker: Speaker, messages: list[Message], wanted: int) -> tuple[list[int], int, int]:
    """Prompt ids that leave room for an answer, the answer's longest length, and how many old
    messages were dropped.

    The oldest question and answer go first; what the system was told stays. DoesNotFit when the
    newest message alone leaves no room.
    """
    room = min(wanted, max(MIN_ROOM, speaker.context // 4))
    told = [message for message in messages if message.role == "system"]  # it comes first
    said = messages[len(told) :]
    dropped = 0
    while True:
        ids = encode_prompt(speaker.tokenizer, told + said[dropped:])
        if len(ids) + room <= speaker.context:
            return ids, min(wanted, speaker.context - len(ids)), dropped
        if dropped + 2 >= len(said):
            raise DoesNotFit(
                f"This message takes {len(ids)} tokens; {speaker.checkpoint.label} reads "
                f"{speaker.context} in all, "
                f"and {room} are kept for its answer. Please shorten it."
            )
        dropped += 2


def speak(
    speaker: Speaker, messages: list[Message], settings: Settings, attempt: int = 0
) -> Iterator[Answer]:
    """An answer after each token drawn; the last one yielded says how it ended. Same seed, same
    answer.

    A retry draws with the next seed, which the answer names, so that it can be asked for again.
    """
    ids, longest, dropped = fit(speaker, messages, settings.max_new_tokens)
    answer = Answer(
        speaker.checkpoint.label, ids=tuple(ids), seed=settings.seed + attempt, dropped=dropped
    )
    yield answer
    stop = StopStrings(settings.stop, partial(_text, speaker))
    params = SamplingParams(
        max_new_tokens=longest,
        temperature=settings.temperature,
        top_p=settings.top_p,
        stop_token_ids=speaker.stop_token_ids,
        absent_token_ids=speaker.absent_token_ids,
        stop=stop,
        seed=answer.seed,
    )
    tokens: list[int] = []
    for token in speaker.sampler.stream(ids, params):
        tokens.append(token)
        text = stop.shown(stop.decode(tokens))
        # bytes of a character that is not complete yet decode to U+FFFD; they are shown once they
        # are whole
        answer = replace(
            answer, text=text.rstrip("\ufffd"), tokens=len(tokens), ids=(*ids, *tokens)
        )
        yield answer
    cut_off = len(tokens) == longest and not stop.found(tokens)
    yield replace(answer, text=stop.text(tokens), ending="cut off" if cut_off else "ended")


def _text(speaker: Speaker, tokens: list[int]) -> str:
    """What was said. A byte-level model may say NUL, which no database keeps: a vote on it must not
    fail.
    """
    return decode_response(speaker.tokenizer, tokens).replace("\x00", "\ufffd")
