"""How replies leave: NDJSON, Server-Sent Events or one JSON object, and what happens when the client leaves first."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

Lines = AsyncGenerator[list[bytes], None]
"""JSON texts; those that came together leave together."""


class ClientLeft(Exception):  # noqa: N818 - no error of anybody's
    """The client closed its connection before its reply was ready."""


class JSONResponse(Response):
    """One JSON object, encoded by msgspec."""

    media_type = "application/json; charset=utf-8"

    def __init__(self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(msgspec.json.encode(content), status_code, headers)


def accepts_events(request: Request) -> bool:
    """Whether the client asks for Server-Sent Events; every Ollama client expects NDJSON."""
    return "text/event-stream" in request.headers.get("accept", "")


async def stream(request: Request, lines: Lines) -> Response:
    """A streamed response. The first lines are waited for: an error before them still gets a status of its own."""
    events = accepts_events(request)
    chunks = _framed(lines, _as_events if events else _as_lines)
    first = await until_client_leaves(request, anext(chunks, b""))
    return StreamResponse(chunks, "text/event-stream" if events else "application/x-ndjson", first=first)


async def until_client_leaves(request: Request, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
    """Do the work, or cancel it and raise ClientLeft as soon as the client is gone. The body must have been read."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_left(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        await _cancel(task, leaving)


class StreamResponse(Response):
    """Relays chunks as they come and stops, closing their source, when the client leaves.

    first: what was taken from `chunks` already. A generator that has not begun would not run what its end closes.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], media_type: str, *, first: bytes = b"") -> None:
        super().__init__(None, headers={"Cache-Control": "no-cache"}, media_type=media_type)
        self._first = first
        self._chunks = chunks
        # Response counted an empty body; this one has no length yet.
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        relay = asyncio.create_task(self._relay(send))
        leaving = asyncio.create_task(_client_left(receive))
        try:
            await asyncio.wait({relay, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
        finally:
            await _cancel(relay, leaving)
            await self._chunks.aclose()

    async def _relay(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if self._first:
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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
