"""Who is answered next when more want an answer than models can draw at once.

Each person has a bounded number of answers under way and waiting, and among those who wait the one
who was served longest ago comes first: whoever opens twenty tabs waits for themselves and for
nobody else. All of it happens in the server's event loop, so nothing needs a lock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from podium.errors import PodiumError


class LineFull(PodiumError):
    """This person has enough answers under way already."""


@dataclass(eq=False)
class Ticket:
    """One wish for an answer."""

    person: str
    number: int
    moved: asyncio.Event = field(default_factory=asyncio.Event)


class Line:
    """Answers under way and the line for them.

    Args:
        at_once: answers drawn at the same time, of all people.
        each: of them, one person's at most; as many again may wait.
    """

    def __init__(self, at_once: int, each: int) -> None:
        self.at_once, self.each = at_once, each
        self._running: list[Ticket] = []
        self._waiting: list[Ticket] = []
        self._served: dict[str, int] = {}  # number of the last ticket that was served, by person
        self._count = 0

    @asynccontextmanager
    async def ticket(self, person: str) -> AsyncIterator[Ticket]:
        """A place in the line until the end of the block, however that comes.

        Raises:
            LineFull: as many of this person's wait as may.
        """
        if sum(other.person == person for other in self._waiting) >= self.each:
            raise LineFull(f"{self.each} of your messages wait for an answer already.")
        self._count += 1
        ticket = Ticket(person, self._count)
        self._waiting.append(ticket)
        self._serve()
        try:
            yield ticket
        finally:
            for tickets in (self._running, self._waiting):
                if ticket in tickets:
                    tickets.remove(ticket)
            self._serve()

    def place(self, ticket: Ticket) -> int:
        """0 when it is this ticket's turn, else its place in the line, from 1."""
        return self._order().index(ticket) + 1 if ticket in self._waiting else 0

    async def wait(self, ticket: Ticket, seconds: float) -> None:
        """Until the line has moved, or the time is over."""
        ticket.moved.clear()
        try:
            await asyncio.wait_for(ticket.moved.wait(), seconds)
        except TimeoutError:
            return

    def _order(self) -> list[Ticket]:
        """Who waits, the next one first."""
        busy = {p: self._under_way(p) >= self.each for p in {t.person for t in self._waiting}}
        return sorted(
            self._waiting,
            key=lambda t: (busy[t.person], self._served.get(t.person, 0), t.number),
        )

    def _serve(self) -> None:
        while self._waiting and len(self._running) < self.at_once:
            first = self._order()[0]
            if self._under_way(first.person) >= self.each:
                break
            self._waiting.remove(first)
            self._running.append(first)
            self._served[first.person] = first.number
        for ticket in (*self._running, *self._waiting):
            ticket.moved.set()

    def _under_way(self, person: str) -> int:
        return sum(ticket.person == person for ticket in self._running)
