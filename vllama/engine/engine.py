"""One running vLLM: started, warmed up, watched and stopped."""

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vllama.engine.client import EngineClient
from vllama.engine.diagnose import explain
from vllama.engine.process import EngineLog, EngineProcess
from vllama.errors import EngineError
from vllama.wire.openai import ModelList

logger = logging.getLogger("vllama.engine")

_POLL_S = 0.1
_STOP_GRACE_S = 2.0
_LAST_WORDS_S = 3.0
"""How long after a failed prompt an engine is given to end, so that its own words tell the cause."""
WARM_UP_PROMPT = "Warm-up: " + "one two three four five six seven eight nine ten " * 3
"""Some 40 tokens. A first prompt of only a few kills a CPU engine on processors with AMX: vLLM's attention kernel
uses AMX before anything has asked the operating system for it, while longer prompts pass a kernel that asks."""


class State(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True)
class LaunchPlan:
    """Everything that starting one engine takes.

    command: the launcher and vLLM's arguments. variables: the process's whole environment. url: where it will listen.
    name: what vLLM calls the model. stall_timeout: seconds without a line of output after which a start is given up.
    """

    command: Sequence[str]
    variables: Mapping[str, str]
    url: str
    name: str
    log: Path
    stall_timeout: float


class Engine:
    """state says where it is in its life; `client` talks to it once it is ready."""

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self._process: EngineProcess | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.client = EngineClient(plan.url)
        self.state = State.STARTING
        self.log_path = plan.log
        self.context_length: int | None = None
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """Launch vLLM and return when it has answered a prompt.

        Raises EngineError with the cause where it does not come up; then, and when cancelled, nothing of it is left.
        """
        try:
            await self._start()
        except BaseException:
            self.state = State.FAILED
            await self.stop()
            raise

    async def _start(self) -> None:
        log = EngineLog(self._plan.log)
        try:
            self._process = await EngineProcess.launch(self._plan.command, self._plan.variables, log)
        except OSError as error:
            log.close()
            raise EngineError(
                f"the engine's interpreter {self._plan.command[0]} cannot be run ({error.strerror})",
                "run `vllama engine install --reinstall`",
            ) from error
        self._watcher = asyncio.create_task(self._watch(self._process), name=f"engine-watch-{self._process.pid}")
        await self._until_healthy(self._process)
        await self._warm_up(self._process)
        with contextlib.suppress(EngineError):
            models = await self.client.get_json("/v1/models", seconds=10.0, type_=ModelList)
            self.context_length = next((card.max_model_len for card in models.data if card.max_model_len), None)
        self._check_ended(self._process)
        self.state = State.READY

    async def _until_healthy(self, process: EngineProcess) -> None:
        while not await self.client.healthy():
            self._check_alive(process)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self.ended.wait()

    def _check_alive(self, process: EngineProcess) -> None:
        self._check_ended(process)
        silence = time.monotonic() - process.log.last_output_at
        if silence > self._plan.stall_timeout:
            raise EngineError(
                f"the engine of {self._plan.name} was given up: it wrote nothing for {silence:.0f} s while starting",
                f"allow more with OLLAMA_LOAD_TIMEOUT; its log is {process.log.path}",
            )

    def _check_ended(self, process: EngineProcess) -> None:
        if self.ended.is_set():
            raise EngineError(
                f"the engine of {self._plan.name} did not start: {explain(process.log.tail, process.returncode)}",
                f"its log is {process.log.path}",
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
            self._check_ended(process)
            if not answer.done():
                raise EngineError(
                    f"the engine of {self._plan.name} did not answer its first prompt", f"its log is {process.log.path}"
                )
            answer.result()
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

    async def _watch(self, process: EngineProcess) -> None:
        status = await process.wait()
        if self.state is State.READY:
            self.state = State.FAILED
            logger.error(
                "%s: the engine ended by itself: %s (log: %s)",
                self._plan.name,
                explain(process.log.tail, status),
                process.log.path,
            )
        self.ended.set()

    async def stop(self) -> None:
        """End the engine's processes and connections. Safe to call more than once; goes on where it is cancelled."""
        if self._stopping is None:
            if self.state is not State.FAILED:
                self.state = State.STOPPING
            self._stopping = asyncio.create_task(self._stop(), name=f"engine-stop-{self._plan.name}")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        try:
            if self._process is not None and self._watcher is not None:
                await self._process.stop(_STOP_GRACE_S)
                await self._watcher
        finally:
            await self.client.close()
