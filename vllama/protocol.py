"""HTTP/1.1 as uvicorn speaks it, but with bodies that need no coroutine for each of their parts; what it lacks of
HTTP/1.0; and limits that it does not know.
"""

import asyncio
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from vllama.framing import CLIENT
from vllama.overload import Bound

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

MAX_HEAD_BYTES = 2**20
"""As Ollama's server has it. A head is kept in memory before anyone can ask who sends it."""

MOST_WAITING = 4
"""Requests that a client may send before its first one is answered: further ones are not read until then."""


class Protocol(HttpToolsProtocol):
    """uvicorn's, with a bound on a request's head, and replies to HTTP/1.0, such as nginx asks in, without chunks.

    bound: on connections. More are closed at once, while there are files left to open.
    """

    bound = Bound(sys.maxsize, "connections")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._earlier: list[RequestResponseCycle] = []  # those whose reply was not through when the next request came

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.bound.most:
            self.bound.note()
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The request's first line and headers are larger than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)  # which knows of the last request alone
        cycles, self._earlier = [*self._earlier, self.cycle], []
        for cycle in cycles:
            if isinstance(cycle, _Cycle) and not cycle.response_complete:
                cycle.lose()

    def on_headers_complete(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._earlier = [cycle for cycle in self._earlier if not cycle.response_complete]
            self._earlier.append(self.cycle)
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= MOST_WAITING:
            self.flow.resume_reading()  # only who reads learns that the client has left
        self._in_head = False
        # Before anything was sent: its task has not begun to run.
        self.cycle.__class__ = _Http10 if self.scope["http_version"] == "1.0" else _Http11
        # Weak, as the cycle holds the scope: else both would wait for the garbage collector.
        self.scope["extensions"] = {CLIENT: weakref.ref(self.cycle)}  # type: ignore[dict-item]


def bounded(connections: int) -> type[Protocol]:
    """The protocol for as many clients at a time."""
    bound = Bound(connections, "the number of connections for which there are open files")
    return type("BoundedProtocol", (Protocol,), {"bound": bound})


class _Cork:
    """Stands for a transport, and holds what is written. held: what was before."""

    def __init__(self, transport: asyncio.Transport, held: bytes) -> None:
        self._transport = transport
        self.held = [held]

    def write(self, data: bytes) -> None:
        self.held.append(data)

    def flush(self) -> None:
        held, self.held = self.held, []
        self._transport.writelines(held)

    def close(self) -> None:
        self.flush()
        self._transport.close()


class _Cycle(RequestResponseCycle):
    """A request and its reply, known as a `Client`."""

    _attending: tuple[Callable[[], None], ...] = ()

    def write(self, data: bytes) -> bool:  # noqa: ARG002 - as `Client` has it
        return False

    def attend(self, tell: Callable[[], None]) -> Callable[[], None]:
        def forget() -> None:
            self._attending = tuple(other for other in self._attending if other is not tell)

        self._attending += (tell,)
        if self.disconnected:
            asyncio.get_running_loop().call_soon(tell)  # as always, in a turn of the loop's own
        else:
            self.flow.resume_reading()  # only who reads learns that the client has left
        return forget

    def lose(self) -> None:
        """The connection is lost."""
        self.disconnected = True
        self.message_event.set()
        for tell in self._attending:
            tell()


class _Http11(_Cycle):
    """A reply that takes what follows in its body at once, where nothing is to be waited for.

    Its head goes out with the body's first part: each write is a call of the system, and wakes the client. So where it
    fails before that, nothing of it was sent; and an empty part has it leave.
    """

    _head = b""

    def write(self, data: bytes) -> bool:
        if self.flow.write_paused or not self.chunked_encoding or self.response_complete or not data or self._head:
            return False
        if not self.disconnected:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    async def send(self, message: "ASGISendEvent") -> None:
        if self.response_started and not self._head:
            await super().send(message)
            return
        transport, cork = self.transport, _Cork(self.transport, self._head)
        self.transport = cast("asyncio.Transport", cork)
        try:
            await super().send(message)
        finally:
            self.transport, self._head = transport, b""
        if message["type"] == "http.response.start":
            self._head = b"".join(cork.held)
        elif not self.disconnected:
            cork.flush()


class _Http10(_Cycle):
    """A reply whose end is the connection's, which uvicorn closes after every reply to HTTP/1.0."""

    async def send(self, message: "ASGISendEvent") -> None:
        self.chunked_encoding = False
        if message["type"] == "http.response.body":
            self.expected_content_length += len(message.get("body", b""))
        await super().send(message)
