"""One running vLLM: started, warmed up, watched and stopped."""

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from vllama.engine.adapters import loading_failure
from vllama.engine.client import EngineClient, in_time
from vllama.engine.diagnosis import Diagnosis, diagnose
from vllama.engine.health import Fault, HealthWatch
from vllama.engine.install import Profile
from vllama.engine.leftovers import Records
from vllama.engine.log import EngineLog
from vllama.engine.memory import gigabytes, read_memory
from vllama.engine.plan import LaunchPlan
from vllama.engine.prefetch import beside
from vllama.engine.process import EngineProcess, resident
from vllama.engine.progress import Phase, Progress
from vllama.engine.scratch import Scratch
from vllama.engine.standby import Standby, StandbyError
from vllama.errors import EngineError, EngineGoneError
from vllama.wire.openai import ModelList

logger = logging.getLogger("vllama.engine")

_POLL_S = 0.1
_STOP_GRACE_S = 2.0
_LAST_WORDS_S = 3.0
"""How long after a failed prompt an engine is given to end, so that its own words tell the cause."""
_ADAPTER_S = 120.0
"""An adapter is read from disk, some 100 MB, and answers that run go first."""
_CHANGE_S = 30.0
_BYTES_PER_S = 1e9
"""For falling asleep and waking: the weights go to RAM or come back, on slow machines no faster than this."""
_FATE_S = 2.0
_FORKED_SILENCE_S = 30.0
"""A fork that inherited a lock which somebody held hangs. What has imported everything before logs every second."""
_FORK_REFUSED = "Cannot re-initialize CUDA in forked subprocess"
WARM_CONNECTIONS = 32
"""Opened before the first requests come, so that a burst of them does not wait for them."""
WARM_UP_PROMPT = "Warm-up: " + "one two three four five six seven eight nine ten " * 3
"""Some 40 tokens. A first prompt of only a few kills a CPU engine on processors with AMX: vLLM's attention kernel
uses AMX before anything has asked the operating system for it, while longer prompts pass a kernel that asks."""


