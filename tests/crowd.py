"""As many requests as a gateway of one test lets in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from tests.conftest import Alone
from tests.fake_engine import Stream, chat_events

HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = {"model": "demo", "messages": HELLO}
MOST = 3


@contextlib.asynccontextmanager
async def streaming(gateway: Alone) -> AsyncIterator[None]:
    """A request whose answer has begun, and does not end before the context does."""
    gateway.engine.script(Stream(*chat_events("Hel", finish=None)[:-1], end="hang"))
    async with gateway.api.stream("POST", "/api/chat", json=CHAT) as reply:
        lines = reply.aiter_lines()
        await anext(lines)
        yield


@contextlib.asynccontextmanager
async def full(gateway: Alone) -> AsyncIterator[list[contextlib.AsyncExitStack]]:
    """Three answers that have begun: each ends with its stack."""
    stacks = [contextlib.AsyncExitStack() for _ in range(MOST)]
    try:
        for stack in stacks:
            await stack.enter_async_context(streaming(gateway))
        yield stacks
    finally:
        for stack in stacks:
            await stack.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
