"""One engine's processes: started under the launcher's guard, logged, watched and ended together."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Awaitable, Mapping, Sequence

import psutil

from vllama.engine.log import EngineLog, Output
from vllama.engine.memory import pss
from vllama.engine.standby import Standby

_KILL_S = 10.0
"""For the guard to see everything end: a killed process first gives its GPU memory back."""
_KILL_POLL_S = 0.01
_LAST_OUTPUT_S = 1.0
_LAST_WORDS_S = 0.3
"""For what a server wrote before its end to be read."""
_STATUS = re.compile(rb"status (\d+)\n")


class EngineProcess:
    """A started engine. Made by `launch`; ends with everything that belongs to it, by itself or by `stop`.

    pid: the guard's, which is also the session's id. returncode: None until it has ended. ending: set as soon as its
    server is gone, while the guard still ends what the server has left.
    """

    def __init__(self, pid: int, guard: "Guard", end: Awaitable[int], output: Output, log: EngineLog) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.log = log
        self._guard = guard
        self._output = output
        self._end = asyncio.create_task(self._until_ended(end), name=f"engine-end-{pid}")

    @property
    def ending(self) -> asyncio.Event:
        return self._guard.gone

    @classmethod
    async def launch(
        cls, command: Sequence[str], variables: Mapping[str, str], log: EngineLog, standby: Standby | None = None
    ) -> "EngineProcess":
        """Start `command` (the launcher's, without its --guard-fd) in a session of its own. `log` is closed with it.

        standby: who forks it. Raises OSError where the interpreter cannot be executed, StandbyError where the standby
        does not fork it.
        """
        guard_end, ours = socket.socketpair()
        with guard_end, contextlib.ExitStack() as failed:
            guard = Guard(ours)
            failed.callback(guard.close)
            # A pipe of our own: asyncio's would make waiting for the process wait for whoever holds its output.
            async with Output.piped(log) as (output, writing_end):
                if standby is not None:
                    pid = await standby.fork(_arguments(command), variables, guard_end.fileno(), writing_end)
                    end: Awaitable[int] = guard.wait(pid)
                else:
                    process = await asyncio.create_subprocess_exec(
                        *_with_guard(command, guard_end.fileno()),
                        env=dict(variables),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=writing_end,
                        stderr=asyncio.subprocess.STDOUT,
                        pass_fds=(guard_end.fileno(),),
                        start_new_session=True,
                    )
                    pid, end = process.pid, process.wait()
            failed.pop_all()
        return cls(pid, guard, end, output, log)

    async def wait(self) -> int:
        """The exit status, once nothing of the engine is left and its output is read."""
        return await asyncio.shield(self._end)

    async def last_words(self) -> int | None:
        """The exit status of a server that is gone, when the log has what it wrote; None where nobody knows it yet."""
        await asyncio.wait({self._end}, timeout=_LAST_WORDS_S)
        return self.returncode if self._end.done() else self._guard.status

    async def stop(self, grace: float) -> None:
        """End every process of the engine: SIGTERM, up to `grace` seconds, SIGKILL.

        Raises TimeoutError where even then one does not end, as in a driver that hangs.
        """
        if not self._guard.gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        if await self._ends_within(grace):
            return
        self._guard.order_end()
        if not await self._ends_within(_KILL_S):
            kill_session(self.pid)
            async with asyncio.timeout(_KILL_S):
                await self.wait()

    async def kill(self) -> int | None:
        """End it at once, though its guard may be stopped or hang. None where even that does not end it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
        with contextlib.suppress(TimeoutError):
            await self.stop(0.0)
        return self.returncode

    async def _ends_within(self, seconds: float) -> bool:
        return bool((await asyncio.wait({self._end}, timeout=seconds))[0])

    async def _until_ended(self, end: Awaitable[int]) -> int:
        status = await end
        await _end_session(self.pid)
        await self._output.close(_LAST_OUTPUT_S)
        self._guard.close()
        self.returncode = status
        return status


class Guard:
    """The gateway's end of the guard's socket. gone: set as soon as the server is, at the latest with the guard."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._told = b""
        self._over = asyncio.Event()
        self.gone = asyncio.Event()
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end, self._read)

    async def wait(self, pid: int) -> int:
        """The exit status of a guard that is no child of ours, once it is gone: SIGKILL's where it did not tell."""
        await self._over.wait()
        with contextlib.suppress(ChildProcessError):  # it is ours only where its parent died and we adopt orphans
            os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
        return self.status if self.status is not None else 128 + signal.SIGKILL  # it ordered the killing, or was killed

    @property
    def status(self) -> int | None:
        """The server's, as a shell tells it, once it is known."""
        told = _STATUS.match(self._told)
        return int(told[1]) if told else None

    def order_end(self) -> None:
        """Have the guard kill the engine."""
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """The guard kills the engine, and is not heard of any more."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self.gone.set()

    def _read(self) -> None:
        try:
            data = self._socket.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._told += data
        if not data:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._over.set()
        if not data or self.status is not None:
            self.gone.set()


async def _end_session(session: int) -> None:
    """Return when nobody is left. That takes a moment, as for a guard that ends; more only where it was killed."""
    deadline = time.monotonic() + _KILL_S
    while session_members(session) and time.monotonic() < deadline:
        await asyncio.sleep(_KILL_POLL_S)
        kill_session(session)


def _arguments(command: Sequence[str]) -> list[str]:
    """The launcher's own, without the interpreter and what it runs."""
    return list(command[command.index("serve") :])


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
    """Bytes of RAM that a session's processes hold, what they share with others divided among them."""
    return sum(map(pss, session_members(session)))
