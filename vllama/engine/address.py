"""Where an engine listens, and how one gets there."""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlsplit

from vllama.errors import EngineGoneError

P = TypeVar("P", bound=asyncio.Protocol)

_BACKLOG_S = 0.02
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """host, port: of a TCP server. socket: the path of a Unix one, instead. prefix: what all paths begin with."""

    host: str = "engine"
    port: int = 0
    tls: bool = False
    socket: str = ""
    prefix: str = ""

    @property
    def authority(self) -> str:
        """As the header `Host` has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (0, _PORTS["https" if self.tls else "http"]) else f"{host}:{self.port}"

    async def connect(self, make: Callable[[], P]) -> P:
        """A connection's protocol, made by `make`. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.socket:
            _, protocol = await loop.create_unix_connection(make, sock=await _unix_socket(self.socket))
            return protocol
        tls = await asyncio.to_thread(_tls) if self.tls else None
        _, protocol = await loop.create_connection(make, self.host, self.port, ssl=tls)
        return protocol


def read_address(url: str) -> Address:
    """url: `unix:/path` or `http(s)://host:port[/path]`. Raises EngineGoneError for what is no such address."""
    if url.startswith("unix:"):
        return Address(socket=url.removeprefix("unix:"))
    with contextlib.suppress(ValueError):  # a port that is none, a host that cannot be a name
        parts = urlsplit(url)
        if parts.scheme in _PORTS and parts.hostname:
            host = parts.hostname.encode("idna").decode()
            prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
            return Address(host, parts.port or _PORTS[parts.scheme], parts.scheme == "https", prefix=prefix)
    raise EngineGoneError(f"the engine cannot be reached ({url!r} is no address)")


async def _unix_socket(path: str) -> socket.socket:
    """A connected one. Where the server's backlog is full, it is asked again until it has room.

    That is no error that an event loop would wait for: it takes such a socket for a connected one.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        while True:
            try:
                connection.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_BACKLOG_S)
            else:
                return connection
    except BaseException:
        connection.close()
        raise


@functools.cache
def _tls() -> ssl.SSLContext:
    """Trusts the authorities that the system does. Reading their certificates takes some 10 ms: a thread's work."""
    return ssl.create_default_context()
