"""A process that has imported vLLM and forks engines: kept parked beside the gateway, replaced when it dies."""

import asyncio
import contextlib
import enum
import json
import logging
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllama.engine.log import EngineLog, Output
from vllama.engine.memory import gigabytes, pss, read_memory
from vllama.engine.profile import Profile
from vllama.errors import EngineError

logger = logging.getLogger("vllama.engine")

_IMPORT_S = 180.0
"""For importing vLLM: ten seconds from a page cache, a minute and more from a slow disk."""
_FORK_S = 10.0
_END_S = 2.0
_PAUSES_S = (0.0, 5.0, 20.0)
"""Before it is started again after its first, second and third death within `_MEMORY_S`; then it stays dead."""
_MEMORY_S = 600.0
ROOM = 3 * 2**30
"""Bytes of RAM that must be free for it: it takes 0.6 GB, and an engine 2 GB before there are weights."""


class StandbyState(enum.StrEnum):
    OFF = "off"
    STARTING = "starting"
    PARKED = "parked"
    FAILED = "failed"


class StandbyError(EngineError):
    """The standby forked no engine. An ordinary start is as good, if slower."""


class Standby:
    """state: PARKED when it can fork. pid: None while it does not run. reason: why it is off, or failed.

    command: the launcher's, up to and with `standby` and its options. variables: the process's whole environment.
    on_change: called when any of that changes.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], log_path: Path) -> None:
        self._command = command
        self._variables = variables
        self._log_path = log_path
        self._keeper: asyncio.Task[None] | None = None
        self._control: _Control | None = None
        self._moved = asyncio.Event()
        self.state = StandbyState.OFF
        self.pid: int | None = None
        self.reason = ""
        self.on_change: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to import vLLM. Must be closed."""
        self._enter(StandbyState.STARTING)
        self._keeper = asyncio.create_task(self._keep(), name="standby")

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    def memory(self) -> int:
        """Bytes of RAM that it takes, those that it shares with its engines divided among them."""
        return pss(self.pid) if self.pid is not None else 0

    async def fork(self, arguments: Sequence[str], variables: Mapping[str, str], guard: int, output: int) -> int:
        """Fork an engine, once vLLM is imported. The pid of its guard.

        arguments: the launcher's. variables: its whole environment. guard, output: descriptors that it gets.
        Raises StandbyError where that does not come to pass.
        """
        while self.state is StandbyState.STARTING:
            await self._moved.wait()
        if self._control is None or self.state is not StandbyState.PARKED:
            raise StandbyError(f"the standby is {self.state}: {self.reason}")
        try:
            async with asyncio.timeout(_FORK_S):
                return await self._control.fork(arguments, variables, guard, output)
        except TimeoutError:
            self._control.kill()
            raise StandbyError(f"the standby did not fork within {_FORK_S:g} s") from None

    async def _keep(self) -> None:
        """Have one as long as it lives well."""
        deaths: deque[float] = deque(maxlen=len(_PAUSES_S))
        while True:
            free = read_memory(Profile.CPU).free
            if free < ROOM:
                self._give_up(StandbyState.OFF, f"only {gigabytes(free)} of RAM are free")
                return
            self._enter(StandbyState.STARTING)
            end = await self._run()
            if self.state is StandbyState.OFF:
                return
            if len(deaths) == len(_PAUSES_S) and time.monotonic() - deaths[0] < _MEMORY_S:
                self._give_up(StandbyState.FAILED, f"{end}, for the {len(deaths) + 1}th time in ten minutes")
                return
            deaths.append(time.monotonic())
            recent = sum(1 for death in deaths if time.monotonic() - death < _MEMORY_S)
            logger.warning("the standby ended: %s (log: %s)", end, self._log_path)
            self._enter(StandbyState.FAILED, end)
            await asyncio.sleep(_PAUSES_S[recent - 1])

    def _give_up(self, state: StandbyState, reason: str) -> None:
        logger.warning("engines start without the standby from now on, slower: %s", reason)
        self._enter(state, reason)

    def _enter(self, state: StandbyState, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self._moved.set()
        self._moved = asyncio.Event()
        self.on_change()

    async def _run(self) -> str:
        """From the start of one to its end; how it ended."""
        log = EngineLog(self._log_path)
        log.note("standby starts")
        try:
            control = await _Control.launch(self._command, self._variables, log)
        except OSError as error:
            return f"its interpreter {self._command[0]} cannot be run ({error.strerror})"
        self._control, self.pid = control, control.pid
        try:
            if not await self._becomes_ready(control):
                return f"it did not import vLLM within {_IMPORT_S:g} s"
            return _describe(await control.wait(), log)
        finally:
            self._control = self.pid = None
            await control.end()

    async def _becomes_ready(self, control: "_Control") -> bool:
        try:
            async with asyncio.timeout(_IMPORT_S):
                said = await control.first_words()
        except TimeoutError:
            return False
        if said.get("parked"):
            self._enter(StandbyState.PARKED)
        elif "unsafe" in said:
            self._give_up(StandbyState.OFF, said["unsafe"])
        return True


def _describe(status: int, log: EngineLog) -> str:
    last = next((line for line in reversed(log.tail) if line.strip()), "")
    how = f"it was killed by {signal.Signals(-status).name}" if status < 0 else f"it exited with status {status}"
    return f'{how}, its last words: "{last}"' if last else how


class _Control:
    """One standby process and the socket over which it is asked."""

    def __init__(self, process: asyncio.subprocess.Process, end: socket.socket, output: Output) -> None:
        self.pid = process.pid
        self._process = process
        self._socket = end
        self._output = output
        self._rest = b""
        self._answers: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._first = self._expect()
        end.setblocking(False)
        asyncio.get_running_loop().add_reader(end, self._read)

    @classmethod
    async def launch(cls, command: Sequence[str], variables: Mapping[str, str], log: EngineLog) -> "_Control":
        """`log` is closed with it. Raises OSError where the interpreter cannot be executed."""
        theirs, ours = socket.socketpair()
        with theirs, contextlib.ExitStack() as failed:
            failed.callback(ours.close)
            async with Output.piped(log) as (output, writing_end):
                process = await asyncio.create_subprocess_exec(
                    *command, "--control-fd", str(theirs.fileno()),
                    env=dict(variables),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=writing_end,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )  # fmt: skip
            failed.pop_all()
        return cls(process, ours, output)

    async def first_words(self) -> dict[str, Any]:
        """What it says once it has imported vLLM; empty where it ends before."""
        return await self._first

    async def fork(self, arguments: Sequence[str], variables: Mapping[str, str], guard: int, output: int) -> int:
        request = {"arguments": list(arguments), "variables": dict(variables)}
        try:
            with tempfile.TemporaryFile() as file:
                file.write(json.dumps(request).encode())
                file.seek(0)
                socket.send_fds(self._socket, [b"f"], [guard, output, file.fileno()])
        except OSError as error:  # it has gone, or the disk is full
            raise StandbyError(f"the standby cannot be asked ({error.strerror})") from error
        said = await self._expect()
        if "pid" not in said:
            raise StandbyError(f"the standby did not fork: {said.get('error', 'it ended')}")
        return int(said["pid"])

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """It ends with its socket, at once where it still imports; its engines go on."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._forget()
        self.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        await self._output.close(0.0)

    def _expect(self) -> "asyncio.Future[dict[str, Any]]":
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        return answer

    def _read(self) -> None:
        try:
            data = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._forget()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._answer(json.loads(line))

    def _answer(self, said: dict[str, Any]) -> None:
        answer = self._answers.popleft()
        if not answer.done():  # else whoever asked has gone: the engine's guard sees that its socket is closed
            answer.set_result(said)

    def _forget(self) -> None:
        while self._answers:
            self._answer({})