class State(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    FAILED = "failed"


class Engine:
    """state says where it is in its life; `client` talks to it once it is ready.

    name, size, adapters: as its plan has them. records: where it is written down while it lives. standby: who forks
    it, where one can.
    """

    def __init__(self, plan: LaunchPlan, records: Records | None = None, standby: Standby | None = None) -> None:
        self._plan = plan
        self._records = records
        self._standby = standby
        self._process: EngineProcess | None = None
        self._launched_at = 0.0
        self._watcher: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.client = EngineClient(plan.url)
        self.state = State.STARTING
        self.name = plan.name
        self.size = plan.size
        self.adapters = plan.adapters
        self.log_path = plan.log
        self.context_length: int | None = None
        self.progress = Progress()
        self.failure = ""
        self.fast = False
        self.ended = asyncio.Event()

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left: it failed to start, or it ended."""
        return self.ended.is_set() or (self._stopping is not None and self._stopping.done())

    @property
    def pid(self) -> int | None:
        """Of the first of its processes, which is also their session's id."""
        return self._process.pid if self._process is not None else None

    def resident(self) -> int:
        """Bytes of RAM that its processes have taken. Blocks for some milliseconds: a thread's work."""
        return resident(self._process.pid) if self._process is not None else 0

    async def start(self) -> None:
        """Launch vLLM and return when it has answered a prompt.

        Raises EngineError with the cause where it does not come up; then, and when cancelled, nothing of it is left.
        """
        try:
            if self._standby is None or not await self._starts_fast(self._standby):
                await self._start(None)
        except BaseException:
            self.state = State.FAILED
            await self.stop()
            raise

    async def _starts_fast(self, standby: Standby) -> bool:
        """Start it by a fork; False, and nothing of it left, where that comes to nothing for the fork's own reasons."""
        self.fast = True
        try:
            await self._start(standby)
        except StandbyError as error:
            logger.warning("%s: started the ordinary way: %s", self.name, error.message)
        else:
            return True
        if self._process is not None and self._watcher is not None:
            await self._end(self._process)
            await self._watcher
        self.fast, self.ended = False, asyncio.Event()
        return False

    async def _start(self, standby: Standby | None) -> None:
        self.progress.enter(Phase.IMPORTING)
        async with beside(self._plan.meanwhile):
            process = await self._launch(standby)
            await self._until_healthy(process)
        self.progress.enter(Phase.WARMING)
        await self._warm_up(process)
        with contextlib.suppress(EngineError):
            models = await self.client.get_json("/v1/models", seconds=10.0, type_=ModelList)
            self.context_length = next((card.max_model_len for card in models.data if card.max_model_len), None)
        await self.client.warm(WARM_CONNECTIONS)
        await self._check_ended(process)
        self.state = State.READY
        self.progress.enter(None)
        if (full := self._plan.full_context or 0) > (fitting := self.context_length or full):
            logger.info("%s: context %d of %d tokens: what fits in %s", self.name, fitting, full, gigabytes(self.size))

    async def _launch(self, standby: Standby | None) -> EngineProcess:
        log = EngineLog(self._plan.log, self.progress.read)
        log.note(f"{self.name} is started {datetime.now().astimezone().isoformat(timespec='seconds')}")
        scratch = Scratch(self._plan.scratch, self._plan.url)
        variables = {**self._plan.variables, **scratch.variables}
        try:
            with contextlib.ExitStack() as failed:
                failed.callback(scratch.remove)
                process = await EngineProcess.launch(self._plan.command, variables, log, standby)
                failed.pop_all()
        except OSError as error:
            raise EngineError(
                f"the engine's interpreter {self._plan.command[0]} cannot be run ({error.strerror})",
                "run `vllama engine install --reinstall`",
            ) from error
        self._process, self._launched_at = process, time.monotonic()
        self._watcher = asyncio.create_task(self._watch(process, scratch), name=f"engine-watch-{process.pid}")
        return process

    async def _until_healthy(self, process: EngineProcess) -> None:
        while not await self.client.healthy():
            await self._check_alive(process)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self.ended.wait()

    async def _check_alive(self, process: EngineProcess) -> None:
        await self._check_ended(process)
        silence = time.monotonic() - max(self.progress.changed_at, self._launched_at)
        if self.fast and self.progress.phase is Phase.IMPORTING and silence > _FORKED_SILENCE_S:
            raise StandbyError(f"the forked engine did nothing for {silence:.0f} s")
        if silence > self._plan.stall_timeout:
            raise EngineError(
                f"the engine of {self._plan.name} was given up: no progress for {silence:.0f} s"
                f" while {self.progress.phase}",
                f"allow more with OLLAMA_LOAD_TIMEOUT; its log is {process.log.path}",
            )

    async def _check_ended(self, process: EngineProcess) -> None:
        if not process.ending.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.ended.wait()
        if self.fast and any(_FORK_REFUSED in line for line in process.log.tail):
            raise StandbyError(_FORK_REFUSED)
        found = await _diagnosis(process, await process.last_words())
        advice = f"{found.advice}; its log is" if found.advice else "its log is"
        raise EngineError(
            f"the engine of {self._plan.name} did not start: {found.cause}", f"{advice} {process.log.path}"
        )

    async def _warm_up(self, process: EngineProcess) -> None:
        """Readiness is apart from liveness: only an engine that answered a prompt is ready."""
        generation = {"model": self._plan.name, "prompt": WARM_UP_PROMPT, "max_tokens": 2, "temperature": 0.0}
        embedding = {"model": self._plan.name, "input": WARM_UP_PROMPT}
        answer = asyncio.create_task(
            self._first_accepted(("/v1/completions", generation), ("/v1/embeddings", embedding))
        )
        ended = asyncio.create_task(self.ended.wait())
        timeout = None if self._plan.stall_timeout == float("inf") else self._plan.stall_timeout
        try:
            await asyncio.wait({answer, ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and answer.exception() is not None:
                await asyncio.wait({ended}, timeout=_LAST_WORDS_S)
            await self._check_ended(process)
            if not answer.done():
                raise EngineError(
                    f"the engine of {self._plan.name} did not answer its first prompt", f"its log is {process.log.path}"
                )
            answer.result()
        except EngineGoneError as error:  # nothing is to be asked again of one that never was ready
            raise EngineError(
                f"the engine of {self._plan.name} broke off its first prompt: {error.message}",
                f"its log is {process.log.path}",
            ) from error
        finally:
            for task in (answer, ended):
                task.cancel()
            await asyncio.wait({answer, ended})

    async def _first_accepted(self, *attempts: tuple[str, Mapping[str, object]]) -> None:
        """Which routes an engine has depends on its model: a missing one answers 404."""
        for path, body in attempts:
            async with self.client.request("POST", path, msgspec.json.encode(body)) as response:
                text = await response.read()
                if response.status == 200:
                    return
                if response.status != 404:
                    break
        raise EngineError(
            f"the engine of {self._plan.name} failed its first prompt: {text[:500].decode(errors='replace')}"
        )

    def can_sleep(self) -> bool:
        """Whether it is ready, started for it, and the RAM has room to spare for what it would keep there."""
        size = self._plan.sleep_size
        return size is not None and self.state is State.READY and read_memory(Profile.CPU).free >= size

    async def sleep(self) -> None:
        """Move the weights to RAM and give the GPU's memory back. Nobody may be using it, nor use it until `wake`.

        Raises EngineError where that fails: then it is in no known state, and has to be stopped.
        """
        self.state = State.ASLEEP
        await self._change("/sleep?level=1", "sleeping")

    async def wake(self) -> None:
        """Make it ready again. Raises EngineError as `sleep` does."""
        await self._change("/wake_up", "awake")
        if self.state is State.ASLEEP:  # not ended meanwhile
            self.state = State.READY

    async def _change(self, path: str, expected: str) -> None:
        seconds = _CHANGE_S + (self._plan.sleep_size or 0) / _BYTES_PER_S
        status, text = await self._post(path, None, seconds)
        if status != 200 or f'"status":"{expected}"' not in text.replace(" ", ""):
            raise EngineError(f"the engine of {self.name} is not {expected}: it answered {status}: {text[:500]}")

    async def load_adapter(self, name: str, path: Path) -> None:
        """Let requests name a LoRA adapter, in place of another of that name. Raises EngineError with the cause."""
        asked = {"lora_name": name, "lora_path": str(path)}
        status, text = await self._post("/v1/load_lora_adapter", asked, _ADAPTER_S)
        if status == 400 and "already been loaded" in text:
            await self.unload_adapter(name)
            status, text = await self._post("/v1/load_lora_adapter", asked, _ADAPTER_S)
        if status != 200:
            raise loading_failure(path, text)

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter, if it is there. Requests that run go on with it."""
        status, text = await self._post("/v1/unload_lora_adapter", {"lora_name": name}, _ADAPTER_S)
        if status not in (200, 404):
            raise EngineError(f"the engine of {self.name} keeps the adapter {name}: it answered {status}: {text[:500]}")

    async def _post(self, path: str, body: Mapping[str, object] | None, seconds: float) -> tuple[int, str]:
        """Status and text of the answer, a JSON error's message where it is one.

        Where the engine breaks off, its fate is known before that is told.
        """
        data = msgspec.json.encode(body) if body is not None else b""
        try:
            async with in_time(seconds), self.client.request("POST", path, data) as response:
                return response.status, _error_text(await response.read())
        except EngineGoneError as error:
            raise EngineGoneError(await self.client.fate.learn(_FATE_S) or error.message) from error

    async def _watch(self, process: EngineProcess, scratch: Scratch) -> None:
        entry = await asyncio.to_thread(self._records.add, process.pid, self.name) if self._records else None
        found = entry.see if entry is not None else lambda _: None
        health = HealthWatch(self.name, process.pid, self.client, lambda: self.state is State.READY, found)
        fault = await health.until_lost(process.ending)
        if by_itself := self.state in (State.READY, State.ASLEEP):
            self.state = State.FAILED
        if by_itself and fault is None:
            status = await process.last_words()
            self._tell_failure(process, "ended by itself", str(await _diagnosis(process, status)))
        await (process.wait() if fault is None else self._give_up(process, fault))
        self.client.fate.seal(self.failure)
        await asyncio.to_thread(scratch.remove)
        if entry is not None and process.returncode is not None:  # what cannot be killed is left to the next start
            await asyncio.to_thread(entry.remove)
        self.ended.set()

    async def _give_up(self, process: EngineProcess, fault: Fault) -> int | None:
        # Told before it is killed: those who wait for an answer need not wait for that, too.
        self._tell_failure(process, "was given up", await _cause(process, fault))
        await self.client.close()
        return await process.kill()

    def _tell_failure(self, process: EngineProcess, how: str, failure: str) -> None:
        self.failure = failure
        self.client.fate.seal(failure)
        logger.error("%s: the engine %s: %s (log: %s)", self.name, how, failure, process.log.path)

    async def stop(self) -> None:
        """End the engine's processes and connections. Safe to call more than once; goes on where it is cancelled."""
        if self._stopping is None:
            if self.state is not State.FAILED:
                self.state = State.STOPPING
                self.client.fate.seal("")
            self._stopping = asyncio.create_task(self._stop(), name=f"engine-stop-{self._plan.name}")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        try:
            if self._process is not None and self._watcher is not None:
                await self._end(self._process)
                await self._watcher
        finally:
            await self.client.close()

    async def _end(self, process: EngineProcess) -> None:
        try:
            await process.stop(_STOP_GRACE_S)
        except TimeoutError:
            raise EngineError(
                f"process {process.pid}, the engine of {self.name}, cannot be killed",
                "a driver may hang: where nothing else helps, restart the machine",
            ) from None


async def _cause(process: EngineProcess, fault: Fault) -> str:
    """What its log says of it. Of a hang it says nothing, and its last words are of no use where it knows no cause."""
    if fault.hung:
        return fault.text
    told = str(await _diagnosis(process, None))
    return fault.text if told.startswith("it was stopped") else told


async def _diagnosis(process: EngineProcess, status: int | None) -> Diagnosis:
    """In a thread: a long log takes the tenth of a second."""
    return await asyncio.to_thread(diagnose, tuple(process.log.tail), status)


def _error_text(body: bytes) -> str:
    with contextlib.suppress(msgspec.DecodeError, LookupError, TypeError):
        return str(msgspec.json.decode(body)["error"]["message"])
    return body.decode(errors="replace")
