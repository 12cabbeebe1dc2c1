"""Bodies as they arrive: no larger than the limit, packed or not, and all together no larger than there is room."""

import asyncio
import threading
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import zstandard
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Scope

from vllama.errors import ApiError
from vllama.overload import BUSY, Bound

SMALL = 2**16
"""Bodies up to this size are always taken. Of every request the server holds as much before anyone asks for it."""
STALL_S = 60.0
"""How long a body may make no progress."""

_STEP = 1024
"""Bytes unpacked at once. The most that they can become, with zstd, is 32 MiB."""
_ZSTD_WINDOW = 2**23
"""What a zstd body's sender may make us remember: RFC 9659's limit."""
_HELD = "vllama.held"
"""Bytes of a request's body, in its scope; None once it has ended."""


class UnreadBodyError(ApiError):
    """The body was not read to its end."""


class BodyTooLargeError(UnreadBodyError):
    def __init__(self, limit: int, state: str = "") -> None:
        super().__init__(
            413, f"the request's body{state} is larger than {limit / 2**20:g} MiB: send less, or raise max_body_mb "
            "(VLLAMA_MAX_BODY_MB) on the server",
        )  # fmt: skip


class BodyMemory:
    """What the bodies of all requests hold together, but for small ones: as they arrive, unpacked, until their ends.

    most: bytes. held: by now.
    """

    def __init__(self, most: int = 2**30) -> None:
        self.held = 0
        self._bound = Bound(most, "the memory for bodies, four times max_body_mb,")
        self._lock = threading.Lock()  # bodies are unpacked in threads

    @property
    def most(self) -> int:
        return self._bound.most

    def take(self, scope: Scope, size: int) -> None:
        """Count so many more bytes for a request. Raises UnreadBodyError 503 where there is no room for them."""
        with self._lock:
            before = scope.get(_HELD, 0)
            if before is None:
                return  # the request has ended, and a thread does not know it yet
            more = _counted(before + size) - _counted(before)
            if more and self.held + more > self._bound.most:
                self._bound.note()
                raise UnreadBodyError(503, BUSY)
            self.held += more
            scope[_HELD] = before + size

    def give_back(self, scope: Scope) -> None:
        """The request has ended."""
        if _HELD in scope:
            with self._lock:
                self.held -= _counted(scope[_HELD])
                scope[_HELD] = None


def _counted(size: int) -> int:
    return size if size > SMALL else 0


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_UNPACKERS: dict[str, Callable[[], _Unpacker]] = {
    "zstd": lambda: zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj(),
    "gzip": lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS),
    "deflate": zlib.decompressobj,
}


async def read_within(request: Request, limit: int, memory: BodyMemory) -> bytes:
    """The body, unpacked, of at most `limit` bytes, which `memory` counts.

    Raises BodyTooLargeError and UnreadBodyError, before reading it where its length was given; ApiError 415 for a
    coding that is not known, 400 where the body does not follow its coding.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", *_UNPACKERS):
        raise ApiError(415, f"Content-Encoding {coding!r} is not supported: send {', '.join(_UNPACKERS)} or none")
    length = request.headers.get("content-length", "")
    if length.isdecimal():
        if int(length) > limit:
            raise BodyTooLargeError(limit)
        memory.take(request.scope, int(length))
    body = await _read(request, limit, None if length.isdecimal() else memory)
    if not body or coding not in _UNPACKERS:
        return body
    return await asyncio.to_thread(_unpack, body, coding, limit, lambda size: memory.take(request.scope, size))


async def _read(request: Request, limit: int, memory: BodyMemory | None) -> bytes:
    """memory: to count what comes, where its length was not given."""
    chunks, size = [], 0
    async with aclosing(pieces(request, STALL_S)) as body:
        async for chunk in body:
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise BodyTooLargeError(limit)
            if memory is not None:
                memory.take(request.scope, len(chunk))
    return b"".join(chunks)


async def pieces(request: Request, seconds: float) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises as `receive` does."""
    more = True
    while more:
        message = await receive(request, seconds)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def receive(request: Request, seconds: float) -> Message:
    """What comes of a body. Raises UnreadBodyError 408 where that is nothing for so long."""
    try:
        async with asyncio.timeout(seconds):
            return await request.receive()
    except TimeoutError:
        raise UnreadBodyError(408, f"no byte of the request's body came for {seconds:g} s: send it again") from None


def _unpack(packed: bytes, coding: str, limit: int, take: Callable[[int], None]) -> bytes:
    unpacker = _UNPACKERS[coding]()
    parts, size = [], 0
    try:
        for start in range(0, len(packed), _STEP):
            parts.append(unpacker.decompress(packed[start : start + _STEP]))
            size += len(parts[-1])
            if size > limit:
                raise BodyTooLargeError(limit, ", unpacked,")
            take(len(parts[-1]))
            if unpacker.eof:
                break
    except (zlib.error, zstandard.ZstdError) as error:
        raise ApiError(400, f"the request's body is not {coding}, as its Content-Encoding says: {error}") from None
    if not unpacker.eof:
        raise ApiError(400, f"the request's body ends before its {coding} data does")
    if unpacker.unused_data or start + _STEP < len(packed):
        raise ApiError(400, f"the request's body goes on after its {coding} data")
    return b"".join(parts)
