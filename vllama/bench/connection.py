"""HTTP/1.1 for measuring: one request after another on a connection, and its answer handed on as it comes.

An HTTP client of general use spends more CPU on each read than a small engine on its token.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import httptools

from vllama.engine.address import Address, read_address

_CONNECT_S = 10.0
_SILENCE_S = 300.0
"""An answer of which nothing comes for so long is given up."""

Take = Callable[[bytes, float], None]
"""Gets what one read brought of a body, and when: seconds of `time.perf_counter`."""


class LostError(Exception):
    """There was no answer: the text says why."""


@dataclass(frozen=True)
class Target:
    """A server. url: `http(s)://host:port[/path]` or `unix:/path`. key: sent as a Bearer token, if given."""

    url: str
    key: str = ""

    def request(self, path: str, body: bytes) -> bytes:
        """The bytes of a POST of JSON."""
        key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {self._address.prefix}{path} HTTP/1.1\r\nHost: {self._address.authority}\r\n"
            f"Content-Type: application/json\r\n{key}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def connect(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Raises OSError."""
        async with asyncio.timeout(_CONNECT_S):
            await self._address.connect(make)

    @cached_property
    def _address(self) -> Address:
        return read_address(self.url)


class _Exchange:
    """One request on its way: what the parser calls, and the future of the answer's status.

    reusable: whether its connection takes another request afterwards.
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._is_over = False
        self.reusable = False
        self._heard = time.perf_counter()
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle

    def watch(self) -> None:
        """Give up once nothing has come for too long."""
        rest = self._heard + _SILENCE_S - time.perf_counter()
        if rest <= 0:
            self.fail(f"nothing came for {_SILENCE_S:.0f} s")
        self.timer = asyncio.get_running_loop().call_later(max(rest, 0.0), self.watch)

    def feed(self, data: bytes) -> None:
        self._heard = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"what came is not HTTP: {error}")
            return
        if self._body:
            self._take(b"".join(self._body), self._heard)
            self._body.clear()
        if self._is_over:
            self.finish()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._is_over = True
        self.reusable = self._parser.should_keep_alive()

    def finish(self) -> None:
        """The answer is over, or has broken off, or never began."""
        if self.end.done():
            return
        if status := self._parser.get_status_code():
            self.end.set_result(status)
        else:
            self.fail("the server closed the connection")

    def fail(self, why: str) -> None:
        if not self.end.done():
            self.end.set_exception(LostError(why))


class Connection(asyncio.Protocol):
    """To a target; opened where it is not, also after the server has closed it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._transport: asyncio.Transport | None = None
        self._exchange: _Exchange | None = None

    async def open(self) -> None:
        """Raises LostError."""
        if self._transport is not None and not self._transport.is_closing():
            return
        try:
            await self._target.connect(lambda: self)
        except TimeoutError:
            raise LostError("could not connect in time") from None
        except OSError as error:
            raise LostError(f"could not connect: {error.strerror or error}") from None

    async def ask(self, request: bytes, take: Take) -> int:
        """Send a request, give its answer's body to `take`; returns the status at its end.

        A body that breaks off just ends: whether it was complete, its content says. Raises LostError.
        """
        await self.open()
        assert self._transport is not None
        self._exchange = exchange = _Exchange(take)
        self._transport.write(request)
        exchange.watch()
        try:
            status = await exchange.end
        except BaseException:
            self.close()
            raise
        finally:
            exchange.timer.cancel()
            self._exchange = None
        if not exchange.reusable:
            self.close()
        return status

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.feed(data)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        if self._exchange is not None:
            self._exchange.finish()
