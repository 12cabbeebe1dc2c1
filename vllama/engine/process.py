"""One engine's processes: started under the launcher's guard, logged, watched and ended together."""

import asyncio
import contextlib
import logging
import logging.handlers
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_LOG_BYTES = 10 * 2**20
_LOG_FILES = 3
_TAIL_LINES = 1000
_LINE_BYTES = 16 * 1024
"""A longer line is cut into pieces of at most twice this."""
_KILL_S = 10.0
"""For the guard to see everything end: a killed process first gives its GPU memory back."""


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
        self._file.emit(logging.LogRecord("engine", logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class EngineProcess:
    """A started engine. Made by `launch`; ends with everything that belongs to it, by itself or by `stop`.

    ending: set as soon as its server is gone, while the guard still ends what the server has left.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, guard: socket.socket, output: "_Output", log: EngineLog
    ) -> None:
        self._process = process
        self._guard: socket.socket | None = guard
        self._output = output
        self.log = log
        self.ending = asyncio.Event()
        asyncio.get_running_loop().add_reader(guard, self._on_guard_closed)
        self._pump = asyncio.create_task(self._pump_output(), name=f"engine-log-{process.pid}")
        self._end = asyncio.create_task(self._until_ended(), name=f"engine-end-{process.pid}")

    @classmethod
    async def launch(cls, command: Sequence[str], variables: Mapping[str, str], log: EngineLog) -> "EngineProcess":
        """Start `command` (the launcher's, without its --guard-fd) in a session of its own.

        Raises OSError where the interpreter cannot be executed.
        """
        with contextlib.ExitStack() as started, contextlib.ExitStack() as always:
            guard_end, guard = socket.socketpair()
            always.callback(guard_end.close)
            started.callback(guard.close)
            # A pipe of our own: asyncio's would make waiting for the process wait for whoever holds its output.
            output_end, writing_end = os.pipe()
            always.callback(os.close, writing_end)
            output = await _Output.open(output_end)
            started.callback(output.close)
            process = await asyncio.create_subprocess_exec(
                *_with_guard(command, guard_end.fileno()),
                env=dict(variables),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing_end,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(guard_end.fileno(),),
                start_new_session=True,
            )
            started.pop_all()
        return cls(process, guard, output, log)

    @property
    def pid(self) -> int:
        """The guard's pid, which is also the session's id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        """The exit status, once nothing of the engine is left and its output is read."""
        return await asyncio.shield(self._end)

    async def stop(self, grace: float) -> None:
        """End every process of the engine: SIGTERM, up to `grace` seconds, SIGKILL.

        Raises TimeoutError where even then one does not end, as in a driver that hangs.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        if await self._ends_within(grace):
            return
        self._close_guard()
        if not await self._ends_within(_KILL_S):
            kill_session(self.pid)
            async with asyncio.timeout(_KILL_S):
                await self.wait()

    async def _ends_within(self, seconds: float) -> bool:
        return bool((await asyncio.wait({self._end}, timeout=seconds))[0])

    async def _until_ended(self) -> int:
        status = await self._process.wait()
        kill_session(self.pid)  # nothing is left, unless the guard itself was killed
        await asyncio.wait({self._pump}, timeout=1.0)
        self._pump.cancel()
        self._output.close()
        self._close_guard()
        self.log.close()
        return status

    def _on_guard_closed(self) -> None:
        assert self._guard is not None
        asyncio.get_running_loop().remove_reader(self._guard)
        self.ending.set()

    def _close_guard(self) -> None:
        """The guard's signal to kill the engine."""
        guard, self._guard = self._guard, None
        if guard is not None:
            asyncio.get_running_loop().remove_reader(guard)
            guard.close()
        self.ending.set()

    async def _pump_output(self) -> None:
        rest = b""
        while data := await self._output.reader.read(_LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self.log.write(line)
                self.log.read(_last_state(line))
            if b"\r" in rest:
                self.log.read(_last_state(rest))
        if rest:
            self.log.write(rest)


def _last_state(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")


@dataclass(frozen=True)
class _Output:
    """The reading end of a pipe."""

    reader: asyncio.StreamReader
    transport: asyncio.ReadTransport

    @classmethod
    async def open(cls, descriptor: int) -> "_Output":
        reader = asyncio.StreamReader()
        file = os.fdopen(descriptor, "rb", 0)
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), file
            )
        except BaseException:
            file.close()
            raise
        return cls(reader, transport)

    def close(self) -> None:
        self.transport.close()


def _with_guard(command: Sequence[str], descriptor: int) -> list[str]:
    split = command.index("serve") + 1
    return [*command[:split], "--guard-fd", str(descriptor), *command[split:]]


def kill_session(session: int) -> None:
    """SIGKILL every process of a session: also those that left the engine's process group."""
    killed: set[int] = set()
    while found := set(session_members(session)) - killed:  # again, for what was forked meanwhile
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found


def session_members(session: int) -> list[int]:
    """The pids of a session's processes, zombies not counted."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
    return members


def resident(session: int) -> int:
    """Bytes of RAM that a session's processes hold: of pages that are shared with others, as a fork's are, their part.

    Pages of files are not counted, which the kernel drops where it needs room.
    """
    return sum(map(_held, session_members(session)))


def _held(pid: int) -> int:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        shares = [int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
        if shares:
            return 1024 * sum(shares)
    with contextlib.suppress(psutil.Error):  # an old kernel, or a process that may not be looked into
        memory = psutil.Process(pid).memory_info()
        return int(memory.rss - memory.shared)
    return 0
