"""One engine's processes: started under the launcher's guard, logged, watched and ended together."""

import asyncio
import contextlib
import logging
import logging.handlers
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_LOG_BYTES = 10 * 2**20
_LOG_FILES = 3
_TAIL_LINES = 1000
_LINE_BYTES = 64 * 1024


class EngineLog:
    """An engine's output: a file, rotated by size, and the last lines in memory."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.last_line_at = time.monotonic()
        self._file = logging.handlers.RotatingFileHandler(
            path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", delay=True
        )
        # A full disk must not stop the engine: the file is given up, the lines in memory go on.
        self._file.handleError = lambda _record: None  # type: ignore[assignment,method-assign]

    def write(self, line: str) -> None:
        self.last_line_at = time.monotonic()
        self.tail.append(line)
        self._file.emit(logging.LogRecord("engine", logging.INFO, "", 0, line.replace("%", "%%"), None, None))

    def close(self) -> None:
        self._file.close()


class EngineProcess:
    """A started engine. Made by `launch`; `stop` must be called in the end."""

    def __init__(self, process: asyncio.subprocess.Process, guard: int, log: EngineLog) -> None:
        self._process = process
        self._guard = guard
        self.log = log
        self._pump = asyncio.create_task(self._pump_output(), name=f"engine-log-{process.pid}")

    @classmethod
    async def launch(cls, command: Sequence[str], variables: Mapping[str, str], log: EngineLog) -> "EngineProcess":
        """Start `command` (the launcher's, without its --guard-fd) in a session of its own.

        Raises OSError where the interpreter cannot be executed.
        """
        guard_end, our_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *_with_guard(command, guard_end),
                env=dict(variables),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(guard_end,),
                start_new_session=True,
            )
        except BaseException:
            os.close(our_end)
            raise
        finally:
            os.close(guard_end)
        return cls(process, our_end, log)

    @property
    def pid(self) -> int:
        """The guard's pid, which is also the session's id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        """The exit status, once the engine has ended and its output is read."""
        status = await self._process.wait()
        await asyncio.wait([self._pump], timeout=1.0)
        return status

    async def stop(self, grace: float) -> None:
        """End every process of the engine: SIGTERM, up to `grace` seconds, SIGKILL."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace)
        os.close(self._guard)  # the guard's own signal to kill what is left
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 2.0)
        kill_session(self.pid)
        await self._process.wait()
        await asyncio.wait([self._pump], timeout=1.0)
        self._pump.cancel()
        self.log.close()

    async def _pump_output(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while data := await self._process.stdout.read(_LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self.log.write(line.decode("utf-8", "replace").rstrip("\r"))
        if rest:
            self.log.write(rest.decode("utf-8", "replace"))


def _with_guard(command: Sequence[str], descriptor: int) -> list[str]:
    split = command.index("serve") + 1
    return [*command[:split], "--guard-fd", str(descriptor), *command[split:]]


def kill_session(session: int) -> None:
    """SIGKILL every process of a session: also those that left the engine's process group."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def session_members(session: int) -> list[int]:
    """The pids of a session's processes, zombies not counted."""
    members = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members
