"""The answers of one request while they are drawn: tokens in, pieces of text out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from podium.sampling.protocol import Drawn, SamplingParams, StreamingSampler


@dataclass(frozen=True)
class Piece:
    """What one token added to answer `index`: text (there may be none yet), the token itself, and
    why the answer ends where it does.
    """

    index: int
    text: str
    drawn: Drawn
    said: bool  # whether the token is part of the answer: the stop token is not
    end: Literal["", "stop", "length"]


class Crowded(Exception):
    """As many answers are under way and waiting as may."""


class Desk:
    """Counts answers under way and waiting, of all requests."""

    def __init__(self, most: int) -> None:
        self.most, self.under_way = most, 0

    def take(self, rows: int) -> None:
        """Room for so many more. Raises Crowded where there is none."""
        if self.under_way + rows > self.most:
            raise Crowded
        self.under_way += rows

    def leave(self, rows: int) -> None:
        """So many have ended."""
        self.under_way -= rows


@dataclass
class _Row:
    """One answer: its tokens, and how much of its text was handed out."""

    params: SamplingParams
    text_of: Callable[[list[int]], str]
    tokens: list[int] = field(default_factory=list)
    shown: str = ""
    ended: bool = False

    def add(self, index: int, drawn: Drawn) -> Piece:
        said = drawn.token not in self.params.stop_token_ids
        if said:
            self.tokens.append(drawn.token)
        text, stop = self.text_of(self.tokens), self.params.stop
        if drawn.end:
            self.ended = True
            text = stop.cut(text) if stop else text
        else:
            # The bytes of a character that is not complete yet decode to U+FFFD: they are held
            # back, and so is what may become a stop text.
            text = (stop.shown(text) if stop else text).rstrip("\ufffd")
        new = text[len(self.shown) :] if text.startswith(self.shown) else ""
        self.shown += new
        return Piece(index, new, drawn, said, drawn.end)


class Answers:
    """The rows of one request. `pieces` ends when all have ended; `close` gives up the rest.

    Args:
        prompts: one row of ids an answer. params: as many.
        text_of: an answer's text from its prompt's and its own tokens.
    """

    def __init__(
        self,
        sampler: StreamingSampler,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams],
        text_of: Callable[[list[int], list[int]], str],
        top: int | None,
        desk: Desk,
    ) -> None:
        desk.take(len(prompts))
        self.desk, self._places = desk, len(prompts)
        self._told: asyncio.Queue[tuple[int, Drawn | BaseException]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.rows: list[_Row] = []
        self._give_up: list[Callable[[], None]] = []
        try:
            for ids, settings in zip(prompts, params, strict=True):
                self._begin(sampler, ids, settings, partial(text_of, ids), top)
        except BaseException:
            self.close()
            raise

    def _begin(
        self,
        sampler: StreamingSampler,
        ids: list[int],
        params: SamplingParams,
        text_of: Callable[[list[int]], str],
        top: int | None,
    ) -> None:
        tell = self._teller(len(self.rows))
        self.rows.append(_Row(params, text_of))
        self._give_up.append(sampler.begin(ids, params, tell, top))

    @property
    def tokens(self) -> int:
        """Tokens drawn so far, without those that end an answer."""
        return sum(len(row.tokens) for row in self.rows)

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is drawn, as it comes, of all answers in turn. What went wrong while drawing is
        raised.
        """
        while not all(row.ended for row in self.rows):
            index, drawn = await self._told.get()
            if isinstance(drawn, BaseException):
                raise drawn
            yield self.rows[index].add(index, drawn)

    def close(self) -> None:
        """Nobody wants the rest."""
        for give_up in self._give_up:
            give_up()
        self.desk.leave(self._places)
        self._places = 0

    def _teller(self, index: int) -> Callable[[Drawn | BaseException], None]:
        def tell(drawn: Drawn | BaseException) -> None:
            with suppress(RuntimeError):  # the server has ended meanwhile
                self._loop.call_soon_threadsafe(self._told.put_nowait, (index, drawn))

        return tell
