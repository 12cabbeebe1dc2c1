"""HTTP/1.1 as uvicorn speaks it, what it lacks of HTTP/1.0, and limits that it does not know."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from vllama.overload import Bound

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

MAX_HEAD_BYTES = 2**20
"""As Ollama's server has it. A head is kept in memory before anyone can ask who sends it."""


class Protocol(HttpToolsProtocol):
    """uvicorn's, with an end to a request's head, and to replies for HTTP/1.0, such as nginx's: it knows no chunks.

    bound: on connections. More are closed at once, while there are files left to open.
    """

    bound = Bound(sys.maxsize, "connections")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0

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

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UntilClosed  # before anything was sent: its task has not begun to run


def bounded(connections: int) -> type[Protocol]:
    """The protocol for as many clients at a time."""
    bound = Bound(connections, "the number of connections for which there are open files")
    return type("BoundedProtocol", (Protocol,), {"bound": bound})


class _UntilClosed(RequestResponseCycle):
    """A reply whose end is the connection's, which uvicorn closes after every reply to HTTP/1.0."""

    async def send(self, message: "ASGISendEvent") -> None:
        self.chunked_encoding = False
        if message["type"] == "http.response.body":
            self.expected_content_length += len(message.get("body", b""))
        await super().send(message)
