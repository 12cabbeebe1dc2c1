"""As much of HTTP/1.1 as the benchmarks' own servers need: requests that tell their length, replies in chunks."""

import argparse
import asyncio
import gc
import re
from collections.abc import Callable
from pathlib import Path

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

LAST_CHUNK = b"0\r\n\r\n"


class Requests:
    """Fed with what comes on one connection, it gives each request that is whole: its head, and its body."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        self._data += data
        found = []
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._data, 0, end)
            last = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < last:
                break
            found.append((self._data[:end], self._data[end + 4 : last]))
            self._data = self._data[last:]
        return found


def post(path: str, body: bytes) -> bytes:
    """A request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def serve(make: Callable[[], asyncio.Protocol], unix: Path | None, port: int | None) -> None:
    """Answer on a Unix socket, a port of 127.0.0.1, or both, until this process is ended."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        if unix is not None:
            await loop.create_unix_server(make, str(unix), backlog=1024)
        if port is not None:
            await loop.create_server(make, "127.0.0.1", port, backlog=1024)
        await asyncio.Event().wait()

    # What is made once stays, and answers leave no cycles behind: pauses would be measured as the relay's.
    gc.freeze()
    gc.disable()
    uvloop.run(run())


def listening_options(text: str | None) -> argparse.ArgumentParser:
    """The command line of a server of the benchmarks."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--unix", type=Path, help="socket to listen on")
    found.add_argument("--port", type=int, help="port of 127.0.0.1 to listen on")
    return found
