"""Bodies as they arrive: no larger than the limit, packed or not."""

import asyncio
import contextlib
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vllama.errors import ApiError

LINGER_S = 2.0
"""How long a client whose body is too large may go on sending before its connection is closed."""

_STEP = 1024
"""Bytes unpacked at once. The most that they can become, with zstd, is 32 MiB."""
_ZSTD_WINDOW = 2**23
"""What a zstd body's sender may make us remember: RFC 9659's limit."""


class BodyTooLargeError(ApiError):
    """The body was not read to its end."""

    def __init__(self, limit: int, state: str = "") -> None:
        super().__init__(
            413, f"the request's body{state} is larger than {limit / 2**20:g} MiB: send less, or raise max_body_mb "
            "(VLLAMA_MAX_BODY_MB) on the server",
        )  # fmt: skip


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


async def read_within(request: Request, limit: int) -> bytes:
    """The body, unpacked, of at most `limit` bytes.

    Raises BodyTooLargeError, before reading it where its length was given; ApiError 415 for a coding that is not known,
    400 where the body does not follow its coding.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", *_UNPACKERS):
        raise ApiError(415, f"Content-Encoding {coding!r} is not supported: send {', '.join(_UNPACKERS)} or none")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise BodyTooLargeError(limit)
    body = await _read(request, limit)
    return await asyncio.to_thread(_unpack, body, coding, limit) if body and coding in _UNPACKERS else body


async def _read(request: Request, limit: int) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(limit)
    return b"".join(chunks)


def _unpack(packed: bytes, coding: str, limit: int) -> bytes:
    unpacker = _UNPACKERS[coding]()
    parts, size = [], 0
    try:
        for start in range(0, len(packed), _STEP):
            parts.append(unpacker.decompress(packed[start : start + _STEP]))
            size += len(parts[-1])
            if size > limit:
                raise BodyTooLargeError(limit, ", unpacked,")
            if unpacker.eof:
                break
    except (zlib.error, zstandard.ZstdError) as error:
        raise ApiError(400, f"the request's body is not {coding}, as its Content-Encoding says: {error}") from None
    if not unpacker.eof:
        raise ApiError(400, f"the request's body ends before its {coding} data does")
    if unpacker.unused_data or start + _STEP < len(packed):
        raise ApiError(400, f"the request's body goes on after its {coding} data")
    return b"".join(parts)


class HangUp(Response):
    """A response after which the connection is closed, though the client may still be sending its body.

    What it sends is thrown away for a while: closing at once would make its system forget the response.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code, {**response.headers, "Connection": "close"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await _throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass
