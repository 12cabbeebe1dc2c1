"""HTTP/1.1 as uvicorn speaks it, but with bodies that need no coroutine for each of their parts; what it lacks of
HTTP/1.0; and limits that it does not know.
"""

import asyncio
import sys
import weakref
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from vllama.overload import Bound
from vllama.streams import WRITE

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

MAX_HEAD_BYTES = 2**20
"""As Ollama's server has it. A head is kept in memory before anyone can ask who sends it."""

MOST_WAITING = 4
"""Requests that a client may send before its first one is answered: further ones are not read until then."""


class Protocol(HttpToolsProtocol):
    """uvicorn's, with an end to a request's head, and to replies for HTTP/1.0, such as nginx's: it knows no chunks.

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
        super().connection_lost(exc)  # which tells the last request alone
        for cycle in self._earlier:
            cycle.disconnected = True
            cycle.message_event.set()
        self._earlier.clear()

    def on_headers_complete(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._earlier = [cycle for cycle in self._earlier if not cycle.response_complete]
            self._earlier.append(self.cycle)
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= MOST_WAITING:
            self.flow.resume_reading()  # only who reads learns that the client has left
        self._in_head = False
        # Before anything was sent: its task has not begun to run.
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UntilClosed
        else:
            self.cycle.__class__ = _InChunks
            assert isinstance(self.cycle, _InChunks)
            # Weak, as the cycle holds the scope: else both would wait for the garbage collector.
            self.scope["extensions"] = {WRITE: weakref.WeakMethod(self.cycle.write)}  # type: ignore[dict-item]


def bounded(connections: int) -> type[Protocol]:
    """The protocol for as many clients at a time."""
    bound = Bound(connections, "the number of connections for which there are open files")
    return type("BoundedProtocol", (Protocol,), {"bound": bound})


class _InChunks(RequestResponseCycle):
    """A reply that takes what follows in its body at once, where nothing is to be waited for."""

    def write(self, data: bytes) -> bool:
        """Returns False, and takes nothing, where `send` is to decide."""
        if self.flow.write_paused or not self.chunked_encoding or self.response_complete or not data:
            return False
        if not self.disconnected:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True


class _UntilClosed(RequestResponseCycle):
    """A reply whose end is the connection's, which uvicorn closes after every reply to HTTP/1.0."""

    async def send(self, message: "ASGISendEvent") -> None:
        self.chunked_encoding = False
        if message["type"] == "http.response.body":
            self.expected_content_length += len(message.get("body", b""))
        await super().send(message)
