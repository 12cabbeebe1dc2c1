"""How replies leave: NDJSON, Server-Sent Events or one JSON object, also where the client does not wait for its end."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vllama.errors import ApiError

T = TypeVar("T")

STOPPING = "the server is stopping: send the request again later"

Lines = AsyncGenerator[list[bytes], None]
"""JSON texts; those that came together leave together."""

LINGER_S = 2.0
"""How long a client whose body is too large may go on sending before its connection is closed."""

_EVENTS = re.compile(r"\s*text/event-stream\s*(;|$)")
_LINES = re.compile(r"\s*application/x-ndjson\s*(;|$)")
_UNWANTED = re.compile(r";\s*q\s*=\s*0(\.0*)?\s*(;|$)")


class ClientLeft(Exception):  # noqa: N818 - no error of anybody's
    """The client closed its connection before its reply was ready."""


class JSONResponse(Response):
    """One JSON object, encoded by msgspec."""

    media_type = "application/json; charset=utf-8"

    def __init__(self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(msgspec.json.encode(content), status_code, headers)


def accepts_events(request: Request) -> bool:
    """Whether the client asks for Server-Sent Events. Ollama's clients expect NDJSON, also those that name both."""
    kinds = ",".join(request.headers.getlist("accept")).lower().split(",")
    wanted = [kind for kind in kinds if not _UNWANTED.search(kind)]
    return any(map(_EVENTS.match, wanted)) and not any(map(_LINES.match, wanted))


async def stream(request: Request, lines: Lines) -> Response:
    """A streamed response. The first lines are waited for: an error before them still gets a status of its own."""
    media_type, frame = "application/x-ndjson", _as_lines
    if accepts_events(request):
        media_type, frame = "text/event-stream", _as_events
    last_words = frame([msgspec.json.encode({"error": STOPPING})])
    return await begin(request, _framed(lines, frame), media_type, last_words)


async def begin(
    request: Request, chunks: AsyncGenerator[bytes, None], media_type: str, last_words: bytes
) -> "StreamResponse":
    """A streamed response whose first chunk is there. Where there will be none, `chunks` is closed."""
    try:
        first = await until_client_leaves(request, anext(chunks, b""))
    except BaseException:
        await chunks.aclose()
        raise
    return StreamResponse(chunks, media_type, first=first, last_words=last_words)


async def until_client_leaves(request: Request, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
    """Do the work, or cancel it and raise ClientLeft as soon as the client is gone. The body must have been read.

    Raises ApiError 503 when cancelled: the server does that to what still waits when its time to drain is over.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_left(request.receive))
    try:
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientLeft
            return task.result()
        finally:
            await _cancel(task, leaving)
    except asyncio.CancelledError:
        raise ApiError(503, STOPPING) from None


class StreamResponse(Response):
    """Relays chunks as they come and stops, closing their source, when the client leaves.

    first: what was taken from `chunks` already. A generator that has not begun would not run what its end closes.
    last_words: what ends the stream when the server stops before it is through.
    """

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], media_type: str, *, first: bytes = b"", last_words: bytes
    ) -> None:
        super().__init__(None, headers={"Cache-Control": "no-cache"}, media_type=media_type)
        self._first = first
        self._chunks = chunks
        self._last_words = last_words
        # Response counted an empty body; this one has no length yet.
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async with contextlib.aclosing(self._chunks):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_body(receive, send)

    async def _send_body(self, receive: Receive, send: Send) -> None:
        relay = asyncio.create_task(self._relay(send))
        leaving = asyncio.create_task(_client_left(receive))
        try:
            await asyncio.wait({relay, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
        except asyncio.CancelledError:
            # The server cancels what still runs when its time to drain is over; the client is owed a proper end.
            if not relay.done():
                await _cancel(relay)
                await send({"type": "http.response.body", "body": self._last_words, "more_body": False})
        finally:
            await _cancel(relay, leaving)

    async def _relay(self, send: Send) -> None:
        if self._first:
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Unread(Response):
    """A response to a client that may still be sending its body, which nobody reads.

    What it sends is thrown away for a while: closing at once would make its system forget the response.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code, dict(response.headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await _throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class HangUp(Unread):
    """One after which the connection is closed."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.headers["Connection"] = "close"


async def _framed(lines: Lines, frame: Callable[[list[bytes]], bytes]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(lines):
        async for batch in lines:
            yield frame(batch)


def _as_lines(batch: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in batch)


def _as_events(batch: list[bytes]) -> bytes:
    return b"".join(b"data: " + line + b"\n\n" for line in batch)


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _throw_away(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass
