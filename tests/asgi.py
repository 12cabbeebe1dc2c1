"""Requests to an ASGI app with no server between: quick, and a client may leave whenever a test wants it to."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Message

from vllama.framing import CLIENT

HANGS_AFTER_S = 20.0


@dataclass
class Visit:
    """One POST. status, headers, body: the reply as far as it came. `leave` closes the client's connection."""

    app: ASGIApp
    path: str
    sent: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    _taken: bool = False
    _left: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> "Visit":
        """Raises what the app raises, and TimeoutError where it hangs."""
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": self.path, "raw_path": self.path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"host", b"127.0.0.1:11434"), (b"content-length", str(len(self.sent)).encode())],
            "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 11434),
        }  # fmt: skip
        async with asyncio.timeout(HANGS_AFTER_S):
            await self.app(scope, self._receive, self._send)
        return self

    def leave(self) -> None:
        self._left.set()

    def json(self) -> Any:
        return json.loads(self.body)

    async def _receive(self) -> Message:
        if not self._taken:
            self._taken = True
            return {"type": "http.request", "body": self.sent, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        await asyncio.sleep(0)  # a place to be cancelled, as a server's is that waits for a slow client


async def post(app: ASGIApp, path: str, body: bytes) -> Visit:
    return await Visit(app, path, body).run()


class Leaving(asyncio.Event):
    """That a client leaves; `attending` are told so, as our own server tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.attending: list[Callable[[], None]] = []

    def set(self) -> None:
        super().set()
        asyncio.get_running_loop().call_soon(self._tell)  # a connection is lost in a turn of the loop's own

    def _tell(self) -> None:
        for tell in [*self.attending]:
            tell()

    def attend(self, tell: Callable[[], None]) -> Callable[[], None]:
        self.attending.append(tell)
        if self.is_set():
            asyncio.get_running_loop().call_soon(self._tell)
        return lambda: self.attending.remove(tell)

    def write(self, _data: bytes) -> bool:
        return False


class Client:
    """Both ends of one connection, of which nothing comes but that it is `left`. sent: what it received.

    of_our_server: whether the server has our extension of ASGI.
    """

    of_our_server = False

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": "/", "headers": [*headers], "query_string": b"",
        }  # fmt: skip
        self.sent: list[Message] = []
        self.left = Leaving()
        if self.of_our_server:
            self.scope["extensions"] = {CLIENT: lambda: self.left}
        self.request = Request(self.scope, self.receive)

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


@pytest.fixture(params=[False, True], ids=["any server", "our server"])
def of_any_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "of_our_server", request.param)
