"""Replies that grow, handed to the server piece by piece at the pace of the client.

A token of one costs no task, no future and no middleware: whoever reads it from the engine has it written as it comes.
"""

import asyncio
import contextlib
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vllama.framing import Attended, ClientLeft, client_of, until_client_leaves

Stream = AsyncGenerator[bytes, "Outlet"]
"""A reply on its way. Yields once, its first bytes; is sent an outlet then, and writes the rest there."""


class Outlet:
    """Where the body of a reply goes. send: ASGI's. write: the `Client`'s, of a server that knows it.

    write_now: writes what it is given and returns True, or nothing and False: then it is for `write`.
    """

    def __init__(self, send: Send, write: Callable[[bytes], bool] | None = None) -> None:
        self._send = send
        self._last = b""
        self.write_now = write or _never

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Hand bytes to the server at once. Returns what has to be awaited before more is written, if anything.

        No task is needed as long as the server takes them without waiting, which it does until its client is slow: a
        callback of the event loop may write.
        """
        if self._last:
            data, self._last = self._last + data, b""
        if self.write_now(data):
            return None
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

    def keep_for_end(self, data: bytes) -> None:
        """Have this go out together with the end, or with what is written before it after all."""
        self._last = data

    async def end(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": self._last + data, "more_body": False})


def _never(_data: bytes) -> bool:
    return False


@types.coroutine
def _rest(step: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """What is left of a coroutine that was begun outside of a task, and waits for something."""
    while True:
        try:
            try:
                sent = yield awaited
            except BaseException as error:
                awaited = step.throw(error)
            else:
                awaited = step.send(sent)
        except StopIteration:
            return


async def poured(chunks: AsyncGenerator[bytes, None]) -> Stream:
    """Chunks that are made one after the other, as a stream."""
    async with contextlib.aclosing(chunks):
        outlet = yield await anext(chunks, b"")
        await _pour(chunks, outlet)


async def behind(chunks: AsyncGenerator[bytes, None], stream: Stream) -> Stream:
    """A stream behind some chunks, or none. It is begun when they are through."""
    async with contextlib.aclosing(stream), contextlib.aclosing(chunks):
        chunk = await anext(chunks, None)
        if chunk is None:
            outlet = yield await anext(stream)
        else:
            outlet = yield chunk
            await _pour(chunks, outlet)
            await outlet.put(await anext(stream))
        await finish(stream, outlet)


async def _pour(chunks: AsyncGenerator[bytes, None], outlet: Outlet) -> None:
    async for chunk in chunks:
        await outlet.put(chunk)


async def finish(stream: Stream, outlet: Outlet) -> None:
    """Have a stream that gave its first bytes write the rest."""
    with contextlib.suppress(StopAsyncIteration):
        await stream.asend(outlet)


async def begin(request: Request, stream: Stream, media_type: str, last_words: bytes) -> "StreamResponse":
    """A streamed response whose first bytes are there: an error before them still gets a status of its own.

    Where there will be none, the stream is closed. last_words: what ends it when the server stops before it is through.
    """
    try:
        first = await until_client_leaves(request, anext(stream))
    except BaseException:
        await stream.aclose()
        raise
    return StreamResponse(stream, media_type, first=first, last_words=last_words)


class StreamResponse(Response):
    """Has a stream written out, and closes it when the client leaves.

    first: the stream's first bytes, taken from it already. last_words: as in `begin`.
    """

    def __init__(self, stream: Stream, media_type: str, *, first: bytes, last_words: bytes) -> None:
        # Not by Response's own, which would count an empty body: this one has no length yet.
        self.status_code, self.media_type, self.background = 200, media_type, None
        self.init_headers({"Cache-Control": "no-cache"})
        self._stream = stream
        self._first = first
        self._last_words = last_words

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = client_of(scope)
        outlet = Outlet(send, None if client is None else client.write)
        async with contextlib.aclosing(self._stream):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_body(outlet, Attended(scope, receive))

    async def _send_body(self, outlet: Outlet, attended: Attended) -> None:
        try:
            with contextlib.suppress(ClientLeft), attended:
                await self._relay(outlet)
        except asyncio.CancelledError:
            # The server cancels what still runs when its time to drain is over; the client is owed a proper end. Where
            # it takes nothing, it misses that: the event loop ends, and cancels once more.
            await self._stream.aclose()
            with contextlib.suppress(asyncio.CancelledError):
                await outlet.end(self._last_words)

    async def _relay(self, outlet: Outlet) -> None:
        if self._first:
            await outlet.put(self._first)
        await finish(self._stream, outlet)
        self._last_words = b""  # nothing is missing any more
        await outlet.end()
