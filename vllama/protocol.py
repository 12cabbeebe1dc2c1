"""HTTP/1.1 as uvicorn speaks it, and what it lacks of HTTP/1.0."""

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class Protocol(HttpToolsProtocol):
    """uvicorn's, but for clients of HTTP/1.0, such as nginx as it is configured by default: they know no chunks."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UntilClosed  # before anything was sent: its task has not begun to run


class _UntilClosed(RequestResponseCycle):
    """A reply whose end is the connection's, which uvicorn closes after every reply to HTTP/1.0."""

    async def send(self, message: ASGISendEvent) -> None:
        self.chunked_encoding = False
        if message["type"] == "http.response.body":
            self.expected_content_length += len(message.get("body", b""))
        await super().send(message)
