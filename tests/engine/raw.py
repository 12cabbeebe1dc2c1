"""Both ends of a connection, as tests lead them byte by byte."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from vllama.engine.address import Address
from vllama.engine.http import Connection
from vllama.engine.pool import Pool
from vllama.engine.response import Response


class Wire(asyncio.Transport):
    """A transport that leads nowhere. unsent: bytes that the peer does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_reading_ = True
        self.is_aborted = False
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    def pause_reading(self) -> None:
        assert self.is_reading_, "twice"
        self.is_reading_ = False

    def resume_reading(self) -> None:
        assert not self.is_reading_, "twice"
        self.is_reading_ = True

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Line:
    """A connection over a wire, and who owns it. free: whether it may be asked again."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.free = self.is_lost = False
        self.connection = Connection(self)
        self.connection.connection_made(self.wire)

    def released(self, connection: Connection) -> None:
        assert not self.free
        self.free = True

    def lost(self, connection: Connection) -> None:
        self.free, self.is_lost = False, True

    async def ask(self, *arguments: Any) -> "asyncio.Task[Response]":
        """A request that has been written."""
        self.free = False
        asking = asyncio.create_task(self.connection.ask(b"GET / HTTP/1.1\r\n\r\n", *arguments))
        await asyncio.sleep(0)
        return asking

    def say(self, *pieces: bytes) -> None:
        """As the engine."""
        for piece in pieces:
            if not self.wire.is_aborted:
                self.connection.data_received(piece)

    def hang_up(self, error: Exception | None = None) -> None:
        if not self.wire.is_aborted:
            if error is None:
                self.connection.eof_received()
            self.connection.connection_lost(error)


class Peer:
    """One connection, at the engine's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)

    def say(self, text: bytes) -> None:
        self.writer.write(text)

    def answer(self, body: bytes = b"") -> None:
        self.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async def left(self) -> None:
        """Return when the other end has gone."""
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self.reader.read(2**16), 20):
                pass

    def close(self) -> None:
        self.writer.close()


class RawServer:
    """Waits to be told what to say."""

    def __init__(self, path: Path) -> None:
        self.address = Address(socket=str(path))
        self.accepted = 0
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def accept(self) -> Peer:
        return await asyncio.wait_for(self._peers.get(), 20)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["RawServer"]:
        peers: list[Peer] = []

        def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.accepted += 1
            peers.append(Peer(reader, writer))
            self._peers.put_nowait(peers[-1])

        server = await asyncio.start_unix_server(welcome, self.address.socket)
        try:
            yield self
        finally:
            server.close()
            for peer in peers:
                peer.writer.transport.abort()
            await server.wait_closed()


def in_use(pool: Pool) -> int:
    """How many connections."""
    return len(pool._connections) - len(pool._idle)
