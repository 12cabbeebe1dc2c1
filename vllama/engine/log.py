"""What an engine writes: read from a pipe, kept in a file and, the last of it, in memory."""

import asyncio
import contextlib
import logging
import logging.handlers
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

_LOG_BYTES = 10 * 2**20
_LOG_FILES = 3
_TAIL_LINES = 1000
_LINE_BYTES = 16 * 1024
"""A longer line is cut into pieces of at most twice this."""


class EngineLog:
    """An engine's output: a file, rotated by size, and the last lines in memory.

    read: called with each line, and with each new state of one that overwrites itself, as progress bars do.
    """

    def __init__(self, path: Path, read: Callable[[str], None] = lambda _: None) -> None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.read = read
        self._file = logging.handlers.RotatingFileHandler(
            path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", delay=True
        )
        # A full disk must not stop the engine: the file is given up, the lines in memory go on.
        self._file.handleError = lambda _record: None  # type: ignore[assignment,method-assign]

    def write(self, line: bytes) -> None:
        """Add a line. Of what overwrote itself the last state is kept."""
        text = _last_state(line)
        self.tail.append(text)
        self._append(text)
        self.read(text)

    def note(self, text: str) -> None:
        """Add a line of the gateway's own, which is none of the engine's words."""
        self._append(f"vllama: {text}")

    def _append(self, text: str) -> None:
        self._file.emit(logging.LogRecord("engine", logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _last_state(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")


class Output:
    """The reading end of a pipe that processes write to, until `close` or until none of them is left."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.ReadTransport, log: EngineLog) -> None:
        self._reader = reader
        self._transport = transport
        self._log = log
        self._pump = asyncio.create_task(self._copy(), name=f"log-{log.path.name}")

    @classmethod
    @contextlib.asynccontextmanager
    async def piped(cls, log: EngineLog) -> AsyncIterator[tuple["Output", int]]:
        """The output, and the descriptor for others to write to, which is closed here when the block ends.

        Where the block fails the output is abandoned; `log` is closed with it in any case.
        """
        with contextlib.ExitStack() as failed, contextlib.ExitStack() as always:
            failed.callback(log.close)
            reading_end, writing_end = os.pipe()
            always.callback(os.close, writing_end)
            output = await cls._open(reading_end, log)
            failed.callback(output.abandon)
            yield output, writing_end
            failed.pop_all()

    @classmethod
    async def _open(cls, descriptor: int, log: EngineLog) -> "Output":
        reader = asyncio.StreamReader()
        file = os.fdopen(descriptor, "rb", 0)
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), file
            )
        except BaseException:
            file.close()
            raise
        return cls(reader, transport, log)

    async def close(self, seconds: float) -> None:
        """Read what is still to come, for so long at most, and close the log."""
        await asyncio.wait({self._pump}, timeout=seconds)
        self.abandon()

    def abandon(self) -> None:
        self._pump.cancel()
        self._transport.close()
        self._log.close()

    async def _copy(self) -> None:
        rest = b""
        while data := await self._reader.read(_LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._log.write(line)
            if b"\r" in rest:
                self._log.read(_last_state(rest))
        if rest:
            self._log.write(rest)
