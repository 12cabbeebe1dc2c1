"""Which ready engine serves a model: loaded on demand, one engine at a time, unloaded when idle.

Knows nothing of HTTP. Requests wait in the order in which they came; all that wait for one model share its load.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllama.engine.client import EngineClient
from vllama.engine.engine import Engine, State
from vllama.errors import ApiError, EngineError, VllamaError
from vllama.models.catalogue import Catalogue, Model

logger = logging.getLogger("vllama.scheduler")

BUSY = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(frozen=True)
class Lease:
    """A ready engine, for as long as the context that gave it lasts.

    model: as it is known once loaded. context_length: the engine's, in tokens, None where it does not say.
    """

    client: EngineClient
    model: Model
    context_length: int | None


@dataclass(frozen=True)
class Loaded:
    """A model in memory. remaining: seconds until it is unloaded unless it is used, `inf` for never."""

    model: Model
    remaining: float
    context_length: int | None


class Scheduler(Protocol):
    """What the routes need of whoever owns the engines."""

    def acquire(self, model: Model, keep_alive: float | None = None) -> contextlib.AbstractAsyncContextManager[Lease]:
        """A ready engine for the model, loaded first where need be.

        keep_alive: seconds to stay loaded after this use; None leaves what the model has.
        Raises ApiError 503 where too many wait already, VllamaError with the cause where the load fails.
        """
        ...

    def unload(self, model: Model) -> None:
        """Unload the model as soon as nobody uses it; nothing happens where it is not loaded."""
        ...

    def loaded(self) -> list[Loaded]: ...

    async def close(self) -> None: ...


@dataclass
class _Resident:
    """The model in memory, or on its way there."""

    model: Model
    engine: Engine
    keep_alive: float
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    expiry: asyncio.TimerHandle | None = None

    def serves(self, model: Model) -> bool:
        return self.model.name.key == model.name.key and self.engine.state is State.READY


@dataclass
class _Waiter:
    model: Model
    keep_alive: float | None
    granted: "asyncio.Future[_Resident]"


Prepare = Callable[[Model], Awaitable[tuple[Model, Engine]]]
"""Makes an engine ready to be started: downloads what is missing, and says what is then known of the model."""


class LocalScheduler:
    """Owns the one engine. keep_alive: seconds, for requests that say nothing. max_queue: most requests waiting."""

    def __init__(self, prepare: Prepare, *, keep_alive: float, max_queue: int) -> None:
        self._prepare = prepare
        self._keep_alive = keep_alive
        self._max_queue = max_queue
        self._resident: _Resident | None = None
        self._waiters: list[_Waiter] = []
        self._loader: asyncio.Task[None] | None = None
        self._moving = asyncio.Lock()  # held while an engine is started or stopped
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def acquire(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Lease]:
        resident = self._resident
        # A ready engine is passed by while others wait for another model: they would never get their turn.
        if resident is not None and resident.serves(model) and not self._waiters:
            self._enter(resident, keep_alive)
        else:
            resident = await self._wait_for(model, keep_alive)
        try:
            yield Lease(resident.engine.client, resident.model, resident.engine.context_length)
        finally:
            self._leave(resident)

    def unload(self, model: Model) -> None:
        resident = self._resident
        if resident is not None and resident.model.name.key == model.name.key:
            resident.keep_alive = 0.0
            if resident.users == 0:
                self._schedule_expiry(resident)

    def loaded(self) -> list[Loaded]:
        resident = self._resident
        if resident is None or resident.engine.state in (State.FAILED, State.STOPPING):
            return []
        remaining = resident.keep_alive
        if resident.expiry is not None:
            remaining = max(0.0, resident.expiry.when() - asyncio.get_running_loop().time())
        return [Loaded(resident.model, remaining, resident.engine.context_length)]

    async def close(self) -> None:
        for waiter in self._waiters:
            if not waiter.granted.done():
                waiter.granted.set_exception(EngineError("the server is stopping", "send the request again"))
        self._waiters.clear()
        tasks = [task for task in (self._loader, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._moving:
            await self._stop_resident()

    async def _wait_for(self, model: Model, keep_alive: float | None) -> _Resident:
        if len(self._waiters) >= self._max_queue:
            raise ApiError(503, BUSY)
        waiter = _Waiter(model, keep_alive, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        if self._loader is None or self._loader.done():
            self._loader = asyncio.create_task(self._serve_waiters(), name="scheduler")
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._leave(waiter.granted.result())  # it was granted and cancelled in one turn of the loop
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def _serve_waiters(self) -> None:
        while self._waiters:
            model = self._waiters[0].model
            failure: Exception | None = None
            try:
                async with self._moving:
                    resident = await self._make_resident(model)
            except VllamaError as error:
                failure = error
                logger.error("%s", error)  # noqa: TRY400 - its text says it all
            except Exception as error:
                failure = EngineError(
                    f"loading {model.name.short} failed: {error!r}", "this is a fault of vllama's: report it"
                )
                logger.exception("loading %s failed", model.name.short)
            served = [waiter for waiter in self._waiters if waiter.model.name.key == model.name.key]
            self._waiters = [waiter for waiter in self._waiters if waiter not in served]
            for waiter in served:
                if waiter.granted.done():
                    continue
                if failure is not None:
                    waiter.granted.set_exception(failure)
                else:
                    self._enter(resident, waiter.keep_alive)
                    waiter.granted.set_result(resident)
            if failure is None and resident.users == 0:
                self._schedule_expiry(resident)  # all that waited have left

    async def _make_resident(self, model: Model) -> _Resident:
        resident = self._resident
        if resident is not None and resident.serves(model):
            return resident
        if resident is not None:
            await _until_unused(resident)
            await self._stop_resident()
        model, engine = await self._prepare(model)
        self._resident = resident = _Resident(model, engine, self._keep_alive)
        began = time.monotonic()
        logger.info("%s: starting its engine, which takes a minute or so (log: %s)", model.name.short, engine.log_path)
        try:
            await engine.start()
        except BaseException:
            self._resident = None
            raise
        logger.info("%s: ready after %.1f s", model.name.short, time.monotonic() - began)
        return resident

    async def _stop_resident(self) -> None:
        resident, self._resident = self._resident, None
        if resident is not None:
            _cancel_expiry(resident)
            await resident.engine.stop()

    def _enter(self, resident: _Resident, keep_alive: float | None) -> None:
        _cancel_expiry(resident)
        resident.users += 1
        resident.idle.clear()
        if keep_alive is not None:
            resident.keep_alive = keep_alive

    def _leave(self, resident: _Resident) -> None:
        resident.users -= 1
        if resident.users == 0:
            resident.idle.set()
            self._schedule_expiry(resident)

    def _schedule_expiry(self, resident: _Resident) -> None:
        _cancel_expiry(resident)
        if resident is self._resident and resident.keep_alive != math.inf:
            loop = asyncio.get_running_loop()
            resident.expiry = loop.call_later(resident.keep_alive, lambda: self._own(self._expire(resident)))

    async def _expire(self, resident: _Resident) -> None:
        async with self._moving:
            if resident is self._resident and resident.users == 0:
                logger.info("%s: unloading", resident.model.name.short)
                await self._stop_resident()

    def _own(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _until_unused(resident: _Resident) -> None:
    """Wait until the last user has left, or the engine has ended, which makes them leave."""
    if resident.users == 0 or resident.engine.state is not State.READY:
        return
    waits = {asyncio.ensure_future(resident.idle.wait()), asyncio.ensure_future(resident.engine.ended.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _cancel_expiry(resident: _Resident) -> None:
    if resident.expiry is not None:
        resident.expiry.cancel()
        resident.expiry = None


class AttachedScheduler:
    """Stands before a server that somebody else runs: nothing is loaded, unloaded or watched."""

    def __init__(self, client: EngineClient, catalogue: Catalogue) -> None:
        self._client = client
        self._catalogue = catalogue

    @contextlib.asynccontextmanager
    async def acquire(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Lease]:  # noqa: ARG002
        yield Lease(self._client, model, model.context_length)

    def unload(self, model: Model) -> None:
        pass

    def loaded(self) -> list[Loaded]:
        return [Loaded(model, math.inf, model.context_length) for model in self._catalogue]

    async def close(self) -> None:
        await self._client.close()
