"""An engine's reply, from where it is read to where it is wanted.

What came is handed on in the callback of the event loop that read it: a token costs no task, no future and no queue of
its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from vllama.errors import EngineError, EngineGoneError

HIGH_WATER_BYTES = 2**18
"""Of a reply's body that nobody has taken yet: above it, no more is read."""

Take = Callable[[bytes], Awaitable[None] | None]
Express = Callable[[bytes], bool]
"""Takes the content of a chunk, or takes nothing and returns False."""


class Source(Protocol):
    """Where a reply comes from: it can be held up, and given up."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def fail(self, error: EngineError) -> None: ...


class Response:
    """An engine's reply. content_type: without its parameters, in lower case. received: bytes of the body so far.

    is_whole: whether the body's end was read, which not every body has.
    express: takes a whole chunk that came alone, instead of whoever pours; or returns False and has it given as all
    else is. Whoever pours sets it, anew with each thing taken, where there is nothing to wait for: it knows only what
    was learned by then. It is gone where something is kept for later. What it takes is not counted in `received`.

    Reading it raises EngineGoneError where it breaks off, EngineError where it takes too long, or is no HTTP: after
    what came before that was given.
    """

    def __init__(self, source: Source) -> None:
        self.status = 0
        self.content_type = ""
        self.received = 0
        self.is_whole = False
        self.express: Express | None = None
        self._source: Source | None = source
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._whole: bytes | None = None
        self._take: Take | None = None
        self._waiter: asyncio.Future[Awaitable[None] | None] | None = None
        self._failure: EngineError | None = None

    async def read(self) -> bytes:
        """The whole body, as often as it is wanted."""
        if self._whole is None:
            pieces: list[bytes] = []
            await self.pour(pieces.append)
            self._whole = b"".join(pieces)
        return self._whole

    async def next(self) -> bytes:
        """What of the body has come since, waited for where that is nothing; b"" at its end."""
        while not self._buffer and self._source is not None:
            await self.change()
        if self._source is not None:
            self._source.resume()
        return self._taken()

    async def pour(self, take: Take) -> None:
        """Give what comes to `take`, read by read, up to the body's end. Raises what `take` raises, too.

        Where `take` returns something to wait for, no more is read until then.
        """
        while True:
            if data := self._taken():
                held = take(data)
            elif self._source is None:
                return
            else:
                held = await self.change(take)
            if held is not None:
                self._pause()
                await held

    def close(self) -> None:
        """Abort what is left of it."""
        if self._source is not None:
            self._source.fail(EngineGoneError("the engine's reply broke off"))

    def _taken(self) -> bytes:
        if not self._buffer:
            if self._failure is not None:
                raise self._failure
            return b""
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        return data

    # From the source, and whoever waits for it to begin

    @property
    def is_open(self) -> bool:
        """Whether there is more to come."""
        return self._source is not None

    async def begun(self) -> None:
        """Return when the status is known."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self.change()

    async def change(self, take: Take | None = None) -> Awaitable[None] | None:
        """Return when something has come; with `take`, what it returned, or None at the end."""
        assert self._source is not None
        self._source.resume()
        self._take = take
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            return await self._waiter
        finally:
            self._take = self._waiter = None

    def begin(self, status: int, content_type: str) -> None:
        self.status, self.content_type = status, content_type
        self.wake()

    def give(self, data: bytes) -> None:
        """Take some of the body."""
        self.received += len(data)
        if self._take is None:
            self._keep(data)
            return
        try:
            held = self._take(data)
        except Exception as error:
            self._pause()
            self._take = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)
        else:
            if held is not None:
                self._pause()
                self.wake(held)

    def _keep(self, data: bytes) -> None:
        self.express = None  # what comes next must not overtake it
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER_BYTES:
            self._pause()
        self.wake()

    def _pause(self) -> None:
        if self._source is not None:
            self._source.pause()

    def end(self, failure: EngineError | None) -> None:
        self._failure, self._source = failure, None
        self.wake()

    def wake(self, held: Awaitable[None] | None = None) -> None:
        self._take = None  # what comes before whoever waits has its turn is kept
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(held)
