"""What the chat asks of whoever keeps its conversations, votes and thumbs.

`app.labeling.chats` and `app.labeling.votes` do, in the labeling site's database. Without them the
chat keeps nothing beyond the browser's visit.
"""

from typing import Any, Literal, NamedTuple, Protocol

from data.records import Message

Choice = Literal["left", "right", "tie", "both bad"]
Thumb = Literal["up", "down"]


class Kept(NamedTuple):
    """A conversation as its keeper has it."""

    id: int
    title: str
    version: int
    body: dict[str, Any]


class Chats(Protocol):
    """Where conversations are kept for people with a login; `app.labeling.chats` keeps them."""

    def save(
        self, person: str | None, body: dict[str, Any], title: str, known: int | None, version: int
    ) -> tuple[int, int]: ...

    def titles(self, person: str | None) -> list[tuple[int, str]]: ...

    def load(self, person: str | None, chat: int | None = None) -> Kept | None: ...

    def remove(self, person: str | None, chat: int) -> None: ...


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
        blind: bool = False,
        right_prompt: list[Message] | None = None,
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
