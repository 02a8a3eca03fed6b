"""The line for answers: bounded for each person, fair between them, and never stuck."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from app.chat.line import Line, LineFull


def test_whoever_opens_many_tabs_waits_for_themselves_alone():
    """Seen red with a first-come order: ben stood behind all of ana's."""

    async def scene() -> None:
        line = Line(at_once=2, each=1)
        async with AsyncExitStack() as stack:
            ana = [await stack.enter_async_context(line.ticket("ana")) for _ in range(2)]
            assert [line.place(t) for t in ana] == [0, 1]
            with pytest.raises(LineFull, match="of your messages wait"):
                await stack.enter_async_context(line.ticket("ana"))
            ben = await stack.enter_async_context(line.ticket("ben"))
            assert line.place(ben) == 0

    asyncio.run(scene())


def test_the_longest_unserved_comes_next_and_sees_their_place():
    async def scene() -> None:
        line = Line(at_once=1, each=1)
        async with AsyncExitStack() as others:
            running = line.ticket("ana")
            await running.__aenter__()
            again = await others.enter_async_context(line.ticket("ana"))
            ben = await others.enter_async_context(line.ticket("ben"))
            eve = await others.enter_async_context(line.ticket("eve"))
            assert [line.place(t) for t in (ben, eve, again)] == [1, 2, 3]
            waiting = asyncio.create_task(line.wait(eve, 60))
            await asyncio.sleep(0)
            await running.__aexit__(None, None, None)
            await asyncio.wait_for(waiting, 1)  # it is told that the line has moved
            assert [line.place(t) for t in (ben, eve, again)] == [0, 1, 2]

    asyncio.run(scene())


def test_a_visitor_who_went_away_without_a_word_holds_no_place(monkeypatch):
    """A closed page is not told apart from a slow one but by what it fetches. Seen red without
    `_drop_lost`: two such visits from one address, and nobody from there was answered again.
    """
    monkeypatch.setattr("app.chat.line.LOST_SECONDS", 0.05)

    async def scene() -> None:
        line = Line(at_once=1, each=1)
        async with AsyncExitStack() as stack:
            gone = await stack.enter_async_context(line.ticket("ana"))
            again = await stack.enter_async_context(line.ticket("ana"))
            await asyncio.sleep(0.1)
            assert line.place(again) == 1  # an answer may take its time
            gone.shown_at = time.monotonic()
            await asyncio.sleep(0.1)
            assert line.place(again) == 0

    asyncio.run(scene())


def test_who_leaves_the_line_holds_nobody_up():
    """Mutation seen red: `_serve` not called when a ticket is given back."""

    async def scene() -> None:
        line = Line(at_once=1, each=2)
        async with AsyncExitStack() as stack:
            with pytest.raises(RuntimeError):
                async with line.ticket("ana"):
                    waiting = await stack.enter_async_context(line.ticket("ben"))
                    assert line.place(waiting) == 1
                    raise RuntimeError("the visitor went away")
            assert line.place(waiting) == 0
        async with line.ticket("ana") as free:
            assert line.place(free) == 0

    asyncio.run(scene())
