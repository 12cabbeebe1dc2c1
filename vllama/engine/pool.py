"""The connections to one engine: kept for the next request, and looked after."""

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable

from vllama.engine.address import Address
from vllama.engine.form import Form
from vllama.engine.http import Connection, UnansweredError
from vllama.engine.response import Response
from vllama.errors import EngineBusyError, EngineError, EngineGoneError

IDLE_CONNECTION_S = 60.0
"""Shorter than our engines' own keep-alive, so that a request hardly ever meets a connection that is being closed."""
REPLY_TIMEOUT_S = 3600.0
"""Most seconds without a byte from the engine: a long answer that is not streamed sends nothing until its end."""
CONNECT_S = 10.0
MAX_IDLE = 256
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL))
"""Why one cannot connect, which says nothing about the engine."""
TICK_S = 15.0
"""How exact those deadlines are: a clock that looks at all connections costs nothing where something is read."""


class Pool:
    """No limit holds for connections that are in use: the engine's own queue is where requests wait.

    clock: gives seconds.
    """

    def __init__(self, address: Address, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        self._connecting: set[asyncio.Timeout] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def ask(self, head: bytes, body: bytes | Form = b"") -> Response:
        """The reply to a request. Raises as `Connection.ask`, and EngineGoneError where there is no connection,
        EngineBusyError where that is not the engine's fault.

        A connection that was kept may have been closed by the server meanwhile, which the request meets on its way.
        Where not a byte came back, it is asked once more, on a new connection. It is a request that this server never
        read, then: servers close what is idle. One that did read it and died is not there to be asked again, and one
        that did not die has, at worst, answered in vain.
        """
        if (connection := self._newest()) is not None:
            with contextlib.suppress(UnansweredError):
                return await connection.ask(head, body)
        connection = await self._connect()
        return await connection.ask(head, body)

    async def warm(self, count: int) -> None:
        """Open connections ahead, up to so many in all. Raises EngineError."""
        while len(self._connections) < min(count, MAX_IDLE):
            self.released(await self._connect())

    def close(self) -> None:
        """For good: what is still asked, or waits for a connection, fails with EngineGoneError."""
        self._is_closed = True
        for limit in self._connecting:
            if not limit.expired():
                limit.reschedule(0)
        for connection in [*self._connections]:
            connection.fail(_stopped())

    def _newest(self) -> Connection | None:
        """The connection that was used last, of those that nobody uses: the others may become too old."""
        while self._idle:
            connection, since = self._idle.popitem()
            if not connection.is_closing and self._clock() - since < IDLE_CONNECTION_S:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        if self._is_closed:
            raise _stopped()
        try:
            async with asyncio.timeout(CONNECT_S) as limit:
                self._connecting.add(limit)
                try:
                    connection = await self._address.connect(lambda: Connection(self))
                finally:
                    self._connecting.discard(limit)
        except TimeoutError as error:
            raise _stopped() if self._is_closed else EngineError("the engine did not answer in time") from error
        except OSError as error:
            kind = EngineBusyError if error.errno in EXHAUSTED else EngineGoneError
            raise kind(f"the engine cannot be reached ({error})") from error
        self._connections.add(connection)
        if self._is_closed:
            connection.abort()
            raise _stopped()
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        return connection

    def _tick(self) -> None:
        self.look_after()
        again = asyncio.get_running_loop().call_later(TICK_S, self._tick) if self._connections else None
        self._ticker = again

    def look_after(self) -> None:
        """Close what was idle for too long, and give up what was silent for too long."""
        now = self._clock()
        for connection in [*self._connections]:
            if now - self._idle.get(connection, now) >= IDLE_CONNECTION_S:
                connection.abort()
            elif connection.is_stuck(now, REPLY_TIMEOUT_S):
                connection.fail(EngineError("the engine did not answer in time"))

    # From the connections

    def released(self, connection: Connection) -> None:
        if self._is_closed or len(self._idle) >= MAX_IDLE:
            connection.abort()
        else:
            self._idle[connection] = self._clock()

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)
        if not self._connections and self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None


def _stopped() -> EngineGoneError:
    return EngineGoneError("the engine was stopped")
