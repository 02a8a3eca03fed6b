"""The line for answers: bounded for each person, fair between them, and never stuck."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest

from app.chat.catalog import Catalog
from app.chat.conversation import Conversation
from app.chat.line import Line, LineFull
from app.chat.page import answering
from app.chat.talk import Talk


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


def test_the_last_update_shows_the_whole_answer_whatever_became_of_the_others(chat_run, votes):
    """Gradio pops the value of each update that it sends, and its page may skip any but the last.
    Seen red with the last view yielded twice: a fast answer stayed at "thinking".
    """
    talk = Talk(Catalog(chat_run), votes)
    send = answering(talk, Line(1, 1), talk.send, 1)
    visitor = SimpleNamespace(username=None, client=None)

    async def scene() -> None:
        given = "ppo", "sft", True, 1.0, 1.0, 12, 0
        async for update in send(visitor, "Hello", Conversation(), *given):
            shown = [part.pop("value", None) for part in update[:2]]
        assert [len(log) for log in shown] == [3, 3]
        assert all("seed 0" in log[2]["content"] for log in shown)
        assert update[3]["visible"] and not update[4]["visible"]

    asyncio.run(scene())
