"""A bare relay in Python: what a token costs it is what the event loop needs, and a parser of HTTP.

    python -m benchmarks._floor --engine PATH --port PORT

For each connection of a client it holds one to the engine. A request's body goes there as it is, whatever path it came
on. Of the reply httptools takes the chunks apart; the data of the events that came in one read becomes lines, which
leave in one chunk and one write, so that what arrives together is sent together.

What it does not do: decode or encode JSON, translate, look at the engine's status or headers, name models, check
anything, tell of errors, time out, log, or share connections to the engine between clients. Bytes are held back where a
client is slow, and a client that leaves ends its request. A gateway does all of that beside it.
"""

import asyncio
import sys
from collections import deque
from pathlib import Path
from typing import cast

import httptools

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._wire import LAST_CHUNK, Requests, chunk, listening_options, post, serve

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream(asyncio.Protocol):
    """The connection to the engine."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._rest = b""
        self._complete = False

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._complete = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        *events, self._rest = (self._rest + b"".join(self._body)).split(b"\n\n")
        self._body.clear()
        if events:
            self._client.write(chunk(b"".join([event[6:] + b"\n" for event in events])))
        if self._complete:
            self._client.write(LAST_CHUNK)
            self._parser = httptools.HttpResponseParser(self)
            self._complete = False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._client.close()


class Client(asyncio.Protocol):
    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._requests = Requests()
        self._waiting = deque[bytes]()
        self._transport: asyncio.Transport
        self._upstream: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        connected = asyncio.get_running_loop().create_unix_connection(lambda: Upstream(self._transport), self._engine)
        self._upstream, _ = await connected
        self._upstream.writelines(self._waiting)

    def data_received(self, data: bytes) -> None:
        for _, body in self._requests.feed(data):
            self._transport.write(_HEAD)
            asked = post("/v1/chat/completions", body)
            if self._upstream is None:
                self._waiting.append(asked)
            else:
                self._upstream.write(asked)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._upstream is not None:
            self._upstream.close()

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()


if __name__ == "__main__":
    options = listening_options(__doc__)
    options.add_argument("--engine", required=True, help="the engine's socket")
    arguments = options.parse_args()
    serve(lambda: Client(arguments.engine), arguments.unix, arguments.port)
