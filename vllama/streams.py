"""Replies that grow, handed to the server piece by piece at the pace of the client."""

import contextlib
import types
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from typing import Any

from starlette.types import Send

Stream = AsyncGenerator[bytes, "Outlet"]
"""A reply on its way. Yields once, its first bytes; is sent an outlet then, and writes the rest there."""


class Outlet:
    """Where the body of a reply goes. send: the server's."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Hand bytes to the server at once. Returns what has to be awaited before more is written, if anything.

        No task is needed as long as the server takes them without waiting, which it does until its client is slow: a
        callback of the event loop may write.
        """
        step = self._send({"type": "http.response.body", "body": data, "more_body": True})
        assert isinstance(step, Coroutine)
        try:
            awaited = step.send(None)
        except StopIteration:
            return None
        return _rest(step, awaited)

    async def put(self, data: bytes) -> None:
        if (held := self.write(data)) is not None:
            await held


@types.coroutine
def _rest(step: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """What is left of a coroutine that was begun outside of a task, and waits for something."""
    while True:
        try:
            sent = yield awaited
        except BaseException as error:
            resume, value = step.throw, error
        else:
            resume, value = step.send, sent
        try:
            awaited = resume(value)
        except StopIteration:
            return


async def poured(chunks: AsyncGenerator[bytes, None]) -> Stream:
    """Chunks that are made one after the other, as a stream."""
    async with contextlib.aclosing(chunks):
        outlet = yield await anext(chunks, b"")
        async for chunk in chunks:
            await outlet.put(chunk)
